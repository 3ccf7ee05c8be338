/* The attention of a step: keys and values go into the KV caches, and queries read them. */
#ifndef SMOLORA_DECODE_ATTENTION_H
#define SMOLORA_DECODE_ATTENTION_H

#include "activations.h"
#include "attention_product.h"
#include "cache_row.h"
#include "decode_linear.h"

/* Rotates pairs of a head's numbers, in place; `angles`: the pairs' cosines, then their sines. */
static void rope(const Rope *rope, const float *angles, float *x) {
    int pairs = rope->pairs;
    if (rope->interleaved) {
        for (int i = 0; i < pairs; i++) {
            float c = angles[i], s = angles[pairs + i], even = x[2 * i], odd = x[2 * i + 1];
            x[2 * i] = even * c - odd * s;
            x[2 * i + 1] = odd * c + even * s;
        }
        return;
    }
    for (int i = 0; i < pairs; i++) {
        float c = angles[i], s = angles[pairs + i], low = x[i], high = x[i + pairs];
        x[i] = low * c - high * s;
        x[i + pairs] = high * c + low * s;
    }
}

/* The same for a head of a row, if its layer rotates. */
static void rope_of_row(const Engine *e, const Layer *layer, int r, float *x) {
    const Model *m = e->model;
    if (layer->rope < 0) return;
    int first = e->sequences[e->row[r].sequence].first_rope;
    rope(&m->rope[first + layer->rope], angles_of(e, r, layer->rope), x);
}

/* Where a key head's queries, its key, or its value lie in a row. */
static inline float *queries_of(const Engine *e, int r, int kv) {
    return e->qkv + (size_t)r * e->model->qkv_width + (size_t)kv * e->model->group_step;
}
static inline float *key_of(const Engine *e, int r, int kv) {
    return e->qkv + (size_t)r * e->model->qkv_width + e->model->key + (size_t)kv * e->model->key_step;
}
static inline float *value_of(const Engine *e, int r, int kv) {
    return e->qkv + (size_t)r * e->model->qkv_width + e->model->value + (size_t)kv * e->model->value_step;
}

/* Norms over all heads of a row together; the heads lie side by side then. */
static void normalize_heads(const Engine *e, const Layer *layer, int r, float *scratch) {
    const ModelNorm *norms[] = {&layer->query_norm, &layer->key_norm};
    float *heads[] = {queries_of(e, r, 0), key_of(e, r, 0)};
    for (int i = 0; i < 2; i++) {
        if (norms[i]->weight) apply_norm_in_place(norms[i], heads[i], 0, scratch);
    }
}

/* Writes one row's key and value of one key-value head into the KV cache; `scratch` has room for head_dim numbers. */
static void write_cache(const Engine *e, const Layer *layer, int l, int r, int kv, float *scratch) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[r].sequence];
    int d = m->head_dim;
    float *k = key_of(e, r, kv);
    size_t at = ((size_t)kv * s->capacity + e->row[r].position) * cache_row_bytes(m->cache_format, d);
    if (layer->key_norm.weight && !m->joint_norms) apply_norm_in_place(&layer->key_norm, k, kv, scratch);
    rope_of_row(e, layer, r, k);
    store_cache_row(m->cache_format, (char *)s->keys[l] + at, k, d);
    store_cache_row(m->cache_format, (char *)s->values[l] + at, value_of(e, r, kv), d);
}

/* Softmax over block after block of scores (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018): the largest
 * score, and the sum of e^(score - the largest). */
typedef struct {
    float most, sum;
} Softmax;

static const Softmax NO_SCORES = {-INFINITY, 0};

/* Scores become e^(score - the largest); there may be none. */
static Softmax softmax(float *scores, int n) {
    float most = NO_SCORES.most, sum = NO_SCORES.sum;
#pragma omp simd reduction(max : most)
    for (int t = 0; t < n; t++) most = scores[t] > most ? scores[t] : most;
    /* If all of a block are -infinity, they weigh 0, as they do beside larger ones: -infinity minus itself is NaN. */
    float base = most == -INFINITY ? 0 : most;
#pragma omp simd reduction(+ : sum)
    for (int t = 0; t < n; t++) sum += scores[t] = exp_f32(scores[t] - base);
    return (Softmax){most, sum};
}

