/* Causal attention of texts that lie end to end, each to itself.
 *
 * The heads that share a key are taken together where a text is short, and each head by itself, a block of queries at a time,
 * where it is long: so there is enough for all threads, and what is worked on stays near. */
#ifndef SMOLORA_TRAIN_ATTENTION_H
#define SMOLORA_TRAIN_ATTENTION_H

#include "train_products.h"
#include "train_rows.h"

#if defined(TRAINS)

enum { SHORT = 192, QUERIES = 96 }; /* tokens of a text; of a longer one in a block */

typedef struct {
    const Number *query, *key, *value, *grad; /* (tokens, heads, width), (tokens, key_heads, width) twice, as query */
    const Number *cos, *sin;                  /* (tokens, width / 2), of the angles by which query and key turn; or NULL */
    Number *out, *d_query, *d_key, *d_value;  /* as what they are of; out forward, the others backward */
    const int32_t *start;                       /* (texts + 1,) */
    float *back;                                /* (2, heads, tokens, whole panels), room for what a head makes of long texts */
    char *room;                                 /* room_bytes for each thread, where a line of the cache begins */
    int64_t angle_stride, room_bytes;
    int32_t texts, heads, key_heads, width;
    float scale;
} Attention;

/* Some heads of one text that share a key. Rows are those of a block of queries, head by head. */
typedef struct {
    int first, tokens; /* of the text */
    int head, heads, key_head;
    int begin, end, rows;   /* of the block */
    float *scores;          /* (rows, tokens up to the block's end) */
    float *d_key, *d_value; /* (tokens, width in whole panels) */
    float *partial;         /* (rows, width in whole panels) */
    Number *p, *ds;       /* as scores */
    Number *query, *grad; /* (rows, width) */
    Number *made;         /* as many */
    Number *turned;       /* (tokens, rows): scores turned over */
    Number *key, *value;  /* (tokens, width) */
    uint32_t *panels;
} Share;

static size_t lines_of(size_t bytes) { return (bytes + 63) / 64 * 64; }
static int panels_of(int columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

static size_t share_out(const Attention *a, int tokens, char *room, Share *s) {
    size_t rows = tokens > SHORT ? QUERIES : (size_t)tokens * (a->heads / a->key_heads), at = 0;
    size_t scores = rows * tokens, wide = rows * a->width, few = (size_t)tokens * a->width;
#define ROOM(name, count) s->name = (void *)(room + at), at += lines_of(sizeof *s->name * (count))
    ROOM(scores, scores), ROOM(p, scores), ROOM(ds, scores);
    ROOM(query, wide), ROOM(grad, wide), ROOM(made, wide);
    ROOM(turned, (size_t)panels_of((int)rows) * (tokens + BLOCK));
    size_t small = tokens > SHORT ? 0 : (size_t)tokens * panels_of(a->width);
    ROOM(d_key, small), ROOM(d_value, small);
    ROOM(partial, rows * panels_of(a->width)), ROOM(key, few), ROOM(value, few);
    ROOM(panels, PANELS);
#undef ROOM
    return at;
}

/* A head's numbers of some tokens, turned by the angles times `sign`, from rows of one stride to rows of another. */
static void turn(const Attention *a, const Number *from, int64_t from_stride, Number *to, int64_t to_stride, int first,
                 int tokens, int angles, float sign) {
    int half = a->width / 2;
    for (int t = 0; t < tokens; t++, from += from_stride, to += to_stride) {
        if (!angles || !a->cos) {
            memcpy(to, from, sizeof *to * (size_t)a->width);
            continue;
        }
        const Number *cos = a->cos + (first + t) * a->angle_stride, *sin = a->sin + (first + t) * a->angle_stride;
        EACH16(i, half) {
            __m512 left = get16(from + i, there), right = get16(from + half + i, there);
            __m512 c = get16(cos + i, there), s = _mm512_mul_ps(get16(sin + i, there), set16(sign));
            put16(to + i, there, _mm512_fnmadd_ps(right, s, _mm512_mul_ps(left, c)));
            put16(to + half + i, there, _mm512_fmadd_ps(left, s, _mm512_mul_ps(right, c)));
        }
    }
}

/* The block's queries, or what has their shape. */
static void gather(const Attention *a, const Share *s, const Number *from, int angles, Number *to) {
    int64_t stride = (int64_t)a->heads * a->width;
    int first = s->first + s->begin, tokens = s->end - s->begin;
    for (int h = 0; h < s->heads; h++)
        turn(a, from + first * stride + (s->head + h) * a->width, stride, to + (size_t)h * tokens * a->width, a->width, first,
             tokens, angles, 1.0f);
}

static void scatter(const Attention *a, const Share *s, const Number *from, int angles, Number *to) {
    int64_t stride = (int64_t)a->heads * a->width;
    int first = s->first + s->begin, tokens = s->end - s->begin;
    for (int h = 0; h < s->heads; h++)
        turn(a, from + (size_t)h * tokens * a->width, a->width, to + first * stride + (s->head + h) * a->width, stride, first,
             tokens, angles, -1.0f);
}

static void multiply(Product out, Term term, uint32_t *panels) {
    out.terms = 1, out.term = &term;
    product_part(&out, 0, out.rows, 0, panels_of(out.columns) / PANEL, panels);
}

/* scores = x (rows, width) times y (tokens up to the block's end, width), turned over. */
static void score(const Attention *a, const Share *s, const Number *x, const Number *y) {
    Product scores = {.out = s->scores, .out_stride = s->end, .rows = s->rows, .columns = s->end};
    Term term = {.x = x, .w = y, .x_stride = a->width, .w_stride = a->width, .depth = a->width, .turned = 1};
    multiply(scores, term, s->panels);
}

/* made (rows, width) = p (rows, tokens up to the block's end) times y (as many, width). */
static void mix(const Attention *a, const Share *s, const Number *p, const Number *y) {
    Product made = {.out = s->made, .format = NUMBER, .out_stride = a->width, .rows = s->rows, .columns = a->width};
    Term term = {.x = p, .w = y, .x_stride = s->end, .w_stride = a->width, .depth = s->end};
    made.partial = s->partial, made.partial_stride = panels_of(a->width);
    multiply(made, term, s->panels);
}

INLINE __m512 scaled16(const float *from, __mmask16 there, __m512 scale) {
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(there, from), scale);
}

