/* Functions of decoding and training. */
#ifndef SMOLORA_FUNCTIONS_H
#define SMOLORA_FUNCTIONS_H

#include "exact_product.h"

/* e^x by 2^n times a polynomial, within 2 units in the last place (the coefficients are Cephes' expf's). Above 88 it stays what
 * it is there. Below -60 it is 0: nobody who adds it to 1 would see it, and products with numbers so small take the processor a
 * hundred times as long. NaN stays NaN. */
static inline float exponential(float x) {
    int none = x < -60.0f;
    x = none ? -60.0f : x > 88.0f ? 88.0f : x;
    union {
        float number;
        uint32_t bits;
    } whole = {x * 1.44269504f + WHOLE};
    float n = whole.number - WHOLE;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        uint32_t bits;
        float number;
    } power = {(whole.bits + 127) << 23}; /* n stands in the lowest bits; a conversion of NaN to a whole number would mean nothing */
    return none ? 0 : p * power.number;
}

static void rms_norm(const float *restrict x, const float *restrict weight, float eps, int n, float *restrict out) {
    float scale = 1.0f / sqrtf(dot_f32(x, x, n) / n + eps);
#pragma omp simd
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}


#endif
