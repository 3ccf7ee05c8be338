/* Products of a prompt's vectors with FP32 and BF16 matrices, panel by panel, where registers are narrower than 16 numbers.
 *
 * A panel is a slice of 16 rows, as fp32, one column after the other. A tile of 6 vectors has its 6 x 16 sums in registers. */
#ifndef SMOLORA_PANEL_PRODUCT_H
#define SMOLORA_PANEL_PRODUCT_H

#include "matrix.h"

#if defined(ONLY_AVX2)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

enum {
    PROMPT_TILE = 6,
    PROMPT_SLICE = 2048, /* columns of a panel that stays in the second cache */
    PARTS = BLOCK / LANES
};

typedef float f32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));

/* Four columns of two rows. */
INLINE f32x8 load_two_rows(int format, const void *w, size_t first, size_t second) {
    if (format == FP32) {
        f32x4 low, high;
        memcpy(&low, (const float *)w + first, sizeof low), memcpy(&high, (const float *)w + second, sizeof high);
        return SHUFFLE(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    uint64_t half[2];
    memcpy(&half[0], (const uint16_t *)w + first, 8), memcpy(&half[1], (const uint16_t *)w + second, 8);
#if defined(ONLY_AVX2)
    return (f32x8)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_set_epi64x((int64_t)half[1], (int64_t)half[0])), 16);
#else
    u16x8 both;
    memcpy(&both, half, sizeof both);
    return (f32x8)(__builtin_convertvector(both, u32x8) << 16);
#endif
}

/* Packs columns of up to 16 rows, `n` numbers after one another, and repeats the first row where there are fewer. */
INLINE void pack_prompt_panel(int format, const void *w, int n, int rows, int columns, float *panel) {
    size_t at[BLOCK];
    for (int r = 0; r < BLOCK; r++) at[r] = r < rows ? (size_t)r * n : 0;
    int i = 0;
    for (; i + 4 <= columns; i += 4)
        for (int r = 0; r < BLOCK; r += 8) {
            f32x8 a[4], b[4];
            for (int k = 0; k < 4; k++) a[k] = load_two_rows(format, w, at[r + k] + i, at[r + k + 4] + i);
            for (int k = 0; k < 4; k += 2) {
                b[k] = SHUFFLE(a[k], a[k + 1], 0, 8, 1, 9, 4, 12, 5, 13);
                b[k + 1] = SHUFFLE(a[k], a[k + 1], 2, 10, 3, 11, 6, 14, 7, 15);
            }
            for (int k = 0; k < 2; k++) {
                f32x8 even = SHUFFLE(b[k], b[k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
                f32x8 odd = SHUFFLE(b[k], b[k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
                memcpy(panel + (i + 2 * k) * BLOCK + r, &even, sizeof even);
                memcpy(panel + (i + 2 * k + 1) * BLOCK + r, &odd, sizeof odd);
            }
        }
    for (; i < columns; i++)
        for (int r = 0; r < BLOCK; r++)
            panel[i * BLOCK + r] =
                format == FP32 ? ((const float *)w)[at[r] + i] : bf16_to_f32(((const uint16_t *)w)[at[r] + i]);
}

/* `count` vectors, a constant, times a panel; the sums are added to those in `out` unless they are the first. */
INLINE void prompt_tile(const float *panel, int columns, const float *x, int stride, int count, int rows, int begins, float *out,
                        int out_stride) {
    lanes sums[PROMPT_TILE][PARTS];
    for (int s = 0; s < count; s++)
        for (int k = 0; k < PARTS; k++) sums[s][k] = (lanes){0};
    for (int i = 0; i < columns; i++) {
        lanes w[PARTS];
        for (int k = 0; k < PARTS; k++) memcpy(&w[k], panel + i * BLOCK + k * LANES, sizeof w[k]);
        for (int s = 0; s < count; s++) {
            lanes both = x[(size_t)s * stride + i] - (lanes){0};
            for (int k = 0; k < PARTS; k++) sums[s][k] = MULTIPLY_ADD(sums[s][k], w[k], both);
        }
    }
    for (int s = 0; s < count; s++) {
        float *to = out + (size_t)s * out_stride, sum[BLOCK];
        memcpy(sum, sums[s], sizeof sum);
        for (int r = 0; r < rows; r++) to[r] = begins ? sum[r] : to[r] + sum[r];
    }
}

/* Rows first..last-1 with many vectors; slice by slice, so that the vectors' slice stays in the second cache. */
INLINE void prompt_product(int format, const void *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    float *panel = (float *)v->panel;
    size_t wide = format == FP32 ? sizeof(float) : sizeof(uint16_t);
    int tiles = (v->count + PROMPT_TILE - 1) / PROMPT_TILE; /* of 6 or 5 vectors, as there are 20 or more */
    for (int at = 0; at < n; at += PROMPT_SLICE) {
        int columns = n - at < PROMPT_SLICE ? n - at : PROMPT_SLICE;
        for (int row = first; row < last; row += BLOCK) {
            int rows = last - row < BLOCK ? last - row : BLOCK;
            const char *from = (const char *)w + ((size_t)row * n + at) * wide;
            pack_prompt_panel(format, from, n, rows, columns, panel);
            const char *next = from + (size_t)BLOCK * n * wide;
            for (int i = 0; i < tiles; i++) {
                int s = v->count * i / tiles, count = v->count * (i + 1) / tiles - s;
                const float *x = v->x + (size_t)s * v->stride + at;
                float *to = out + (size_t)s * out_stride + row;
                for (int r = BLOCK * i / tiles; row + BLOCK < last && r < BLOCK * (i + 1) / tiles; r++)
                    for (size_t byte = 0; byte < columns * wide; byte += 64) __builtin_prefetch(next + r * n * wide + byte, 0, 2);
                if (count == PROMPT_TILE)
                    prompt_tile(panel, columns, x, v->stride, PROMPT_TILE, rows, at == 0, to, out_stride);
                else
                    prompt_tile(panel, columns, x, v->stride, PROMPT_TILE - 1, rows, at == 0, to, out_stride);
            }
        }
    }
}

static void prompt_product_f32(const float *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    prompt_product(FP32, w, n, first, last, v, out, out_stride);
}

static void prompt_product_bf16(const uint16_t *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    prompt_product(BF16, w, n, first, last, v, out, out_stride);
}

#endif
