/* Products of FP32 and BF16 matrices with vectors in 16 registers of 8 numbers: a tile is some rows times some vectors.
 *
 * The order of a sum's terms is the same in every tile: each slice of columns in 8 lanes, then across the lanes, and one slice after
 * the other. */
#ifndef SMOLORA_DOTS_AVX2_H
#define SMOLORA_DOTS_AVX2_H

#include "matrix.h"

enum {
    DOT_SUMS = 12,        /* of a tile: with its rows' numbers and a vector's they fill the registers */
    DOT_VECTORS = 4,      /* of a tile of 3 rows, if there are that many */
    WIDE_DOT_VECTORS = 6, /* of a tile of 2 rows, if there are many: fewer rows are converted from bf16 */
    DOT_SLICE = 1024,     /* columns of a tile's vectors that stay in the first cache */
    DOT_CACHED_ROWS = 48, /* rows of which a slice stays in the second cache while all vectors are multiplied */
    /* A processor follows long rows by itself. In a tile of fewer bytes its rows end too soon (measured on Zen 3). */
    SHORT_TILE = 16 << 10,
    SHORT_TILE_BF16 = 24 << 10 /* with several vectors */
};

/* Eight numbers of a row; the format is a constant, FP32 or BF16. */
INLINE __m256 load8(int format, const void *w, size_t at) {
    return format == FP32 ? _mm256_loadu_ps((const float *)w + at) : load_bf16x8((const uint16_t *)w + at);
}

/* The sums of the lanes of four vectors. */
INLINE __m128 sum_lanes4(const __m256 *v) {
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

/* Columns first..last-1, of one slice, of `rows` rows with `count` vectors; both are constant. */
INLINE void dot_tile(int format, const void *w, int n, int rows, int first, int last, const float *x, int stride, int count,
                     float *out, int out_stride) {
    __m256 sums[DOT_SUMS];
    float sum[DOT_SUMS];
    const int wide = number_bytes(format);
    int is_short = rows * n * wide <= (format == BF16 && count > 1 ? SHORT_TILE_BF16 : SHORT_TILE);
    int ahead = is_short ? rows * 8 * wide : 0, i = first;
    for (int at = 0; at < DOT_SUMS; at++) sums[at] = _mm256_setzero_ps();
    for (; i + 8 <= last; i += 8) {
        __m256 row[DOT_SUMS];
        for (int r = 0; r < rows; r++) row[r] = load8(format, w, (size_t)r * n + i);
        /* Line by line of the tile after this one. */
        for (int byte = 0; byte < ahead; byte += 64)
            __builtin_prefetch((const char *)w + (size_t)rows * (n + i) * wide + byte, 0, 3);
        for (int s = 0; s < count; s++) {
            __m256 at = _mm256_loadu_ps(x + (size_t)s * stride + i);
            IN_REGISTER(at);
            for (int r = 0; r < rows; r++) sums[r * count + s] = _mm256_fmadd_ps(row[r], at, sums[r * count + s]);
        }
    }
    for (int at = 0; at < rows * count; at += 4) _mm_storeu_ps(sum + at, sum_lanes4(sums + at));
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < count; s++) {
            float *to = out + (size_t)s * out_stride + r, whole = sum[r * count + s];
            for (int at = i; at < last; at++)
                whole = fmaf(load1(format, w, (size_t)r * n + at), x[(size_t)s * stride + at], whole);
            *to = first ? *to + whole : whole;
        }
}

/* The same of any number of rows, `tile` at a time. */
INLINE void dot_rows(int format, const void *w, int n, int rows, int tile, int first, int last, const float *x, int stride,
                     int count, float *out, int out_stride) {
    size_t row = (size_t)n * number_bytes(format);
    int r = 0;
    for (; r + tile <= rows; r += tile)
        dot_tile(format, (const char *)w + r * row, n, tile, first, last, x, stride, count, out + r, out_stride);
    for (; r < rows; r++)
        dot_tile(format, (const char *)w + r * row, n, 1, first, last, x, stride, count, out + r, out_stride);
}

/* How many of `left` vectors the next tile takes. */
INLINE int next_vectors(int left) {
    if (left >= 2 * WIDE_DOT_VECTORS || left == WIDE_DOT_VECTORS || left == 9 || left == 10) return WIDE_DOT_VECTORS;
    return left < DOT_VECTORS ? left : DOT_VECTORS;
}

/* Rows first..last-1. With up to DOT_VECTORS vectors a tile is read to its end, so that memory is read from front to back. */
INLINE void dot_product(int format, const void *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    int block = v->count > DOT_VECTORS ? DOT_CACHED_ROWS : v->count > 1 ? DOT_SUMS / v->count : DOT_SUMS / 2, stride = v->stride;
    for (int row = first; row < last; row += block) {
        int rows = last - row < block ? last - row : block;
        const char *at = (const char *)w + (size_t)row * n * number_bytes(format);
        for (int begin = 0; begin < n; begin += DOT_SLICE) {
            int end = begin + DOT_SLICE < n ? begin + DOT_SLICE : n;
            for (int s = 0, count; s < v->count; s += count) {
                const float *x = v->x + (size_t)s * stride;
                float *to = out + (size_t)s * out_stride + row;
                switch (count = next_vectors(v->count - s)) {
                case 6: dot_rows(format, at, n, rows, 2, begin, end, x, stride, 6, to, out_stride); break;
                case 4: dot_rows(format, at, n, rows, 3, begin, end, x, stride, 4, to, out_stride); break;
                case 3: dot_rows(format, at, n, rows, 4, begin, end, x, stride, 3, to, out_stride); break;
                case 2: dot_rows(format, at, n, rows, 6, begin, end, x, stride, 2, to, out_stride); break;
                case 1: dot_rows(format, at, n, rows, 6, begin, end, x, stride, 1, to, out_stride); break;
                }
            }
        }
    }
}

static void product_f32(const float *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    dot_product(FP32, w, n, first, last, v, out, out_stride);
}

static void product_bf16(const uint16_t *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    dot_product(BF16, w, n, first, last, v, out, out_stride);
}

static inline float dot_f32(const float *w, const float *x, int n) {
    Vectors one = {.x = x, .stride = n, .count = 1};
    float out;
    product_f32(w, n, 0, 1, &one, &out, 1);
    return out;
}

#endif
