/* Matrices of weights in five number formats, and the vectors that are multiplied with them.
 *
 * FP32 and BF16 are torch's own tensors, row-major, read in place. INT8, INT5 and INT4 are packed copies: blocks of 16 rows, and in
 * a block one group of 32 columns after the other, so that a product reads memory from front to back. docs/native.md draws them.
 *
 *   INT8: w = scale * (q - 128), q in 1..255, a scale for each group of a row. 8.5 bits a weight, as llama.cpp's Q8_0.
 *   INT4: w = unit * (step * (q - 7.5) + 6 * center), q in 0..15. The unit is the row's, step (0..255) and center (-127..127) are
 *         the group's: 4.5 bits a weight, as llama.cpp's Q4_K.
 *   INT5: w = unit * (step * (q - 15.5) + 12 * center), q in 0..31. 5.5 bits a weight, as llama.cpp's Q5_K.
 */
#ifndef SMOLORA_MATRIX_H
#define SMOLORA_MATRIX_H

#include "vector.h"

enum { FP32, BF16, INT8, INT4, INT5 };
enum { BLOCK = 16, GROUP = 32, QUADS = GROUP / 4 };

/* Bytes of a group of a block. INT8: the integers, then 16 scales in bf16. INT4 and INT5: the low halves of the integers, for INT5
 * their fifth bits, 16 steps and 16 centers. Before the groups of a block stand the units of its rows, in fp32. */
enum {
    INT8_GROUP = BLOCK * GROUP + 2 * BLOCK,
    HALVES = BLOCK * GROUP / 2,
    FIFTH_BITS = BLOCK * GROUP / 8,
    INT4_GROUP = HALVES + 2 * BLOCK,
    INT5_GROUP = HALVES + FIFTH_BITS + 2 * BLOCK,
    UNITS = 4 * BLOCK
};

INLINE int is_packed(int format) { return format >= INT8; }
INLINE int has_units(int format) { return format == INT4 || format == INT5; }
INLINE int group_bytes(int format) { return format == INT8 ? INT8_GROUP : format == INT4 ? INT4_GROUP : INT5_GROUP; }
INLINE size_t block_bytes(int format, int groups) {
    return (size_t)groups * (size_t)group_bytes(format) + (has_units(format) ? UNITS : 0);
}

/* Where a group's steps begin; the centers follow them. */
INLINE int steps_at(int format) { return format == INT4 ? HALVES : HALVES + FIFTH_BITS; }
/* The largest q, and how much one of a center is. */
INLINE int levels_of(int format) { return format == INT4 ? 15 : 31; }
INLINE float center_unit(int format) { return format == INT4 ? 6.0f : 12.0f; }

typedef struct {
    const void *values;
    int32_t format, rows, cols; /* packed: cols is a multiple of GROUP */
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
