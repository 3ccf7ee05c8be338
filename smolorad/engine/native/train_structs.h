/* What Python hands over to training; it mirrors these structures, and `smolora_structs` gives their sizes. */
#ifndef SMOLORA_TRAIN_STRUCTS_H
#define SMOLORA_TRAIN_STRUCTS_H

#include "train_number.h"

/* A product x w. */
typedef struct {
    const Number *x; /* (rows, depth) */
    const Number *w; /* (depth, columns), or (columns, depth) if transposed */
    int64_t x_stride, w_stride;
    int32_t depth, transposed; /* depth: whole steps if w is transposed */
} Term;

enum { ACCUMULATE = -1 }; /* as an output's format: the sum is added to what is in `partial` */

/* A sum of products. */
typedef struct {
    void *out;           /* (rows, columns) */
    const Number *added; /* likewise; or NULL */
    float *partial;      /* (rows, columns filled up to whole panels): the sums between two passes over the depth */
    int64_t out_stride, added_stride, partial_stride;
    int32_t rows, columns, format, terms; /* format of out: FP32, NUMBER_FORMAT or ACCUMULATE */
    const Term *term;
} Product;

/* Cross entropy. */
typedef struct {
    Number *logits;         /* (rows, vocabulary); they become the gradient, if it is wanted */
    const int64_t *targets; /* (rows,) */
    float *losses;          /* (rows,) */
    int64_t stride;         /* of logits */
    int32_t rows, vocabulary, with_gradient;
} Loss;

/* RMSNorm, or its gradient if there is a `grad`. */
typedef struct {
    const Number *x, *weight, *grad; /* (rows, width), (width,), (rows, width) */
    const Number *added;             /* to the gradient: (rows, width); or NULL */
    float *scale;                    /* (rows,): one over the root mean square */
    Number *out;                     /* (rows, width) */
    int32_t rows, width;
    float epsilon;
} Norm;

/* silu(gate) * up, or its gradients if there is a `grad`. */
typedef struct {
    const Number *gate, *up, *grad; /* count numbers each; grad is NULL forward */
    Number *out, *d_gate, *d_up;
    int64_t count;
} Gates;

/* Causal attention of texts, or its gradients if there is a `grad`. */
typedef struct {
    const Number *query, *key, *value, *grad; /* (tokens, heads, width), (tokens, key_heads, width) twice, as query */
    const Number *cos, *sin;                  /* (tokens, width / 2), of the RoPE angles of queries and keys; or NULL */
    Number *out, *d_query, *d_key, *d_value;  /* as what they belong to; out forward, the others backward */
    const int32_t *start;                     /* (texts + 1,) */
    float *head_gradients;                    /* (2, heads, tokens, whole panels): each head's, of keys and values of long texts */
    char *scratch;                            /* scratch_bytes for each thread, aligned to a line of the cache */
    int64_t angle_stride, scratch_bytes;
    int32_t texts, heads, key_heads, width;
    float scale;
} Attention;

#endif
