/* The norms of a step. */
#ifndef SMOLORA_DECODE_NORM_H
#define SMOLORA_DECODE_NORM_H

#include "decode_state.h"
#include "functions.h"

/* out = (x - mean) / sqrt(variance + epsilon) * weight + bias, n numbers each; `bias` may be NULL. */
static inline void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int n, float *out) {
    f32x16 sums = {0}, squares = {0};
    int i = 0;
    for (; i + 16 <= n; i += 16) sums += load_f32x16(x + i);
    float sum = sum_lanes(sums);
    for (; i < n; i++) sum += x[i];
    float mean = sum / (float)n;
    for (i = 0; i + 16 <= n; i += 16) {
        f32x16 centred = load_f32x16(x + i) - broadcast(mean);
        squares += centred * centred;
    }
    float square = sum_lanes(squares);
    for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)n + epsilon);
    for (i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
}

/* out = the norm of x, which are other memory; `head` is whose weights it takes where heads have their own. */
static void apply_norm(const ModelNorm *norm, const float *x, int head, float *out) {
    size_t at = (size_t)head * norm->head_step;
    if (norm->kind == LAYER_NORM)
        layer_norm(x, norm->weight + at, norm->bias ? norm->bias + at : NULL, norm->eps, norm->width, out);
    else
        rms_norm(FP32, x, norm->weight + at, norm->eps, norm->width, out);
}

/* The same in place; `scratch` has room for x. */
static void apply_norm_in_place(const ModelNorm *norm, float *x, int head, float *scratch) {
    memcpy(scratch, x, sizeof(float) * (size_t)norm->width);
    apply_norm(norm, scratch, head, x);
}

#endif
