/* Products of vectors with a matrix in any number format. */
#ifndef SMOLORA_PRODUCT_H
#define SMOLORA_PRODUCT_H

#include "exact_product.h"
#include "packed_product.h"

/* Converts the vectors to what products with `m` read; the arrays of `Vectors` for its format are there. */
static inline void quantize_vectors(Vectors *v, const Matrix *m) {
    if (m->format == BF16) round_bf16(v, m->cols);
    if (is_packed(m->format)) quantize_int8(v, m->cols);
}

/* After `quantize_vectors`: out[s][row] = weight[row] . v[s], for rows first..last-1; `first` is a multiple of BLOCK. */
static inline void product(const Matrix *m, int first, int last, const Vectors *v, float *out, int out_stride) {
#if defined(__AVX512F__)
    if (m->format == BF16 && v->count >= MIN_PANEL_VECTORS && v->panel && m->cols % BF16_STEP == 0) {
        panel_product_bf16(m->values, m->cols, first, last, v, out, out_stride);
        return;
    }
#elif defined(PROMPT_PANELS)
    if (min_panel_vectors(m->format) && v->count >= MIN_PANEL_VECTORS && v->panel) {
        if (m->format == BF16) prompt_product_bf16(m->values, m->cols, first, last, v, out, out_stride);
        else prompt_product_f32(m->values, m->cols, first, last, v, out, out_stride);
        return;
    }
#endif
    switch (m->format) {
    case FP32: product_f32(m->values, m->cols, first, last, v, out, out_stride); break;
    case BF16: product_bf16(m->values, m->cols, first, last, v, out, out_stride); break;
    case INT8: product_int8(m->values, m->cols, first, last, v, out, out_stride); break;
    case INT4: product_int4(m->values, m->cols, first, last, v, out, out_stride); break;
    case INT5: product_int5(m->values, m->cols, first, last, v, out, out_stride); break;
    }
}

#endif
