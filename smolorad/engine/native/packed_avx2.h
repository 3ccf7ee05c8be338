/* Products of INT8, INT5 and INT4 blocks with vectors in registers of 8 rows (AVX2).
 *
 * Bytes of weights become 16 bits, two columns of a row side by side, and 256 * high + low of a vector is 16 bits, too: one
 * instruction multiplies two columns of 8 rows and adds the pairs. The integers are exact, so the sums are those of any other code. */
#ifndef SMOLORA_PACKED_AVX2_H
#define SMOLORA_PACKED_AVX2_H

#include "exact_product.h"

enum {
    UNSIGNED_OFFSET = 128, /* an unsigned INT8 weight is that much too large */
    PACKED_AT_ONCE = 4,    /* vectors whose sums fit the registers */
    CACHED_BLOCKS = 4      /* blocks that stay in the second cache while all vectors are multiplied */
};

/* The integers of a group of a vector, of 16 bits. The bytes of columns 0 and 2, and of 1 and 3, are found most cheaply together, so
 * each four columns are in the order 0 2 1 3. */
INLINE void pair_columns(const int8_t *high, const int8_t *low, uint16_t *to) {
    for (int i = 0; i < GROUP; i += 16) {
        __m256i whole = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(high + i))), 8);
        whole = _mm256_add_epi16(whole, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(low + i))));
        whole = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(whole, 0xd8), 0xd8);
        _mm256_storeu_si256((__m256i *)(to + i), whole);
    }
}

INLINE __m256i add_pairs(__m256i sums, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sums, w, x);
#else
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(w, x));
    IN_REGISTER(sums);
    return sums;
#endif
}

INLINE __m256i bytes32(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

/* One group's integers of 8 rows from `row` on, columns 4 * at to 4 * at + 3: two pairs of columns. */
INLINE void pairs_int8(const uint8_t *w, int row, int at, __m256i pair[2]) {
    __m256i q = bytes32(w + 4 * BLOCK * at + 4 * row);
    pair[0] = _mm256_and_si256(q, _mm256_set1_epi16(0x00ff));
    pair[1] = _mm256_srli_epi16(q, 8);
}
INLINE void pairs_int4(const uint8_t *w, int row, int at, __m256i pair[2]) {
    __m256i q = bytes32(w + 4 * BLOCK * (at / 2) + 4 * row);
    if (at % 2) q = _mm256_srli_epi16(q, 4);
    pair[0] = _mm256_and_si256(q, _mm256_set1_epi16(0x000f));
    pair[1] = _mm256_and_si256(_mm256_srli_epi16(q, 8), _mm256_set1_epi16(0x000f));
}
/* `fifth`: the fifth bits of these rows; bit `at` of a byte is that of columns 4 * at to 4 * at + 3. */
INLINE void pairs_int5(const uint8_t *w, __m256i fifth, int row, int at, __m256i pair[2]) {
    __m256i q = bytes32(w + 4 * BLOCK * (at / 2) + 4 * row);
    if (at % 2) q = _mm256_srli_epi16(q, 4);
    fifth = at < 4 ? _mm256_slli_epi16(fifth, 4 - at) : _mm256_srli_epi16(fifth, at - 4);
    q = _mm256_or_si256(_mm256_and_si256(q, _mm256_set1_epi8(0x0f)), _mm256_and_si256(fifth, _mm256_set1_epi8(0x10)));
    pair[0] = _mm256_and_si256(q, _mm256_set1_epi16(0x00ff));
    pair[1] = _mm256_srli_epi16(q, 8);
}

/* 8 rows' steps, and what a weight is at q = 0, both in the row's unit. */
INLINE __m256 steps_of(int format, const uint8_t *w, int row, __m256 *zero) {
    const uint8_t *from = w + steps_at(format) + row;
    __m256 step = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)));
    __m256 center = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + BLOCK))));
    center = _mm256_mul_ps(center, _mm256_set1_ps(center_unit(format)));
    *zero = _mm256_fnmadd_ps(step, _mm256_set1_ps(0.5f * (float)levels_of(format)), center);
    return step;
}

