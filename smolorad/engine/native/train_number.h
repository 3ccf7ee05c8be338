/* The numbers of a training's tensors: bf16 on a processor that multiplies it, or fp32 where TRAIN_FP32 is defined. */
#ifndef SMOLORA_TRAIN_NUMBER_H
#define SMOLORA_TRAIN_NUMBER_H

#include "functions.h"
#include "panel.h"

#if defined(__AVX512BW__) && (defined(TRAIN_FP32) || defined(__AVX512BF16__))
#define CAN_TRAIN 1
#endif

#if defined(TRAIN_FP32)
typedef float Number;
enum { NUMBER_FORMAT = FP32, STEP = 1 }; /* STEP: numbers in a depth step of 32 bits */
#else
typedef uint16_t Number;
enum { NUMBER_FORMAT = BF16, STEP = 2 };
#endif

#if defined(CAN_TRAIN)

/* The mask of the first `left` of 16 numbers: none if `left` is negative, all if it is more than 16. */
INLINE __mmask16 mask_first(int left) { return left >= 16 ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0; }

#if defined(TRAIN_FP32)
INLINE __m512 load_masked(const float *from, __mmask16 there) { return _mm512_maskz_loadu_ps(there, from); }
INLINE void store_masked(float *to, __mmask16 there, __m512 value) { _mm512_mask_storeu_ps(to, there, value); }
INLINE f32x16 multiply_add_step(f32x16 sums, __m512i w, __m512i x) { return MULTIPLY_ADD(sums, (f32x16)w, (f32x16)x); }
#else
INLINE __m512 load_masked(const uint16_t *from, __mmask16 there) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from)), 16));
}
INLINE void store_masked(uint16_t *to, __mmask16 there, __m512 value) {
    _mm256_mask_storeu_epi16(to, there, (__m256i)_mm512_cvtneps_pbh(value));
}
INLINE f32x16 multiply_add_step(f32x16 sums, __m512i w, __m512i x) { return MULTIPLY_ADD_BF16(sums, w, x); }
#endif

/* For i = 0, 16, 32 ... below n, with the mask of the numbers that are there; n - i is negative after the last. */
#define EACH_16(i, n) \
    __mmask16 there = mask_first(n); \
    for (int i = 0; i < (n); i += 16, there = mask_first((n) - i))

#endif

#endif
