/* What a step works on: the model and the sequences, as Python hands them over, and the memory of the threads. */
#ifndef SMOLORA_DECODE_STATE_H
#define SMOLORA_DECODE_STATE_H

#include "matrix.h"
#include "pool.h"

enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };
enum { RMS_NORM, LAYER_NORM }; /* as description.py numbers them */
enum {
    MAX_ROWS = 128,  /* tokens in a step */
    KEY_BLOCK = 256, /* keys and values that stay in the second cache while a batch of queries reads them */
#if defined(ONLY_AVX2)
    QUERY_BATCH = 192, /* queries that read the same keys together */
#else
    QUERY_BATCH = 8,
#endif
    MOST_PARTS = 1 << 22, /* numbers that the shared blocks of a step may give: 16 MB */
    LORA_TERMS = 64 /* of a LoRA's rank at a time: a file decides the rank, and the stack has no room for any */
};

/* --- what Python mirrors; `smolora_structs` gives their sizes --------------------------------------------------------------- */

typedef struct {
    const float *weight; /* NULL: there is no norm */
    const float *bias;   /* or NULL */
    int32_t kind, width;
    int32_t head_step; /* from the weights of a head to those of the next; 0: all heads share them */
    float eps;
} ModelNorm;

typedef struct {
    const float *inverse_frequencies;
    int32_t pairs;       /* of numbers of a head that are rotated */
    int32_t interleaved; /* pairs are neighbours, else `pairs` apart */
    float scale;
} Rope;

typedef struct {
    Matrix gate, up, down;
} Expert;

typedef struct {
    Matrix weight[PROJECTIONS];     /* those that are absent have no rows; Q may be all of Q, K and V */
    const float *bias[PROJECTIONS]; /* or NULL */
    ModelNorm attention_norm, attention_out_norm, mlp_norm, mlp_out_norm, query_norm, key_norm;
    Matrix router;
    const Expert *expert; /* or NULL */
    int32_t rope;         /* which one; -1: none */
    int32_t window;       /* tokens that a token sees, itself included; 0: all */
} Layer;

typedef struct {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab;
    int32_t format;       /* of embeddings: FP32 or BF16 */
    int32_t cache_format; /* of KV caches: FP32, BF16 or INT8 */
    /* Where heads lie in a row of queries, keys and values: the row's width, and the steps between key heads. */
    int32_t qkv_width, group_step, key, key_step, value, value_step;
    int32_t activation;
    int32_t parallel;    /* the MLP reads what attention reads */
    int32_t joint_norms; /* the norms of queries and keys are over all heads together */
    int32_t ropes, first_position;
    int32_t rounded_slopes; /* what a slope gives is rounded to bf16 */
    int32_t experts, active_experts, normalized_experts;
    float embedding_scale, residual_scale, attention_scale, score_cap, slope_scale, logit_scale, logit_cap;
    const void *embedding;
    const void *positions; /* or NULL */
    ModelNorm embedding_norm, final_norm;
    Matrix head;
    const float *head_bias; /* or NULL */
    const Rope *rope;       /* `ropes`, and as many for long sequences if there are other ones */
    const float *slopes;    /* of each head, for ALiBi; or NULL */
    const Layer *layer;
} Model;

typedef struct {
    const float *a; /* rank x in */
    const float *b; /* rank x out */
    int32_t rank;   /* 0: no LoRA */
    float scale;
} Lora;

typedef struct {
    const int32_t *tokens;
    int32_t count, position, capacity; /* tokens of this step, tokens in the KV cache before it, and room in the cache */
    void *const *keys;                 /* of each layer: kv_heads x capacity rows, as cache_row.h has them */
    void *const *values;               /* likewise */
    const Lora *lora;                  /* layers x PROJECTIONS, or NULL */
    int32_t every;                     /* logits after every token, not only after the last */
    int32_t first_rope;                /* 0, or the number of ropes: those of long sequences */
} Sequence;

/* --- what only C knows ------------------------------------------------------------------------------------------------------ */

typedef struct {
    Vectors vectors;           /* the input of this thread's next products */
    float *normed;             /* MAX_ROWS x hidden */
    float *part;               /* MAX_ROWS x hidden */
    float *scores;             /* QUERY_BATCH x KEY_BLOCK */
    float *queries, *weighted; /* QUERY_BATCH x head_dim: a batch of queries, and their weighted sums of a block's values */
    float *summed;             /* likewise: those of all blocks */
    uint16_t *rounded;         /* as queries, in bf16 */
    float *keys, *values;      /* KEY_BLOCK x head_dim: a block of an INT8 cache */
    float *heads;              /* a row's queries, for a norm over all of them */
    float *gathered;           /* MAX_ROWS x hidden: the rows that an expert gets */
    int *chosen;               /* MAX_ROWS x active_experts, ascending */
    float *share;              /* likewise */
    uint32_t *panel;
} Worker;

typedef struct {
    Pool *pool;
    const Model *model;
    int workers; /* the number of the pool's threads; the pool may be closed before the engine */
    Worker worker[MAX_THREADS];
    float *x, *angles, *qkv, *attended, *inner; /* of all rows */
    float *branch;                              /* what attention or MLP gives, before its norm */
    float *routed;                              /* MAX_ROWS x experts */
    int blocks;                                 /* of keys, if the threads share them; or 0 */
    float *parts;                               /* rows x heads x blocks, each of which is a softmax and its sums; grown when needed */
    size_t parts_size;
    const Sequence *sequences;
    int rows, scored; /* tokens of all sequences together, and those of them whose logits are wanted */
    int single;       /* whether there is one sequence. Only then may a prompt use panels: beside others, the sums of a token must
                         be added in the order in which they are added for one token */
    struct {
        int sequence, position, token, scored;
    } row[MAX_ROWS];
    float *logits; /* scored x vocab */
} Engine;

/* Whether there are too few queries for the threads to have equal parts of them. */
static inline int has_few_queries(const Engine *e) { return e->rows * e->model->kv_heads < 4 * e->pool->threads; }

/* The RoPE angles of a row: cosines of each pair, then sines. */
static inline float *angles_of(const Engine *e, int r, int rope) {
    return e->angles + ((size_t)r * e->model->ropes + (size_t)rope) * e->model->head_dim;
}

#endif
