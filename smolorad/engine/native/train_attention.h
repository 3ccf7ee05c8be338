/* Causal attention of texts that lie end to end, each to itself.
 *
 * A unit of work is all heads that share a key if the text is short, and one head, a block of queries at a time, if it is long. So
 * there are enough units for all threads, and what a thread works on stays in its cache. */
#ifndef SMOLORA_TRAIN_ATTENTION_H
#define SMOLORA_TRAIN_ATTENTION_H

#include "train_products.h"
#include "train_rows.h"

#if defined(CAN_TRAIN)

enum { SHORT_TEXT = 192, QUERY_BLOCK = 96 }; /* tokens of a short text at most; queries in a block of a long one */

/* A thread's unit of work, some heads of one text that share a key, and its memory. Rows: the block's queries, head by head. */
typedef struct {
    int first, tokens; /* of the text */
    int head, heads, key_head;
    int begin, end, rows;   /* of the block */
    float *scores;          /* (rows, tokens up to the block's end) */
    float *d_key, *d_value; /* (tokens, width in whole panels) */
    float *partial;         /* (rows, width in whole panels) */
    Number *p, *ds;         /* as scores: the softmax, and the gradient of the scores */
    Number *query, *grad;   /* (rows, width) */
    Number *made;           /* (rows, width) */
    Number *transposed;     /* (tokens, rows): p or ds */
    Number *key, *value;    /* (tokens, width) */
    uint32_t *panels;
} Scratch;

