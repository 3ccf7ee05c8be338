/* Decoding: one step of a described decoder (description.py), which computes some tokens of each of several sequences on a few
 * threads.
 *
 * Activations and sums are fp32. Torch's own forward pass fills the same KV caches.
 *
 * Each thread computes a range of every product's rows. What is small (norms, the inner products of a LoRA) every thread computes
 * for itself, so that six barriers a layer are enough for most models. docs/native.md draws the layouts and explains the words.
 */
#define _GNU_SOURCE
#include "decode_attention.h"
#include "decode_mlp.h"
#include "pack_matrix.h"
#include "struct_layout.h"

/* --- one layer, one step ------------------------------------------------------------------------------------------------ */

/* This thread's part of queries, keys and values. */
static const float *attention_in(Engine *e, int thread, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    const float *x = normed_input(e, thread, &layer->attention_norm);
    float *out = e->qkv;
    quantize_input(e, &e->worker[thread], x, e->rows, &layer->weight[Q]);
    for (int projection = Q; projection <= V; projection++) {
        project(e, thread, l, projection, out, m->qkv_width);
        out += layer->weight[projection].rows;
    }
    return x;
}

/* Attention, once queries, keys and values are there. */
static void attention(Engine *e, int thread, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    Worker *w = &e->worker[thread];
    barrier(e->pool);
    if (m->joint_norms) {
        for (int r = thread; r < e->rows; r += e->pool->threads) normalize_heads(e, layer, r, w->heads);
        barrier(e->pool);
    }
    for (int unit = thread; unit < e->rows * m->kv_heads; unit += e->pool->threads)
        write_cache(e, layer, l, unit / m->kv_heads, unit % m->kv_heads, w->queries);
    barrier(e->pool);
    attend_all(e, thread, l);
    barrier(e->pool);
    add_projected(e, thread, l, O, e->attended, &layer->attention_out_norm);
}

static void mlp_out(Engine *e, int thread, int l) {
    const Layer *layer = &e->model->layer[l];
    if (!layer->expert) {
        add_projected(e, thread, l, DOWN, e->inner, &layer->mlp_out_norm);
        return;
    }
    experts_out(e, thread, l, branch_of(e, thread, &layer->mlp_out_norm));
    add_branch(e, thread, &layer->mlp_out_norm);
}

static void mlp(Engine *e, int thread, int l, const float *x) {
    if (e->model->layer[l].expert) {
        route(e, thread, l, x);
        barrier(e->pool);
        experts_in(e, thread, l, x);
    } else {
        mlp_in(e, thread, l, x);
    }
}

/* One after the other: x += attention(norm(x)), x += mlp(norm(x)). */
static void layer_in_sequence(Engine *e, int thread, int l) {
    attention_in(e, thread, l);
    attention(e, thread, l);
    barrier(e->pool);
    mlp(e, thread, l, normed_input(e, thread, &e->model->layer[l].mlp_norm));
    barrier(e->pool);
    mlp_out(e, thread, l);
    barrier(e->pool);
}

/* Both from the same x: x += attention(norm(x)) + mlp(norm(x)). */
static void layer_in_parallel(Engine *e, int thread, int l) {
    const Layer *layer = &e->model->layer[l];
    const float *x = attention_in(e, thread, l);
    int shared = layer->mlp_norm.weight == layer->attention_norm.weight;
    mlp(e, thread, l, shared ? x : normed_input(e, thread, &layer->mlp_norm));
    attention(e, thread, l);
    mlp_out(e, thread, l);
    barrier(e->pool);
}

/* A row's embedding, and the RoPE angles of its position; `scratch` has room for it. */
static void embed(Engine *e, int r, float *scratch) {
    const Model *m = e->model;
    int n = m->hidden, position = e->row[r].position;
    float *x = e->x + (size_t)r * n;
    size_t at = (size_t)e->row[r].token * n, place = (size_t)(m->first_position + position) * n;
    for (int i = 0; i < n; i++) x[i] = m->embedding_scale * load1(m->format, m->embedding, at + i);
    if (m->positions)
        for (int i = 0; i < n; i++) x[i] += load1(m->format, m->positions, place + i);
    if (m->embedding_norm.weight) apply_norm_in_place(&m->embedding_norm, x, 0, scratch);
    for (int k = 0; k < m->ropes; k++) {
        const Rope *rope = &m->rope[e->sequences[e->row[r].sequence].first_rope + k];
        float *angles = angles_of(e, r, k);
        for (int i = 0; i < rope->pairs; i++) {
            float angle = (float)position * rope->inverse_frequencies[i];
            angles[i] = cosf(angle) * rope->scale;
            angles[rope->pairs + i] = sinf(angle) * rope->scale;
        }
    }
}

