/* Matrices of weights in four number formats, and the vectors that are multiplied with them.
 *
 * FP32 and BF16 are torch's own tensors, row-major, read in place. INT8 and INT4 are packed copies: blocks of 16 rows, and in a
 * block one group of 32 columns after the other, so that a product reads memory from front to back. docs/native.md draws them.
 *
 *   INT8: w = scale * (q - 128), q in 1..255. 8.5 bits a weight, as llama.cpp's Q8_0.
 *   INT4: w = scale * q + minimum, q in 0..15. 5 bits a weight, as llama.cpp's Q4_1.
 */
#ifndef SMOLORA_MATRIX_H
#define SMOLORA_MATRIX_H

#include "vector.h"

enum { FP32, BF16, INT8, INT4 };
enum { BLOCK = 16, GROUP = 32, QUADS = GROUP / 4 };

/* Bytes of a group of a block: the integers, then 16 scales in bf16, and for INT4 16 minima. */
enum { INT8_GROUP = BLOCK * GROUP + 2 * BLOCK, INT4_GROUP = BLOCK * GROUP / 2 + 4 * BLOCK };

typedef struct {
    const void *values;
    int32_t format, rows, cols; /* INT8 and INT4: cols is a multiple of GROUP */
} Matrix;

/* One number of an array in FP32 or BF16, and how many bytes it has. */
INLINE float load1(int format, const void *from, size_t at) {
    return format == FP32 ? ((const float *)from)[at] : bf16_to_f32(((const uint16_t *)from)[at]);
}
INLINE int number_bytes(int format) { return format == FP32 ? sizeof(float) : sizeof(uint16_t); }

/* Some vectors, each `stride` numbers after the last, and what `quantize_vectors` makes of them for a matrix's format. */
typedef struct {
    const float *x;
    int stride, count;
    uint16_t *rounded;  /* as x, in bf16 */
    int8_t *high, *low; /* as x: 256 * high + low */
    float *scale;       /* of each group; those of a vector are stride / GROUP after the last vector's */
    float *sum;         /* of each group: the sum of its integers, times scale */
    int32_t *offset;    /* of each group: how much its products with unsigned INT8 weights are too large */
    uint32_t *panel;    /* of `alloc_panel`, if a prompt may be multiplied panel by panel; or NULL */
} Vectors;

#endif
