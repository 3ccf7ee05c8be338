/* Products of FP32 and BF16 matrices with vectors.
 *
 * A few vectors: each row of the matrix is read once, straight from memory, which limits the speed. Many vectors of one sequence,
 * a prompt, in bf16: arithmetic limits the speed, so the rows are packed into panels first. Both add the same products, in
 * another order. */
#ifndef SMOLORA_EXACT_PRODUCT_H
#define SMOLORA_EXACT_PRODUCT_H

#include "panel.h"

#if defined(__AVX512F__)
enum { VECTORS_AT_ONCE = 8 }; /* vectors whose sums fit the registers */
#else
enum { VECTORS_AT_ONCE = 2 };
#endif

/* Prefetches what is read a little later. A processor with bf16 products prefetches well by itself while only one vector is
 * multiplied. (Measured on Zen 5, and on Cascade Lake, which reads a third faster with prefetches.) */
enum { PREFETCH_BYTES = 4608 };
#if defined(__AVX512BF16__)
#define PREFETCH(from, vectors) ((vectors) > 1 ? __builtin_prefetch((from) + PREFETCH_BYTES, 0, 2) : (void)0)
#else
#define PREFETCH(from, vectors) __builtin_prefetch((from) + PREFETCH_BYTES, 0, 3)
#endif

#if defined(ONLY_AVX2)
#include "dots_avx2.h"
#else /* vectors of 16 numbers, however the compiler divides them among registers */
enum { FIRST_CACHE_BYTES = 24 << 10 }; /* bytes of vectors that stay in the first cache while rows pass through it */

/* One row with `count` vectors. Rows are read one after the other: with several rows at a time the processor prefetches less, and
 * the speed halves. The order of a sum's terms does not depend on `count`. */
