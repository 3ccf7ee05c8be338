/* One step of a Llama-like model: some tokens of each of several sequences, in one call, on a few threads.
 *
 * Activations and sums are fp32. Keys and values lie in caches that torch's own forward pass fills too,
 * [key-value head][capacity][head_dim].
 *
 * Threads: each owns a range of every product's rows. What is small (norms, the inner products of LoRA) each thread computes
 * for itself, so that six barriers a layer are enough.
 */
#define _GNU_SOURCE
#include "matrix.h"
#include "pack_matrix.h"
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

/* --- small things ------------------------------------------------------------------------------------------------------ */

/* e^x by 2^n times a polynomial, within 2 units in the last place (the coefficients are Cephes' expf's). Above 88 it stays what
 * it is there. Below -60 it is 0: nobody who adds it to 1 would see it, and products with numbers so small take the processor a
 * hundred times as long. NaN stays NaN. */
static inline float exponential(float x) {
    int none = x < -60.0f;
    x = none ? -60.0f : x > 88.0f ? 88.0f : x;
    union {
        float number;
        uint32_t bits;
    } whole = {x * 1.44269504f + WHOLE};
    float n = whole.number - WHOLE;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        uint32_t bits;
        float number;
    } power = {(whole.bits + 127) << 23}; /* n stands in the lowest bits; a conversion of NaN to a whole number would mean nothing */
    return none ? 0 : p * power.number;
}

static void rms_norm(const float *restrict x, const float *restrict weight, float eps, int n, float *restrict out) {
    float scale = 1.0f / sqrtf(dot_f32(x, x, n) / n + eps);
#pragma omp simd
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* `rope`: head_dim / 2 cosines, then as many sines. */
static void rotate(const float *rope, int half, float *x) {
    for (int i = 0; i < half; i++) {
        float c = rope[i], s = rope[half + i], low = x[i], high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
    }
}

static void store(int format, void *cache, size_t at, const float *x, int n) {
    if (format == BF16)
        for (int i = 0; i < n; i++) ((uint16_t *)cache)[at + i] = narrow(x[i]);
    else
        memcpy((float *)cache + at, x, sizeof(float) * n);
}

/* --- products with weights ---------------------------------------------------------------------------------------------- */

/* What this thread's next products are with: `rows` vectors of as many numbers as `weight` has columns. */
static void take(const Engine *e, Worker *w, const float *x, int rows, const Matrix *weight) {
    w->vectors.x = x, w->vectors.stride = weight->cols, w->vectors.count = rows;
    w->vectors.panel = e->alone ? w->panel : NULL;
    prepare(&w->vectors, weight);
}

static void add_bias_and_lora(const Engine *e, const Layer *layer, int l, int projection, int first, int last,
                              const Vectors *v, float *out, int out_stride) {
    const float *bias = layer->bias[projection];
    int cols = layer->weight[projection].cols;
    for (int r = 0; r < e->rows; r++) {
        float *restrict to = out + (size_t)r * out_stride;
        if (bias)
            for (int i = first; i < last; i++) to[i] += bias[i];
        const Lora *lora = e->sequences[e->row[r].sequence].lora;
        if (!lora || !(lora += l * PROJECTIONS + projection)->rank) continue;
        for (int begin = 0; begin < lora->rank; begin += LORA_TERMS) {
            float middle[LORA_TERMS];
            int terms = lora->rank - begin < LORA_TERMS ? lora->rank - begin : LORA_TERMS;
            for (int k = 0; k < terms; k++)
                middle[k] = lora->scale * dot_f32(lora->a + (size_t)(begin + k) * cols, v->x + (size_t)r * v->stride, cols);
            for (int k = 0; k < terms; k++) {
                const float *restrict b = lora->b + (size_t)(begin + k) * layer->weight[projection].rows;
                float weight = middle[k];
#pragma omp simd
                for (int i = first; i < last; i++) to[i] += weight * b[i];
            }
        }
    }
}

/* This thread's rows of a projection of what it has taken. */
static void project(Engine *e, int thread, int l, int projection, float *out, int out_stride) {
    const Layer *layer = &e->model->layer[l];
    const Matrix *weight = &layer->weight[projection];
    const Vectors *v = &e->worker[thread].vectors;
    int first, last;
    share(e->pool, thread, weight->rows, BLOCK, &first, &last);
    product(weight, first, last, v, out, out_stride);
    add_bias_and_lora(e, layer, l, projection, first, last, v, out, out_stride);
}

static void add_projected(Engine *e, int thread, int l, int projection, const float *x) {
    Worker *w = &e->worker[thread];
    const Matrix *weight = &e->model->layer[l].weight[projection];
    int n = e->model->hidden, first, last;
    take(e, w, x, e->rows, weight);
    project(e, thread, l, projection, w->part, n);
    share(e->pool, thread, n, BLOCK, &first, &last);
    for (int r = 0; r < e->rows; r++)
        for (int i = first; i < last; i++) e->x[(size_t)r * n + i] += w->part[(size_t)r * n + i];
}

static void take_normed(Engine *e, int thread, const float *norm, const Matrix *weight) {
    Worker *w = &e->worker[thread];
    int n = e->model->hidden;
    for (int r = 0; r < e->rows; r++) rms_norm(e->x + (size_t)r * n, norm, e->model->eps, n, w->normed + (size_t)r * n);
    take(e, w, w->normed, e->rows, weight);
}

/* --- attention ---------------------------------------------------------------------------------------------------------- */

/* One row's key and value of one key-value head, into the cache; `room` is for head_dim numbers. */
static void remember(const Engine *e, const Layer *layer, int l, int r, int kv, float *qkv, float *room) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[r].sequence];
    int d = m->head_dim;
    float *k = qkv + (size_t)(m->heads + kv) * d, *v = qkv + (size_t)(m->heads + m->kv_heads + kv) * d;
    size_t at = ((size_t)kv * s->capacity + e->row[r].position) * d;
    if (layer->k_norm) memcpy(room, k, sizeof(float) * d), rms_norm(room, layer->k_norm, m->eps, d, k);
    rotate(e->rope + (size_t)r * d, d / 2, k);
    store(m->format, s->keys[l], at, k, d);
    store(m->format, s->values[l], at, v, d);
}

