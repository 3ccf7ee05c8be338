/* The numbers that a training's tensors are made of: bf16 on a processor that multiplies it, or fp32 where TRAIN_FP32 is defined.
 *
 * A product takes a step of 32 bits of each row at a time: two numbers in bf16, one in fp32.
 */
#ifndef SMOLORA_TRAIN_NUMBER_H
#define SMOLORA_TRAIN_NUMBER_H

#include "panel.h"

#if defined(__AVX512BW__) && (defined(TRAIN_FP32) || defined(__AVX512BF16__))
#define TRAINS 1
#endif

#if defined(TRAIN_FP32)
typedef float Number;
enum { NUMBER = FP32, EACH_STEP = 1 };
#else
typedef uint16_t Number;
enum { NUMBER = BF16, EACH_STEP = 2 };
#endif

#if defined(TRAINS)

/* 16 numbers, of which `there` are read or written. */
INLINE __mmask16 first_of(int left) { return left >= 16 ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0; }
INLINE __m512 set16(float value) { return _mm512_set1_ps(value); }

#if defined(TRAIN_FP32)
INLINE __m512 get16(const float *from, __mmask16 there) { return _mm512_maskz_loadu_ps(there, from); }
INLINE void put16(float *to, __mmask16 there, __m512 value) { _mm512_mask_storeu_ps(to, there, value); }
INLINE float get1(const float *from) { return *from; }
INLINE void put1(float *to, float value) { *to = value; }
INLINE f16 add_step(f16 sums, __m512i w, __m512i x) { return MULTIPLY_ADD(sums, (f16)w, (f16)x); }
#else
INLINE __m512 get16(const uint16_t *from, __mmask16 there) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from)), 16));
}
INLINE void put16(uint16_t *to, __mmask16 there, __m512 value) {
    _mm256_mask_storeu_epi16(to, there, (__m256i)_mm512_cvtneps_pbh(value));
}
INLINE float get1(const uint16_t *from) { return widen(*from); }
INLINE void put1(uint16_t *to, float value) { *to = narrow(value); }
INLINE f16 add_step(f16 sums, __m512i w, __m512i x) { return PAIRS(sums, w, x); }
#endif

#endif

#endif