/* Of each query and each key up to it. */
static void probabilities(const Attention *a, const Share *s) {
    score(a, s, s->query, s->key);
    for (int row = 0; row < s->rows; row++) {
        const float *scores = s->scores + (size_t)row * s->end;
        Number *p = s->p + (size_t)row * s->end;
        int seen = s->begin + row % (s->end - s->begin) + 1;
        __m512 most = set16(-INFINITY), sum = _mm512_setzero_ps(), scale = set16(a->scale);
        {
            EACH16(i, seen) most = _mm512_mask_max_ps(most, there, most, scaled16(scores + i, there, scale));
        }
        __m512 largest = set16(_mm512_reduce_max_ps(most));
        {
            EACH16(i, seen) {
                __m512 x = scaled16(scores + i, there, scale);
                sum = _mm512_mask_add_ps(sum, there, sum, exp16(_mm512_sub_ps(x, largest)));
            }
        }
        __m512 share = set16(1.0f / _mm512_reduce_add_ps(sum));
        EACH16(i, s->end) {
            __mmask16 sees = seen > i ? first_of(seen - i) : 0;
            __m512 x = scaled16(scores + i, sees, scale);
            put16(p + i, there, _mm512_maskz_mul_ps(sees, exp16(_mm512_sub_ps(x, largest)), share));
        }
    }
}

/* From the gradient of the probabilities, in `scores`, to that of the products of query and key. */
static void back_through(const Attention *a, const Share *s) {
    for (int row = 0; row < s->rows; row++) {
        const float *d = s->scores + (size_t)row * s->end;
        const Number *p = s->p + (size_t)row * s->end;
        __m512 sum = _mm512_setzero_ps();
        {
            EACH16(i, s->end) sum = _mm512_fmadd_ps(get16(p + i, there), _mm512_maskz_loadu_ps(there, d + i), sum);
        }
        __m512 along = set16(_mm512_reduce_add_ps(sum)), scale = set16(a->scale);
        EACH16(i, s->end) {
            __m512 off = _mm512_sub_ps(_mm512_maskz_loadu_ps(there, d + i), along);
            put16(s->ds + (size_t)row * s->end + i, there, _mm512_mul_ps(_mm512_mul_ps(get16(p + i, there), scale), off));
        }
    }
}

