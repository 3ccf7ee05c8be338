/* A model, its adapters and sequences as Python describes them, and the state of a step. */
#ifndef SMOLORA_DECODE_STATE_H
#define SMOLORA_DECODE_STATE_H

#include "matrix.h"
#include "pool.h"

enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };
enum {
    MAX_ROWS = 128,     /* tokens in a step */
    QUERY_BATCH = 8,    /* queries that are multiplied with the same keys together */
    LORA_TERMS = 64,    /* of a LoRA's rank at a time: a file decides the rank, and the stack has no room for any */
    SPARE_SCORES = 1024 /* tokens that a sequence may grow by before its scores are allocated again */
};

/* --- what Python mirrors; `smolora_structs` gives their sizes --------------------------------------------------------------- */

typedef struct {
    Matrix weight[PROJECTIONS];
    const float *bias[PROJECTIONS]; /* or NULL */
    const float *attention_norm, *mlp_norm;
    const float *q_norm, *k_norm; /* over head_dim, or NULL */
} Layer;

typedef struct {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab;
    int32_t format; /* of embedding and KV caches: FP32 or BF16 */
    float eps, rope_scale, attention_scale;
    const void *embedding;
    Matrix head;
    const float *final_norm;
    const float *inverse_frequencies; /* head_dim / 2 */
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
    void *const *keys;                 /* of each layer: kv_heads x capacity x head_dim */
    void *const *values;               /* likewise */
    const Lora *lora;                  /* layers x PROJECTIONS, or NULL */
    int32_t every;                     /* logits after every token, not only after the last */
} Sequence;

/* --- what only C knows ------------------------------------------------------------------------------------------------------ */

typedef struct {
    Vectors vectors;           /* the input of this thread's next products */
    float *normed;             /* MAX_ROWS x hidden */
    float *part;               /* MAX_ROWS x hidden */
    float *scores;             /* QUERY_BATCH x max_scores, grown when needed */
    int max_scores;
    float *queries, *weighted; /* QUERY_BATCH x head_dim: a batch of queries, and their weighted sums of values */
    uint16_t *rounded;         /* as queries, in bf16 */
    uint32_t *panel;
} Worker;

typedef struct {
    Pool *pool;
    const Model *model;
    int workers; /* the number of the pool's threads; the pool may be closed before the engine */
    Worker worker[MAX_THREADS];
    float *x, *angles, *qkv, *attended, *inner; /* of all rows */
    const Sequence *sequences;
    int rows, scored; /* tokens of all sequences together, and those of them whose logits are wanted */
    int single;       /* whether there is one sequence. Only then may a prompt use panels: beside others, the sums of a token must
                         be added in the order in which they are added for one token */
    struct {
        int sequence, position, token, scored;
    } row[MAX_ROWS];
    float *logits; /* scored x vocab */
    atomic_int failed;
} Engine;

#endif
