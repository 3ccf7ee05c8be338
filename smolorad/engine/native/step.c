/* One decode step of a Llama-like model: one token of each of several sequences, in one call, on a few threads.
 *
 * Weights are read where torch keeps them (row-major, out x in, bf16 or fp32) and are not copied. Activations and sums are
 * fp32. Keys and values lie in caches that torch's own forward pass fills too, [key-value head][capacity][head_dim].
 *
 * Threads: each owns a range of every product's rows. What is small (norms, the inner products of LoRA) each thread computes
 * for itself, so that five barriers a layer are enough. Within a step threads spin; between steps they sleep.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX() ((void)0)
#endif

enum { Q, K, V, O, GATE, UP, DOWN, PROJECTIONS };
enum { FP32, BF16 };
enum { MAX_SEQUENCES = 16, MAX_THREADS = 64, SPINS_BEFORE_YIELD = 2000, SPINS_BEFORE_SLEEP = 20000 };

typedef struct {
    const void *weight[PROJECTIONS];
    const float *bias[PROJECTIONS]; /* or NULL */
    const float *attention_norm, *mlp_norm;
    const float *q_norm, *k_norm; /* over head_dim, or NULL */
} Layer;

typedef struct {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, dtype;
    float eps, rope_scale, attention_scale;
    const void *embedding, *head;
    const float *final_norm;
    const float *inverse_frequencies; /* head_dim / 2 */
    const Layer *layer;
} Model;

typedef struct {
    const float *a; /* rank x in */
    const float *b; /* out x rank */
    int32_t rank;
    float scale;
} Lora; /* rank 0: none */

typedef struct {
    int32_t token, position, capacity;
    void *const *keys;   /* of each layer */
    void *const *values; /* of each layer */
    const Lora *lora;    /* layers x PROJECTIONS, or NULL */
    float *logits;       /* vocab */
} Sequence;

/* --- products ---------------------------------------------------------------------------------------------------------- */

static inline float widen(uint16_t value) {
    union {
        uint32_t bits;
        float number;
    } both = {(uint32_t)value << 16};
    return both.number;
}