/* A block with `count` vectors; `format` and `count` are constant. */
INLINE void block_avx2(int format, const uint8_t *w, int groups, const Vectors *v, int s, int count, float *out, int out_stride,
                       int rows) {
    __m256 sums[PACKED_AT_ONCE][2];
    for (int i = 0; i < count; i++) sums[i][0] = sums[i][1] = _mm256_setzero_ps();
    size_t per_vector = v->stride / GROUP, first = (size_t)s * per_vector;
    const float *units = (const float *)w;
    if (has_units(format)) w += UNITS;
    for (int g = 0; g < groups; g++, w += group_bytes(format)) {
        for (int byte = 0; byte < group_bytes(format); byte += 64) PREFETCH(w + byte, count);
        __m256i fifth[2];
        if (format == INT5)
            for (int half = 0; half < 2; half++) fifth[half] = bytes32(w + HALVES + 32 * half);
        __m256i whole[PACKED_AT_ONCE][2];
        for (int i = 0; i < count; i++)
            whole[i][0] = whole[i][1] = _mm256_set1_epi32(format == INT8 ? -v->offset[first + i * per_vector + g] : 0);
        const any32 *x = (const any32 *)(v->rounded + (first + g) * GROUP);
#pragma GCC unroll 8
        for (int at = 0; at < QUADS; at++) { /* unrolled, so that each shift is by a constant */
            __m256i q[2][2];
            for (int half = 0; half < 2; half++)
                if (format == INT8) pairs_int8(w, 8 * half, at, q[half]);
                else if (format == INT5) pairs_int5(w, fifth[half], 8 * half, at, q[half]);
                else pairs_int4(w, 8 * half, at, q[half]);
            for (int i = 0; i < count; i++)
                for (int pair = 0; pair < 2; pair++) {
                    __m256i both = _mm256_set1_epi32(x[(size_t)i * per_vector * (GROUP / 2) + 2 * at + pair]);
                    for (int half = 0; half < 2; half++) whole[i][half] = add_pairs(whole[i][half], q[half][pair], both);
                }
        }
        for (int half = 0; half < 2; half++) {
            __m256 scale, zero;
            if (format == INT8) scale = load_bf16x8((const uint16_t *)(w + BLOCK * GROUP) + 8 * half);
            else scale = steps_of(format, w, 8 * half, &zero);
            for (int i = 0; i < count; i++) {
                size_t group = first + i * per_vector + g;
                __m256 by = _mm256_mul_ps(scale, _mm256_set1_ps(v->scale[group]));
                sums[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole[i][half]), by, sums[i][half]);
                if (format != INT8) sums[i][half] = _mm256_fmadd_ps(zero, _mm256_set1_ps(v->sum[group]), sums[i][half]);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        float *to = out + (size_t)(s + i) * out_stride;
        for (int half = 0; half < 2 && has_units(format); half++)
            sums[i][half] = _mm256_mul_ps(sums[i][half], _mm256_loadu_ps(units + 8 * half));
        if (rows == BLOCK) memcpy(to, sums[i], sizeof sums[i]); /* of constant size: with another, the copy takes 5 % of the time */
        else memcpy(to, sums[i], sizeof(float) * (size_t)rows);
    }
}

/* Rows first..last-1; `first` is a multiple of BLOCK. The format is a constant. */
INLINE void product_avx2(int format, const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out,
                         int out_stride) {
    int groups = cols / GROUP;
    size_t size = block_bytes(format, groups);
    for (int row = first; row < last; row += CACHED_BLOCKS * BLOCK) {
        int end = row + CACHED_BLOCKS * BLOCK < last ? row + CACHED_BLOCKS * BLOCK : last;
        for (int s = 0, left; (left = v->count - s) > 0; s += left >= PACKED_AT_ONCE ? PACKED_AT_ONCE : left)
            for (int at = row; at < end; at += BLOCK) {
                const uint8_t *block = w + at / BLOCK * size;
                int rows = end - at < BLOCK ? end - at : BLOCK;
                if (left >= 4) block_avx2(format, block, groups, v, s, 4, out + at, out_stride, rows);
                else if (left == 3) block_avx2(format, block, groups, v, s, 3, out + at, out_stride, rows);
                else if (left == 2) block_avx2(format, block, groups, v, s, 2, out + at, out_stride, rows);
                else block_avx2(format, block, groups, v, s, 1, out + at, out_stride, rows);
            }
    }
}

static void product_int8(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out, int out_stride) {
    product_avx2(INT8, w, cols, first, last, v, out, out_stride);
}

static void product_int4(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out, int out_stride) {
    product_avx2(INT4, w, cols, first, last, v, out, out_stride);
}

static void product_int5(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out, int out_stride) {
    product_avx2(INT5, w, cols, first, last, v, out, out_stride);
}

#endif
