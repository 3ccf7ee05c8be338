/* Panels: 32 rows of a weight matrix, interleaved so that one load gives the same columns of 16 rows (docs/native.md draws them).
 *
 * A depth step is 32 bits of a row: one number in fp32, a pair in bf16 where the processor multiplies bf16, and elsewhere one
 * bf16 number that packing converts to fp32. A product with a panel keeps each sum in a lane of its own: nothing needs to be
 * added across lanes, and the sums of a tile of 12 vectors fill the registers.
 */
#ifndef SMOLORA_PANEL_H
#define SMOLORA_PANEL_H

#include "matrix.h"

enum { PANEL = 2 * BLOCK, TILE = 12 };

#if defined(__AVX512BF16__)
enum { BF16_STEP = 2 }; /* numbers in a depth step */
#else
enum { BF16_STEP = 1 };
#endif

INLINE int step_of(int format) { return format == FP32 ? 1 : BF16_STEP; }

#if defined(__AVX512F__)
/* Transposes 16 x 16 numbers of 32 bits in registers. Row i of the result is at `to + i * stride`. */
INLINE void transpose16(__m512i a[16], uint32_t *to, ptrdiff_t stride) {
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

/* 16 depth steps of a row, from column `at` on. */
INLINE __m512i load_steps(int format, const void *row, ptrdiff_t at) {
    if (format == FP32) return _mm512_loadu_si512((const float *)row + at);
    const uint16_t *from = (const uint16_t *)row + at;
    return BF16_STEP == 2 ? _mm512_loadu_si512(from) : (__m512i)load_bf16x16(from);
}

/* One depth step of a row. */
INLINE uint32_t load_step(int format, const void *row, ptrdiff_t at) {
    if (format == BF16 && BF16_STEP == 1) return (uint32_t)((const uint16_t *)row)[at] << 16;
    uint32_t step;
    memcpy(&step, (const char *)row + at * number_bytes(format), sizeof step);
    return step;
}

/* Packs rows of `depth` columns, each `stride` numbers after the last, into the first `halves` halves of a panel. The depth is
 * whole steps, and the halves are zeros from `rows` on. `format` is a constant, FP32 or BF16. */
INLINE void pack_panel(int format, const void *w, ptrdiff_t stride, int depth, int rows, int halves, uint32_t *panel) {
    const int step = step_of(format);
    for (int half = 0; half < halves; half++, rows -= BLOCK, panel += BLOCK) {
        const char *first = (const char *)w + half * BLOCK * stride * number_bytes(format);
        int at = 0;
        for (; at + BLOCK * step <= depth; at += BLOCK * step) {
            __m512i a[BLOCK];
            for (int i = 0; i < BLOCK; i++) a[i] = i < rows ? load_steps(format, first, i * stride + at) : _mm512_setzero_si512();
            transpose16(a, panel + (ptrdiff_t)(at / step) * PANEL, PANEL);
        }
        for (; at < depth; at += step)
            for (int i = 0; i < BLOCK; i++)
                panel[(ptrdiff_t)(at / step) * PANEL + i] = i < rows ? load_step(format, first, i * stride + at) : 0;
    }
}
#endif

#endif
