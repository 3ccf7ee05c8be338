/* What a training computes between its products, in fp32 on rows of its numbers: each row by one thread, the same however many. */
#ifndef SMOLORA_TRAIN_ROWS_H
#define SMOLORA_TRAIN_ROWS_H

#include "train_number.h"
#include "team.h"

#if defined(TRAINS)

/* e to the x, to 2e-7 of itself; 0 where it is smaller than any normal number, NaN stays. */
INLINE __m512 exp16(__m512 x) {
    __m512 powers = _mm512_roundscale_ps(_mm512_mul_ps(x, set16(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_fnmadd_ps(powers, set16(0.693145752f), x);
    rest = _mm512_fnmadd_ps(powers, set16(1.42860677e-6f), rest);
    __m512 sum = set16(1.0f / 5040);
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f / 720));
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, rest, set16(0.5f));
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f));
    sum = _mm512_fmadd_ps(sum, rest, set16(1.0f));
    return _mm512_scalef_ps(sum, powers);
}

#define EACH16(i, n) \
    __mmask16 there = first_of(n); \
    for (int i = 0; i < (n); i += 16, there = first_of((n) - i)) /* after the last, none are left, or fewer than none */

/* --- the loss ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    Number *logits;         /* (rows, vocabulary); become the gradient */
    const int64_t *targets; /* (rows,) */
    float *losses;          /* (rows,) */
    int64_t stride;         /* of logits */
    int32_t rows, vocabulary, back; /* whether the gradient is wanted */
} Loss;

static void loss_of(const Loss *l, int row) {
    Number *logits = l->logits + row * l->stride;
    __m512 most = set16(-INFINITY), sum = _mm512_setzero_ps();
    float right = get1(logits + l->targets[row]);
    {
        EACH16(i, l->vocabulary) most = _mm512_mask_max_ps(most, there, most, get16(logits + i, there));
    }
    __m512 largest = set16(_mm512_reduce_max_ps(most));
    {
        EACH16(i, l->vocabulary) sum = _mm512_mask_add_ps(sum, there, sum, exp16(_mm512_sub_ps(get16(logits + i, there), largest)));
    }
    float norm = _mm512_reduce_add_ps(sum);
    l->losses[row] = _mm512_cvtss_f32(largest) + logf(norm) - right;
    if (!l->back) return;
    __m512 scale = set16(1.0f / norm);
    {
        EACH16(i, l->vocabulary) {
            __m512 p = _mm512_mul_ps(exp16(_mm512_sub_ps(get16(logits + i, there), largest)), scale);
            put16(logits + i, there, p);
        }
    }
    put1(logits + l->targets[row], expf(right - _mm512_cvtss_f32(largest)) / norm - 1.0f);
}

static void loss_part(void *what, int thread, int threads) {
    const Loss *l = what;
    for (int row = l->rows * thread / threads; row < l->rows * (thread + 1) / threads; row++) loss_of(l, row);
}

/* --- norms --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const Number *x, *weight, *grad; /* (rows, width), (width,), (rows, width) */
    const Number *added;             /* to the gradient: (rows, width); or NULL */
    float *scale;                      /* (rows,): one over the root mean square */
    Number *out;                     /* (rows, width) */
    int32_t rows, width;
    float epsilon;
} Norm;

static void norm_part(void *what, int thread, int threads) {
    const Norm *n = what;
    for (int row = n->rows * thread / threads; row < n->rows * (thread + 1) / threads; row++) {
        const Number *x = n->x + (size_t)row * n->width;
        Number *out = n->out + (size_t)row * n->width;
        __m512 sum = _mm512_setzero_ps();
        {
            EACH16(i, n->width) {
                __m512 one = get16(x + i, there);
                sum = _mm512_fmadd_ps(one, one, sum);
            }
        }
        n->scale[row] = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)n->width + n->epsilon);
        __m512 scale = set16(n->scale[row]);
        EACH16(i, n->width) {
            __m512 unit = _mm512_mul_ps(get16(x + i, there), scale);
            put16(out + i, there, _mm512_mul_ps(unit, get16(n->weight + i, there)));
        }
    }
}

static void norm_back_part(void *what, int thread, int threads) {
    const Norm *n = what;
    for (int row = n->rows * thread / threads; row < n->rows * (thread + 1) / threads; row++) {
        size_t begin = (size_t)row * n->width;
        const Number *x = n->x + begin, *grad = n->grad + begin, *added = n->added ? n->added + begin : NULL;
        __m512 sum = _mm512_setzero_ps(), scale = set16(n->scale[row]);
        {
            EACH16(i, n->width) {
                __m512 weighted = _mm512_mul_ps(get16(grad + i, there), get16(n->weight + i, there));
                sum = _mm512_fmadd_ps(weighted, get16(x + i, there), sum);
            }
        }
        float along = _mm512_reduce_add_ps(sum) * n->scale[row] * n->scale[row] / (float)n->width;
        EACH16(i, n->width) {
            __m512 weighted = _mm512_mul_ps(get16(grad + i, there), get16(n->weight + i, there));
            __m512 back = _mm512_mul_ps(_mm512_fnmadd_ps(set16(along), get16(x + i, there), weighted), scale);
            if (added) back = _mm512_add_ps(back, get16(added + i, there));
            put16(n->out + begin + i, there, back);
        }
    }
}

/* --- gates --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const Number *gate, *up, *grad; /* count numbers each; no gradient: forward */
    Number *out, *d_gate, *d_up;
    int64_t count;
} Gates;

enum { GATES = 4096 }; /* that a thread takes together */

static void gates_of(const Gates *g, int64_t begin, int count) {
    EACH16(i, count) {
        __m512 gate = get16(g->gate + begin + i, there), up = get16(g->up + begin + i, there);
        __m512 open = _mm512_div_ps(set16(1.0f), _mm512_add_ps(set16(1.0f), exp16(_mm512_sub_ps(_mm512_setzero_ps(), gate))));
        __m512 silu = _mm512_mul_ps(gate, open);
        if (!g->grad) {
            put16(g->out + begin + i, there, _mm512_mul_ps(silu, up));
            continue;
        }
        __m512 grad = get16(g->grad + begin + i, there);
        __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(set16(1.0f), open), open);
        put16(g->d_gate + begin + i, there, _mm512_mul_ps(_mm512_mul_ps(grad, up), slope));
        put16(g->d_up + begin + i, there, _mm512_mul_ps(grad, silu));
    }
}

static void gates_part(void *what, int thread, int threads) {
    const Gates *g = what;
    int64_t blocks = (g->count + GATES - 1) / GATES;
    for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; block++) {
        int64_t left = g->count - block * GATES;
        gates_of(g, block * GATES, left < GATES ? (int)left : GATES);
    }
}

#endif

#endif