/* scores[0..n-1] = e^(scores - the most); their sum. */
static float soften(float *scores, int n) {
    float most = scores[0], total = 0;
#pragma omp simd reduction(max : most)
    for (int t = 0; t < n; t++) most = scores[t] > most ? scores[t] : most;
#pragma omp simd reduction(+ : total)
    for (int t = 0; t < n; t++) total += scores[t] = exponential(scores[t] - most);
    return total;
}

/* out[s] (d numbers) = the sum of values[t] * weights[s][t], for t < n. */
#define DEFINE_MIX(NAME, TYPE, LOAD, WIDEN)                                                                             \
    INLINE void mix_some_##NAME(const TYPE *values, int d, int i, int wide, const float *weights, int stride, int n,    \
                                int count, float *out, int out_stride) {                                                \
        f16 sums[4][4] = {{{0}}};                                                                                       \
        for (int t = 0; t < n; t++) {                                                                                   \
            const TYPE *value = values + (size_t)t * d + i;                                                             \
            for (int s = 0; s < count; s++)                                                                             \
                for (int k = 0; k < wide; k++) sums[s][k] += LOAD(value + 16 * k) * all(weights[(size_t)s * stride + t]); \
        }                                                                                                               \
        for (int s = 0; s < count; s++)                                                                                 \
            for (int k = 0; k < wide; k++)                                                                              \
                memcpy(out + (size_t)s * out_stride + i + 16 * k, &sums[s][k], sizeof(f16));                            \
    }                                                                                                                   \
    static void mix_##NAME(const TYPE *values, int d, const float *weights, int stride, int n, int count, float *out,   \
                           int out_stride) {                                                                            \
        for (int s = 0; s < count; s += 4) {                                                                            \
            const float *w = weights + (size_t)s * stride;                                                              \
            float *to = out + (size_t)s * out_stride;                                                                   \
            int i = 0;                                                                                                  \
            for (; i + 64 <= d; i += 64) {                                                                              \
                if (count - s >= 4)                                                                                     \
                    mix_some_##NAME(values, d, i, 4, w, stride, n, 4, to, out_stride);                                  \
                else                                                                                                    \
                    for (int one = s; one < count; one++)                                                               \
                        mix_some_##NAME(values, d, i, 4, weights + (size_t)one * stride, stride, n, 1,                  \
                                        out + (size_t)one * out_stride, out_stride);                                    \
            }                                                                                                           \
            for (int one = s; one < count && one < s + 4; one++) {                                                      \
                const float *weight = weights + (size_t)one * stride;                                                   \
                float *sum = out + (size_t)one * out_stride;                                                            \
                for (int at = i; at + 16 <= d; at += 16)                                                                \
                    mix_some_##NAME(values, d, at, 1, weight, stride, n, 1, sum, out_stride);                           \
                for (int at = d - d % 16 > i ? d - d % 16 : i; at < d; at++) {                                          \
                    sum[at] = 0;                                                                                        \
                    for (int t = 0; t < n; t++) sum[at] += WIDEN(values[(size_t)t * d + at]) * weight[t];               \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

DEFINE_MIX(f32, float, load_f32, AS_IS)
DEFINE_MIX(bf16, uint16_t, widen16, widen)

/* Some queries of one sequence that read the same key-value head: query i is head `heads[i]` of row `rows[i]`. */
static void attend(const Engine *e, const Layer *layer, int l, int kv, const int *rows, const int *heads, int count, Worker *w) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[rows[0]].sequence];
    int d = m->head_dim, q_rows = m->heads * d, width = q_rows + 2 * m->kv_heads * d, room = w->score_room;
    size_t base = (size_t)kv * s->capacity * d;
    int n = e->row[rows[count - 1]].position + 1; /* rows come in order */
    float *scores = w->scores, *q = w->queries, *out = w->mixed;
    for (int i = 0; i < count; i++) {
        const float *query = e->qkv + (size_t)rows[i] * width + (size_t)heads[i] * d;
        if (layer->q_norm)
            rms_norm(query, layer->q_norm, m->eps, d, q + (size_t)i * d);
        else
            memcpy(q + (size_t)i * d, query, sizeof(float) * d);
        rotate(e->rope + (size_t)rows[i] * d, d / 2, q + (size_t)i * d);
        for (int k = 0; k < d; k++) q[(size_t)i * d + k] *= m->attention_scale;
    }
    Vectors queries = {.x = q, .stride = d, .count = count, .rounded = w->rounded};
    if (m->format == BF16) round_bf16(&queries, d), rows_bf16((const uint16_t *)s->keys[l] + base, d, 0, n, &queries, scores, room);
    else rows_f32((const float *)s->keys[l] + base, d, 0, n, &queries, scores, room);
    float totals[QUERIES];
    for (int i = 0; i < count; i++) {
        int seen = e->row[rows[i]].position + 1;
        totals[i] = soften(scores + (size_t)i * room, seen);
        memset(scores + (size_t)i * room + seen, 0, sizeof(float) * (n - seen));
    }
    if (m->format == BF16) mix_bf16((const uint16_t *)s->values[l] + base, d, scores, room, n, count, out, d);
    else mix_f32((const float *)s->values[l] + base, d, scores, room, n, count, out, d);
    for (int i = 0; i < count; i++) {
        float *to = e->attended + (size_t)rows[i] * q_rows + (size_t)heads[i] * d;
        for (int k = 0; k < d; k++) to[k] = out[(size_t)i * d + k] / totals[i];
    }
}

/* This thread's part of all queries. Where only few tokens have some, they go one by one, so that the threads have equal parts. */
static void attend_all(Engine *e, int thread, int l) {
    const Model *m = e->model;
    int group = m->heads / m->kv_heads, unit = 0, rows[QUERIES], heads[QUERIES];
    int few = e->rows * m->kv_heads < 4 * e->pool->threads;
    for (int first = 0, end; first < e->rows; first = end) {
        int sequence = e->row[first].sequence;
        for (end = first; end < e->rows && e->row[end].sequence == sequence;) end++;
        int most = few ? 1 : QUERIES, queries = (end - first) * group;
        for (int kv = 0; kv < m->kv_heads; kv++)
            for (int from = 0; from < queries; from += most)
                if (unit++ % e->pool->threads == thread) {
                    int count = queries - from < most ? queries - from : most;
                    for (int i = 0; i < count; i++)
                        rows[i] = first + (from + i) / group, heads[i] = kv * group + (from + i) % group;
                    attend(e, &m->layer[l], l, kv, rows, heads, count, &e->worker[thread]);
                }
    }
}

/* --- one layer, one step ------------------------------------------------------------------------------------------------ */

static void attention(Engine *e, int thread, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    int q_rows = m->heads * m->head_dim, kv_rows = m->kv_heads * m->head_dim, width = q_rows + 2 * kv_rows;
    take_normed(e, thread, layer->attention_norm, &layer->weight[Q]);
    project(e, thread, l, Q, e->qkv, width);
    project(e, thread, l, K, e->qkv + q_rows, width);
    project(e, thread, l, V, e->qkv + q_rows + kv_rows, width);
    barrier(e->pool);
    for (int unit = thread; unit < e->rows * m->kv_heads; unit += e->pool->threads) {
        int r = unit / m->kv_heads;
        remember(e, layer, l, r, unit % m->kv_heads, e->qkv + (size_t)r * width, e->worker[thread].queries);
    }
    barrier(e->pool);
    attend_all(e, thread, l);
    barrier(e->pool);
    add_projected(e, thread, l, O, e->attended);
    barrier(e->pool);
}

static void mlp(Engine *e, int thread, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    take_normed(e, thread, layer->mlp_norm, &layer->weight[GATE]);
    float *up = e->inner + (size_t)MAX_ROWS * m->inner;
    project(e, thread, l, GATE, e->inner, m->inner);
    project(e, thread, l, UP, up, m->inner);
    int first, last;
    share(e->pool, thread, m->inner, BLOCK, &first, &last);
    for (int r = 0; r < e->rows; r++) {
        float *restrict gate = e->inner + (size_t)r * m->inner, *restrict by = up + (size_t)r * m->inner;
#pragma omp simd
        for (int i = first; i < last; i++) gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * by[i];
    }
    barrier(e->pool);
    add_projected(e, thread, l, DOWN, e->inner);
    barrier(e->pool);
}

/* A row's embedding, and the rotation of its position. */
static void begin(Engine *e, int r) {
    const Model *m = e->model;
    int half = m->head_dim / 2;
    float *x = e->x + (size_t)r * m->hidden, *rope = e->rope + (size_t)r * m->head_dim;
    size_t at = (size_t)e->row[r].token * m->hidden;
    for (int i = 0; i < m->hidden; i++)
        x[i] = m->format == BF16 ? widen(((const uint16_t *)m->embedding)[at + i]) : ((const float *)m->embedding)[at + i];
    for (int i = 0; i < half; i++) {
        float angle = (float)e->row[r].position * m->inverse_frequencies[i];
        rope[i] = cosf(angle) * m->rope_scale;
        rope[half + i] = sinf(angle) * m->rope_scale;
    }
}

/* The logits of the rows where they are wanted. */
static void predict(Engine *e, int thread) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int first, last, n = m->hidden;
    for (int r = 0, at = 0; r < e->rows; r++)
        if (e->row[r].scored) rms_norm(e->x + (size_t)r * n, m->final_norm, m->eps, n, w->normed + (size_t)at++ * n);
    take(e, w, w->normed, e->scored, &m->head);
    share(e->pool, thread, m->vocab, BLOCK, &first, &last);
    product(&m->head, first, last, &w->vectors, e->logits, m->vocab);
}