/* The logits of the rows that want them. */
static void compute_logits(Engine *e, int thread) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int first, last, n = m->hidden;
    for (int r = 0, at = 0; r < e->rows; r++) {
        if (!e->row[r].scored) continue;
        float *to = w->normed + (size_t)at++ * n;
        if (m->final_norm.weight)
            apply_norm(&m->final_norm, e->x + (size_t)r * n, 0, to);
        else
            memcpy(to, e->x + (size_t)r * n, sizeof(float) * (size_t)n);
    }
    quantize_input(e, w, w->normed, e->scored, &m->head);
    split_work(e->pool, thread, m->vocab, BLOCK, &first, &last);
    product(&m->head, first, last, &w->vectors, e->logits, m->vocab);
    for (int s = 0; s < e->scored; s++) {
        float *logits = e->logits + (size_t)s * m->vocab;
        for (int i = first; m->head_bias && i < last; i++) logits[i] += m->head_bias[i];
        scale_and_cap(logits + first, last - first, m->logit_scale, m->logit_cap);
    }
}

/* One thread's part of a step. */
static void run(void *context, int thread) {
    Engine *e = context;
    Worker *w = &e->worker[thread];
    for (int r = thread; r < e->rows; r += e->pool->threads) embed(e, r, w->normed);
    barrier(e->pool);
    for (int l = 0; l < e->model->layers; l++)
        if (e->model->parallel)
            layer_in_parallel(e, thread, l);
        else
            layer_in_sequence(e, thread, l);
    compute_logits(e, thread);
}

/* --- what Python calls -------------------------------------------------------------------------------------------------- */

/* What Python mirrors, with the last field of each. */
const StructLayout *smolora_structs(void) {
    static const StructLayout layouts[] = {
        LAYOUT_OF(Matrix, cols), LAYOUT_OF(ModelNorm, eps),       LAYOUT_OF(Rope, scale),
        LAYOUT_OF(Expert, down), LAYOUT_OF(Layer, window),        LAYOUT_OF(Model, layer),
        LAYOUT_OF(Lora, scale),  LAYOUT_OF(Sequence, first_rope), {NULL, 0, 0},
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
        free(w->normed), free(w->part), free(w->scores), free(w->queries), free(w->weighted), free(w->summed);
        free(w->rounded), free(w->keys), free(w->values), free(w->heads), free(w->gathered), free(w->chosen), free(w->share);
        free(w->vectors.rounded), free(w->vectors.high), free(w->vectors.low);
        free(w->vectors.scale), free(w->vectors.sum), free(w->vectors.offset), free(w->panel);
    }
    free(e->x), free(e->angles), free(e->qkv), free(e->attended), free(e->inner);
    free(e->branch), free(e->routed), free(e->parts), free(e);
}

/* Zeros, aligned to a line of the cache. */
static void *alloc_lines(size_t count, size_t size) {
    size_t bytes = (count * size + 64) / 64 * 64; /* at least one line: some parts of a model are absent */
    void *memory = aligned_alloc(64, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

static int worker_open(Worker *w, const Model *m) {
    int q_rows = m->heads * m->head_dim, widest = m->inner > m->hidden ? m->inner : m->hidden;
    widest = widest > q_rows ? widest : q_rows;
    size_t groups = (size_t)MAX_ROWS * (widest / GROUP + 1);
    w->vectors.rounded = alloc_lines(groups * GROUP, sizeof(uint16_t));
    w->heads = alloc_lines((size_t)q_rows, sizeof(float));
    w->gathered = alloc_lines((size_t)(m->experts ? MAX_ROWS : 0) * m->hidden, sizeof(float));
    w->chosen = alloc_lines((size_t)MAX_ROWS * m->active_experts, sizeof(int));
    w->share = alloc_lines((size_t)MAX_ROWS * m->active_experts, sizeof(float));
    w->normed = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->part = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    w->scores = alloc_lines((size_t)QUERY_BATCH * KEY_BLOCK, sizeof(float));
    w->queries = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(float));
    w->weighted = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(float));
    w->summed = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(float));
    size_t unpacked = m->cache_format == INT8 ? (size_t)KEY_BLOCK * (size_t)m->head_dim : 0;
    w->keys = alloc_lines(unpacked, sizeof(float));
    w->values = alloc_lines(unpacked, sizeof(float));
    w->rounded = alloc_lines((size_t)QUERY_BATCH * m->head_dim, sizeof(uint16_t));
    w->vectors.high = alloc_lines(groups, GROUP);
    w->vectors.low = alloc_lines(groups, GROUP);
    w->vectors.scale = alloc_lines(groups, sizeof(float));
    w->vectors.sum = alloc_lines(groups, sizeof(float));
    w->vectors.offset = alloc_lines(groups, sizeof(int32_t));
    w->panel = alloc_panel(widest > KEY_BLOCK ? widest : KEY_BLOCK);
    const Vectors *v = &w->vectors;
    int vectors = v->rounded && v->high && v->low && v->scale && v->sum && v->offset;
    int attention = w->scores && w->queries && w->weighted && w->summed && w->rounded && w->keys && w->values && w->heads;
    return vectors && attention && w->gathered && w->chosen && w->share && w->normed && w->part && w->panel;
}

