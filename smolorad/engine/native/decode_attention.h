/* The attention of a step: keys and values go into the KV caches, and queries read them. */
#ifndef SMOLORA_DECODE_ATTENTION_H
#define SMOLORA_DECODE_ATTENTION_H

#include "activations.h"
#include "decode_linear.h"
#include "weighted_sum.h"

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

static void store_cache(int format, void *cache, size_t at, const float *x, int n) {
    if (format == BF16)
        for (int i = 0; i < n; i++) ((uint16_t *)cache)[at + i] = f32_to_bf16(x[i]);
    else
        memcpy((float *)cache + at, x, sizeof(float) * n);
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
    size_t at = ((size_t)kv * s->capacity + e->row[r].position) * d;
    if (layer->key_norm.weight && !m->joint_norms) apply_norm_in_place(&layer->key_norm, k, kv, scratch);
    rope_of_row(e, layer, r, k);
    store_cache(m->format, s->keys[l], at, k, d);
    store_cache(m->format, s->values[l], at, value_of(e, r, kv), d);
}

/* Softmax without its division: scores = e^(scores - the largest). Returns their sum. */
static float softmax(float *scores, int n) {
    float most = scores[0], total = 0;
#pragma omp simd reduction(max : most)
    for (int t = 0; t < n; t++) most = scores[t] > most ? scores[t] : most;
#pragma omp simd reduction(+ : total)
    for (int t = 0; t < n; t++) total += scores[t] = exp_f32(scores[t] - most);
    return total;
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

/* Turns a row's scores of positions begin..begin+n-1 into softmax weights, not divided by their sum, which is returned. */
static float weigh(const Engine *e, const Layer *layer, int r, int head, int begin, int n, float *scores) {
    const Model *m = e->model;
    int first = first_seen(e, layer, r) - begin, seen = e->row[r].position + 1 - begin;
    scale_and_cap(scores + first, seen - first, 1.0f, m->score_cap);
    if (m->slopes) add_alibi(m, head, begin, first, seen, scores);
    float sum = softmax(scores + first, seen - first);
    memset(scores, 0, sizeof(float) * (size_t)first);
    memset(scores + seen, 0, sizeof(float) * (size_t)(n - seen));
    return sum;
}

/* Attention of some queries of one sequence to one key-value head: query i is head `heads[i]` of row `rows[i]`, rows ascending. */
static void attend(const Engine *e, const Layer *layer, int l, int kv, const int *rows, const int *heads, int count, Worker *w) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[rows[0]].sequence];
    int d = m->head_dim, stride = w->max_scores;
    /* The first row sees the first position of all, and the last row the last. */
    int begin = first_seen(e, layer, rows[0]), n = e->row[rows[count - 1]].position + 1 - begin;
    size_t base = ((size_t)kv * s->capacity + begin) * d;
    float *scores = w->scores, *q = w->queries, *out = w->weighted;
    for (int i = 0; i < count; i++) prepare_query(e, layer, rows[i], heads[i], q + (size_t)i * d);
    Vectors queries = {.x = q, .stride = d, .count = count, .rounded = w->rounded};
    if (m->format == BF16) {
        round_bf16(&queries, d);
        product_bf16((const uint16_t *)s->keys[l] + base, d, 0, n, &queries, scores, stride);
    } else {
        product_f32((const float *)s->keys[l] + base, d, 0, n, &queries, scores, stride);
    }
    float sums[QUERY_BATCH];
    for (int i = 0; i < count; i++) sums[i] = weigh(e, layer, rows[i], heads[i], begin, n, scores + (size_t)i * stride);
    if (m->format == BF16) weighted_sum_bf16((const uint16_t *)s->values[l] + base, d, scores, stride, n, count, out, d);
    else weighted_sum_f32((const float *)s->values[l] + base, d, scores, stride, n, count, out, d);
    for (int i = 0; i < count; i++) {
        float *to = e->attended + ((size_t)rows[i] * m->heads + (size_t)heads[i]) * d;
        for (int k = 0; k < d; k++) to[k] = out[(size_t)i * d + k] / sums[i];
    }
}

/* This thread's part of all queries: in batches, or one by one if they are few, so that the threads have equal parts. */
static void attend_all(Engine *e, int thread, int l) {
    const Model *m = e->model;
    int group = m->heads / m->kv_heads, unit = 0, rows[QUERY_BATCH], heads[QUERY_BATCH];
    int few = e->rows * m->kv_heads < 4 * e->pool->threads;
    for (int first = 0, end; first < e->rows; first = end) {
        int sequence = e->row[first].sequence;
        for (end = first; end < e->rows && e->row[end].sequence == sequence;) end++;
        int most = few ? 1 : QUERY_BATCH, queries = (end - first) * group;
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

#endif