static size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int whole_panels(int columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* Divides a thread's memory for a text of `tokens` tokens; returns the bytes that it needs. */
static size_t divide_scratch(const Attention *a, int tokens, char *memory, Scratch *s) {
    size_t rows = tokens > SHORT_TEXT ? QUERY_BLOCK : (size_t)tokens * (a->heads / a->key_heads), at = 0;
    size_t scores = rows * tokens, wide = rows * a->width, few = (size_t)tokens * a->width;
#define PART(name, count) s->name = (void *)(memory + at), at += whole_lines(sizeof *s->name * (count))
    PART(scores, scores), PART(p, scores), PART(ds, scores);
    PART(query, wide), PART(grad, wide), PART(made, wide);
    PART(transposed, (size_t)whole_panels((int)rows) * (tokens + BLOCK));
    size_t small = tokens > SHORT_TEXT ? 0 : (size_t)tokens * whole_panels(a->width);
    PART(d_key, small), PART(d_value, small);
    PART(partial, rows * whole_panels(a->width)), PART(key, few), PART(value, few);
    PART(panels, SLICE_PANEL);
#undef PART
    return at;
}

/* Copies a head's numbers of some tokens to rows of another stride; if `angles`, rotates them by the angles times `sign`. */
static void rope(const Attention *a, const Number *from, int64_t from_stride, Number *to, int64_t to_stride, int first,
                 int tokens, int angles, float sign) {
    int half = a->width / 2;
    for (int t = 0; t < tokens; t++, from += from_stride, to += to_stride) {
        if (!angles || !a->cos) {
            memcpy(to, from, sizeof *to * (size_t)a->width);
            continue;
        }
        const Number *cos = a->cos + (first + t) * a->angle_stride, *sin = a->sin + (first + t) * a->angle_stride;
        EACH_16(i, half) {
            __m512 left = load_masked(from + i, there), right = load_masked(from + half + i, there);
            __m512 c = load_masked(cos + i, there), s = _mm512_mul_ps(load_masked(sin + i, there), broadcast(sign));
            store_masked(to + i, there, _mm512_fnmadd_ps(right, s, _mm512_mul_ps(left, c)));
            store_masked(to + half + i, there, _mm512_fmadd_ps(left, s, _mm512_mul_ps(right, c)));
        }
    }
}

/* Copies the rows of the block from a tensor of the queries' shape. */
static void gather_heads(const Attention *a, const Scratch *s, const Number *from, int angles, Number *to) {
    int64_t stride = (int64_t)a->heads * a->width;
    int first = s->first + s->begin, tokens = s->end - s->begin;
    for (int h = 0; h < s->heads; h++)
        rope(a, from + first * stride + (s->head + h) * a->width, stride, to + (size_t)h * tokens * a->width, a->width, first,
             tokens, angles, 1.0f);
}

/* Copies the rows of the block back, rotated the other way. */
static void scatter_heads(const Attention *a, const Scratch *s, const Number *from, int angles, Number *to) {
    int64_t stride = (int64_t)a->heads * a->width;
    int first = s->first + s->begin, tokens = s->end - s->begin;
    for (int h = 0; h < s->heads; h++)
        rope(a, from + (size_t)h * tokens * a->width, a->width, to + first * stride + (s->head + h) * a->width, stride, first,
             tokens, angles, -1.0f);
}

/* A product of one term, computed by this thread alone. */
static void multiply(Product out, Term term, uint32_t *panels) {
    out.terms = 1, out.term = &term;
    product_part(&out, 0, out.rows, 0, whole_panels(out.columns) / PANEL, panels);
}

/* scores = x (rows, width) times the transpose of y (tokens up to the block's end, width). */
static void score(const Attention *a, const Scratch *s, const Number *x, const Number *y) {
    Product scores = {.out = s->scores, .out_stride = s->end, .rows = s->rows, .columns = s->end};
    Term term = {.x = x, .w = y, .x_stride = a->width, .w_stride = a->width, .depth = a->width, .transposed = 1};
    multiply(scores, term, s->panels);
}

/* made (rows, width) = p (rows, tokens up to the block's end) times y (tokens up to the block's end, width). */
static void weighted_sum(const Attention *a, const Scratch *s, const Number *p, const Number *y) {
    Product made = {.out = s->made, .format = NUMBER_FORMAT, .out_stride = a->width, .rows = s->rows, .columns = a->width};
    Term term = {.x = p, .w = y, .x_stride = s->end, .w_stride = a->width, .depth = s->end};
    made.partial = s->partial, made.partial_stride = whole_panels(a->width);
    multiply(made, term, s->panels);
}

INLINE f32x16 load_scaled(const float *from, __mmask16 there, float scale) {
    return (f32x16)_mm512_maskz_loadu_ps(there, from) * broadcast(scale);
}

/* p = the softmax of the first `seen` scores times `scale`, and 0 for the others of `n`. */
static void softmax(const float *scores, float scale, int seen, int n, Number *p) {
    __m512 most = broadcast(-INFINITY), sum = _mm512_setzero_ps();
    {
        EACH_16(i, seen) most = _mm512_mask_max_ps(most, there, most, (__m512)load_scaled(scores + i, there, scale));
    }
    f32x16 largest = broadcast(_mm512_reduce_max_ps(most));
    {
        EACH_16(i, seen) {
            f32x16 e = exp_f32x16(load_scaled(scores + i, there, scale) - largest);
            sum = _mm512_mask_add_ps(sum, there, sum, (__m512)e);
        }
    }
    __m512 inverse_sum = broadcast(1.0f / _mm512_reduce_add_ps(sum));
    EACH_16(i, n) {
        __mmask16 sees = mask_first(seen - i);
        f32x16 e = exp_f32x16(load_scaled(scores + i, sees, scale) - largest);
        store_masked(p + i, there, _mm512_maskz_mul_ps(sees, (__m512)e, inverse_sum));
    }
}

/* p = the softmax of each query's products with the keys up to it. */
static void attention_weights(const Attention *a, const Scratch *s) {
    score(a, s, s->query, s->key);
    for (int row = 0; row < s->rows; row++) {
        int seen = s->begin + row % (s->end - s->begin) + 1;
        softmax(s->scores + (size_t)row * s->end, a->scale, seen, s->end, s->p + (size_t)row * s->end);
    }
}

/* ds = the gradient of the products of query and key, from that of the softmax in `scores`. */
static void softmax_back(const Attention *a, const Scratch *s) {
    for (int row = 0; row < s->rows; row++) {
        const float *d = s->scores + (size_t)row * s->end;
        const Number *p = s->p + (size_t)row * s->end;
        __m512 sum = _mm512_setzero_ps();
        {
            EACH_16(i, s->end) sum = _mm512_fmadd_ps(load_masked(p + i, there), _mm512_maskz_loadu_ps(there, d + i), sum);
        }
        __m512 along = broadcast(_mm512_reduce_add_ps(sum)), scale = broadcast(a->scale);
        EACH_16(i, s->end) {
            __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(there, d + i), along);
            __m512 scaled = _mm512_mul_ps(load_masked(p + i, there), scale);
            store_masked(s->ds + (size_t)row * s->end + i, there, _mm512_mul_ps(scaled, off));
        }
    }
}

