/* Decoding: one step of a Llama-like model, which computes some tokens of each of several sequences on a few threads.
 *
 * Activations and sums are fp32. Torch's own forward pass fills the same KV caches.
 *
 * Each thread computes a range of every product's rows. What is small (norms, the inner products of a LoRA) every thread computes
 * for itself, so that six barriers a layer are enough. docs/native.md draws the layouts and explains the words.
 */
#define _GNU_SOURCE
#include "decode_attention.h"
#include "decode_linear.h"
#include "pack_matrix.h"
#include "struct_layout.h"

/* --- one layer, one step ------------------------------------------------------------------------------------------------ */

static void attention(Engine *e, int thread, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    int q_rows = m->heads * m->head_dim, kv_rows = m->kv_heads * m->head_dim, width = q_rows + 2 * kv_rows;
    normalize_input(e, thread, layer->attention_norm, &layer->weight[Q]);
    project(e, thread, l, Q, e->qkv, width);
    project(e, thread, l, K, e->qkv + q_rows, width);
    project(e, thread, l, V, e->qkv + q_rows + kv_rows, width);
    barrier(e->pool);
    for (int unit = thread; unit < e->rows * m->kv_heads; unit += e->pool->threads) {
        int r = unit / m->kv_heads;
        write_cache(e, layer, l, r, unit % m->kv_heads, e->qkv + (size_t)r * width, e->worker[thread].queries);
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
    normalize_input(e, thread, layer->mlp_norm, &layer->weight[GATE]);
    float *up = e->inner + (size_t)MAX_ROWS * m->inner;
    project(e, thread, l, GATE, e->inner, m->inner);
    project(e, thread, l, UP, up, m->inner);
    int first, last;
    split_work(e->pool, thread, m->inner, BLOCK, &first, &last);
    for (int r = 0; r < e->rows; r++) {
        float *restrict gate = e->inner + (size_t)r * m->inner, *restrict by = up + (size_t)r * m->inner;
#pragma omp simd
        for (int i = first; i < last; i++) gate[i] = silu_f32(gate[i]) * by[i];
    }
    barrier(e->pool);
    add_projected(e, thread, l, DOWN, e->inner);
    barrier(e->pool);
}

/* A row's embedding, and the RoPE angles of its position. */
static void embed(Engine *e, int r) {
    const Model *m = e->model;
    int half = m->head_dim / 2;
    float *x = e->x + (size_t)r * m->hidden, *angles = e->angles + (size_t)r * m->head_dim;
    size_t at = (size_t)e->row[r].token * m->hidden;
    for (int i = 0; i < m->hidden; i++)
        x[i] = m->format == BF16 ? bf16_to_f32(((const uint16_t *)m->embedding)[at + i]) : ((const float *)m->embedding)[at + i];
    for (int i = 0; i < half; i++) {
        float angle = (float)e->row[r].position * m->inverse_frequencies[i];
        angles[i] = cosf(angle) * m->rope_scale;
        angles[half + i] = sinf(angle) * m->rope_scale;
    }
}

/* The logits of the rows that want them. */
static void compute_logits(Engine *e, int thread) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int first, last, n = m->hidden;
    for (int r = 0, at = 0; r < e->rows; r++)
        if (e->row[r].scored) rms_norm(FP32, e->x + (size_t)r * n, m->final_norm, m->eps, n, w->normed + (size_t)at++ * n);
    quantize_input(e, w, w->normed, e->scored, &m->head);
    split_work(e->pool, thread, m->vocab, BLOCK, &first, &last);
    product(&m->head, first, last, &w->vectors, e->logits, m->vocab);
}

/* One thread's part of a step. */
static void run(void *context, int thread) {
    Engine *e = context;
    Worker *w = &e->worker[thread];
    int most = 0;
    for (int r = 0; r < e->rows; r++) most = e->row[r].position >= most ? e->row[r].position + 1 : most;
    if (most > w->max_scores) {
        float *grown = realloc(w->scores, sizeof(float) * QUERY_BATCH * (size_t)(most + SPARE_SCORES));
        if (grown)
            w->scores = grown, w->max_scores = most + SPARE_SCORES;
        else
            atomic_store(&e->failed, 1);
    }
    for (int r = thread; r < e->rows; r += e->pool->threads) embed(e, r);
    barrier(e->pool);
    if (atomic_load(&e->failed)) return;
    for (int l = 0; l < e->model->layers; l++) attention(e, thread, l), mlp(e, thread, l);
    compute_logits(e, thread);
}

/* --- what Python calls -------------------------------------------------------------------------------------------------- */

/* What Python mirrors, with the last field of each. */
const StructLayout *smolora_structs(void) {
    static const StructLayout layouts[] = {
        LAYOUT_OF(Matrix, cols), LAYOUT_OF(Layer, k_norm),   LAYOUT_OF(Model, layer),
        LAYOUT_OF(Lora, scale),  LAYOUT_OF(Sequence, every), {NULL, 0, 0},
    };
    return layouts;
}

/* Starts the threads for all other calls; NULL if the system refuses them. */
Pool *smolora_pool_open(int threads) { return pool_open(threads); }

void smolora_pool_close(Pool *pool) { pool_close(pool); }

void smolora_close(Engine *e) {
    if (!e) return;
    for (int i = 0; i < e->workers; i++) {
        Worker *w = &e->worker[i];
        free(w->normed), free(w->part), free(w->scores), free(w->queries), free(w->weighted), free(w->rounded);
        free(w->vectors.rounded), free(w->vectors.high), free(w->vectors.low);
        free(w->vectors.scale), free(w->vectors.sum), free(w->vectors.offset), free(w->panel);
    }
    free(e->x), free(e->angles), free(e->qkv), free(e->attended), free(e->inner), free(e);
}

