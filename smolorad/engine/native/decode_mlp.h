/* The MLP of a step: dense, or experts of which each token takes a few. */
#ifndef SMOLORA_DECODE_MLP_H
#define SMOLORA_DECODE_MLP_H

#include "activations.h"
#include "decode_linear.h"

/* The first half: this thread's part of the activations, from `x`, its normed input. */
static void mlp_in(Engine *e, int thread, int l, const float *x) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    int inner = layer->weight[UP].rows, gated = layer->weight[GATE].rows > 0, first, last;
    float *up = gated ? e->inner + (size_t)MAX_ROWS * m->inner : e->inner;
    quantize_input(e, &e->worker[thread], x, e->rows, &layer->weight[UP]);
    project(e, thread, l, GATE, e->inner, inner);
    project(e, thread, l, UP, up, inner);
    split_work(e->pool, thread, inner, BLOCK, &first, &last);
    for (int r = 0; r < e->rows; r++) {
        size_t at = (size_t)r * inner + first;
        activate(m->activation, e->inner + at, gated ? up + at : NULL, last - first);
    }
}

/* --- experts ------------------------------------------------------------------------------------------------------------ */

/* This thread's part of the router's logits. */
static void route(Engine *e, int thread, int l, const float *x) {
    Worker *w = &e->worker[thread];
    const Matrix *router = &e->model->layer[l].router;
    int first, last;
    quantize_input(e, w, x, e->rows, router);
    split_work(e->pool, thread, router->rows, BLOCK, &first, &last);
    product(router, first, last, &w->vectors, e->routed, router->rows);
}

/* The experts that a row takes, ascending, and each one's share of the output. */
static void choose_experts(const Engine *e, int r, int *chosen, float *share) {
    const Model *m = e->model;
    const float *logits = e->routed + (size_t)r * m->experts;
    float most = logits[0], total = 0, taken = 0;
    for (int i = 1; i < m->experts; i++) most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < m->experts; i++) total += exp_f32(logits[i] - most);
    for (int k = 0; k < m->active_experts; k++) {
        int best = -1;
        for (int i = 0; i < m->experts; i++) {
            int used = 0;
            for (int j = 0; j < k; j++) used |= chosen[j] == i;
            if (!used && (best < 0 || logits[i] > logits[best])) best = i;
        }
        chosen[k] = best;
    }
    for (int k = 1; k < m->active_experts; k++) /* the order of the sum must not depend on other rows */
        for (int j = k; j > 0 && chosen[j] < chosen[j - 1]; j--) {
            int other = chosen[j];
            chosen[j] = chosen[j - 1], chosen[j - 1] = other;
        }
    for (int k = 0; k < m->active_experts; k++) taken += share[k] = exp_f32(logits[chosen[k]] - most) / total;
    if (m->normalized_experts)
        for (int k = 0; k < m->active_experts; k++) share[k] /= taken;
}

/* The rows that take an expert, and each one's share; their number. */
static int rows_of_expert(const Engine *e, const Worker *w, int expert, int *rows, float *shares) {
    int count = 0;
    for (int r = 0; r < e->rows; r++)
        for (int k = 0; k < e->model->active_experts; k++)
            if (w->chosen[r * e->model->active_experts + k] == expert)
                rows[count] = r, shares[count++] = w->share[r * e->model->active_experts + k];
    return count;
}

/* The first half of all experts that are taken, once the router's logits are there. The activations lie expert by expert. */
static void experts_in(Engine *e, int thread, int l, const float *x) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int rows[MAX_ROWS], slot = 0, n = m->hidden, first, last;
    float shares[MAX_ROWS];
    for (int r = 0; r < e->rows; r++)
        choose_experts(e, r, w->chosen + r * m->active_experts, w->share + r * m->active_experts);
    for (int i = 0; i < m->experts; i++) {
        const Expert *expert = &m->layer[l].expert[i];
        int count = rows_of_expert(e, w, i, rows, shares), inner = expert->up.rows;
        if (!count) continue;
        for (int k = 0; k < count; k++)
            memcpy(w->gathered + (size_t)k * n, x + (size_t)rows[k] * n, sizeof(float) * (size_t)n);
        quantize_input(e, w, w->gathered, count, &expert->up);
        float *gate = e->inner + (size_t)slot * inner;
        float *up = gate + (size_t)MAX_ROWS * m->active_experts * inner;
        split_work(e->pool, thread, inner, BLOCK, &first, &last);
        product(&expert->gate, first, last, &w->vectors, gate, inner);
        product(&expert->up, first, last, &w->vectors, up, inner);
        for (int k = 0; k < count; k++) {
            size_t at = (size_t)k * inner + first;
            activate(m->activation, gate + at, up + at, last - first);
        }
        slot += count;
    }
}

/* The second half: the sum of each row's experts, into this thread's columns of `out`. */
static void experts_out(Engine *e, int thread, int l, float *out) {
    const Model *m = e->model;
    Worker *w = &e->worker[thread];
    int rows[MAX_ROWS], slot = 0, n = m->hidden, first, last;
    float shares[MAX_ROWS];
    split_work(e->pool, thread, n, BLOCK, &first, &last);
    for (int r = 0; r < e->rows && last > first; r++)
        memset(out + (size_t)r * n + first, 0, sizeof(float) * (size_t)(last - first));
    for (int i = 0; i < m->experts; i++) {
        const Matrix *down = &m->layer[l].expert[i].down;
        int count = rows_of_expert(e, w, i, rows, shares);
        if (!count) continue;
        quantize_input(e, w, e->inner + (size_t)slot * down->cols, count, down);
        product(down, first, last, &w->vectors, w->gathered, n);
        for (int k = 0; k < count; k++) {
            float *restrict to = out + (size_t)rows[k] * n, *restrict from = w->gathered + (size_t)k * n;
            for (int i = first; i < last; i++) to[i] += shares[k] * from[i];
        }
        slot += count;
    }
}

#endif
