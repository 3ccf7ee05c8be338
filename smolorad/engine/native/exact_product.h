/* Products of FP32 and BF16 matrices with vectors. */
#ifndef SMOLORA_EXACT_PRODUCT_H
#define SMOLORA_EXACT_PRODUCT_H

#include "panel.h"

#if defined(__AVX512F__)
enum { TOGETHER = 8 }; /* vectors whose sums are in registers at once */
#else
enum { TOGETHER = 2 };
#endif

/* Asks for the memory that comes a little later than what is read now, for products with so many vectors: where the processor
 * guesses well, only where computing is slower than its guess. (Measured on Zen 5, and on Cascade Lake, which reads a third faster
 * when it is told.) */
enum { AHEAD = 4608 }; /* bytes */
#if defined(__AVX512BF16__)
#define ASK(from, vectors) ((vectors) > 1 ? __builtin_prefetch((from) + AHEAD, 0, 2) : (void)0)
#else
#define ASK(from, vectors) __builtin_prefetch((from) + AHEAD, 0, 3)
#endif

enum { NEAR = 24 << 10 }; /* bytes of vectors that stay in the first cache while rows pass by */

/* One row with `count` vectors. Memory is walked through row by row: with several rows at a time the processor does not see
 * where it goes, and halves its speed. The order of the sums does not depend on the company. */