static void run(void *what, int thread) {
    Engine *e = what;
    Worker *w = &e->worker[thread];
    int most = 0;
    for (int r = 0; r < e->rows; r++) most = e->row[r].position >= most ? e->row[r].position + 1 : most;
    if (most > w->score_room) {
        float *grown = realloc(w->scores, sizeof(float) * QUERIES * (size_t)(most + 1024));
        if (grown)
            w->scores = grown, w->score_room = most + 1024;
        else
            atomic_store(&e->failed, 1);
    }
    for (int r = thread; r < e->rows; r += e->pool->threads) begin(e, r);
    barrier(e->pool);
    if (atomic_load(&e->failed)) return;
    for (int l = 0; l < e->model->layers; l++) attention(e, thread, l), mlp(e, thread, l);
    predict(e, thread);
}

/* --- what Python calls -------------------------------------------------------------------------------------------------- */

/* Threads for all that follows; NULL where they cannot be had. */
Pool *smolora_pool_open(int threads) { return pool_open(threads); }

void smolora_pool_close(Pool *pool) { pool_close(pool); }

void smolora_close(Engine *e) {
    if (!e) return;
    for (int i = 0; i < e->workers; i++) {
        Worker *w = &e->worker[i];
        free(w->normed), free(w->part), free(w->scores), free(w->queries), free(w->mixed), free(w->rounded);
        free(w->vectors.rounded), free(w->vectors.high), free(w->vectors.low);
        free(w->vectors.scale), free(w->vectors.sum), free(w->vectors.surplus), free(w->panel);
    }
    free(e->x), free(e->rope), free(e->qkv), free(e->attended), free(e->inner), free(e);
}

