/* Products of FP32 and BF16 matrices with vectors in 16 registers of 8 numbers: a tile is some rows times some vectors.
 *
 * A sum's terms are added in the same order in every tile: each slice of columns in 8 lanes, these across, and one slice after the
 * other. */
#ifndef SMOLORA_DOTS_AVX2_H
#define SMOLORA_DOTS_AVX2_H

#ifndef SL
#define SL 1024
#define CR 48
#endif
enum {
    TILE_VECTORS = 4,
    TILE_ROWS = 3,      /* times TILE_VECTORS: sums that fit the registers */
    ROWS_OF_ONE = 6,  /* rows that are multiplied with one vector at once */
    SLICE_COLS = SL,  /* columns of TILE_VECTORS vectors that stay in the first cache */
    CACHED_ROWS = CR   /* rows of SLICE_COLS columns that stay in the second cache */
};

INLINE __m256 load_f32x8(const float *from) { return _mm256_loadu_ps(from); }
INLINE __m256 load_bf16x8(const uint16_t *from) {
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
}

/* The sums of the lanes of four vectors. */
INLINE __m128 sum_lanes4_avx2(const __m256 *v) {
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

#define DEFINE_DOTS(NAME, TYPE, LOAD, WIDEN)                                                                            \
    /* `rows` rows times `count` vectors, both constant: columns first..last-1, which are of one slice. */               \
    INLINE void dots_tile_##NAME(const TYPE *w, int n, int rows, int first, int last, const float *x, int stride,       \
                                 int count, float *out, int out_stride) {                                               \
        __m256 sums[12];                                   \
        for (int i = 0; i < 12; i++) sums[i] = _mm256_setzero_ps();                                           \
        /* A processor follows long rows by itself. Of short ones it must be given the next tile's, line by line. */     \
        int ahead = (size_t)rows * n * sizeof(TYPE) <= (sizeof(TYPE) == 2 ? 24 : 16) << 10 ? rows * 8 * (int)sizeof(TYPE) : 0;                        \
        int i = first;                                                                                                  \
        for (; i + 8 <= last; i += 8) {                                                                                 \
            __m256 wide[TILE_ROWS > ROWS_OF_ONE ? TILE_ROWS : ROWS_OF_ONE];                                             \
            for (int r = 0; r < rows; r++) wide[r] = LOAD(w + (size_t)r * n + i);                                       \
            for (int byte = 0; byte < ahead; byte += 64)                                                                \
                __builtin_prefetch((const char *)(w + (size_t)rows * (n + i)) + byte, 0, 3);                            \
            for (int s = 0; s < count; s++) {                                                                           \
                __m256 at = load_f32x8(x + (size_t)s * stride + i);                                                     \
                IN_REGISTER(at);                                                                                        \
                for (int r = 0; r < rows; r++) sums[r * count + s] = _mm256_fmadd_ps(wide[r], at, sums[r * count + s]);                   \
            }                                                                                                           \
        }                                                                                                               \
        float sum[12]; \
        for (int at = 0; at < rows * count; at += 4) _mm_storeu_ps(sum + at, sum_lanes4_avx2(sums + at)); \
        for (int r = 0; r < rows; r++) \
            for (int s = 0; s < count; s++) {\
                float *to = out + (size_t)s * out_stride + r, whole = sum[r * count + s];                                                           \
                for (int at = i; at < last; at++)                                                                       \
                    whole = fmaf(WIDEN(w[(size_t)r * n + at]), x[(size_t)s * stride + at], whole);                          \
                *to = first ? *to + whole : whole;                                                                          \
            }                                                                                                           \
    }                                                                                                                   \
    INLINE void dots_rows_##NAME(const TYPE *w, int n, int rows, int tile, int first, int last, const float *x,         \
                                 int stride, int count, float *out, int out_stride) {                                   \
        int r = 0;                                                                                                      \
        for (; r + tile <= rows; r += tile)                                                                             \
            dots_tile_##NAME(w + (size_t)r * n, n, tile, first, last, x, stride, count, out + r, out_stride);           \
        for (; r < rows; r++)                                                                                           \
            dots_tile_##NAME(w + (size_t)r * n, n, 1, first, last, x, stride, count, out + r, out_stride);              \
    }                                                                                                                   \
    /* Rows first..last-1, in blocks of which a slice stays in the cache while all vectors are multiplied. */           \
    static void product_##NAME(const TYPE *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) { \
        int most = v->count <= 2 ? ROWS_OF_ONE : v->count <= 4 ? TILE_ROWS : CACHED_ROWS; \
        for (int row = first; row < last; row += most) {                                                         \
            int rows = last - row < most ? last - row : most;                                             \
            const TYPE *at = w + (size_t)row * n;                                                                       \
            for (int begin = 0; begin < n; begin += SLICE_COLS) {                                                       \
                int end = begin + SLICE_COLS < n ? begin + SLICE_COLS : n, s = 0;                                       \
                for (; s < v->count;) {                                                                                 \
                    const float *x = v->x + (size_t)s * v->stride;                                                      \
                    float *to = out + (size_t)s * out_stride + row;                                                     \
                    int left = v->count - s;                                                                            \
                    if (left >= 4)                                                                                      \
                        dots_rows_##NAME(at, n, rows, TILE_ROWS, begin, end, x, v->stride, 4, to, out_stride), s += 4;  \
                    else if (left >= 2)                                                                                 \
                        dots_rows_##NAME(at, n, rows, ROWS_OF_ONE, begin, end, x, v->stride, 2, to, out_stride), s += 2;  \
                    else                                                                                                \
                        dots_rows_##NAME(at, n, rows, ROWS_OF_ONE, begin, end, x, v->stride, 1, to, out_stride), s++;   \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

DEFINE_DOTS(f32, float, load_f32x8, AS_IS)
DEFINE_DOTS(bf16, uint16_t, load_bf16x8, bf16_to_f32)

#endif
