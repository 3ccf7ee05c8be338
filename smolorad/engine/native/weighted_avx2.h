/* Weighted sums of the values of a KV cache in registers of 8 numbers: a tile is some queries times some of a value's numbers. */
#ifndef SMOLORA_WEIGHTED_AVX2_H
#define SMOLORA_WEIGHTED_AVX2_H

#include "dots_avx2.h"

enum { VALUES_AHEAD = 16 }; /* values that the first numbers of a value prefetch: a tile reads a part of each, and follows no line */

/* 8 * `wide` numbers of the values, from number i on, for `count` queries; both are constant. */
INLINE void weighted_tile(int format, const void *values, int d, int i, int wide, const float *weights, int stride, int n,
                          int count, float *out, int out_stride) {
    __m256 sums[4][8];
    size_t bytes = (size_t)d * number_bytes(format);
    for (int s = 0; s < count; s++)
        for (int k = 0; k < wide; k++) sums[s][k] = _mm256_setzero_ps();
    for (int t = 0; t < n; t++) {
        __m256 value[8];
        for (size_t byte = 0; i == 0 && byte < bytes; byte += 64)
            __builtin_prefetch((const char *)values + (size_t)(t + VALUES_AHEAD) * bytes + byte, 0, 3);
        for (int k = 0; k < wide; k++) value[k] = load8(format, values, (size_t)t * d + i + 8 * k);
        for (int s = 0; s < count; s++) {
            __m256 weight = _mm256_set1_ps(weights[(size_t)s * stride + t]);
            for (int k = 0; k < wide; k++) sums[s][k] = _mm256_fmadd_ps(value[k], weight, sums[s][k]);
        }
    }
    for (int s = 0; s < count; s++)
        for (int k = 0; k < wide; k++) _mm256_storeu_ps(out + (size_t)s * out_stride + i + 8 * k, sums[s][k]);
}

/* Columns from `i` on, `wide` registers at a time; returns the first column that is left. */
INLINE int weighted_tiles(int format, const void *values, int d, int i, int wide, const float *weights, int stride, int n, int count,
                          float *out, int out_stride) {
    for (; i + 8 * wide <= d; i += 8 * wide) weighted_tile(format, values, d, i, wide, weights, stride, n, count, out, out_stride);
    return i;
}

/* The same of all columns for `count` queries, a constant; `wide` is one, too. */
INLINE void weighted_columns(int format, const void *values, int d, int wide, const float *weights, int stride, int n, int count,
                             float *out, int out_stride) {
    int i = weighted_tiles(format, values, d, 0, wide, weights, stride, n, count, out, out_stride);
    i = weighted_tiles(format, values, d, i, 1, weights, stride, n, count, out, out_stride);
    for (; i < d; i++)
        for (int s = 0; s < count; s++) {
            float sum = 0;
            for (int t = 0; t < n; t++)
                sum = fmaf(load1(format, values, (size_t)t * d + i), weights[(size_t)s * stride + t], sum);
            out[(size_t)s * out_stride + i] = sum;
        }
}

/* out[s] (d numbers) = the sum of values[t] * weights[s][t] over t < n. */
INLINE void weighted_sum(int format, const void *values, int d, const float *weights, int stride, int n, int count, float *out,
                         int out_stride) {
    for (int s = 0, left; (left = count - s) > 0; s += 4) {
        const float *w = weights + (size_t)s * stride;
        float *to = out + (size_t)s * out_stride;
        if (left >= 4) weighted_columns(format, values, d, 2, w, stride, n, 4, to, out_stride);
        else if (left == 3) weighted_columns(format, values, d, 2, w, stride, n, 3, to, out_stride);
        else if (left == 2) weighted_columns(format, values, d, 4, w, stride, n, 2, to, out_stride);
        else weighted_columns(format, values, d, 8, w, stride, n, 1, to, out_stride);
    }
}

static void weighted_sum_f32(const float *values, int d, const float *weights, int stride, int n, int count, float *out,
                             int out_stride) {
    weighted_sum(FP32, values, d, weights, stride, n, count, out, out_stride);
}

static void weighted_sum_bf16(const uint16_t *values, int d, const float *weights, int stride, int n, int count, float *out,
                              int out_stride) {
    weighted_sum(BF16, values, d, weights, stride, n, count, out, out_stride);
}

#endif
