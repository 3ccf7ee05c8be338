/* Products of matrices with vectors. */
#ifndef SMOLORA_PRODUCT_H
#define SMOLORA_PRODUCT_H

#include "exact_product.h"
#include "packed_product.h"


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