/* from (rows, columns), turned over: (columns, rows up to a multiple of 32), where what is not there is 0. Room: 16 rows more. */
static void turn_over(const Number *from, int rows, int columns, Number *to) {
    int stride = panels_of(rows);
    for (int row = 0; row < stride; row += BLOCK * EACH_STEP)
        for (int column = 0; column < columns; column += BLOCK) {
            __mmask16 there = first_of(columns - column);
            __m512i steps[BLOCK];
            for (int i = 0; i < BLOCK; i++) {
                int at = row + EACH_STEP * i;
                const Number *one = from + (size_t)at * columns + column;
#if defined(TRAIN_FP32)
                steps[i] = (__m512i)get16(one, at < rows ? there : 0);
#else
                __m256i even = _mm256_maskz_loadu_epi16(at < rows ? there : 0, one);
                __m256i odd = _mm256_maskz_loadu_epi16(at + 1 < rows ? there : 0, one + columns);
                steps[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
#endif
            }
            transpose(steps, (uint32_t *)(to + (size_t)column * stride + row), stride / EACH_STEP);
        }
}

/* to (tokens up to the block's end, back_stride) += from (rows, as many), turned over, times with (rows, width). */
static void add_back(const Attention *a, const Share *s, const Number *from, const Number *with, float *to) {
    turn_over(from, s->rows, s->end, s->turned);
    Product sum = {.format = NOWHERE, .partial = to, .partial_stride = panels_of(a->width), .rows = s->end, .columns = a->width};
    Term term = {.x = s->turned, .w = with, .x_stride = panels_of(s->rows), .w_stride = a->width, .depth = s->rows};
    multiply(sum, term, s->panels);
}

static void attend(const Attention *a, Share *s) {
    int64_t stride = (int64_t)a->key_heads * a->width, at = s->first * stride + s->key_head * a->width;
    turn(a, a->key + at, stride, s->key, a->width, s->first, s->tokens, 1, 1.0f);
    turn(a, a->value + at, stride, s->value, a->width, s->first, s->tokens, 0, 1.0f);
    size_t back = sizeof(float) * (size_t)s->tokens * panels_of(a->width);
    if (a->grad) memset(s->d_key, 0, back), memset(s->d_value, 0, back);
    for (s->begin = 0; s->begin < s->tokens; s->begin = s->end) {
        s->end = s->tokens <= SHORT || s->tokens - s->begin < QUERIES ? s->tokens : s->begin + QUERIES;
        s->rows = (s->end - s->begin) * s->heads;
        gather(a, s, a->query, 1, s->query);
        probabilities(a, s);
        if (!a->grad) {
            mix(a, s, s->p, s->value);
            scatter(a, s, s->made, 0, a->out);
            continue;
        }
        gather(a, s, a->grad, 0, s->grad);
        score(a, s, s->grad, s->value);
        back_through(a, s);
        add_back(a, s, s->p, s->grad, s->d_value);
        add_back(a, s, s->ds, s->query, s->d_key);
        mix(a, s, s->ds, s->key);
        scatter(a, s, s->made, 1, a->d_query);
    }
}

/* The sum of some heads' gradients of a text's keys (0) or values (1) to where it belongs; the first head's are `from`. */
static void put_back(const Attention *a, const Share *s, const float *from, int64_t step, int heads, int which) {
    int64_t stride = (int64_t)a->key_heads * a->width;
    Number *to = (which ? a->d_value : a->d_key) + s->first * stride + s->key_head * a->width;
    for (int t = 0; t < s->tokens; t++, to += stride, from += panels_of(a->width)) {
        EACH16(i, a->width) {
            f16 sum = load_f32(from + i);
            for (int h = 1; h < heads; h++) sum += load_f32(from + h * step + i);
            put16(s->made + i, there, (__m512)sum);
        }
        turn(a, s->made, a->width, to, stride, s->first + t, 1, !which, -1.0f);
    }
}

/* Where a head's gradients of a long text begin. */
static float *back_of(const Attention *a, int which, int head, int text) {
    return a->back + (((size_t)which * a->heads + head) * a->start[a->texts] + a->start[text]) * panels_of(a->width);
}

static int is_long(const Attention *a, int text) { return a->start[text + 1] - a->start[text] > SHORT; }

static void attention_part(void *what, int thread, int threads) {
    const Attention *a = what;
    for (int text = 0, unit = 0; text < a->texts; text++) {
        int together = is_long(a, text) ? 1 : a->heads / a->key_heads;
        for (int head = 0; head < a->heads; head += together, unit++) {
            int at = unit % (2 * threads); /* there and back again, as the texts grow longer */
            if ((at < threads ? at : 2 * threads - 1 - at) != thread) continue;
            int first = a->start[text], tokens = a->start[text + 1] - first;
            Share s = {.first = first, .tokens = tokens, .head = head, .heads = together};
            s.key_head = head / (a->heads / a->key_heads);
            share_out(a, tokens, a->room + thread * a->room_bytes, &s);
            if (a->grad && is_long(a, text)) s.d_key = back_of(a, 0, head, text), s.d_value = back_of(a, 1, head, text);
            attend(a, &s);
            for (int which = 0; which < 2 && a->grad && !is_long(a, text); which++)
                put_back(a, &s, which ? s.d_value : s.d_key, 0, 1, which);
        }
    }
}

/* What the heads of long texts have made of the gradients of the keys and values that they share. */
static void attention_back_part(void *what, int thread, int threads) {
    const Attention *a = what;
    int shared = a->heads / a->key_heads, all = 2 * a->texts * a->key_heads;
    for (int unit = thread; unit < all; unit += threads) {
        int which = unit % 2, head = unit / 2 % a->key_heads, text = unit / 2 / a->key_heads;
        if (!is_long(a, text)) continue;
        Share s = {.first = a->start[text], .tokens = a->start[text + 1] - a->start[text], .key_head = head};
        share_out(a, s.tokens, a->room + thread * a->room_bytes, &s);
        int64_t step = (int64_t)a->start[a->texts] * panels_of(a->width);
        put_back(a, &s, back_of(a, which, head * shared, text), step, shared, which);
    }
}

static int any_long(const Attention *a) {
    int found = 0;
    for (int text = 0; text < a->texts; text++) found |= is_long(a, text);
    return found;
}

#endif

#endif