/* `model` and `pool` must outlive the engine; NULL if memory ran out. */
Engine *smolora_open(const Model *m, Pool *pool) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m, e->pool = pool, e->workers = pool->threads;
    int q_rows = m->heads * m->head_dim;
    e->x = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    e->angles = alloc_lines((size_t)MAX_ROWS * m->ropes * m->head_dim, sizeof(float));
    e->qkv = alloc_lines((size_t)MAX_ROWS * m->qkv_width, sizeof(float));
    e->attended = alloc_lines((size_t)MAX_ROWS * q_rows, sizeof(float));
    /* The rows of experts lie beside one another, once for each expert that a token takes. */
    int copies = m->active_experts > 1 ? m->active_experts : 1;
    e->inner = alloc_lines((size_t)MAX_ROWS * 2 * copies * m->inner, sizeof(float));
    e->branch = alloc_lines((size_t)MAX_ROWS * m->hidden, sizeof(float));
    e->routed = alloc_lines((size_t)MAX_ROWS * m->experts, sizeof(float));
    int whole = e->x && e->angles && e->qkv && e->attended && e->inner && e->branch && e->routed;
    for (int i = 0; whole && i < pool->threads; i++) whole = worker_open(&e->worker[i], m);
    if (whole) return e;
    smolora_close(e);
    return NULL;
}

/* Decides whether the threads share blocks of keys, and makes room for what they give. 1 if memory ran out. */
static int share_blocks(Engine *e) {
    const Model *m = e->model;
    int blocks = 0;
    for (int r = 0; r < e->rows; r++) {
        int own = e->row[r].position / KEY_BLOCK + 1;
        blocks = own > blocks ? own : blocks;
    }
    size_t size = (size_t)e->rows * m->heads * blocks * (m->head_dim + 2);
    e->blocks = blocks > 1 && has_few_queries(e) && size <= MOST_PARTS ? blocks : 0;
    if (!e->blocks || size <= e->parts_size) return 0;
    size += size / 4; /* a sequence grows */
    float *grown = realloc(e->parts, sizeof(float) * size);
    if (!grown) return 1;
    e->parts = grown, e->parts_size = size;
    return 0;
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
    if (share_blocks(e)) return 1;
    pool_run(e->pool, run, e);
    return 0;
}

/* From this number of tokens on, a step of one sequence alone multiplies panels, and each token costs much less; 0: never. */
int smolora_min_prefill_tokens(int format) { return min_panel_vectors(format); }

size_t smolora_packed_bytes(int format, int rows, int cols) { return packed_bytes(format, rows, cols); }

typedef struct {
    Pool *pool;
    const Matrix *from;
    int format;
    uint8_t *to;
    float *rows; /* one for each thread */
} Packing;

static void pack_part(void *context, int thread) {
    Packing *p = context;
    int first, last;
    split_work(p->pool, thread, (p->from->rows + BLOCK - 1) / BLOCK, 1, &first, &last);
    pack(p->from, p->format, first, last, p->to, p->rows + (size_t)thread * (size_t)p->from->cols);
}

/* Packs `from` (FP32 or BF16) as INT8, INT5 or INT4 into `to`. `rows`: room for a row in FP32 for each thread. */
void smolora_pack(Pool *pool, const Matrix *from, int format, uint8_t *to, float *rows) {
    Packing packing = {pool, from, format, to, rows};
    pool_run(pool, pack_part, &packing);
}

/* How much the first block of `from` (FP32 or BF16) loses in INT4. `row`: room for one in FP32, `block`: for a packed block. */
float smolora_int4_error(const Matrix *from, float *row, uint8_t *block) { return int4_error(from, row, block); }

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