/* Zeros, where a line of the cache begins. */
static void *lines(size_t count, size_t size) {
    size_t bytes = (count * size + 63) / 64 * 64;
    void *room = aligned_alloc(64, bytes);
    return room ? memset(room, 0, bytes) : NULL;
}

static int worker_open(Worker *w, const Model *m) {
    int q_rows = m->heads * m->head_dim, widest = m->inner > m->hidden ? m->inner : m->hidden;
    widest = widest > q_rows ? widest : q_rows;
    size_t groups = (size_t)MAX_ROWS * (widest / GROUP + 1);
    w->vectors.rounded = lines(groups * GROUP, sizeof(uint16_t));
    w->normed = lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->part = lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->queries = lines((size_t)QUERIES * m->head_dim, sizeof(float));
    w->mixed = lines((size_t)QUERIES * m->head_dim, sizeof(float));
    w->rounded = lines((size_t)QUERIES * m->head_dim, sizeof(uint16_t));
    w->vectors.high = lines(groups, GROUP);
    w->vectors.low = lines(groups, GROUP);
    w->vectors.scale = lines(groups, sizeof(float));
    w->vectors.sum = lines(groups, sizeof(float));
    w->vectors.surplus = lines(groups, sizeof(int32_t));
    w->panel = panel_open(widest);
    const Vectors *v = &w->vectors;
    int vectors = v->rounded && v->high && v->low && v->scale && v->sum && v->surplus;
    return vectors && w->normed && w->part && w->queries && w->mixed && w->rounded && w->panel;
}

