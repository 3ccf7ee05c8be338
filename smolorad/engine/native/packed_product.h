/* Products of INT8, INT5 and INT4 matrices with vectors.
 *
 * The vectors become integers too, with a scale for each 32 numbers: 256 * high + low, both of 8 bits. The high bytes alone, as
 * llama.cpp uses them, would cost more quality than the rounding of the weights does. */
#ifndef SMOLORA_PACKED_PRODUCT_H
#define SMOLORA_PACKED_PRODUCT_H

#include "exact_product.h"

#if defined(HAS_AVX2) && !defined(__AVX512VNNI__)
#define PACKED_AVX2
#include "packed_avx2.h"
#else

/* Adds four columns: sums[row] += bytes 4 * row ... 4 * row + 3 of `w`, unsigned, times the four bytes of `x`, signed. */
#if defined(__AVX512VNNI__)
INLINE i32x16 dot_quad(i32x16 sums, u8x64 w, int32_t x) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
}
#elif defined(__ARM_FEATURE_DOTPROD)
INLINE i32x16 dot_quad(i32x16 sums, u8x64 w, int32_t x) { /* sdot takes signed bytes: INT4's fit, INT8's are converted */
    int32x4_t part[4];
    int8x16_t weights[4], four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    memcpy(part, &sums, sizeof part), memcpy(weights, &w, sizeof weights);
    for (int i = 0; i < 4; i++) part[i] = vdotq_s32(part[i], weights[i], four);
    memcpy(&sums, part, sizeof part);
    return sums;
}
#else
INLINE i32x16 dot_quad(i32x16 sums, u8x64 w, int32_t x) {
    int8_t four[4];
    memcpy(four, &x, sizeof four);
    for (int row = 0; row < BLOCK; row++)
        for (int i = 0; i < 4; i++) sums[row] += (int32_t)w[4 * row + i] * four[i];
    return sums;
}
#endif

/* An unsigned INT8 weight is 128 too large; the product subtracts 128 times the sum of the vector's integers in the end. */
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__AVX512VNNI__)
enum { UNSIGNED_OFFSET = 0 };
INLINE u8x64 int8_weights(u8x64 q) { return q ^ 0x80; }
#else
enum { UNSIGNED_OFFSET = 128 };
INLINE u8x64 int8_weights(u8x64 q) { return q; }
#endif

INLINE u8x64 bytes64(const uint8_t *from) {
    u8x64 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

/* 16 rows' products of one group. */
INLINE i32x16 dot_group(const u8x64 *w, const int8_t *high, const int8_t *low) {
    i32x16 sums = {0};
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const any32 *)high)[i]);
    sums <<= 8;
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const any32 *)low)[i]);
    return sums;
}

INLINE void store_rows(f32x16 sums, int rows, float *out) {
    memcpy(out, &sums, sizeof(float) * (size_t)rows);
}

INLINE void block_int8(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                       int out_stride) {
    f32x16 sums[VECTORS_AT_ONCE] = {0};
    for (int g = 0; g < groups; g++, w += INT8_GROUP) {
        for (int byte = 0; byte < INT8_GROUP; byte += 64) PREFETCH(w + byte, count);
        u8x64 q[QUADS];
        for (int i = 0; i < QUADS; i++) q[i] = int8_weights(bytes64(w + 64 * i));
        f32x16 scale = load_bf16x16((const uint16_t *)(w + BLOCK * GROUP));
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i32x16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP) - v->offset[at];
            sums[i] += __builtin_convertvector(whole, f32x16) * (scale * broadcast(v->scale[at]));
        }
    }
    for (int i = 0; i < count; i++) store_rows(sums[i], rows, out + (size_t)(s + i) * out_stride);
}

/* INT4 or INT5; the format is constant. */
INLINE void block_with_units(int format, const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                             int out_stride) {
    f32x16 sums[VECTORS_AT_ONCE] = {0}, units;
    memcpy(&units, w, sizeof units);
    w += UNITS;
    for (int g = 0; g < groups; g++, w += group_bytes(format)) {
        for (int byte = 0; byte < group_bytes(format); byte += 64) PREFETCH(w + byte, count);
        u8x64 q[QUADS], fifth = format == INT5 ? bytes64(w + HALVES) : (u8x64){0};
        for (int i = 0; i < QUADS / 2; i++) {
            u8x64 both = bytes64(w + 64 * i);
            q[2 * i] = both & 15, q[2 * i + 1] = both >> 4;
        }
        if (format == INT5)
            for (int i = 0; i < QUADS; i++) q[i] |= (i < 4 ? fifth << (4 - i) : fifth >> (i - 4)) & 16;
        u8x16 steps;
        i8x16 centers;
        memcpy(&steps, w + steps_at(format), sizeof steps), memcpy(&centers, w + steps_at(format) + BLOCK, sizeof centers);
        f32x16 step = __builtin_convertvector(steps, f32x16);
        f32x16 zero = __builtin_convertvector(centers, f32x16) * broadcast(center_unit(format)) -
                      step * broadcast(0.5f * (float)levels_of(format));
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i32x16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP);
            sums[i] += __builtin_convertvector(whole, f32x16) * (step * broadcast(v->scale[at]));
            sums[i] += zero * broadcast(v->sum[at]);
        }
    }
    for (int i = 0; i < count; i++) store_rows(sums[i] * units, rows, out + (size_t)(s + i) * out_stride);
}

