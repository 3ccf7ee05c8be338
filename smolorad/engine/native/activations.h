/* The functions between the two halves of an MLP, and tanh, which also caps scores and logits. */
#ifndef SMOLORA_ACTIVATIONS_H
#define SMOLORA_ACTIVATIONS_H

#include "functions.h"

enum { SILU, GELU, GELU_TANH, RELU, RELU2, QUICK_GELU }; /* as description.py numbers them */

/* tanh: an odd polynomial near 0 (its coefficients are Cephes' tanhf), where e^x would lose digits. */
static inline float tanh_f32(float x) {
    float square = x * x, p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    float small = p * square * x + x, large = 1.0f - 2.0f / (1.0f + exp_f32(2.0f * x));
    return fabsf(x) < 0.625f ? small : large;
}

/* x times the normal distribution's share below x. With z = |x| / sqrt(2), erfc(z) is t e^(-z^2 + polynomial in t), t = 1 /
 * (1 + z / 2), within 1.2e-7 (Numerical Recipes, erfcc). */
static inline float gelu_f32(float x) {
    float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.5f * z), p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    float beyond = 0.5f * t * exp_f32(p - z * z);
    return x * (x < 0 ? beyond : 1.0f - beyond);
}

/* x (1 + tanh(u)) / 2 is x times the sigmoid of 2 u. */
static inline float gelu_tanh_f32(float x) { return x * sigmoid_f32(1.5957691216f * (x + 0.044715f * x * x * x)); }

static inline float relu_f32(float x) { return x < 0 ? 0 : x; }

static inline float relu2_f32(float x) { return x < 0 ? 0 : x * x; }

static inline float quick_gelu_f32(float x) { return x * sigmoid_f32(1.702f * x); }

/* x = f(x), times `by` unless it is NULL, for n numbers. */
#define DEFINE_ACTIVATION(FUNCTION)                                                                                     \
    static void apply_##FUNCTION(float *restrict x, const float *restrict by, int n) {                                  \
        if (by)                                                                                                         \
            _Pragma("omp simd") for (int i = 0; i < n; i++) x[i] = FUNCTION(x[i]) * by[i];                              \
        else                                                                                                            \
            _Pragma("omp simd") for (int i = 0; i < n; i++) x[i] = FUNCTION(x[i]);                                      \
    }
DEFINE_ACTIVATION(silu_f32)
DEFINE_ACTIVATION(gelu_f32)
DEFINE_ACTIVATION(gelu_tanh_f32)
DEFINE_ACTIVATION(relu_f32)
DEFINE_ACTIVATION(relu2_f32)
DEFINE_ACTIVATION(quick_gelu_f32)

static inline void activate(int activation, float *x, const float *by, int n) {
    switch (activation) {
    case SILU: apply_silu_f32(x, by, n); break;
    case GELU: apply_gelu_f32(x, by, n); break;
    case GELU_TANH: apply_gelu_tanh_f32(x, by, n); break;
    case RELU: apply_relu_f32(x, by, n); break;
    case RELU2: apply_relu2_f32(x, by, n); break;
    case QUICK_GELU: apply_quick_gelu_f32(x, by, n); break;
    }
}

/* Scales n numbers, and limits them to -cap .. cap by cap * tanh(x / cap) unless the cap is 0. */
static inline void scale_and_cap(float *x, int n, float scale, float cap) {
    if (scale != 1.0f)
        for (int i = 0; i < n; i++) x[i] *= scale;
    if (cap > 0) {
        float inverse = 1.0f / cap;
#pragma omp simd
        for (int i = 0; i < n; i++) x[i] = cap * tanh_f32(x[i] * inverse);
    }
}

#endif