/* Adds a block's softmax, and the d sums of its values that the weights gave, to those of the blocks before it. */
static void add_block(Softmax *all, float *sums, Softmax block, const float *values, int d) {
    if (block.sum == 0) return;
    float most = block.most > all->most ? block.most : all->most;
    float before = exp_f32(all->most - most), now = exp_f32(block.most - most);
    for (int k = 0; k < d; k++) sums[k] = sums[k] * before + values[k] * now;
    *all = (Softmax){most, all->sum * before + block.sum * now};
}

/* A query as it is multiplied with keys. */
static void prepare_query(const Engine *e, const Layer *layer, int r, int head, float *out) {
    const Model *m = e->model;
    int group = m->heads / m->kv_heads, d = m->head_dim;
    const float *query = queries_of(e, r, head / group) + (size_t)(head % group) * d;
    if (layer->query_norm.weight && !m->joint_norms)
        apply_norm(&layer->query_norm, query, head, out);
    else
        memcpy(out, query, sizeof(float) * d);
    rope_of_row(e, layer, r, out);
    for (int k = 0; k < d; k++) out[k] *= m->attention_scale;
}

/* The first position that a row sees. */
static inline int first_seen(const Engine *e, const Layer *layer, int r) {
    int first = e->row[r].position - layer->window + 1;
    return layer->window && first > 0 ? first : 0;
}

/* ALiBi: keys gain by their position. Some models round what they gain to bf16. */
static void add_alibi(const Model *m, int head, int begin, int first, int seen, float *scores) {
    for (int t = first; t < seen; t++) {
        float gain = m->slopes[head] * (float)(begin + t);
        scores[t] += m->slope_scale * (m->rounded_slopes ? bf16_to_f32(f32_to_bf16(gain)) : gain);
    }
}

/* Which of a block's n positions, from `begin` on, a row sees: first..end-1 of them. */
typedef struct {
    int first, end;
} Seen;

static Seen seen_of(const Engine *e, const Layer *layer, int r, int begin, int n) {
    int first = first_seen(e, layer, r) - begin, end = e->row[r].position + 1 - begin;
    first = first < 0 ? 0 : first > n ? n : first;
    return (Seen){first, end < first ? first : end > n ? n : end};
}

/* Turns a row's scores of a block into softmax weights, not divided by their sum; 0 for what it does not see. */
static Softmax weigh(const Model *m, Seen seen, int head, int begin, int n, float *scores) {
    int count = seen.end - seen.first;
    scale_and_cap(scores + seen.first, count, 1.0f, m->score_cap);
    if (m->slopes) add_alibi(m, head, begin, seen.first, seen.end, scores);
    memset(scores, 0, sizeof(float) * (size_t)seen.first);
    memset(scores + seen.end, 0, sizeof(float) * (size_t)(n - seen.end));
    return softmax(scores + seen.first, count);
}

static int all_finite(const float *x, int n) {
    float zeros = 0;
    for (int i = 0; i < n; i++) zeros += x[i] * 0;
    return zeros == 0;
}

/* Queries of one sequence to one key-value head, of ascending rows. */
typedef struct {
    int kv, count, row[QUERY_BATCH], head[QUERY_BATCH];
} Batch;

/* Queries from..end-1 of the rows from `first` on. */
static Batch batch_of(const Model *m, int first, int kv, int from, int end) {
    int group = m->heads / m->kv_heads;
    Batch batch = {.kv = kv, .count = end - from};
    for (int i = 0; i < batch.count; i++)
        batch.row[i] = first + (from + i) / group, batch.head[i] = kv * group + (from + i) % group;
    return batch;
}