INLINE void block_int4(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out, int out_stride) {
    block_with_units(INT4, w, groups, v, s, count, rows, out, out_stride);
}
INLINE void block_int5(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out, int out_stride) {
    block_with_units(INT5, w, groups, v, s, count, rows, out, out_stride);
}

/* Rows first..last-1; `first` is a multiple of BLOCK. With a constant count the sums stay in registers. */
#define DEFINE_PACKED_PRODUCT(NAME, FORMAT)                                                                              \
    static void product_##NAME(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out,           \
                               int out_stride) {                                                                        \
        int groups = cols / GROUP;                                                                                      \
        for (int row = first; row < last; row += BLOCK) {                                                               \
            const uint8_t *block = w + (size_t)(row / BLOCK) * block_bytes(FORMAT, groups);                                        \
            int rows = last - row < BLOCK ? last - row : BLOCK, s = 0;                                                  \
            for (; s + VECTORS_AT_ONCE <= v->count; s += VECTORS_AT_ONCE)                                               \
                block_##NAME(block, groups, v, s, VECTORS_AT_ONCE, rows, out + row, out_stride);                        \
            if (VECTORS_AT_ONCE > 4 && s + 4 <= v->count)                                                               \
                block_##NAME(block, groups, v, s, 4, rows, out + row, out_stride), s += 4;                              \
            if (VECTORS_AT_ONCE > 2 && s + 2 <= v->count)                                                               \
                block_##NAME(block, groups, v, s, 2, rows, out + row, out_stride), s += 2;                              \
            for (; s < v->count; s++) block_##NAME(block, groups, v, s, 1, rows, out + row, out_stride);                \
        }                                                                                                               \
    }

DEFINE_PACKED_PRODUCT(int8, INT8)
DEFINE_PACKED_PRODUCT(int4, INT4)
DEFINE_PACKED_PRODUCT(int5, INT5)
#endif

/* Rounds the vectors to integers. NaN and infinity make the scale NaN, and so every sum. Numbers too small for a scale become 0. */
static inline void quantize_int8(Vectors *v, int n) {
    for (int s = 0; s < v->count; s++)
        for (int g = 0; g < n / GROUP; g++) {
            size_t at = (size_t)s * (v->stride / GROUP) + g;
            const float *x = v->x + (size_t)s * v->stride + (size_t)g * GROUP;
#if defined(PACKED_AVX2)
            int8_t high[GROUP], low[GROUP];
#else
            int8_t *high = v->high + at * GROUP, *low = v->low + at * GROUP;
#endif
            float most = 0, not_finite = 0;
#pragma omp simd reduction(max : most) reduction(+ : not_finite)
            for (int i = 0; i < GROUP; i++) {
                float size = fabsf(x[i]);
                most = size > most ? size : most;
                not_finite += x[i] - x[i]; /* 0, except for NaN and infinity */
            }
            int usable = most > 127.0f / FLT_MAX && not_finite == 0;
            float steps = usable ? 127.0f / most : 0;
            int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < GROUP; i++) {
                float whole = usable ? x[i] * steps : 0, rounded = ROUND(whole), rest = ROUND((whole - rounded) * 256.0f);
                rest = rest > 127.0f ? 127.0f : rest;
                high[i] = (int8_t)(int32_t)rounded, low[i] = (int8_t)(int32_t)rest;
                sum += 256 * (int32_t)rounded + (int32_t)rest;
            }
#if defined(PACKED_AVX2)
            pair_columns(high, low, v->rounded + at * GROUP);
#endif
            v->scale[at] = most / (127.0f * 256.0f) + not_finite;
            v->sum[at] = (float)sum * v->scale[at];
            v->offset[at] = UNSIGNED_OFFSET * sum;
        }
}

#endif