/* `model` and `pool` must outlive what is returned; NULL where memory cannot be had. */
Engine *smolora_open(const Model *m, Pool *pool) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m, e->pool = pool, e->workers = pool->threads;
    int q_rows = m->heads * m->head_dim;
    e->x = lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    e->rope = lines((size_t)MAX_ROWS * m->head_dim, sizeof(float));
    e->qkv = lines((size_t)MAX_ROWS * (q_rows + 2 * m->kv_heads * m->head_dim), sizeof(float));
    e->attended = lines((size_t)MAX_ROWS * q_rows, sizeof(float));
    e->inner = lines((size_t)MAX_ROWS * 2 * m->inner, sizeof(float));
    int whole = e->x && e->rope && e->qkv && e->attended && e->inner;
    for (int i = 0; whole && i < pool->threads; i++) whole = worker_open(&e->worker[i], m);
    if (whole) return e;
    smolora_close(e);
    return NULL;
}

/* Computes the sequences' tokens, at most MAX_ROWS; writes their keys and values, and the logits that are wanted, one row of
 * `vocab` after the other. 0, or 1 where they are too many or memory ran out. */
int smolora_step(Engine *e, const Sequence *sequences, int count, float *logits) {
    int64_t tokens = 0;
    for (int s = 0; s < count; s++) tokens += sequences[s].count;
    if (tokens > MAX_ROWS) return 1;
    e->sequences = sequences, e->logits = logits, e->rows = e->scored = 0, e->alone = count == 1;
    for (int s = 0; s < count; s++)
        for (int i = 0; i < sequences[s].count; i++) {
            int scored = sequences[s].every || i + 1 == sequences[s].count;
            e->row[e->rows].sequence = s, e->row[e->rows].position = sequences[s].position + i;
            e->row[e->rows].token = sequences[s].tokens[i], e->row[e->rows++].scored = scored;
            e->scored += scored;
        }
    atomic_store(&e->failed, 0);
    pool_run(e->pool, run, e);
    return atomic_load(&e->failed);
}