/* What a batch sees: the first row sees the first position of all, and the last row the last. */
static int batch_begin(const Engine *e, const Layer *layer, const Batch *batch) { return first_seen(e, layer, batch->row[0]); }
static int batch_end(const Engine *e, const Batch *batch) { return e->row[batch->row[batch->count - 1]].position + 1; }

/* Blocks begin at fixed positions, so that a query's sums do not depend on the other queries of its batch. */
static int block_end(int begin, int last) {
    int end = begin / KEY_BLOCK * KEY_BLOCK + KEY_BLOCK;
    return end < last ? end : last;
}

static Vectors batch_queries(const Engine *e, const Layer *layer, const Batch *batch, Worker *w) {
    const Model *m = e->model;
    int d = m->head_dim;
    for (int i = 0; i < batch->count; i++)
        prepare_query(e, layer, batch->row[i], batch->head[i], w->queries + (size_t)i * d);
    Vectors queries = {.x = w->queries, .stride = d, .count = batch->count, .rounded = w->rounded, .panel = w->panel};
    if (m->cache_format == BF16) round_bf16(&queries, d);
    return queries;
}

/* 0 times a value that is not finite is NaN: if a query does not see such a value, its sums are made anew, without what it does
 * not see. */
static void leave_out_unseen(int format, int d, Seen seen, int n, const char *values, int query, Worker *w) {
    int count = seen.end - seen.first;
    float *sums = w->weighted + (size_t)query * d;
    if (count == n || !count || all_finite(sums, d)) return;
    const char *from = values + (size_t)seen.first * d * number_bytes(format);
    const float *weights = w->scores + (size_t)query * KEY_BLOCK + seen.first;
    sum_values(format, from, d, count, weights, KEY_BLOCK, 1, w->panel, sums);
}

/* A block of positions: each query's softmax, and its weighted sum of the values in `w->weighted`. */
static void attend_block(const Engine *e, int l, const Batch *batch, const Vectors *queries, int begin, int end, Softmax *found,
                         Worker *w) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[batch->row[0]].sequence];
    int d = m->head_dim, n = end - begin, format = m->cache_format;
    size_t at = ((size_t)batch->kv * s->capacity + begin) * cache_row_bytes(format, d);
    const char *keys = (const char *)s->keys[l] + at, *values = (const char *)s->values[l] + at;
    if (format == INT8) {
        read_cache_rows(keys, d, n, w->keys), read_cache_rows(values, d, n, w->values);
        keys = (const char *)w->keys, values = (const char *)w->values, format = FP32;
    }
    Seen seen[QUERY_BATCH];
    multiply_keys(format, keys, d, n, queries, w->scores, KEY_BLOCK);
    for (int i = 0; i < batch->count; i++) {
        seen[i] = seen_of(e, &m->layer[l], batch->row[i], begin, n);
        found[i] = weigh(m, seen[i], batch->head[i], begin, n, w->scores + (size_t)i * KEY_BLOCK);
    }
    sum_values(format, values, d, n, w->scores, KEY_BLOCK, batch->count, w->panel, w->weighted);
    for (int i = 0; i < batch->count; i++) leave_out_unseen(format, d, seen[i], n, values, i, w);
}

static void store_attended(const Engine *e, int r, int head, const float *sums, Softmax all) {
    const Model *m = e->model;
    float *to = e->attended + ((size_t)r * m->heads + (size_t)head) * m->head_dim;
    for (int k = 0; k < m->head_dim; k++) to[k] = sums[k] / all.sum;
}

/* A batch's attention to all that it sees. */
static void attend(const Engine *e, int l, const Batch *batch, Worker *w) {
    const Layer *layer = &e->model->layer[l];
    int d = e->model->head_dim, last = batch_end(e, batch);
    Vectors queries = batch_queries(e, layer, batch, w);
    Softmax all[QUERY_BATCH], found[QUERY_BATCH];
    for (int i = 0; i < batch->count; i++) all[i] = NO_SCORES;
    memset(w->summed, 0, sizeof(float) * (size_t)batch->count * d);
    for (int begin = batch_begin(e, layer, batch), end; begin < last; begin = end) {
        end = block_end(begin, last);
        attend_block(e, l, batch, &queries, begin, end, found, w);
        for (int i = 0; i < batch->count; i++)
            add_block(&all[i], w->summed + (size_t)i * d, found[i], w->weighted + (size_t)i * d, d);
    }
    for (int i = 0; i < batch->count; i++) store_attended(e, batch->row[i], batch->head[i], w->summed + (size_t)i * d, all[i]);
}

