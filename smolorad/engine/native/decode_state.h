/* A model, its sequences, and the threads of a step. */
#ifndef SMOLORA_DECODE_STATE_H
#define SMOLORA_DECODE_STATE_H

#include "matrix.h"
#include "pool.h"

enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };
enum { MAX_ROWS = 128 };
enum { QUERIES = 8 };   /* that go over the keys together */
enum { LORA_TERMS = 64 }; /* of a LoRA's rank, which a file decides and no stack has room for */

typedef struct {
    Matrix weight[PROJECTIONS];
    const float *bias[PROJECTIONS]; /* or NULL */
    const float *attention_norm, *mlp_norm;
    const float *q_norm, *k_norm; /* over head_dim, or NULL */
} Layer;

typedef struct {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab;
    int32_t format; /* of embedding and caches: FP32 or BF16 */
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
    int32_t rank;
    float scale;
} Lora; /* rank 0: none */

typedef struct {
    const int32_t *tokens;
    int32_t count, position, capacity; /* how many tokens, and how many have keys and values already */
    void *const *keys;                 /* of each layer */
    void *const *values;               /* of each layer */
    const Lora *lora;                  /* layers x PROJECTIONS, or NULL */
    int32_t every;                     /* logits after every token, not only after the last */
} Sequence;

typedef struct {
    Vectors vectors;   /* what this thread's next product is with: normed, or what all threads made */
    float *normed;     /* MAX_ROWS x hidden */
    float *part;       /* MAX_ROWS x hidden */
    float *scores;     /* QUERIES x score_room, grown when needed */
    int score_room;
    float *queries, *mixed; /* QUERIES x head_dim: queries that go over the keys together, and what they read */
    uint16_t *rounded;      /* as queries, in bf16 */
    uint32_t *panel;
} Worker;

typedef struct {
    Pool *pool;
    const Model *model;
    int workers; /* as many as the pool has threads; it may be gone before this is */
    Worker worker[MAX_THREADS];
    float *x, *rope, *qkv, *attended, *inner; /* of all rows */
    const Sequence *sequences;
    int rows, scored; /* tokens of all sequences together, and those of them whose logits are wanted */
    int alone;        /* one sequence: in company the order of its sums stays what it is for one token, whoever comes along */
    struct {
        int sequence, position, token, scored;
    } row[MAX_ROWS];
    float *logits; /* scored x vocab */
    atomic_int failed;
} Engine;


#endif
