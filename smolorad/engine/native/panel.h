/* Panels: weights as an instruction takes them. */
#ifndef SMOLORA_PANEL_H
#define SMOLORA_PANEL_H

#include "matrix.h"

/* A prompt's product is bound by arithmetic, not by memory. So two blocks of rows are first laid out as the instruction takes
 * them: a step meets 32 rows of a vector in two instructions, each sum is a lane that needs no folding, and 12 vectors' sums fill
 * the registers. Where the processor multiplies bf16, a step is a pair of columns, [column / 2][row][column % 2]; elsewhere it is
 * one column, widened: [column][row]. The sums are those of few vectors in another order. */

#if defined(__AVX512BF16__)
enum { STEP = 2 }; /* columns, together 32 bits */
#define MULTIPLY_STEP(sums, w, x) PAIRS(sums, w, x)
#else
enum { STEP = 1 };
#define MULTIPLY_STEP(sums, w, x) MULTIPLY_ADD(sums, (f16)(w), (f16)(x))
#endif


/* Room for 2 * BLOCK rows of a matrix of at most `cols` columns; NULL where memory ran out. To be freed. */
static inline uint32_t *panel_open(int cols) {
    return aligned_alloc(64, sizeof(uint32_t) * 2 * BLOCK * (((size_t)cols + 1) / STEP));
}

#if defined(__AVX512F__)
/* 16 x 16 numbers of 32 bits, the rows in `a`: columns become rows of `to`, each `stride` after the last. */
INLINE void transpose(__m512i a[16], uint32_t *to, ptrdiff_t stride) {
    __m512i b[16];
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + k + 2]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + k + 2]);
        }
    /* Quarter q of a[4 * i + k] is now column 4 * q + k of rows 4 * i to 4 * i + 3. */
    for (int k = 0; k < 4; k++) {
        __m512i even[2], odd[2];
        for (int i = 0; i < 2; i++) {
            even[i] = _mm512_shuffle_i32x4(a[8 * i + k], a[8 * i + 4 + k], 0x88);
            odd[i] = _mm512_shuffle_i32x4(a[8 * i + k], a[8 * i + 4 + k], 0xdd);
        }
        _mm512_storeu_si512(to + k * stride, _mm512_shuffle_i32x4(even[0], even[1], 0x88));
        _mm512_storeu_si512(to + (4 + k) * stride, _mm512_shuffle_i32x4(odd[0], odd[1], 0x88));
        _mm512_storeu_si512(to + (8 + k) * stride, _mm512_shuffle_i32x4(even[0], even[1], 0xdd));
        _mm512_storeu_si512(to + (12 + k) * stride, _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd));
    }
}

INLINE __m512i steps16(const uint16_t *from) { /* 16 steps of one row */
#if defined(__AVX512BF16__)
    return _mm512_loadu_si512(from);
#else
    return (__m512i)widen16(from);
#endif
}

/* 16 rows (those from `rows` on are 0) of n columns, n a multiple of STEP, each `stride` after the last: 16 numbers of 32 bits for
 * each step, `to` being walked 32 at a time. */
static void lay_out(const uint16_t *w, ptrdiff_t stride, int n, int rows, uint32_t *to) {
    int at = 0;
    for (; at + 16 * STEP <= n; at += 16 * STEP) {
        __m512i a[16];
        for (int i = 0; i < 16; i++) a[i] = i < rows ? steps16(w + i * stride + at) : _mm512_setzero_si512();
        transpose(a, to + (size_t)at / STEP * 32, 32);
    }
    for (; at < n; at += STEP)
        for (int i = 0; i < 16; i++) {
            uint32_t step = 0;
            if (i < rows && STEP == 2) memcpy(&step, w + i * stride + at, sizeof step);
            if (i < rows && STEP == 1) step = (uint32_t)w[i * stride + at] << 16;
            to[(size_t)at / STEP * 32 + i] = step;
        }
}
#endif

#endif
