/* Matrices of weights in four number formats, and their products with a few vectors.
 *
 * FP32 and BF16 are torch's own tensors, row-major, and are read where they are. INT8 and INT4 are packed copies: blocks of 16
 * rows, and in a block one group of 32 columns after the other, so that a product is one walk through memory. A group holds its
 * numbers as [column / 4][row][column % 4], so that a vector of 16 sums, one a row, takes four columns at a time; then come its
 * 16 scales in bf16, and for INT4 16 minima.
 *
 *   INT8: w = scale * (q - 128), q in 1..255. 8.5 bits a weight, as llama.cpp's Q8_0.
 *   INT4: w = scale * q + minimum, q in 0..15. 5 bits a weight, as llama.cpp's Q4_1; of two neighbouring columns / 4 the first
 *         is in the low halves of the bytes.
 *
 * For a product with INT8 or INT4 the vectors too are made integers, with a scale for each 32 numbers: 256 * high + low, both of
 * 8 bits. The high ones alone, as llama.cpp takes them, would cost more of the quality than the weights' own rounding does.
 */
#ifndef SMOLORA_MATRIX_H
#define SMOLORA_MATRIX_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

enum { FP32, BF16, INT8, INT4 };
enum { BLOCK = 16, GROUP = 32, QUADS = GROUP / 4 };

typedef struct {
    const void *values;
    int32_t format, rows, cols; /* INT8 and INT4: cols is a multiple of GROUP */
} Matrix;

/* Some vectors, each `stride` numbers after the last; what a matrix's format needs of them is made by `prepare`. */
typedef struct {
    const float *x;
    int stride, count;
    uint16_t *rounded;  /* as x, in bf16 */
    int8_t *high, *low; /* as x */
    float *scale;       /* of each group: stride / GROUP after the last vector's */
    float *sum;         /* of each group, of the integers, times scale */
    int32_t *surplus;   /* of each group: what its products with INT8 have too much */
    uint32_t *panel;    /* of `panel_open`, where many vectors may be taken together; or NULL */
} Vectors;

typedef float f16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));
typedef uint16_t h16 __attribute__((vector_size(32)));
typedef uint8_t b64 __attribute__((vector_size(64)));
typedef int32_t quad __attribute__((may_alias, aligned(1))); /* wherever it begins */

#define INLINE static inline __attribute__((always_inline))
#define LINE __attribute__((aligned(64))) /* a load of 64 bytes that lies across two lines of the cache takes twice as long */

#define WHOLE 12582912.0f /* 1.5 * 2^23: a sum with it is a whole number, ties to even, and has that in its lowest bits */
#define NEAREST(value) ((value) + WHOLE - WHOLE)

static inline float widen(uint16_t value) {
    union {
        uint32_t bits;
        float number;
    } both = {(uint32_t)value << 16};
    return both.number;
}

