/* Rows of a KV cache: a token's key or value of one head.
 *
 * FP32 and BF16: head_dim numbers. INT8: head_dim integers, w = scale * q, q in -127..127, then a scale in bf16 for each 32 of them;
 * 8.5 bits a number. A step turns INT8 into FP32 a block of positions at a time, and computes with that. */
#ifndef SMOLORA_CACHE_ROW_H
#define SMOLORA_CACHE_ROW_H

#include "matrix.h"

static inline int cache_groups(int d) { return (d + GROUP - 1) / GROUP; }

/* The bytes of a row of d numbers. */
static inline size_t cache_row_bytes(int format, int d) {
    return format == INT8 ? (size_t)d + sizeof(uint16_t) * (size_t)cache_groups(d) : (size_t)d * (size_t)number_bytes(format);
}

/* Writes at most 32 numbers as integers; returns their scale, which is NaN if one of them is not finite. */
static uint16_t store_cache_group(int8_t *q, const float *x, int n) {
    float most = 0, not_finite = 0;
    for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most, not_finite += x[i] - x[i];
    uint16_t scale = f32_to_bf16_up((most + not_finite) / 127.0f);
    float size = bf16_to_f32(scale), to = 1.0f / size;
    int is_usual = size > 1.0f / FLT_MAX; /* not NaN, and not too small to divide by */
    for (int i = 0; i < n; i++) q[i] = is_usual ? (int8_t)(int)nearbyintf(x[i] * to) : 0;
    return is_usual || size != size ? scale : 0;
}

/* Writes a row of d numbers. */
static void store_cache_row(int format, char *row, const float *x, int d) {
    switch (format) {
    case BF16:
        for (int i = 0; i < d; i++) ((uint16_t *)row)[i] = f32_to_bf16(x[i]);
        return;
    case INT8:
        for (int group = 0, i = 0; i < d; group++, i += GROUP) {
            uint16_t scale = store_cache_group((int8_t *)row + i, x + i, d - i < GROUP ? d - i : GROUP);
            memcpy(row + d + sizeof scale * (size_t)group, &scale, sizeof scale);
        }
        return;
    default: memcpy(row, x, sizeof(float) * (size_t)d);
    }
}

/* 32 numbers of a row. */
INLINE void read_cache_group(const int8_t *q, float scale, float *to) {
#if defined(ONLY_AVX2) /* the compiler converts the 32 at once, and shuffles them apart */
    for (int k = 0; k < GROUP; k += 8) {
        __m256i eight = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + k)));
        _mm256_storeu_ps(to + k, _mm256_mul_ps(_mm256_cvtepi32_ps(eight), _mm256_set1_ps(scale)));
    }
#else
    for (int k = 0; k < GROUP; k++) to[k] = scale * (float)q[k];
#endif
}

/* n rows of INT8, one after the other, as FP32. */
static void read_cache_rows(const char *rows, int d, int n, float *to) {
    size_t bytes = cache_row_bytes(INT8, d);
    for (int t = 0; t < n; t++, to += d) {
        const int8_t *q = (const int8_t *)rows + (size_t)t * bytes;
        for (int group = 0, i = 0; i < d; group++) {
            uint16_t stored;
            memcpy(&stored, q + d + sizeof stored * (size_t)group, sizeof stored);
            float scale = bf16_to_f32(stored);
            if (d - i >= GROUP) {
                read_cache_group(q + i, scale, to + i);
                i += GROUP;
            } else {
                for (; i < d; i++) to[i] = scale * (float)q[i];
            }
        }
    }
}

#endif