/* Where the softmax of a block and its sums wait for those of the other blocks. */
static float *part_of(const Engine *e, int r, int head, int block) {
    const Model *m = e->model;
    return e->parts + (((size_t)r * m->heads + (size_t)head) * e->blocks + block) * (m->head_dim + 2);
}

/* A batch's attention, if the threads share its blocks: this thread's, which are added later. */
static void attend_some_blocks(const Engine *e, int l, const Batch *batch, int thread, int *unit, Worker *w) {
    const Layer *layer = &e->model->layer[l];
    int d = e->model->head_dim, last = batch_end(e, batch), is_ready = 0;
    Vectors queries = {0};
    Softmax found[QUERY_BATCH];
    for (int begin = batch_begin(e, layer, batch), end; begin < last; begin = end) {
        end = block_end(begin, last);
        if ((*unit)++ % e->pool->threads != thread) continue;
        if (!is_ready) queries = batch_queries(e, layer, batch, w), is_ready = 1;
        attend_block(e, l, batch, &queries, begin, end, found, w);
        for (int i = 0; i < batch->count; i++) {
            float *part = part_of(e, batch->row[i], batch->head[i], begin / KEY_BLOCK);
            part[0] = found[i].most, part[1] = found[i].sum;
            memcpy(part + 2, w->weighted + (size_t)i * d, sizeof(float) * (size_t)d);
        }
    }
}

/* Adds the blocks of this thread's queries. */
static void add_blocks(const Engine *e, int thread, int l, Worker *w) {
    const Model *m = e->model;
    for (int unit = thread; unit < e->rows * m->heads; unit += e->pool->threads) {
        int r = unit / m->heads, head = unit % m->heads, last = e->row[r].position / KEY_BLOCK;
        Softmax all = NO_SCORES;
        memset(w->summed, 0, sizeof(float) * (size_t)m->head_dim);
        for (int block = first_seen(e, &m->layer[l], r) / KEY_BLOCK; block <= last; block++) {
            const float *part = part_of(e, r, head, block);
            add_block(&all, w->summed, (Softmax){part[0], part[1]}, part + 2, m->head_dim);
        }
        store_attended(e, r, head, w->summed, all);
    }
}

/* This thread's part of all queries. Threads share batches of them; or blocks of keys, if there are few queries and many keys; or
 * smaller batches, if there are few of both. The bits are the same. */
static void attend_all(Engine *e, int thread, int l) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int group = m->heads / m->kv_heads, unit = 0, most = QUERY_BATCH;
    if (has_few_queries(e) && !e->blocks) { /* as large as leaves each thread four batches: queries of a batch share what is read */
        int share = e->rows * m->heads / (4 * e->pool->threads);
        most = share < 1 ? 1 : share < QUERY_BATCH ? share : QUERY_BATCH;
    }
    for (int first = 0, end; first < e->rows; first = end) {
        int sequence = e->row[first].sequence;
        for (end = first; end < e->rows && e->row[end].sequence == sequence;) end++;
        int queries = (end - first) * group, batches = (queries + most - 1) / most;
        for (int kv = 0; kv < m->kv_heads; kv++)
            for (int i = 0; i < batches; i++) {
                if (!e->blocks && unit++ % e->pool->threads != thread) continue;
                Batch batch = batch_of(m, first, kv, queries * i / batches, queries * (i + 1) / batches);
                if (e->blocks) attend_some_blocks(e, l, &batch, thread, &unit, w);
                else attend(e, l, &batch, w);
            }
    }
    if (!e->blocks) return;
    barrier(e->pool);
    add_blocks(e, thread, l, w);
}

#endif