static inline uint16_t narrow(float value) { /* to the nearest, ties to even, as torch does */
    union {
        float number;
        uint32_t bits;
    } both = {value};
    if (value != value) return 0x7fc0;
    return (uint16_t)((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}

static inline uint16_t narrow_up(float value) { /* away from zero, so that a scale covers what it was taken from */
    uint16_t near = narrow(value);
    return fabsf(widen(near)) < fabsf(value) ? near + 1 : near;
}

INLINE f16 widen16(const uint16_t *from) {
#if defined(__AVX512F__) /* gcc 12 makes six instructions of the other */
    return (f16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
#else
    h16 half;
    memcpy(&half, from, sizeof half);
    u16 bits = __builtin_convertvector(half, u16) << 16;
    f16 wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
#endif
}

INLINE f16 load_f32(const float *from) {
    f16 wide;
    memcpy(&wide, from, sizeof wide);
    return wide;
}

INLINE f16 all(float value) { return value - (f16){0}; }

/* --- FP32 and BF16 ----------------------------------------------------------------------------------------------------- */

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

#define FOLD(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE float total(f16 v) {
    v += FOLD(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v += FOLD(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    v += FOLD(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    return v[0] + v[1];
}

/* The totals of 8 vectors at once, by the same sums as `total`. */
INLINE void totals8(const f16 *v, float *out, int stride) {
    f16 four[4], two[2];
    for (int i = 0; i < 4; i++)
        four[i] = FOLD(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                  FOLD(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        two[i] = FOLD(four[2 * i], four[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 FOLD(four[2 * i], four[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    f16 one = FOLD(two[0], two[1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
              FOLD(two[0], two[1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    for (int i = 0; i < 8; i++) out[(size_t)i * stride] = one[2 * i] + one[2 * i + 1];
}

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
#define AS_IS(value) (value)
#define MULTIPLY_ADD(sum, w, x) ((sum) + (w) * (x))
DEFINE_DOTS(f32, float, float, x, 16, load_f32, load_f32, MULTIPLY_ADD, AS_IS, AS_IS)

#if defined(__AVX512BF16__) /* two products an instruction, of vectors that are rounded to bf16, as torch rounds them */
#define PAIRS(sum, w, x) (f16) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(w), (__m512bh)(x))
DEFINE_DOTS(bf16, uint16_t, uint16_t, rounded, 32, _mm512_loadu_si512, _mm512_loadu_si512, PAIRS, widen, widen)
#else
DEFINE_DOTS(bf16, uint16_t, float, x, 16, widen16, load_f32, MULTIPLY_ADD, widen, AS_IS)
#endif

/* --- BF16 with many vectors --------------------------------------------------------------------------------------------- */

/* A prompt's product is bound by arithmetic, not by memory. So two blocks of rows are first laid out as the instruction takes
 * them: a step meets 32 rows of a vector in two instructions, each sum is a lane that needs no folding, and 12 vectors' sums fill
 * the registers. Where the processor multiplies bf16, a step is a pair of columns, [column / 2][row][column % 2]; elsewhere it is
 * one column, widened: [column][row]. The sums are those of few vectors in another order. */

#if defined(__AVX512BF16__)
enum { STEP = 2 }; /* columns, together 32 bits */
#define MULTIPLY_STEP(sums, w, x) PAIRS(sums, w, x)
#define STEPS_OF(vectors) ((const quad *)(vectors)->rounded)
#else
enum { STEP = 1 };
#define MULTIPLY_STEP(sums, w, x) MULTIPLY_ADD(sums, (f16)(w), (f16)(x))
#define STEPS_OF(vectors) ((const quad *)(vectors)->x)
#endif

#if defined(__AVX512F__)
#define MANY 16
enum { PANEL_VECTORS = 12 };
#else
#define MANY INT32_MAX
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

/* --- INT8 and INT4 ----------------------------------------------------------------------------------------------------- */

enum { INT8_GROUP = BLOCK * GROUP + 2 * BLOCK, INT4_GROUP = BLOCK * GROUP / 2 + 4 * BLOCK };

/* sums[row] += the product of four columns: bytes 4 * row ... 4 * row + 3 of `w`, unsigned, with the four of `x`, signed. */
#if defined(__AVX512VNNI__)
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) {
    return (i16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)w, _mm512_set1_epi32(x));
}
#elif defined(__ARM_FEATURE_DOTPROD)
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) { /* sdot is signed: halves of bytes are, and INT8 makes itself so */
    int32x4_t part[4];
    int8x16_t weights[4], four = vreinterpretq_s8_s32(vdupq_n_s32(x));
    memcpy(part, &sums, sizeof part), memcpy(weights, &w, sizeof weights);
    for (int i = 0; i < 4; i++) part[i] = vdotq_s32(part[i], weights[i], four);
    memcpy(&sums, part, sizeof part);
    return sums;
}
#else
INLINE i16 dot_quad(i16 sums, b64 w, int32_t x) {
    int8_t four[4];
    memcpy(four, &x, sizeof four);
    for (int row = 0; row < BLOCK; row++)
        for (int i = 0; i < 4; i++) sums[row] += (int32_t)w[4 * row + i] * four[i];
    return sums;
}
#endif

/* An unsigned weight is 128 too large, and what that makes is taken off in the end; a signed product needs no such thing. */
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__AVX512VNNI__)
enum { TOO_MANY = 0 };
INLINE b64 int8_weights(b64 q) { return q ^ 0x80; }
#else
enum { TOO_MANY = 128 };
INLINE b64 int8_weights(b64 q) { return q; }
#endif

INLINE b64 bytes64(const uint8_t *from) {
    b64 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

INLINE i16 dot_group(const b64 *w, const int8_t *high, const int8_t *low) {
    i16 sums = {0};
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const quad *)high)[i]);
    sums <<= 8;
    for (int i = 0; i < QUADS; i++) sums = dot_quad(sums, w[i], ((const quad *)low)[i]);
    return sums;
}

INLINE void put(f16 sums, int rows, float *out) {
    memcpy(out, &sums, sizeof(float) * (size_t)rows);
}

INLINE void block_int8(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                       int out_stride) {
    f16 sums[TOGETHER] = {0};
    for (int g = 0; g < groups; g++, w += INT8_GROUP) {
        for (int byte = 0; byte < INT8_GROUP; byte += 64) ASK(w + byte, count);
        b64 q[QUADS];
        for (int i = 0; i < QUADS; i++) q[i] = int8_weights(bytes64(w + 64 * i));
        f16 scale = widen16((const uint16_t *)(w + BLOCK * GROUP));
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP) - v->surplus[at];
            sums[i] += __builtin_convertvector(whole, f16) * (scale * all(v->scale[at]));
        }
    }
    for (int i = 0; i < count; i++) put(sums[i], rows, out + (size_t)(s + i) * out_stride);
}

INLINE void block_int4(const uint8_t *w, int groups, const Vectors *v, int s, int count, int rows, float *out,
                       int out_stride) {
    f16 sums[TOGETHER] = {0};
    for (int g = 0; g < groups; g++, w += INT4_GROUP) {
        for (int byte = 0; byte < INT4_GROUP; byte += 64) ASK(w + byte, count);
        b64 q[QUADS];
        for (int i = 0; i < QUADS / 2; i++) {
            b64 both = bytes64(w + 64 * i);
            q[2 * i] = both & 15, q[2 * i + 1] = both >> 4;
        }
        const uint16_t *scales = (const uint16_t *)(w + BLOCK * GROUP / 2);
        f16 scale = widen16(scales), minimum = widen16(scales + BLOCK);
        for (int i = 0; i < count; i++) {
            size_t at = (size_t)(s + i) * (v->stride / GROUP) + g;
            i16 whole = dot_group(q, v->high + at * GROUP, v->low + at * GROUP);
            sums[i] += __builtin_convertvector(whole, f16) * (scale * all(v->scale[at]));
            sums[i] += minimum * all(v->sum[at]);
        }
    }
    for (int i = 0; i < count; i++) put(sums[i], rows, out + (size_t)(s + i) * out_stride);
}

/* `first` begins a block. A constant count lets the sums stay in registers. */
#define DEFINE_ROWS(NAME, SIZE)                                                                                         \
    static void rows_##NAME(const uint8_t *w, int cols, int first, int last, const Vectors *v, float *out,              \
                            int out_stride) {                                                                           \
        int groups = cols / GROUP;                                                                                      \
        for (int row = first; row < last; row += BLOCK) {                                                               \
            const uint8_t *block = w + (size_t)(row / BLOCK) * groups * SIZE;                                           \
            int rows = last - row < BLOCK ? last - row : BLOCK, s = 0;                                                  \
            for (; s + TOGETHER <= v->count; s += TOGETHER)                                                             \
                block_##NAME(block, groups, v, s, TOGETHER, rows, out + row, out_stride);                               \
            if (TOGETHER > 4 && s + 4 <= v->count) block_##NAME(block, groups, v, s, 4, rows, out + row, out_stride), s += 4; \
            if (TOGETHER > 2 && s + 2 <= v->count) block_##NAME(block, groups, v, s, 2, rows, out + row, out_stride), s += 2; \
            for (; s < v->count; s++) block_##NAME(block, groups, v, s, 1, rows, out + row, out_stride);                        \
        }                                                                                                               \
    }

DEFINE_ROWS(int8, INT8_GROUP)
DEFINE_ROWS(int4, INT4_GROUP)

/* Makes the vectors integers; NaN and infinity make a scale that is none, and so reach every sum. Numbers too small for a scale
 * are 0. */
static inline void quantise(Vectors *v, int n) {
    for (int s = 0; s < v->count; s++)
        for (int g = 0; g < n / GROUP; g++) {
            size_t at = (size_t)s * (v->stride / GROUP) + g;
            const float *x = v->x + (size_t)s * v->stride + (size_t)g * GROUP;
            int8_t *high = v->high + at * GROUP, *low = v->low + at * GROUP;
            float most = 0, spread = 0;
#pragma omp simd reduction(max : most) reduction(+ : spread)
            for (int i = 0; i < GROUP; i++) {
                float size = fabsf(x[i]);
                most = size > most ? size : most;
                spread += x[i] - x[i]; /* 0, but for NaN and infinity */
            }
            int some = most > 127.0f / FLT_MAX && spread == 0;
            float to = some ? 127.0f / most : 0;
            int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < GROUP; i++) {
                float whole = some ? x[i] * to : 0, rounded = NEAREST(whole), rest = NEAREST((whole - rounded) * 256.0f);
                rest = rest > 127.0f ? 127.0f : rest;
                high[i] = (int8_t)(int32_t)rounded, low[i] = (int8_t)(int32_t)rest;
                sum += 256 * (int32_t)rounded + (int32_t)rest;
            }
            v->scale[at] = most / (127.0f * 256.0f) + spread;
            v->sum[at] = (float)sum * v->scale[at];
            v->surplus[at] = TOO_MANY * sum;
        }
}

/* Room is there for what `m` needs, as `Vectors` says. */
static inline void prepare(Vectors *v, const Matrix *m) {
    if (m->format == BF16) round_bf16(v, m->cols);
    if (m->format == INT8 || m->format == INT4) quantise(v, m->cols);
}

/* After `prepare`: out[s][row] = weight[row] . v[s], for rows first..last-1; `first` is a multiple of BLOCK. */
static inline void product(const Matrix *m, int first, int last, const Vectors *v, float *out, int out_stride) {
#if defined(__AVX512F__)
    if (m->format == BF16 && v->count >= MANY && v->panel && m->cols % STEP == 0) {
        many_bf16(m->values, m->cols, first, last, v, out, out_stride);
        return;
    }
#endif
    switch (m->format) {
    case FP32: rows_f32(m->values, m->cols, first, last, v, out, out_stride); break;
    case BF16: rows_bf16(m->values, m->cols, first, last, v, out, out_stride); break;
    case INT8: rows_int8(m->values, m->cols, first, last, v, out, out_stride); break;
    case INT4: rows_int4(m->values, m->cols, first, last, v, out, out_stride); break;
    }
}

#endif
