/* The linear layers of a step: their input, their products, biases and LoRAs. */
#ifndef SMOLORA_DECODE_LINEAR_H
#define SMOLORA_DECODE_LINEAR_H

#include "decode_norm.h"
#include "product.h"

/* Makes `rows` vectors the input of this thread's next products, converted to the format of `weight`. */
static void quantize_input(const Engine *e, Worker *w, const float *x, int rows, const Matrix *weight) {
    w->vectors.x = x, w->vectors.stride = weight->cols, w->vectors.count = rows;
    w->vectors.panel = e->single ? w->panel : NULL;
    quantize_vectors(&w->vectors, weight);
}

/* out += bias + scale * B (A x), columns first..last-1 of each row. */
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

/* This thread's part of a projection of its input. */
static void project(Engine *e, int thread, int l, int projection, float *out, int out_stride) {
    const Layer *layer = &e->model->layer[l];
    const Matrix *weight = &layer->weight[projection];
    const Vectors *v = &e->worker[thread].vectors;
    int first, last;
    if (!weight->rows) return;
    split_work(e->pool, thread, weight->rows, BLOCK, &first, &last);
    product(weight, first, last, v, out, out_stride);
    add_bias_and_lora(e, layer, l, projection, first, last, v, out, out_stride);
}

/* Where this thread writes its columns of what attention or MLP gives: where all threads see it, if there is a norm of it. */
static float *branch_of(Engine *e, int thread, const ModelNorm *norm) {
    return norm->weight ? e->branch : e->worker[thread].part;
}

/* Adds this thread's columns of what `branch_of` has, or of its norm, to the residual stream. */
static void add_branch(Engine *e, int thread, const ModelNorm *norm) {
    const Model *m = e->model;
    const float *part = e->worker[thread].part;
    int n = m->hidden, first, last;
    if (norm->weight) {
        barrier(e->pool); /* until all threads have written their columns */
        for (int r = 0; r < e->rows; r++)
            apply_norm(norm, e->branch + (size_t)r * n, 0, e->worker[thread].part + (size_t)r * n);
    }
    split_work(e->pool, thread, n, BLOCK, &first, &last);
    for (int r = 0; r < e->rows; r++)
        for (int i = first; i < last; i++) e->x[(size_t)r * n + i] += m->residual_scale * part[(size_t)r * n + i];
}

/* Adds this thread's part of a projection of `x`, or of the norm of it all, to the residual stream. */
static void add_projected(Engine *e, int thread, int l, int projection, const float *x, const ModelNorm *norm) {
    quantize_input(e, &e->worker[thread], x, e->rows, &e->model->layer[l].weight[projection]);
    project(e, thread, l, projection, branch_of(e, thread, norm), e->model->hidden);
    add_branch(e, thread, norm);
}

/* The residual stream, normed if there is a norm. */
static const float *normed_input(Engine *e, int thread, const ModelNorm *norm) {
    Worker *w = &e->worker[thread];
    int n = e->model->hidden;
    if (!norm->weight) return e->x;
    for (int r = 0; r < e->rows; r++) apply_norm(norm, e->x + (size_t)r * n, 0, w->normed + (size_t)r * n);
    return w->normed;
}

#endif