/* Zeros, aligned to a line of the cache. */
static void *alloc_lines(size_t count, size_t size) {
    size_t bytes = (count * size + 63) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

static int worker_open(Worker *w, const Model *m) {
    int q_rows = m->heads * m->head_dim, widest = m->inner > m->hidden ? m->inner : m->hidden;
    widest = widest > q_rows ? widest : q_rows;
    size_t groups = (size_t)MAX_ROWS * (widest / GROUP + 1);
    w->vectors.rounded = alloc_lines(groups * GROUP, sizeof(uint16_t));
    w->normed = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->part = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->queries = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(float));
    w->weighted = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(float));
    w->rounded = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(uint16_t));
    w->vectors.high = alloc_lines(groups, GROUP);
    w->vectors.low = alloc_lines(groups, GROUP);
    w->vectors.scale = alloc_lines(groups, sizeof(float));
    w->vectors.sum = alloc_lines(groups, sizeof(float));
    w->vectors.offset = alloc_lines(groups, sizeof(int32_t));
    w->panel = alloc_panel(widest);
    const Vectors *v = &w->vectors;
    int vectors = v->rounded && v->high && v->low && v->scale && v->sum && v->offset;
    return vectors && w->normed && w->part && w->queries && w->weighted && w->rounded && w->panel;
}

/* `model` and `pool` must outlive the engine; NULL if memory ran out. */
Engine *smolora_open(const Model *m, Pool *pool) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m, e->pool = pool, e->workers = pool->threads;
    int q_rows = m->heads * m->head_dim;
    e->x = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    e->angles = alloc_lines((size_t)MAX_ROWS * m->head_dim, sizeof(float));
    e->qkv = alloc_lines((size_t)MAX_ROWS * (q_rows + 2 * m->kv_heads * m->head_dim), sizeof(float));
    e->attended = alloc_lines((size_t)MAX_ROWS * q_rows, sizeof(float));
    e->inner = alloc_lines((size_t)MAX_ROWS * 2 * m->inner, sizeof(float));
    int whole = e->x && e->angles && e->qkv && e->attended && e->inner;
    for (int i = 0; whole && i < pool->threads; i++) whole = worker_open(&e->worker[i], m);
    if (whole) return e;
    smolora_close(e);
    return NULL;
}

/* Computes the sequences' tokens, at most MAX_ROWS: writes their keys and values into the KV caches, and the logits that are
 * wanted one row of `vocab` after the other. 0, or 1 if there are too many tokens or memory ran out. */
int smolora_step(Engine *e, const Sequence *sequences, int count, float *logits) {
    int64_t tokens = 0;
    for (int s = 0; s < count; s++) tokens += sequences[s].count;
    if (tokens > MAX_ROWS) return 1;
    e->sequences = sequences, e->logits = logits, e->rows = e->scored = 0, e->single = count == 1;
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

/* From this number of tokens on, a step of one sequence alone multiplies panels, and each token costs much less; 0: never. */
int smolora_min_prefill_tokens(int format) { return min_panel_vectors(format); }

size_t smolora_packed_bytes(int format, int rows, int cols) { return packed_bytes(format, rows, cols); }

typedef struct {
    Pool *pool;
    const Matrix *from;
    int format;
    uint8_t *to;
} Packing;

static void pack_part(void *context, int thread) {
    Packing *p = context;
    int first, last;
    split_work(p->pool, thread, (p->from->rows + BLOCK - 1) / BLOCK, 1, &first, &last);
    pack(p->from, p->format, first, last, p->to);
}

/* Packs `from` (FP32 or BF16) as INT8 or INT4 into `to`. */
void smolora_pack(Pool *pool, const Matrix *from, int format, uint8_t *to) {
    Packing packing = {pool, from, format, to};
    pool_run(pool, pack_part, &packing);
}

typedef struct {
    Pool *pool;
    const Matrix *weight;
    Vectors vectors;
    float *out;
} Multiplication;

static void multiply_part(void *context, int thread) {
    Multiplication *m = context;
    int first, last;
    Vectors v = m->vectors;
    split_work(m->pool, thread, m->weight->rows, BLOCK, &first, &last);
    /* If this is NULL, many vectors are multiplied as few are. */
    v.panel = v.count >= MIN_PANEL_VECTORS ? alloc_panel(m->weight->cols) : NULL;
    product(m->weight, first, last, &v, m->out, m->weight->rows);
    free(v.panel);
}

/* out (count x rows) = x (count x cols) times the weight's transpose. `scratch`: 2 bytes a number of x, in whole lines, and 12
 * a group. */
void smolora_multiply(Pool *pool, const Matrix *weight, const float *x, int count, float *out, char *scratch) {
    size_t numbers = (size_t)count * weight->cols, groups = numbers / GROUP;
    Multiplication m = {pool, weight, {.x = x, .stride = weight->cols, .count = count}, out};
    m.vectors.rounded = (uint16_t *)scratch;
    m.vectors.high = (int8_t *)scratch; /* no format needs both bf16 and integers */
    m.vectors.low = m.vectors.high + numbers;
    m.vectors.scale = (float *)(scratch + (2 * numbers + 63) / 64 * 64);
    m.vectors.sum = m.vectors.scale + groups;
    m.vectors.offset = (int32_t *)(m.vectors.sum + groups);
    quantize_vectors(&m.vectors, weight);
    pool_run(pool, multiply_part, &m);
}
