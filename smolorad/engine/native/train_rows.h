/* What training computes between its products: loss, norms and gates. In fp32, on rows of its numbers, each row by one thread. */
#ifndef SMOLORA_TRAIN_ROWS_H
#define SMOLORA_TRAIN_ROWS_H

#include "train_structs.h"

#if defined(CAN_TRAIN)

/* --- the loss ------------------------------------------------------------------------------------------------------------ */

static void loss_of(const Loss *l, int row) {
    Number *logits = l->logits + row * l->stride;
    int target = (int)l->targets[row];
    float target_logit = load1(NUMBER_FORMAT, logits, target);
    __m512 most = broadcast(-INFINITY), sum = _mm512_setzero_ps();
    {
        EACH_16(i, l->vocabulary) most = _mm512_mask_max_ps(most, there, most, load_masked(logits + i, there));
    }
    float largest = _mm512_reduce_max_ps(most);
    {
        EACH_16(i, l->vocabulary) {
            f32x16 e = exp_f32x16((f32x16)load_masked(logits + i, there) - broadcast(largest));
            sum = _mm512_mask_add_ps(sum, there, sum, (__m512)e);
        }
    }
    float norm = _mm512_reduce_add_ps(sum);
    l->losses[row] = largest + logf(norm) - target_logit;
    if (!l->with_gradient) return;
    {
        EACH_16(i, l->vocabulary) {
            f32x16 e = exp_f32x16((f32x16)load_masked(logits + i, there) - broadcast(largest));
            store_masked(logits + i, there, (__m512)(e * broadcast(1.0f / norm)));
        }
    }
    store1(NUMBER_FORMAT, logits, target, exp_f32(target_logit - largest) / norm - 1.0f);
}

static void loss_part(void *context, int thread, int threads) {
    const Loss *l = context;
    for (int row = l->rows * thread / threads; row < l->rows * (thread + 1) / threads; row++) loss_of(l, row);
}

/* --- norms --------------------------------------------------------------------------------------------------------------- */

static void norm_part(void *context, int thread, int threads) {
    const Norm *n = context;
    for (int row = n->rows * thread / threads; row < n->rows * (thread + 1) / threads; row++) {
        size_t begin = (size_t)row * n->width;
        n->scale[row] = rms_norm(NUMBER_FORMAT, n->x + begin, n->weight, n->epsilon, n->width, n->out + begin);
    }
}

static void norm_back_part(void *context, int thread, int threads) {
    const Norm *n = context;
    for (int row = n->rows * thread / threads; row < n->rows * (thread + 1) / threads; row++) {
        size_t begin = (size_t)row * n->width;
        const Number *x = n->x + begin, *grad = n->grad + begin, *added = n->added ? n->added + begin : NULL;
        __m512 sum = _mm512_setzero_ps(), scale = broadcast(n->scale[row]);
        {
            EACH_16(i, n->width) {
                __m512 weighted = _mm512_mul_ps(load_masked(grad + i, there), load_masked(n->weight + i, there));
                sum = _mm512_fmadd_ps(weighted, load_masked(x + i, there), sum);
            }
        }
        float along = _mm512_reduce_add_ps(sum) * n->scale[row] * n->scale[row] / (float)n->width;
        EACH_16(i, n->width) {
            __m512 weighted = _mm512_mul_ps(load_masked(grad + i, there), load_masked(n->weight + i, there));
            __m512 back = _mm512_mul_ps(_mm512_fnmadd_ps(broadcast(along), load_masked(x + i, there), weighted), scale);
            if (added) back = _mm512_add_ps(back, load_masked(added + i, there));
            store_masked(n->out + begin + i, there, back);
        }
    }
}

/* --- gates --------------------------------------------------------------------------------------------------------------- */

enum { GATES = 4096 }; /* numbers that a thread computes at a time */

static void gates_of(const Gates *g, int64_t begin, int count) {
    EACH_16(i, count) {
        f32x16 gate = (f32x16)load_masked(g->gate + begin + i, there);
        __m512 silu = silu_f32x16(gate), up = load_masked(g->up + begin + i, there);
        if (!g->grad) {
            store_masked(g->out + begin + i, there, _mm512_mul_ps(silu, up));
            continue;
        }
        __m512 grad = load_masked(g->grad + begin + i, there), sigmoid = sigmoid_f32x16(gate);
        __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(broadcast(1.0f), sigmoid), sigmoid);
        store_masked(g->d_gate + begin + i, there, _mm512_mul_ps(_mm512_mul_ps(grad, up), slope));
        store_masked(g->d_up + begin + i, there, _mm512_mul_ps(grad, silu));
    }
}

static void gates_part(void *context, int thread, int threads) {
    const Gates *g = context;
    int64_t blocks = (g->count + GATES - 1) / GATES;
    for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; block++) {
        int64_t left = g->count - block * GATES;
        gates_of(g, block * GATES, left < GATES ? (int)left : GATES);
    }
}

#endif

#endif
