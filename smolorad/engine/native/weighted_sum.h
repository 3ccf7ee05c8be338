/* Weighted sums of the values of a KV cache. A sum adds value after value, however many queries there are. */
#ifndef SMOLORA_WEIGHTED_SUM_H
#define SMOLORA_WEIGHTED_SUM_H

#include "vector.h"

#if defined(ONLY_AVX2)
#include "weighted_avx2.h"
#else
/* out[s] (d numbers) = the sum of values[t] * weights[s][t] over t < n. */
#define DEFINE_WEIGHTED_SUM(NAME, TYPE, LOAD, WIDEN)                                                                    \
    INLINE void weighted_sum_tile_##NAME(const TYPE *values, int d, int i, int wide, const float *weights, int stride,  \
                                         int n, int count, float *out, int out_stride) {                                \
        f32x16 sums[4][4] = {{{0}}};                                                                                    \
        for (int t = 0; t < n; t++) {                                                                                   \
            const TYPE *value = values + (size_t)t * d + i;                                                             \
            for (int s = 0; s < count; s++)                                                                             \
                for (int k = 0; k < wide; k++)                                                                          \
                    sums[s][k] += LOAD(value + 16 * k) * broadcast(weights[(size_t)s * stride + t]);                    \
        }                                                                                                               \
        for (int s = 0; s < count; s++)                                                                                 \
            for (int k = 0; k < wide; k++)                                                                              \
                memcpy(out + (size_t)s * out_stride + i + 16 * k, &sums[s][k], sizeof(f32x16));                         \
    }                                                                                                                   \
    static void weighted_sum_##NAME(const TYPE *values, int d, const float *weights, int stride, int n, int count,      \
                                    float *out, int out_stride) {                                                       \
        for (int s = 0; s < count; s += 4) {                                                                            \
            const float *w = weights + (size_t)s * stride;                                                              \
            float *to = out + (size_t)s * out_stride;                                                                   \
            int i = 0;                                                                                                  \
            for (; i + 64 <= d; i += 64) {                                                                              \
                if (count - s >= 4)                                                                                     \
                    weighted_sum_tile_##NAME(values, d, i, 4, w, stride, n, 4, to, out_stride);                         \
                else                                                                                                    \
                    for (int one = s; one < count; one++)                                                               \
                        weighted_sum_tile_##NAME(values, d, i, 4, weights + (size_t)one * stride, stride, n, 1,         \
                                        out + (size_t)one * out_stride, out_stride);                                    \
            }                                                                                                           \
            for (int one = s; one < count && one < s + 4; one++) {                                                      \
                const float *weight = weights + (size_t)one * stride;                                                   \
                float *sum = out + (size_t)one * out_stride;                                                            \
                for (int at = i; at + 16 <= d; at += 16)                                                                \
                    weighted_sum_tile_##NAME(values, d, at, 1, weight, stride, n, 1, sum, out_stride);                  \
                for (int at = d - d % 16 > i ? d - d % 16 : i; at < d; at++) {                                          \
                    sum[at] = 0;                                                                                        \
                    for (int t = 0; t < n; t++) sum[at] += WIDEN(values[(size_t)t * d + at]) * weight[t];               \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

DEFINE_WEIGHTED_SUM(f32, float, load_f32x16, AS_IS)
DEFINE_WEIGHTED_SUM(bf16, uint16_t, load_bf16x16, bf16_to_f32)
#endif

#endif