/* How many tokens of one sequence in a step of its own are taken together, so that each costs much less; 0: never so. */
int smolora_many(int format) { return format == BF16 && MANY < MAX_ROWS ? MANY : 0; }

size_t smolora_packed_bytes(int format, int rows, int cols) { return packed_bytes(format, rows, cols); }

typedef struct {
    Pool *pool;
    const Matrix *from;
    int format;
    uint8_t *to;
} Packing;

static void pack_part(void *what, int thread) {
    Packing *p = what;
    int first, last;
    share(p->pool, thread, (p->from->rows + BLOCK - 1) / BLOCK, 1, &first, &last);
    pack(p->from, p->format, first, last, p->to);
}

/* `from` (FP32 or BF16) as INT8 or INT4, into `to`. */
void smolora_pack(Pool *pool, const Matrix *from, int format, uint8_t *to) {
    Packing packing = {pool, from, format, to};
    pool_run(pool, pack_part, &packing);
}

typedef struct {
    Pool *pool;
    const Matrix *weight;
    Vectors vectors;
    float *out;
} Multiplying;

static void multiply_part(void *what, int thread) {
    Multiplying *m = what;
    int first, last;
    Vectors v = m->vectors;
    share(m->pool, thread, m->weight->rows, BLOCK, &first, &last);
    v.panel = v.count >= MANY ? panel_open(m->weight->cols) : NULL; /* without one they are computed as few are */
    product(m->weight, first, last, &v, m->out, m->weight->rows);
    free(v.panel);
}

/* out (count x rows) = x (count x cols) times the weight's transpose. `room`: 2 bytes a number of x, in whole lines, and 12 a
 * group; it begins a line. */
void smolora_multiply(Pool *pool, const Matrix *weight, const float *x, int count, float *out, char *room) {
    size_t numbers = (size_t)count * weight->cols, groups = numbers / GROUP;
    Multiplying m = {pool, weight, {.x = x, .stride = weight->cols, .count = count}, out};
    m.vectors.rounded = (uint16_t *)room;
    m.vectors.high = (int8_t *)room, m.vectors.low = m.vectors.high + numbers; /* a format needs these or those */
    m.vectors.scale = (float *)(room + (2 * numbers + 63) / 64 * 64), m.vectors.sum = m.vectors.scale + groups;
    m.vectors.surplus = (int32_t *)(m.vectors.sum + groups);
    prepare(&m.vectors, weight);
    pool_run(pool, multiply_part, &m);
}
