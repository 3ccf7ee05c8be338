/* Products of INT8 and INT4 matrices with vectors. */
#ifndef SMOLORA_PACKED_PRODUCT_H
#define SMOLORA_PACKED_PRODUCT_H

#include "exact_product.h"

enum { INT8_GROUP = BLOCK * GROUP + 2 * BLOCK, INT4_GROUP = BLOCK * GROUP / 2 + 4 * BLOCK };

/* sums[row] += the product of four columns: bytes 4 * row ... 4 * row + 3 of `w`, unsigned, with the four of `x`, signed. */
#if defined(__AVX512VNNI__)
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) {
    return (i16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
}
#elif defined(__ARM_FEATURE_DOTPROD)
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) { /* sdot is signed: halves of bytes are, and INT8 makes itself so */
    int32x4_t part[4];
    int8x16_t weights[4], four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    memcpy(part, &sums, sizeof part), memcpy(weights, &w, sizeof weights);
    for (int i = 0; i < 4; i++) part[i] = vdotq_s32(part[i], weights[i], four);
    memcpy(&sums, part, sizeof part);
    return sums;
}
#else
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) {
    int8_t four[4];
    memcpy(four, &x, sizeof four);
    for (int row = 0; row < BLOCK; row++)
        for (int i = 0; i < 4; i++) sums[row] += (int32_t)w[4 * row + i] * four[i];
    return sums;
}
#endif

/* An unsigned weight is 128 too large, and what that makes is taken off in the end; a signed product needs no such thing. */
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__AVX512VNNI__)
enum { TOO_MANY = 0 };
INLINE b64 int8_weights(b64 q) { return q ^ 0x80; }
#else
enum { TOO_MANY = 128 };
INLINE b64 int8_weights(b64 q) { return q; }
#endif

INLINE b64 bytes64(const uint8_t *from) {
    b64 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

INLINE i16 dot_group(const b64 *w, const int8_t *high, const int8_t *low) {
    i16 sums = {0};
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const quad *)high)[i]);
    sums <<= 8;
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const quad *)low)[i]);
    return sums;
}

INLINE void put(f16 sums, int rows, float *out) {
    memcpy(out, &sums, sizeof(float) * (size_t)rows);
}

INLINE void block_int8(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                       int out_stride) {
    f16 sums[TOGETHER] = {0};
    for (int g = 0; g < groups; g++, w += INT8_GROUP) {
        for (int byte = 0; byte < INT8_GROUP; byte += 64) ASK(w + byte, count);
        b64 q[QUADS];
        for (int i = 0; i < QUADS; i++) q[i] = int8_weights(bytes64(w + 64 * i));
        f16 scale = widen16((const uint16_t *)(w + BLOCK * GROUP));
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP) - v->surplus[at];
            sums[i] += __builtin_convertvector(whole, f16) * (scale * all(v->scale[at]));
        }
    }
    for (int i = 0; i < count; i++) put(sums[i], rows, out + (size_t)(s + i) * out_stride);
}

INLINE void block_int4(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                       int out_stride) {
    f16 sums[TOGETHER] = {0};
    for (int g = 0; g < groups; g++, w += INT4_GROUP) {
        for (int byte = 0; byte < INT4_GROUP; byte += 64) ASK(w + byte, count);
        b64 q[QUADS];
        for (int i = 0; i < QUADS / 2; i++) {
            b64 both = bytes64(w + 64 * i);
            q[2 * i] = both & 15, q[2 * i + 1] = both >> 4;
        }
        const uint16_t *scales = (const uint16_t *)(w + BLOCK * GROUP / 2);
        f16 scale = widen16(scales), minimum = widen16(scales + BLOCK);
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP);
            sums[i] += __builtin_convertvector(whole, f16) * (scale * all(v->scale[at]));
            sums[i] += minimum * all(v->sum[at]);
        }
    }
    for (int i = 0; i < count; i++) put(sums[i], rows, out + (size_t)(s + i) * out_stride);
}

/* `first` begins a block. A constant count lets the sums stay in registers. */
#define DEFINE_ROWS(NAME, SIZE)                                                                                         \
    static void rows_##NAME(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out,              \
                            int out_stride) {                                                                           \
        int groups = cols / GROUP;                                                                                      \
        for (int row = first; row < last; row += BLOCK) {                                                               \
            const uint8_t *block = w + (size_t)(row / BLOCK) * groups * SIZE;                                           \
            int rows = last - row < BLOCK ? last - row : BLOCK, s = 0;                                                  \
            for (; s + TOGETHER <= v->count; s += TOGETHER)                                                             \
                block_##NAME(block, groups, v, s, TOGETHER, rows, out + row, out_stride);                               \
            if (TOGETHER > 4 && s + 4 <= v->count) block_##NAME(block, groups, v, s, 4, rows, out + row, out_stride), s += 4; \
            if (TOGETHER > 2 && s + 2 <= v->count) block_##NAME(block, groups, v, s, 2, rows, out + row, out_stride), s += 2; \
            for (; s < v->count; s++) block_##NAME(block, groups, v, s, 1, rows, out + row, out_stride);                        \
        }                                                                                                               \
    }

DEFINE_ROWS(int8, INT8_GROUP)
DEFINE_ROWS(int4, INT4_GROUP)

/* Makes the vectors integers; NaN and infinity make a scale that is none, and so reach every sum. Numbers too small for a scale
 * are 0. */
static inline void quantise(Vectors *v, int n) {
    for (int s = 0; s < v->count; s++)
        for (int g = 0; g < n / GROUP; g++) {
            size_t at = (size_t)s * (v->stride / GROUP) + g;
            const float *x = v->x + (size_t)s * v->stride + (size_t)g * GROUP;
            int8_t *high = v->high + at * GROUP, *low = v->low + at * GROUP;
            float most = 0, spread = 0;
#pragma omp simd reduction(max : most) reduction(+ : spread)
            for (int i = 0; i < GROUP; i++) {
                float size = fabsf(x[i]);
                most = size > most ? size : most;
                spread += x[i] - x[i]; /* 0, but for NaN and infinity */
            }
            int some = most > 127.0f / FLT_MAX && spread == 0;
            float to = some ? 127.0f / most : 0;
            int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < GROUP; i++) {
                float whole = some ? x[i] * to : 0, rounded = NEAREST(whole), rest = NEAREST((whole - rounded) * 256.0f);
                rest = rest > 127.0f ? 127.0f : rest;
                high[i] = (int8_t)(int32_t)rounded, low[i] = (int8_t)(int32_t)rest;
                sum += 256 * (int32_t)rounded + (int32_t)rest;
            }
            v->scale[at] = most / (127.0f * 256.0f) + spread;
            v->sum[at] = (float)sum * v->scale[at];
            v->surplus[at] = TOO_MANY * sum;
        }
}

#endif
