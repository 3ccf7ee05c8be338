/* One step of a Llama-like model: some tokens of each of several sequences, in one call, on a few threads.
 *
 * Activations and sums are fp32. Keys and values lie in caches that torch's own forward pass fills too,
 * [key-value head][capacity][head_dim].
 *
 * Threads: each owns a range of every product's rows. What is small (norms, the inner products of LoRA) each thread computes
 * for itself, so that six barriers a layer are enough.
 */
#define _GNU_SOURCE
#include "decode_attention.h"
#include "decode_linear.h"
#include "pack_matrix.h"

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