#define DEFINE_DOTS(NAME, TYPE, X, FIELD, WIDTH, LOAD, LOAD_X, ADD, WIDEN, WIDEN_X)                                     \
    INLINE void dots_##NAME(const TYPE *w, int n, const X *x, int stride, int count, float *out, int out_stride) {      \
        f32x16 even[VECTORS_AT_ONCE] = {0}, odd[VECTORS_AT_ONCE] = {0};                                                 \
        int i = 0;                                                                                                      \
        for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {                                                                    \
            for (int byte = 0; byte < 2 * WIDTH * (int)sizeof(TYPE); byte += 64)                                        \
                PREFETCH((const char *)(w + i) + byte, count);                                                          \
            for (int s = 0; s < count; s++) {                                                                           \
                const X *at = x + (size_t)s * stride + i;                                                               \
                even[s] = ADD(even[s], LOAD(w + i), LOAD_X(at));                                                        \
                odd[s] = ADD(odd[s], LOAD(w + i + WIDTH), LOAD_X(at + WIDTH));                                          \
            }                                                                                                           \
        }                                                                                                               \
        for (int s = 0; s < count; s++) even[s] += odd[s];                                                              \
        if (count == 8)                                                                                                 \
            sum_lanes8(even, out, out_stride);                                                                          \
        else                                                                                                            \
            for (int s = 0; s < count; s++) out[(size_t)s * out_stride] = sum_lanes(even[s]);                           \
        for (int s = 0; i < n && s < count; s++)                                                                        \
            for (int at = i; at < n; at++)                                                                              \
                out[(size_t)s * out_stride] += WIDEN(w[at]) * WIDEN_X(x[(size_t)s * stride + at]);                      \
    }                                                                                                                   \
    /* Rows first..last-1, in blocks that stay in the cache while all vectors are multiplied. */                        \
    static void product_##NAME(const TYPE *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) { \
        for (int row = first; row < last; row += BLOCK) {                                                               \
            int end = row + BLOCK < last ? row + BLOCK : last;                                                          \
            for (int s = 0, left; (left = v->count - s) > 0;) {                                                         \
                const X *x = v->FIELD + (size_t)s * v->stride;                                                          \
                float *to = out + (size_t)s * out_stride;                                                               \
                int near = VECTORS_AT_ONCE <= 4 || VECTORS_AT_ONCE * n * sizeof(X) <= FIRST_CACHE_BYTES;                \
                if (left >= VECTORS_AT_ONCE && near)                                                                    \
                    EACH_ROW(dots_##NAME, VECTORS_AT_ONCE);                                                             \
                else if (VECTORS_AT_ONCE > 4 && left >= 4)                                                              \
                    EACH_ROW(dots_##NAME, 4);                                                                           \
                else if (VECTORS_AT_ONCE > 2 && left >= 2)                                                              \
                    EACH_ROW(dots_##NAME, 2);                                                                           \
                else                                                                                                    \
                    EACH_ROW(dots_##NAME, 1);                                                                           \
            }                                                                                                           \
        }                                                                                                               \
    }

#define EACH_ROW(dots, vectors)                                                                                         \
    do {                                                                                                                \
        for (int at = row; at < end; at++)                                                                              \
            dots(w + (size_t)at * n, n, x, v->stride, vectors, to + at, out_stride);                                    \
        s += vectors;                                                                                                   \
    } while (0)
DEFINE_DOTS(f32, float, float, x, 16, load_f32x16, load_f32x16, MULTIPLY_ADD, AS_IS, AS_IS)

#if defined(__AVX512BF16__) /* the vectors are rounded to bf16, as torch rounds them */
DEFINE_DOTS(bf16, uint16_t, uint16_t, rounded, 32, _mm512_loadu_si512, _mm512_loadu_si512, MULTIPLY_ADD_BF16, bf16_to_f32,
            bf16_to_f32)
#else
DEFINE_DOTS(bf16, uint16_t, float, x, 16, load_bf16x16, load_f32x16, MULTIPLY_ADD, bf16_to_f32, AS_IS)
#endif

static inline float dot_f32(const float *w, const float *x, int n) {
    float out;
    dots_f32(w, n, x, 0, 1, &out, 0);
    return out;
}
#endif

/* --- panels of BF16 ------------------------------------------------------------------------------------------------------ */

#if defined(__AVX512BF16__)
#define MULTIPLY_STEP(sums, w, x) MULTIPLY_ADD_BF16(sums, w, x)
#define STEPS_OF(vectors) ((const any32 *)(vectors)->rounded)
#else
#define MULTIPLY_STEP(sums, w, x) MULTIPLY_ADD(sums, (f32x16)(w), (f32x16)(x))
#define STEPS_OF(vectors) ((const any32 *)(vectors)->x)
#endif

/* From here on, packing costs less than it saves. */
#if defined(__AVX512F__)
#define MIN_PANEL_VECTORS 16
#elif defined(ONLY_AVX2) || defined(__aarch64__)
#include "panel_product.h"
#define PROMPT_PANELS
#define MIN_PANEL_VECTORS 48
#else
#define MIN_PANEL_VECTORS INT32_MAX
#endif

/* From how many vectors of one sequence on a matrix is multiplied panel by panel; 0: never. On Apple's processors FP32 is not:
 * torch's products run on a unit of their own there. */
static inline int min_panel_vectors(int format) {
#if defined(PROMPT_PANELS) && !defined(__APPLE__)
    int panels = format == BF16 || format == FP32;
#else
    int panels = format == BF16 && MIN_PANEL_VECTORS < INT32_MAX;
#endif
    return panels ? MIN_PANEL_VECTORS : 0;
}

/* A panel of a matrix of at most `cols` columns, to be freed; NULL if memory ran out. */
static inline uint32_t *alloc_panel(int cols) {
    return aligned_alloc(64, sizeof(uint32_t) * PANEL * (((size_t)cols + 1) / BF16_STEP));
}

#if defined(__AVX512F__)
/* A tile: `count` vectors with 1 or 2 halves of a panel. Each step prefetches a line of `next`, which is packed soon. */
INLINE void multiply_panel(const uint32_t *panel, int steps, int halves, const any32 *x, int stride, int count, const char *next,
                           f32x16 sums[TILE][2]) {
    for (int s = 0; s < count; s++)
        for (int b = 0; b < halves; b++) sums[s][b] = (f32x16){0};
    for (int p = 0; p < steps; p++) {
        __builtin_prefetch(next + (size_t)64 * p, 0, 2);
        __m512i w[2];
        for (int b = 0; b < halves; b++) w[b] = _mm512_load_si512(panel + (size_t)p * PANEL + BLOCK * b);
        for (int s = 0; s < count; s++) {
            __m512i both = _mm512_set1_epi32(x[(size_t)s * stride + p]);
            for (int b = 0; b < halves; b++) sums[s][b] = MULTIPLY_STEP(sums[s][b], w[b], both);
        }
    }
}

INLINE void panel_tile(const uint32_t *panel, int steps, int rows, const Vectors *v, int s, int count, const char *next,
                       float *out, int out_stride) {
    f32x16 sums[TILE][2];
    int stride = v->stride / BF16_STEP;
    const any32 *x = STEPS_OF(v) + (size_t)s * stride;
    if (rows > BLOCK)
        multiply_panel(panel, steps, 2, x, stride, count, next, sums);
    else
        multiply_panel(panel, steps, 1, x, stride, count, next, sums);
    for (int i = 0; i < count; i++)
        for (int b = 0, left = rows; left > 0; b++, left -= BLOCK) {
            float *to = out + (size_t)(s + i) * out_stride + b * BLOCK;
            memcpy(to, &sums[i][b], sizeof(float) * (size_t)(left < BLOCK ? left : BLOCK));
        }
}

static void panel_product_bf16(const uint16_t *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    int steps = n / BF16_STEP;
    for (int row = first; row < last; row += PANEL) {
        int rows = last - row < PANEL ? last - row : PANEL, s = 0;
        const uint16_t *at = w + (size_t)row * n;
        pack_panel(BF16, at, n, n, rows, rows > BLOCK ? 2 : 1, v->panel);
        const char *next = (const char *)(at + (size_t)rows * n), *end = (const char *)(at + (size_t)2 * rows * n);
        float *to = out + row;
        for (; s + TILE <= v->count; s += TILE) {
            panel_tile(v->panel, steps, rows, v, s, TILE, next, to, out_stride);
            if (next < end) next += (size_t)64 * steps;
        }
        if (s + 8 <= v->count) panel_tile(v->panel, steps, rows, v, s, 8, next, to, out_stride), s += 8;
        if (s + 4 <= v->count) panel_tile(v->panel, steps, rows, v, s, 4, next, to, out_stride), s += 4;
        for (; s < v->count; s++) panel_tile(v->panel, steps, rows, v, s, 1, next, to, out_stride);
    }
}
#endif

/* Rounds the vectors to bf16 where products need them so. */
static inline void round_bf16(Vectors *v, int n) {
#if defined(__AVX512BF16__)
    for (int s = 0; s < v->count; s++) {
        const float *x = v->x + (size_t)s * v->stride;
        uint16_t *to = v->rounded + (size_t)s * v->stride;
        int i = 0;
        for (; i + 16 <= n; i += 16) store_bf16x16(to + i, load_f32x16(x + i));
        for (; i < n; i++) to[i] = f32_to_bf16(x[i]);
    }
#else
    (void)v, (void)n;
#endif
}

#endif
