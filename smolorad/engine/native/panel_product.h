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

/* sum + w * x, rounded once where the processor can: the code for a few vectors rounds so, whatever a compiler fuses. */
INLINE lanes add_product(lanes sum, lanes w, lanes x) {
#if defined(ONLY_AVX2)
    return (lanes)_mm256_fmadd_ps((__m256)w, (__m256)x, (__m256)sum);
#else
    return MULTIPLY_ADD(sum, w, x);
#endif
}

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

/* Four columns of eight rows, which begin at `at`. */
INLINE void pack_four_columns(int format, const void *w, const size_t *at, int column, float *panel) {
    f32x8 a[4], b[4];
    for (int k = 0; k < 4; k++) a[k] = load_two_rows(format, w, at[k] + column, at[k + 4] + column);
    for (int k = 0; k < 4; k += 2) {
        b[k] = SHUFFLE(a[k], a[k + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[k + 1] = SHUFFLE(a[k], a[k + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int k = 0; k < 2; k++) {
        f32x8 even = SHUFFLE(b[k], b[k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        f32x8 odd = SHUFFLE(b[k], b[k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        memcpy(panel + (column + 2 * k) * BLOCK, &even, sizeof even);
        memcpy(panel + (column + 2 * k + 1) * BLOCK, &odd, sizeof odd);
    }
}

#if defined(ONLY_AVX2)
/* Eight columns of eight rows of bf16; what is transposed is half as wide as fp32. */
INLINE void pack_eight_columns(const uint16_t *w, const size_t *at, int column, float *panel) {
    __m256i row[4], pair[4], zero = _mm256_setzero_si256();
    for (int k = 0; k < 4; k++)
        row[k] = _mm256_loadu2_m128i((const __m128i *)(w + at[k + 4] + column), (const __m128i *)(w + at[k] + column));
    for (int k = 0; k < 4; k += 2) {
        pair[k] = _mm256_unpacklo_epi16(row[k], row[k + 1]);
        pair[k + 1] = _mm256_unpackhi_epi16(row[k], row[k + 1]);
    }
    for (int k = 0; k < 2; k++) {
        __m256i *to = (__m256i *)(panel + (column + 4 * k) * BLOCK);
        __m256i low = _mm256_unpacklo_epi32(pair[k], pair[k + 2]), high = _mm256_unpackhi_epi32(pair[k], pair[k + 2]);
        _mm256_storeu_si256(to, _mm256_unpacklo_epi16(zero, low));
        _mm256_storeu_si256(to + 2, _mm256_unpackhi_epi16(zero, low));
        _mm256_storeu_si256(to + 4, _mm256_unpacklo_epi16(zero, high));
        _mm256_storeu_si256(to + 6, _mm256_unpackhi_epi16(zero, high));
    }
}
#endif

/* Packs columns of up to 16 rows, `n` numbers after one another, and repeats the first row where there are fewer. */
INLINE void pack_prompt_panel(int format, const void *w, int n, int rows, int columns, float *panel) {
    for (int half = 0; half < BLOCK; half += 8, panel += 8) {
        size_t at[8];
        for (int r = 0; r < 8; r++) at[r] = half + r < rows ? (size_t)(half + r) * n : 0;
        int i = 0;
#if defined(ONLY_AVX2)
        for (; format == BF16 && i + 8 <= columns; i += 8) pack_eight_columns(w, at, i, panel);
#endif
        for (; i + 4 <= columns; i += 4) pack_four_columns(format, w, at, i, panel);
        for (; i < columns; i++)
            for (int r = 0; r < 8; r++)
                panel[i * BLOCK + r] = load1(format, w, at[r] + i);
    }
}

/* The sums of a panel's rows, of which the first `rows` are wanted. */
INLINE void store_panel_sums(const float *sums, int rows, float *to) {
    if (rows >= BLOCK) memcpy(to, sums, sizeof(float) * BLOCK); /* most often, so the size is a constant here */
    else memcpy(to, sums, sizeof(float) * (size_t)rows);
}

/* `count` vectors, a constant, times a panel; the sums are added to those in `out` unless they are the first. */
INLINE void panel_tile_of(const float *panel, int columns, const float *x, int stride, int count, int rows, int begins, float *out,
                        int out_stride) {
    lanes sums[PROMPT_TILE][PARTS];
    for (int s = 0; s < count; s++)
        for (int k = 0; k < PARTS; k++) sums[s][k] = (lanes){0};
    for (int i = 0; i < columns; i++) {
        lanes w[PARTS];
        for (int k = 0; k < PARTS; k++) memcpy(&w[k], panel + i * BLOCK + k * LANES, sizeof w[k]);
        for (int s = 0; s < count; s++) {
            lanes both = x[(size_t)s * stride + i] - (lanes){0};
            for (int k = 0; k < PARTS; k++) sums[s][k] = add_product(sums[s][k], w[k], both);
        }
    }
    for (int s = 0; s < count; s++) {
        float *to = out + (size_t)s * out_stride, sum[BLOCK];
        memcpy(sum, sums[s], sizeof sum);
        if (!begins)
            for (int r = 0; r < rows; r++) sum[r] += to[r];
        store_panel_sums(sum, rows, to);
    }
}

/* The same of 6 or 5 vectors. Not inlined: the loops around a tile would take registers from its sums. */
static __attribute__((noinline)) void prompt_tile(const float *panel, int columns, const float *x, int stride, int count, int rows,
                                                  int begins, float *out, int out_stride) {
    if (count == PROMPT_TILE) panel_tile_of(panel, columns, x, stride, PROMPT_TILE, rows, begins, out, out_stride);
    else panel_tile_of(panel, columns, x, stride, PROMPT_TILE - 1, rows, begins, out, out_stride);
}

/* The number of tiles, of 6 or 5 vectors, for `count` vectors, at least 20; tile i begins with vector count * i / that number. */
INLINE int prompt_tiles(int count) { return (count + PROMPT_TILE - 1) / PROMPT_TILE; }

/* Rows first..last-1 with many vectors; slice by slice, so that the vectors' slice stays in the second cache. */
INLINE void prompt_product(int format, const void *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    float *panel = (float *)v->panel;
    size_t wide = number_bytes(format);
    int tiles = prompt_tiles(v->count);
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
                prompt_tile(panel, columns, x, v->stride, count, rows, at == 0, to, out_stride);
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
