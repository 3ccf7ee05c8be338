/* Vectors of 16 numbers, whatever the width of the processor's own registers. */
#ifndef SMOLORA_VECTOR_H
#define SMOLORA_VECTOR_H

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

#define AS_IS(value) (value)
#define MULTIPLY_ADD(sum, w, x) ((sum) + (w) * (x))
#if defined(__AVX512BF16__) /* two products an instruction, of vectors that are rounded to bf16, as torch rounds them */
#define PAIRS(sum, w, x) (f16) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(w), (__m512bh)(x))
#endif

#endif
