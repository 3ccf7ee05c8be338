/* Vectors of 16 numbers, however wide the processor's registers are, and the conversion between fp32 and bf16. */
#ifndef SMOLORA_VECTOR_H
#define SMOLORA_VECTOR_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__) && defined(__FMA__)
#define HAS_AVX2
#endif

#if defined(__AVX512F__) || defined(HAS_AVX2)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int32_t any32 __attribute__((may_alias, aligned(1))); /* 32 bits at any address */

/* Registers of 8 numbers and no wider ones. A compiler keeps wider vectors in memory then, so products have code of their own. */
#if defined(HAS_AVX2) && !defined(__AVX512F__)
#define ONLY_AVX2
#endif

/* Hides from the compiler how `value` came about: it neither loads it again for each of its uses nor reorders sums. */
#define IN_REGISTER(value) __asm__("" : "+x"(value))

#define INLINE static inline __attribute__((always_inline))
#define CACHE_LINE __attribute__((aligned(64))) /* a load across two lines takes twice as long */

#define ROUNDER 12582912.0f /* 1.5 * 2^23: a sum with it is whole, ties to even, with that number in its lowest bits */
#define ROUND(value) ((value) + ROUNDER - ROUNDER)

static inline float bf16_to_f32(uint16_t value) {
    union {
        uint32_t bits;
        float number;
    } both = {(uint32_t)value << 16};
    return both.number;
}

static inline uint16_t f32_to_bf16(float value) { /* to the nearest, ties to even, as torch rounds */
    union {
        float number;
        uint32_t bits;
    } both = {value};
    if (value != value) return 0x7fc0;
    return (uint16_t)((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}

static inline uint16_t f32_to_bf16_up(float value) { /* away from zero, so that a scale covers the largest of its numbers */
    uint16_t near = f32_to_bf16(value);
    return fabsf(bf16_to_f32(near)) < fabsf(value) ? near + 1 : near;
}

INLINE f32x16 load_bf16x16(const uint16_t *from) {
#if defined(__AVX512F__) /* gcc 12 makes six instructions of the generic code */
    return (f32x16)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
#else
    u16x16 half;
    memcpy(&half, from, sizeof half);
    u32x16 bits = __builtin_convertvector(half, u32x16) << 16;
    f32x16 wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
#endif
}

#if defined(HAS_AVX2)
INLINE __m256 load_bf16x8(const uint16_t *from) {
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
}
#endif

INLINE f32x16 load_f32x16(const float *from) {
    f32x16 wide;
    memcpy(&wide, from, sizeof wide);
    return wide;
}

INLINE void store_f32x16(float *to, f32x16 value) { memcpy(to, &value, sizeof value); }

INLINE void store_bf16x16(uint16_t *to, f32x16 value) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
#else
    for (int i = 0; i < 16; i++) to[i] = f32_to_bf16(value[i]);
#endif
}

INLINE f32x16 broadcast(float value) { return value - (f32x16){0}; }

#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE float sum_lanes(f32x16 v) {
    v += SHUFFLE(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
    v += SHUFFLE(v, v, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
    v += SHUFFLE(v, v, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
    return v[0] + v[1];
}

/* The sums of the lanes of 8 vectors at once, added in the same order as by `sum_lanes`. */
INLINE void sum_lanes8(const f32x16 *v, float *out, int stride) {
    f32x16 four[4], two[2];
    for (int i = 0; i < 4; i++)
        four[i] = SHUFFLE(v[2 * i], v[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                  SHUFFLE(v[2 * i], v[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        two[i] = SHUFFLE(four[2 * i], four[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 SHUFFLE(four[2 * i], four[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    f32x16 one = SHUFFLE(two[0], two[1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
                 SHUFFLE(two[0], two[1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    for (int i = 0; i < 8; i++) out[(size_t)i * stride] = one[2 * i] + one[2 * i + 1];
}

#define AS_IS(value) (value)
#define MULTIPLY_ADD(sum, w, x) ((sum) + (w) * (x))
#if defined(__AVX512BF16__) /* two products in each lane */
#define MULTIPLY_ADD_BF16(sum, w, x) (f32x16) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(w), (__m512bh)(x))
#endif

#endif
