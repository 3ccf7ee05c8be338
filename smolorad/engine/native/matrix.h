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

#include "vector.h"

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

#endif