static inline uint16_t narrow(float value) { /* to the nearest, ties to even, as torch does */
    union {
        float number;
        uint32_t bits;
    } both = {value};
    if (value != value) return 0x7fc0;
    return (uint16_t)((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
}

static float dot_f32(const float *restrict w, const float *restrict x, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += w[i] * x[i];
    return sum;
}

static float dot_bf16(const uint16_t *restrict w, const float *restrict x, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += widen(w[i]) * x[i];
    return sum;
}

/* Four rows at once: more of the memory's requests are under way. */
static void dot4_f32(const float *restrict w, int stride, const float *restrict x, int n, float *restrict out) {
    const float *restrict w1 = w + stride, *restrict w2 = w1 + stride, *restrict w3 = w2 + stride;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int i = 0; i < n; i++) {
        float value = x[i];
        s0 += w[i] * value;
        s1 += w1[i] * value;
        s2 += w2[i] * value;
        s3 += w3[i] * value;
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

static void dot4_bf16(const uint16_t *restrict w, int stride, const float *restrict x, int n, float *restrict out) {
    const uint16_t *restrict w1 = w + stride, *restrict w2 = w1 + stride, *restrict w3 = w2 + stride;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int i = 0; i < n; i++) {
        float value = x[i];
        s0 += widen(w[i]) * value;
        s1 += widen(w1[i]) * value;
        s2 += widen(w2[i]) * value;
        s3 += widen(w3[i]) * value;
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

static inline float dot(int dtype, const void *w, const float *x, int n) {
    return dtype == BF16 ? dot_bf16(w, x, n) : dot_f32(w, x, n);
}

/* out[s][row] = weight[row] . x[s] for rows first..last-1; `x` and `out` have a stride for each sequence. */
static void rows(int dtype, const void *weight, int cols, int first, int last, const float *x, int x_stride, float *out,
                 int out_stride, int sequences) {
    size_t size = dtype == BF16 ? 2 : 4;
    int row = first;
    float four[4];
    for (; row + 4 <= last; row += 4) {
        const char *w = (const char *)weight + (size_t)row * cols * size;
        for (int s = 0; s < sequences; s++) {
            if (dtype == BF16)
                dot4_bf16((const uint16_t *)w, cols, x + (size_t)s * x_stride, cols, four);
            else
                dot4_f32((const float *)w, cols, x + (size_t)s * x_stride, cols, four);
            memcpy(out + (size_t)s * out_stride + row, four, sizeof four);
        }
    }
    for (; row < last; row++)
        for (int s = 0; s < sequences; s++)
            out[(size_t)s * out_stride + row] =
                dot(dtype, (const char *)weight + (size_t)row * cols * size, x + (size_t)s * x_stride, cols);
}

static void rms_norm(const float *restrict x, const float *restrict weight, float eps, int n, float *restrict out) {
    float scale = 1.0f / sqrtf(dot_f32(x, x, n) / n + eps);
#pragma omp simd
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* --- threads ----------------------------------------------------------------------------------------------------------- */

typedef struct Engine Engine;

typedef struct {
    Engine *engine;
    int index;
    pthread_t thread;
    float *normed;   /* MAX_SEQUENCES x hidden: this thread's own, as the next two */
    float *part;     /* MAX_SEQUENCES x hidden */
    float *scores;   /* of one head, grown when needed */
    int score_room;
} Worker;

struct Engine {
    const Model *model;
    int threads;
    Worker worker[MAX_THREADS];
    float *x, *rope, *qkv, *attended, *inner; /* of all sequences */
    Sequence *sequences;
    int count;
    atomic_int arrived, phase, epoch, sleepers, ending, failed;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

static void barrier(Engine *e) {
    int phase = atomic_load_explicit(&e->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&e->arrived, 1, memory_order_acq_rel) + 1 == e->threads) {
        atomic_store_explicit(&e->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&e->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&e->phase, memory_order_acquire) == phase; spins++) {
        if (spins < SPINS_BEFORE_YIELD)
            RELAX();
        else
            sched_yield();
    }
}

/* This thread's part of `n` units, in multiples of four. */
static void share(const Engine *e, int index, int n, int *first, int *last) {
    int blocks = (n + 3) / 4;
    *first = (int)((int64_t)blocks * index / e->threads) * 4;
    *last = (int)((int64_t)blocks * (index + 1) / e->threads) * 4;
    if (*last > n) *last = n;
}

/* --- one layer --------------------------------------------------------------------------------------------------------- */

static void add_bias_and_lora(const Engine *e, const Layer *layer, int l, int projection, int cols, int first, int last,
                              const float *x, int x_stride, float *out, int out_stride) {
    const float *bias = layer->bias[projection];
    for (int s = 0; s < e->count; s++) {
        float *to = out + (size_t)s * out_stride;
        if (bias)
            for (int row = first; row < last; row++) to[row] += bias[row];
        const Lora *lora = e->sequences[s].lora ? &e->sequences[s].lora[l * PROJECTIONS + projection] : NULL;
        if (!lora || !lora->rank) continue;
        float middle[lora->rank];
        for (int i = 0; i < lora->rank; i++)
            middle[i] = lora->scale * dot_f32(lora->a + (size_t)i * cols, x + (size_t)s * x_stride, cols);
        for (int row = first; row < last; row++)
            to[row] += dot_f32(lora->b + (size_t)row * lora->rank, middle, lora->rank);
    }
}

static void project(const Engine *e, int index, int l, int projection, int out_rows, int cols, const float *x, int x_stride,
                    float *out, int out_stride) {
    const Layer *layer = &e->model->layer[l];
    int first, last;
    share(e, index, out_rows, &first, &last);
    rows(e->model->dtype, layer->weight[projection], cols, first, last, x, x_stride, out, out_stride, e->count);
    add_bias_and_lora(e, layer, l, projection, cols, first, last, x, x_stride, out, out_stride);
}

/* `rope`: head_dim / 2 cosines, then as many sines. */
static void rotate(const float *rope, int half, float *x) {
    for (int i = 0; i < half; i++) {
        float c = rope[i], s = rope[half + i], low = x[i], high = x[i + half];
        x[i] = low * c - high * s;
        x[i + half] = high * c + low * s;
    }
}

static void store(int dtype, void *cache, size_t at, const float *x, int n) {
    if (dtype == BF16)
        for (int i = 0; i < n; i++) ((uint16_t *)cache)[at + i] = narrow(x[i]);
    else
        memcpy((float *)cache + at, x, sizeof(float) * n);
}

/* One query head of one sequence. The new key and value are written by the first query head of their group; the others use
 * their own copy of them, so that nobody waits. */
static void attend(const Model *m, const Layer *layer, int l, const Sequence *s, int head, const float *qkv,
                   const float *rope, float *scores, float *out) {
    int d = m->head_dim, group = m->heads / m->kv_heads, kv = head / group, position = s->position;
    size_t width = m->dtype == BF16 ? 2 : 4, base = (size_t)kv * s->capacity * d;
    float q[d], k[d];
    memcpy(q, qkv + (size_t)head * d, sizeof q);
    memcpy(k, qkv + (size_t)(m->heads + kv) * d, sizeof k);
    const float *v = qkv + (size_t)(m->heads + m->kv_heads + kv) * d;
    if (layer->q_norm) {
        float raw[d];
        memcpy(raw, q, sizeof q), rms_norm(raw, layer->q_norm, m->eps, d, q);
        memcpy(raw, k, sizeof k), rms_norm(raw, layer->k_norm, m->eps, d, k);
    }
    rotate(rope, d / 2, q);
    rotate(rope, d / 2, k);
    if (head % group == 0) {
        store(m->dtype, s->keys[l], base + (size_t)position * d, k, d);
        store(m->dtype, s->values[l], base + (size_t)position * d, v, d);
    }
    const char *keys = (const char *)s->keys[l] + base * width, *values = (const char *)s->values[l] + base * width;
    float most = scores[position] = m->attention_scale * dot_f32(q, k, d);
    for (int t = 0; t < position; t++) {
        scores[t] = m->attention_scale * dot(m->dtype, keys + (size_t)t * d * width, q, d);
        if (scores[t] > most) most = scores[t];
    }
    float total = 0;
    for (int t = 0; t <= position; t++) total += scores[t] = expf(scores[t] - most);
    for (int i = 0; i < d; i++) out[i] = scores[position] * v[i];
    for (int t = 0; t < position; t++) {
        float weight = scores[t];
        if (m->dtype == BF16) {
            const uint16_t *row = (const uint16_t *)values + (size_t)t * d;
#pragma omp simd
            for (int i = 0; i < d; i++) out[i] += weight * widen(row[i]);
        } else {
            const float *row = (const float *)values + (size_t)t * d;
#pragma omp simd
            for (int i = 0; i < d; i++) out[i] += weight * row[i];
        }
    }
    for (int i = 0; i < d; i++) out[i] /= total;
}

static void norm_all(const Engine *e, Worker *w, const float *weight) {
    int n = e->model->hidden;
    for (int s = 0; s < e->count; s++)
        rms_norm(e->x + (size_t)s * n, weight, e->model->eps, n, w->normed + (size_t)s * n);
}

static void add_projected(Engine *e, Worker *w, int l, int projection, int cols, const float *x) {
    int n = e->model->hidden, first, last;
    project(e, w->index, l, projection, n, cols, x, cols, w->part, n);
    share(e, w->index, n, &first, &last);
    for (int s = 0; s < e->count; s++)
        for (int i = first; i < last; i++) e->x[(size_t)s * n + i] += w->part[(size_t)s * n + i];
}

static void layer_step(Engine *e, Worker *w, int l) {
    const Model *m = e->model;
    const Layer *layer = &m->layer[l];
    int q_rows = m->heads * m->head_dim, kv_rows = m->kv_heads * m->head_dim, width = q_rows + 2 * kv_rows;
    norm_all(e, w, layer->attention_norm);
    project(e, w->index, l, Q, q_rows, m->hidden, w->normed, m->hidden, e->qkv, width);
    project(e, w->index, l, K, kv_rows, m->hidden, w->normed, m->hidden, e->qkv + q_rows, width);
    project(e, w->index, l, V, kv_rows, m->hidden, w->normed, m->hidden, e->qkv + q_rows + kv_rows, width);
    barrier(e);
    for (int unit = w->index; unit < e->count * m->heads; unit += e->threads) {
        int s = unit / m->heads, head = unit % m->heads;
        attend(m, layer, l, &e->sequences[s], head, e->qkv + (size_t)s * width, e->rope + (size_t)s * m->head_dim,
               w->scores, e->attended + (size_t)s * q_rows + (size_t)head * m->head_dim);
    }
    barrier(e);
    add_projected(e, w, l, O, q_rows, e->attended);
    barrier(e);
    norm_all(e, w, layer->mlp_norm);
    float *up = e->inner + (size_t)MAX_SEQUENCES * m->inner;
    project(e, w->index, l, GATE, m->inner, m->hidden, w->normed, m->hidden, e->inner, m->inner);
    project(e, w->index, l, UP, m->inner, m->hidden, w->normed, m->hidden, up, m->inner);
    int first, last;
    share(e, w->index, m->inner, &first, &last);
    for (int s = 0; s < e->count; s++) {
        float *gate = e->inner + (size_t)s * m->inner;
        for (int i = first; i < last; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[(size_t)s * m->inner + i];
    }
    barrier(e);
    add_projected(e, w, l, DOWN, m->inner, e->inner);
    barrier(e);
}

static void begin(Engine *e, int s) {
    const Model *m = e->model;
    int half = m->head_dim / 2;
    float *x = e->x + (size_t)s * m->hidden, *rope = e->rope + (size_t)s * m->head_dim;
    size_t at = (size_t)e->sequences[s].token * m->hidden;
    for (int i = 0; i < m->hidden; i++)
        x[i] = m->dtype == BF16 ? widen(((const uint16_t *)m->embedding)[at + i]) : ((const float *)m->embedding)[at + i];
    for (int i = 0; i < half; i++) {
        float angle = e->sequences[s].position * m->inverse_frequencies[i];
        rope[i] = cosf(angle) * m->rope_scale;
        rope[half + i] = sinf(angle) * m->rope_scale;
    }
}

static void run(Engine *e, Worker *w) {
    const Model *m = e->model;
    int most = 0;
    for (int s = 0; s < e->count; s++)
        if (e->sequences[s].position >= most) most = e->sequences[s].position + 1;
    if (most > w->score_room) {
        float *grown = realloc(w->scores, sizeof(float) * (size_t)(most + 1024));
        if (grown)
            w->scores = grown, w->score_room = most + 1024;
        else
            atomic_store(&e->failed, 1);
    }
    if (w->index == 0)
        for (int s = 0; s < e->count; s++) begin(e, s);
    barrier(e);
    if (atomic_load(&e->failed)) return;
    for (int l = 0; l < m->layers; l++) layer_step(e, w, l);
    norm_all(e, w, m->final_norm);
    int first, last;
    share(e, w->index, m->vocab, &first, &last);
    size_t size = m->dtype == BF16 ? 2 : 4;
    for (int block = first; block < last; block += 4) {
        int end = block + 4 < last ? block + 4 : last;
        for (int s = 0; s < e->count; s++)
            rows(m->dtype, (const char *)m->head + (size_t)block * m->hidden * size, m->hidden, 0, end - block,
                 w->normed + (size_t)s * m->hidden, m->hidden, e->sequences[s].logits + block, 0, 1);
    }
    barrier(e);
}

static void *work(void *argument) {
    Worker *w = argument;
    Engine *e = w->engine;
    for (int seen = 0;;) {
        int spins = 0;
        while (atomic_load_explicit(&e->epoch, memory_order_acquire) == seen) {
            if (++spins < SPINS_BEFORE_SLEEP) {
                RELAX();
                continue;
            }
            pthread_mutex_lock(&e->mutex);
            while (atomic_load(&e->epoch) == seen) pthread_cond_wait(&e->wake, &e->mutex);
            pthread_mutex_unlock(&e->mutex);
        }
        seen = atomic_load(&e->epoch);
        if (atomic_load(&e->ending)) return NULL;
        run(e, w);
    }
}

/* --- what Python calls ------------------------------------------------------------------------------------------------- */

void smolora_close(Engine *e) {
    if (!e) return;
    pthread_mutex_lock(&e->mutex);
    atomic_store(&e->ending, 1);
    atomic_fetch_add(&e->epoch, 1);
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->mutex);
    for (int i = 0; i < e->threads; i++) {
        if (i) pthread_join(e->worker[i].thread, NULL);
        free(e->worker[i].normed);
        free(e->worker[i].part);
        free(e->worker[i].scores);
    }
    free(e->x), free(e->rope), free(e->qkv), free(e->attended), free(e->inner), free(e);
}

/* `model` must outlive what is returned; NULL where memory or threads cannot be had. */
Engine *smolora_open(const Model *m, int threads) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->model = m;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->wake, NULL);
    int q_rows = m->heads * m->head_dim;
    e->x = calloc((size_t)MAX_SEQUENCES * m->hidden, sizeof(float));
    e->rope = calloc((size_t)MAX_SEQUENCES * m->head_dim, sizeof(float));
    e->qkv = calloc((size_t)MAX_SEQUENCES * (q_rows + 2 * m->kv_heads * m->head_dim), sizeof(float));
    e->attended = calloc((size_t)MAX_SEQUENCES * q_rows, sizeof(float));
    e->inner = calloc((size_t)MAX_SEQUENCES * 2 * m->inner, sizeof(float));
    int whole = e->x && e->rope && e->qkv && e->attended && e->inner;
    int wanted = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    for (int i = 0; whole && i < wanted; i++) {
        Worker *w = &e->worker[i];
        w->engine = e, w->index = i;
        w->normed = calloc((size_t)MAX_SEQUENCES * m->hidden, sizeof(float));
        w->part = calloc((size_t)MAX_SEQUENCES * m->hidden, sizeof(float));
        if (!w->normed || !w->part || (i && pthread_create(&w->thread, NULL, work, w))) {
            free(w->normed), free(w->part);
            w->normed = w->part = NULL;
            whole = 0;
        } else
            e->threads = i + 1;
    }
    if (whole) return e;
    smolora_close(e);
    return NULL;
}

/* One token of each sequence; writes its keys, values and logits. 0, or 1 where memory ran out. */
int smolora_step(Engine *e, Sequence *sequences, int count) {
    e->sequences = sequences, e->count = count;
    atomic_store(&e->failed, 0);
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->epoch, 1);
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->mutex);
    run(e, &e->worker[0]);
    return atomic_load(&e->failed);
}
