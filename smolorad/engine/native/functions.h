/* The functions that decoding and training share: e^x, SiLU and RMSNorm, each once, so that both compute the same bits. */
#ifndef SMOLORA_FUNCTIONS_H
#define SMOLORA_FUNCTIONS_H

#include "matrix.h"

/* e^x by 2^n times a polynomial, within 2 units in the last place (the coefficients are Cephes' expf's). From 88.4 on it is
 * infinity. Below -60 it is 0: a sum with 1 would not change, and products with numbers that small take the processor a
 * hundred times as long. NaN stays NaN. */
static inline float exp_f32(float x) {
    int none = x < -60.0f; /* what is computed of such a number is not used */
    x = x > 89.0f ? 89.0f : x;
    union {
        float number;
        uint32_t bits;
    } whole = {x * 1.44269504f + ROUNDER};
    float n = whole.number - ROUNDER;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        uint32_t bits;
        float number;
    } power = {(whole.bits + 127) << 23}; /* the lowest bits are n; to convert a NaN to a whole number is undefined */
    return none ? 0 : p * power.number;
}

static inline float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }

static inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

/* The same in 16 lanes: the compiler makes vector code of the loop and keeps `lane` in a register. */
#define DEFINE_LANES(FUNCTION)                                                                                          \
    INLINE f32x16 FUNCTION##x16(f32x16 x) {                                                                             \
        float lane[16];                                                                                                 \
        memcpy(lane, &x, sizeof lane);                                                                                  \
        _Pragma("omp simd") for (int i = 0; i < 16; i++)                                                                \
            lane[i] = FUNCTION(lane[i]);                                                                                \
        memcpy(&x, lane, sizeof lane);                                                                                  \
        return x;                                                                                                       \
    }
DEFINE_LANES(exp_f32)
DEFINE_LANES(silu_f32)
DEFINE_LANES(sigmoid_f32)

/* Numbers `at` to `at + 15` of an array; the format is a constant, FP32 or BF16. */
INLINE f32x16 load16(int format, const void *from, int at) {
    return format == FP32 ? load_f32x16((const float *)from + at) : load_bf16x16((const uint16_t *)from + at);
}
INLINE void store16(int format, void *to, int at, f32x16 value) {
    if (format == FP32) store_f32x16((float *)to + at, value);
    else store_bf16x16((uint16_t *)to + at, value);
}
INLINE void store1(int format, void *to, int at, float value) {
    if (format == FP32) ((float *)to)[at] = value;
    else ((uint16_t *)to)[at] = f32_to_bf16(value);
}

/* out = x / sqrt(mean of x^2 + epsilon) * weight, n numbers each. Returns one over the root, which the gradient needs. */
INLINE float rms_norm(int format, const void *x, const void *weight, float epsilon, int n, void *out) {
    f32x16 even = {0}, odd = {0};
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        f32x16 first = load16(format, x, i), second = load16(format, x, i + 16);
        even += first * first, odd += second * second;
    }
    float sum = sum_lanes(even + odd);
    for (; i < n; i++) sum += load1(format, x, i) * load1(format, x, i);
    float scale = 1.0f / sqrtf(sum / (float)n + epsilon);
    for (i = 0; i + 16 <= n; i += 16)
        store16(format, out, i, load16(format, x, i) * broadcast(scale) * load16(format, weight, i));
    for (; i < n; i++) store1(format, out, i, load1(format, x, i) * scale * load1(format, weight, i));
    return scale;
}

#endif