/* The transpose of `from` (rows, columns): (columns, rows filled up with zeros to whole panels). Writes up to 16 rows more. */
static void transpose(const Number *from, int rows, int columns, Number *to) {
    int stride = whole_panels(rows);
    for (int row = 0; row < stride; row += BLOCK * STEP)
        for (int column = 0; column < columns; column += BLOCK) {
            __mmask16 there = mask_first(columns - column);
            __m512i steps[BLOCK];
            for (int i = 0; i < BLOCK; i++) {
                int at = row + STEP * i;
                const Number *one = from + (size_t)at * columns + column;
#if defined(TRAIN_FP32)
                steps[i] = (__m512i)load_masked(one, at < rows ? there : 0);
#else
                __m256i even = _mm256_maskz_loadu_epi16(at < rows ? there : 0, one);
                __m256i odd = _mm256_maskz_loadu_epi16(at + 1 < rows ? there : 0, one + columns);
                steps[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
#endif
            }
            transpose16(steps, (uint32_t *)(to + (size_t)column * stride + row), stride / STEP);
        }
}

/* to (tokens up to the block's end, whole panels) += the transpose of from (rows, tokens up to there) times with (rows, width). */
static void add_transposed_product(const Attention *a, const Scratch *s, const Number *from, const Number *with, float *to) {
    transpose(from, s->rows, s->end, s->transposed);
    Product sum = {.format = ACCUMULATE, .partial = to, .rows = s->end, .columns = a->width};
    sum.partial_stride = whole_panels(a->width);
    Term term = {.x = s->transposed, .w = with, .x_stride = whole_panels(s->rows), .w_stride = a->width, .depth = s->rows};
    multiply(sum, term, s->panels);
}

/* The attention of one unit, forward or backward. */
static void attend(const Attention *a, Scratch *s) {
    int64_t stride = (int64_t)a->key_heads * a->width, at = s->first * stride + s->key_head * a->width;
    rope(a, a->key + at, stride, s->key, a->width, s->first, s->tokens, 1, 1.0f);
    rope(a, a->value + at, stride, s->value, a->width, s->first, s->tokens, 0, 1.0f);
    size_t bytes = sizeof(float) * (size_t)s->tokens * whole_panels(a->width);
    if (a->grad) memset(s->d_key, 0, bytes), memset(s->d_value, 0, bytes);
    for (s->begin = 0; s->begin < s->tokens; s->begin = s->end) {
        s->end = s->tokens <= SHORT_TEXT || s->tokens - s->begin < QUERY_BLOCK ? s->tokens : s->begin + QUERY_BLOCK;
        s->rows = (s->end - s->begin) * s->heads;
        gather_heads(a, s, a->query, 1, s->query);
        attention_weights(a, s);
        if (!a->grad) {
            weighted_sum(a, s, s->p, s->value);
            scatter_heads(a, s, s->made, 0, a->out);
            continue;
        }
        gather_heads(a, s, a->grad, 0, s->grad);
        score(a, s, s->grad, s->value);
        softmax_back(a, s);
        add_transposed_product(a, s, s->p, s->grad, s->d_value);
        add_transposed_product(a, s, s->ds, s->query, s->d_key);
        weighted_sum(a, s, s->ds, s->key);
        scatter_heads(a, s, s->made, 1, a->d_query);
    }
}

/* Adds some heads' gradients of a text's keys (0) or values (1) and stores the sum; the first head's are `from`. */
static void scatter_key_gradients(const Attention *a, const Scratch *s, const float *from, int64_t step, int heads, int which) {
    int64_t stride = (int64_t)a->key_heads * a->width;
    Number *to = (which ? a->d_value : a->d_key) + s->first * stride + s->key_head * a->width;
    for (int t = 0; t < s->tokens; t++, to += stride, from += whole_panels(a->width)) {
        EACH_16(i, a->width) {
            f32x16 sum = load_f32x16(from + i);
            for (int h = 1; h < heads; h++) sum += load_f32x16(from + h * step + i);
            store_masked(s->made + i, there, (__m512)sum);
        }
        rope(a, s->made, a->width, to, stride, s->first + t, 1, !which, -1.0f);
    }
}

/* Where a head's gradients of a long text begin. */
static float *head_gradients(const Attention *a, int which, int head, int text) {
    return a->head_gradients + (((size_t)which * a->heads + head) * a->start[a->texts] + a->start[text]) * whole_panels(a->width);
}

static int is_long(const Attention *a, int text) { return a->start[text + 1] - a->start[text] > SHORT_TEXT; }

static void attention_part(void *context, int thread, int threads) {
    const Attention *a = context;
    for (int text = 0, unit = 0; text < a->texts; text++) {
        int together = is_long(a, text) ? 1 : a->heads / a->key_heads;
        for (int head = 0; head < a->heads; head += together, unit++) {
            int at = unit % (2 * threads); /* forth and back, because later texts are longer */
            if ((at < threads ? at : 2 * threads - 1 - at) != thread) continue;
            int first = a->start[text], tokens = a->start[text + 1] - first;
            Scratch s = {.first = first, .tokens = tokens, .head = head, .heads = together};
            s.key_head = head / (a->heads / a->key_heads);
            divide_scratch(a, tokens, a->scratch + thread * a->scratch_bytes, &s);
            if (a->grad && is_long(a, text))
                s.d_key = head_gradients(a, 0, head, text), s.d_value = head_gradients(a, 1, head, text);
            attend(a, &s);
            for (int which = 0; which < 2 && a->grad && !is_long(a, text); which++)
                scatter_key_gradients(a, &s, which ? s.d_value : s.d_key, 0, 1, which);
        }
    }
}

/* Adds the gradients of keys and values of long texts that several heads share. */
static void attention_back_part(void *context, int thread, int threads) {
    const Attention *a = context;
    int group = a->heads / a->key_heads, all = 2 * a->texts * a->key_heads;
    for (int unit = thread; unit < all; unit += threads) {
        int which = unit % 2, head = unit / 2 % a->key_heads, text = unit / 2 / a->key_heads;
        if (!is_long(a, text)) continue;
        Scratch s = {.first = a->start[text], .tokens = a->start[text + 1] - a->start[text], .key_head = head};
        divide_scratch(a, s.tokens, a->scratch + thread * a->scratch_bytes, &s);
        int64_t step = (int64_t)a->start[a->texts] * whole_panels(a->width);
        scatter_key_gradients(a, &s, head_gradients(a, which, head * group, text), step, group, which);
    }
}

static int any_long(const Attention *a) {
    int found = 0;
    for (int text = 0; text < a->texts; text++) found |= is_long(a, text);
    return found;
}

#endif

#endif
