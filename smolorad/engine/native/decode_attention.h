/* The attention of a step: keys and values go into the KV caches, and queries read them. */
#ifndef SMOLORA_DECODE_ATTENTION_H
#define SMOLORA_DECODE_ATTENTION_H

#include "decode_state.h"
#include "functions.h"
#include "product.h"

/* Rotates pairs of numbers half a head apart, in place; `angles`: half cosines, then half sines. */
static void rope(const float *angles, int half, float *x) {
    for (int i = 0; i < half; i++) {
        float c = angles[i], s = angles[half + i], low = x[i], high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
    }
}

static void store_cache(int format, void *cache, size_t at, const float *x, int n) {
    if (format == BF16)
        for (int i = 0; i < n; i++) ((uint16_t *)cache)[at + i] = f32_to_bf16(x[i]);
    else
        memcpy((float *)cache + at, x, sizeof(float) * n);
}

/* Writes one row's key and value of one key-value head into the KV cache; `scratch` has room for head_dim numbers. */
static void write_cache(const Engine *e, const Layer *layer, int l, int r, int kv, float *qkv, float *scratch) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[r].sequence];
    int d = m->head_dim;
    float *k = qkv + (size_t)(m->heads + kv) * d, *v = qkv + (size_t)(m->heads + m->kv_heads + kv) * d;
    size_t at = ((size_t)kv * s->capacity + e->row[r].position) * d;
    if (layer->k_norm) memcpy(scratch, k, sizeof(float) * d), rms_norm(FP32, scratch, layer->k_norm, m->eps, d, k);
    rope(e->angles + (size_t)r * d, d / 2, k);
    store_cache(m->format, s->keys[l], at, k, d);
    store_cache(m->format, s->values[l], at, v, d);
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

/* out[s] (d numbers) = the sum of values[t] * weights[s][t] over t < n. */
#define DEFINE_WEIGHTED_SUM(NAME, TYPE, LOAD, WIDEN)                                                                    \
    INLINE void weighted_sum_tile_##NAME(const TYPE *values, int d, int i, int wide, const float *weights, int stride,  \
                                         int n, int count, float *out, int out_stride) {                                \
        f32x16 sums[4][4] = {{{0}}};                                                                                    \
        for (int t = 0; t < n; t++) {                                                                                   \
            const TYPE *value = values + (size_t)t * d + i;                                                             \
            for (int s = 0; s < count; s++)                                                                             \
                for (int k = 0; k < wide; k++)                                                                          \
                    sums[s][k] += LOAD(value + 16 * k) * broadcast(weights[(size_t)s * stride + t]);                    \
        }                                                                                                               \
        for (int s = 0; s < count; s++)                                                                                 \
            for (int k = 0; k < wide; k++)                                                                              \
                memcpy(out + (size_t)s * out_stride + i + 16 * k, &sums[s][k], sizeof(f32x16));                         \
    }                                                                                                                   \
    static void weighted_sum_##NAME(const TYPE *values, int d, const float *weights, int stride, int n, int count,      \
                                    float *out, int out_stride) {                                                       \
        for (int s = 0; s < count; s += 4) {                                                                            \
            const float *w = weights + (size_t)s * stride;                                                              \
            float *to = out + (size_t)s * out_stride;                                                                   \
            int i = 0;                                                                                                  \
            for (; i + 64 <= d; i += 64) {                                                                              \
                if (count - s >= 4)                                                                                     \
                    weighted_sum_tile_##NAME(values, d, i, 4, w, stride, n, 4, to, out_stride);                         \
                else                                                                                                    \
                    for (int one = s; one < count; one++)                                                               \
                        weighted_sum_tile_##NAME(values, d, i, 4, weights + (size_t)one * stride, stride, n, 1,         \
                                        out + (size_t)one * out_stride, out_stride);                                    \
            }                                                                                                           \
            for (int one = s; one < count && one < s + 4; one++) {                                                      \
                const float *weight = weights + (size_t)one * stride;                                                   \
                float *sum = out + (size_t)one * out_stride;                                                            \
                for (int at = i; at + 16 <= d; at += 16)                                                                \
                    weighted_sum_tile_##NAME(values, d, at, 1, weight, stride, n, 1, sum, out_stride);                  \
                for (int at = d - d % 16 > i ? d - d % 16 : i; at < d; at++) {                                          \
                    sum[at] = 0;                                                                                        \
                    for (int t = 0; t < n; t++) sum[at] += WIDEN(values[(size_t)t * d + at]) * weight[t];               \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

DEFINE_WEIGHTED_SUM(f32, float, load_f32x16, AS_IS)
DEFINE_WEIGHTED_SUM(bf16, uint16_t, load_bf16x16, bf16_to_f32)

/* Attention of some queries of one sequence to one key-value head: query i is head `heads[i]` of row `rows[i]`. */
static void attend(const Engine *e, const Layer *layer, int l, int kv, const int *rows, const int *heads, int count, Worker *w) {
    const Model *m = e->model;
    const Sequence *s = &e->sequences[e->row[rows[0]].sequence];
    int d = m->head_dim, q_rows = m->heads * d, width = q_rows + 2 * m->kv_heads * d, stride = w->max_scores;
    size_t base = (size_t)kv * s->capacity * d;
    int n = e->row[rows[count - 1]].position + 1; /* the last row sees the most */
    float *scores = w->scores, *q = w->queries, *out = w->weighted;
    for (int i = 0; i < count; i++) {
        const float *query = e->qkv + (size_t)rows[i] * width + (size_t)heads[i] * d;
        if (layer->q_norm)
            rms_norm(FP32, query, layer->q_norm, m->eps, d, q + (size_t)i * d);
        else
            memcpy(q + (size_t)i * d, query, sizeof(float) * d);
        rope(e->angles + (size_t)rows[i] * d, d / 2, q + (size_t)i * d);
        for (int k = 0; k < d; k++) q[(size_t)i * d + k] *= m->attention_scale;
    }
    Vectors queries = {.x = q, .stride = d, .count = count, .rounded = w->rounded};
    if (m->format == BF16) {
        round_bf16(&queries, d);
        product_bf16((const uint16_t *)s->keys[l] + base, d, 0, n, &queries, scores, stride);
    } else {
        product_f32((const float *)s->keys[l] + base, d, 0, n, &queries, scores, stride);
    }
    float sums[QUERY_BATCH];
    for (int i = 0; i < count; i++) {
        int seen = e->row[rows[i]].position + 1;
        sums[i] = softmax(scores + (size_t)i * stride, seen);
        memset(scores + (size_t)i * stride + seen, 0, sizeof(float) * (n - seen));
    }
    if (m->format == BF16) weighted_sum_bf16((const uint16_t *)s->values[l] + base, d, scores, stride, n, count, out, d);
    else weighted_sum_f32((const float *)s->values[l] + base, d, scores, stride, n, count, out, d);
    for (int i = 0; i < count; i++) {
        float *to = e->attended + (size_t)rows[i] * q_rows + (size_t)heads[i] * d;
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