#define DEFINE_DOTS(NAME, TYPE, X, FIELD, WIDTH, LOAD, LOAD_X, ADD, WIDEN, WIDEN_X)                                     \
    INLINE void dots_##NAME(const TYPE *w, int n, const X *x, int stride, int count, float *out, int out_stride) {      \
        f16 even[TOGETHER] = {0}, odd[TOGETHER] = {0};                                                                  \
        int i = 0;                                                                                                      \
        for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {                                                                    \
            for (int byte = 0; byte < 2 * WIDTH * (int)sizeof(TYPE); byte += 64)                                        \
                ASK((const char *)(w + i) + byte, count);                                                               \
            for (int s = 0; s < count; s++) {                                                                           \
                const X *at = x + (size_t)s * stride + i;                                                               \
                even[s] = ADD(even[s], LOAD(w + i), LOAD_X(at));                                                        \
                odd[s] = ADD(odd[s], LOAD(w + i + WIDTH), LOAD_X(at + WIDTH));                                          \
            }                                                                                                           \
        }                                                                                                               \
        for (int s = 0; s < count; s++) even[s] += odd[s];                                                              \
        if (count == 8)                                                                                                 \
            totals8(even, out, out_stride);                                                                             \
        else                                                                                                            \
            for (int s = 0; s < count; s++) out[(size_t)s * out_stride] = total(even[s]);                               \
        for (int s = 0; i < n && s < count; s++)                                                                        \
            for (int at = i; at < n; at++) out[(size_t)s * out_stride] += WIDEN(w[at]) * WIDEN_X(x[(size_t)s * stride + at]); \
    }                                                                                                                   \
    /* Rows in blocks that stay in the cache while all vectors go over them. */                                         \
    static void rows_##NAME(const TYPE *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {  \
        for (int row = first; row < last; row += BLOCK) {                                                               \
            int end = row + BLOCK < last ? row + BLOCK : last;                                                          \
            for (int s = 0, left; (left = v->count - s) > 0;) {                                                         \
                const X *x = v->FIELD + (size_t)s * v->stride;                                                          \
                float *to = out + (size_t)s * out_stride;                                                               \
                if (left >= TOGETHER && (TOGETHER <= 4 || TOGETHER * n * sizeof(X) <= NEAR))                            \
                    EACH_ROW(dots_##NAME, TOGETHER);                                                                    \
                else if (TOGETHER > 4 && left >= 4)                                                                     \
                    EACH_ROW(dots_##NAME, 4);                                                                           \
                else if (TOGETHER > 2 && left >= 2)                                                                     \
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
DEFINE_DOTS(f32, float, float, x, 16, load_f32, load_f32, MULTIPLY_ADD, AS_IS, AS_IS)

#if defined(__AVX512BF16__) /* two products an instruction, of vectors that are rounded to bf16, as torch rounds them */
DEFINE_DOTS(bf16, uint16_t, uint16_t, rounded, 32, _mm512_loadu_si512, _mm512_loadu_si512, PAIRS, widen, widen)
#else
DEFINE_DOTS(bf16, uint16_t, float, x, 16, widen16, load_f32, MULTIPLY_ADD, widen, AS_IS)
#endif

/* --- BF16 with many vectors --- */

#if defined(__AVX512BF16__)
#define STEPS_OF(vectors) ((const quad *)(vectors)->rounded)
#else
#define STEPS_OF(vectors) ((const quad *)(vectors)->x)
#endif

#if defined(__AVX512F__)
#define MANY 16
enum { PANEL_VECTORS = 12 };
#else
#define MANY INT32_MAX
#endif

#if defined(__AVX512F__)
/* `count` vectors with a panel of 16 or 32 rows. `next` is memory that is wanted soon: a line of it for each step. */
INLINE void panel_dots(const uint32_t *panel, int steps, int blocks, const quad *x, int stride, int count, const char *next,
                       f16 sums[PANEL_VECTORS][2]) {
    for (int s = 0; s < count; s++)
        for (int b = 0; b < blocks; b++) sums[s][b] = (f16){0};
    for (int p = 0; p < steps; p++) {
        __builtin_prefetch(next + (size_t)64 * p, 0, 2);
        __m512i w[2];
        for (int b = 0; b < blocks; b++) w[b] = _mm512_load_si512(panel + (size_t)p * 32 + 16 * b);
        for (int s = 0; s < count; s++) {
            __m512i both = _mm512_set1_epi32(x[(size_t)s * stride + p]);
            for (int b = 0; b < blocks; b++) sums[s][b] = MULTIPLY_STEP(sums[s][b], w[b], both);
        }
    }
}

INLINE void panel_some(const uint32_t *panel, int steps, int rows, const Vectors *v, int s, int count, const char *next, float *out,
                       int out_stride) {
    f16 sums[PANEL_VECTORS][2];
    int stride = v->stride / STEP;
    const quad *x = STEPS_OF(v) + (size_t)s * stride;
    if (rows > BLOCK)
        panel_dots(panel, steps, 2, x, stride, count, next, sums);
    else
        panel_dots(panel, steps, 1, x, stride, count, next, sums);
    for (int i = 0; i < count; i++)
        for (int b = 0, left = rows; left > 0; b++, left -= BLOCK) {
            float *to = out + (size_t)(s + i) * out_stride + b * BLOCK;
            memcpy(to, &sums[i][b], sizeof(float) * (size_t)(left < BLOCK ? left : BLOCK));
        }
}

static void many_bf16(const uint16_t *w, int n, int first, int last, const Vectors *v, float *out, int out_stride) {
    int steps = n / STEP;
    for (int row = first; row < last; row += 2 * BLOCK) {
        int rows = last - row < 2 * BLOCK ? last - row : 2 * BLOCK, s = 0;
        const uint16_t *at = w + (size_t)row * n;
        lay_out(at, n, n, rows, v->panel);
        if (rows > BLOCK) lay_out(at + (size_t)BLOCK * n, n, n, rows - BLOCK, v->panel + BLOCK);
        const char *next = (const char *)(at + (size_t)rows * n), *end = (const char *)(at + (size_t)2 * rows * n);
        float *to = out + row;
        for (; s + PANEL_VECTORS <= v->count; s += PANEL_VECTORS) {
            panel_some(v->panel, steps, rows, v, s, PANEL_VECTORS, next, to, out_stride);
            if (next < end) next += (size_t)64 * steps;
        }
        if (s + 8 <= v->count) panel_some(v->panel, steps, rows, v, s, 8, next, to, out_stride), s += 8;
        if (s + 4 <= v->count) panel_some(v->panel, steps, rows, v, s, 4, next, to, out_stride), s += 4;
        for (; s < v->count; s++) panel_some(v->panel, steps, rows, v, s, 1, next, to, out_stride);
    }
}
#endif

static inline float dot_f32(const float *w, const float *x, int n) {
    float out;
    dots_f32(w, n, x, 0, 1, &out, 0);
    return out;
}

static inline void round_bf16(Vectors *v, int n) {
#if defined(__AVX512BF16__)
    for (int s = 0; s < v->count; s++) {
        const float *x = v->x + (size_t)s * v->stride;
        uint16_t *to = v->rounded + (size_t)s * v->stride;
        int i = 0;
        for (; i + 16 <= n; i += 16) _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
        for (; i < n; i++) to[i] = narrow(x[i]);
    }
#else
    (void)v, (void)n;
#endif
}


#endif
