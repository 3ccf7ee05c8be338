/* Sums of products of matrices, as training needs them: out = added + x1 w1 + x2 w2 + ..., rounded once.
 *
 * The second factors are read where torch has them, row-major in either sense, and laid out panel by panel as the instruction
 * takes them: [depth / EACH_STEP][column][depth % EACH_STEP], 32 columns. That costs a fiftieth of the product, and no memory. A
 * tile of 12 rows and 32 columns has its sums in registers. No sum depends on how many threads there are, or on which of them
 * makes it.
 */
#ifndef SMOLORA_TRAIN_PRODUCTS_H
#define SMOLORA_TRAIN_PRODUCTS_H

#include "train_number.h"
#include "team.h"

enum { NOWHERE = -1 };
enum {
    PIECES = 8,       /* of several terms in a slice */
    PANEL = 32,       /* columns */
    TILE = 12,        /* rows */
    SLICE = 640,      /* depth of a panel that stays in the first cache beside a tile's rows */
    SMALL = 64,       /* what a slice may be deeper than that, so that a LoRA's few numbers need no slice of their own */
    PANELS = (SLICE + SMALL + PIECES) / EACH_STEP * PANEL, /* room for a slice's panel, in steps */
    CHUNK = 32 * TILE /* rows whose numbers, so deep, stay in the second cache */
};

typedef struct {
    const Number *x; /* (rows, depth) */
    const Number *w; /* (depth, columns), or (columns, depth) if turned */
    int64_t x_stride, w_stride;
    int32_t depth, turned; /* depth: whole steps where w is turned */
} Term;

typedef struct {
    void *out; /* (rows, columns) */
    const Number *added; /* likewise; or NULL */
    float *partial; /* room for as many numbers, the columns filled up to whole panels */
    int64_t out_stride, added_stride, partial_stride;
    int32_t rows, columns, format, terms; /* of out: FP32, NUMBER, or NOWHERE: then the sum is added to what is in partial */
    const Term *term;
} Product;

#if defined(TRAINS)

typedef struct {
    const uint32_t *panel;
    const Number *x;
    int64_t stride;
    int depth;
} Piece;

/* Which of 32 columns are there. */
INLINE __mmask32 columns_of(int left) { return left >= PANEL ? ~0u : (1u << left) - 1; }

/* 32 columns from `column` on of w, rows from `at` on, so many of them; what is not there is 0. */
#if defined(TRAIN_FP32)
static void lay_out_straight(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    __mmask32 there = columns_of(columns - column);
    const float *from = t->w + at * t->w_stride + column;
    for (int i = 0; i < depth; i++, from += t->w_stride, to += PANEL) {
        _mm512_store_ps(to, get16(from, (__mmask16)there));
        _mm512_store_ps(to + BLOCK, get16(from + BLOCK, (__mmask16)(there >> BLOCK)));
    }
}

static void lay_out_block(const float *from, int64_t stride, int depth, int rows, uint32_t *to) {
    int at = 0;
    for (; at + BLOCK <= depth; at += BLOCK) {
        __m512i a[BLOCK];
        for (int i = 0; i < BLOCK; i++) a[i] = i < rows ? _mm512_loadu_si512(from + i * stride + at) : _mm512_setzero_si512();
        transpose(a, to + (size_t)at * PANEL, PANEL);
    }
    for (; at < depth; at++)
        for (int i = 0; i < BLOCK; i++) ((float *)to)[(size_t)at * PANEL + i] = i < rows ? from[i * stride + at] : 0.0f;
}
#else
static void lay_out_straight(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    static const uint16_t order[2][32] LINE = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
    };
    __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
    __mmask32 there = columns_of(columns - column);
    const uint16_t *from = t->w + at * t->w_stride + column;
    for (int i = 0; i < depth; i += 2, from += 2 * t->w_stride, to += PANEL) {
        __m512i even = _mm512_maskz_loadu_epi16(there, from);
        __m512i odd = at + i + 1 < t->depth ? _mm512_maskz_loadu_epi16(there, from + t->w_stride) : _mm512_setzero_si512();
        _mm512_store_si512(to, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_store_si512(to + BLOCK, _mm512_permutex2var_epi16(even, high, odd));
    }
}

#define lay_out_block lay_out
#endif

static void lay_out_turned(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    const Number *from = t->w + column * t->w_stride + at;
    for (int half = 0; half < 2; half++) {
        int left = columns - column - BLOCK * half;
        lay_out_block(from + half * BLOCK * t->w_stride, t->w_stride, depth, left < 0 ? 0 : left < BLOCK ? left : BLOCK, to + BLOCK * half);
    }
}

INLINE void tile(const Product *p, const Piece *piece, int pieces, int row, int column, int count, int begins, int ends) {
    f16 sums[TILE][2];
    int left = p->columns - column;
    __mmask32 there = columns_of(left);
    __mmask16 half[2] = {(__mmask16)there, (__mmask16)(there >> BLOCK)};
    float *partial = p->partial + row * p->partial_stride + column;
    size_t wide = p->format == FP32 ? sizeof(float) : sizeof(Number);
    for (int i = 0; i < count; i++) {
        if (ends) __builtin_prefetch((char *)p->out + ((row + i) * p->out_stride + column) * wide, 1);
        if (!begins) {
            for (int b = 0; b < 2; b++) sums[i][b] = load_f32(partial + i * p->partial_stride + 16 * b);
        } else if (p->added) {
            const Number *added = p->added + (row + i) * p->added_stride + column;
            for (int b = 0; b < 2; b++) sums[i][b] = (f16)get16(added + BLOCK * b, half[b]);
        } else {
            sums[i][0] = sums[i][1] = (f16){0};
        }
    }
    for (int k = 0; k < pieces; k++) {
        const uint32_t *panel = piece[k].panel;
        const Number *x = piece[k].x + row * piece[k].stride;
        for (int step = 0; step < piece[k].depth / EACH_STEP; step++, panel += PANEL, x += EACH_STEP) {
            __m512i w[2] = {_mm512_load_si512(panel), _mm512_load_si512(panel + 16)};
            for (int i = 0; i < count; i++) {
                __m512i both = _mm512_set1_epi32(*(const quad *)(x + i * piece[k].stride));
                for (int b = 0; b < 2; b++) sums[i][b] = add_step(sums[i][b], w[b], both);
            }
        }
        for (int i = 0; i < count && piece[k].depth % EACH_STEP; i++) { /* half a step */
            __m512i last = _mm512_set1_epi32((int)x[i * piece[k].stride]);
            for (int b = 0; b < 2; b++) sums[i][b] = add_step(sums[i][b], _mm512_load_si512(panel + 16 * b), last);
        }
    }
    for (int i = 0; i < count; i++) {
        if (!ends) {
            for (int b = 0; b < 2; b++) memcpy(partial + i * p->partial_stride + 16 * b, &sums[i][b], sizeof(f16));
        } else if (p->format == FP32) {
            float *out = (float *)p->out + (row + i) * p->out_stride + column;
            for (int b = 0; b < 2; b++) _mm512_mask_storeu_ps(out + BLOCK * b, half[b], (__m512)sums[i][b]);
        } else {
            Number *out = (Number *)p->out + (row + i) * p->out_stride + column;
            for (int b = 0; b < 2; b++) put16(out + BLOCK * b, half[b], (__m512)sums[i][b]);
        }
    }
}

#define TILE_OF(count) \
    case count: tile(p, piece, pieces, row, column, count, begins, ends); break;
static void some_rows(const Product *p, const Piece *piece, int pieces, int row, int column, int count, int begins, int ends) {
    switch (count) { /* a constant count lets the sums stay in registers */
        TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6)
        TILE_OF(7) TILE_OF(8) TILE_OF(9) TILE_OF(10) TILE_OF(11) TILE_OF(12)
    }
}

/* Rows first_row..last_row-1 of the panels first..last-1. */
static void product_part(const Product *p, int first_row, int last_row, int first, int last, uint32_t *room) {
    int tiles = (last_row - first_row + TILE - 1) / TILE;
    for (int term = 0, at = 0, begins = p->format != NOWHERE; term < p->terms; begins = 0) {
        struct { int term, at, depth; } slice[PIECES];
        int slices = 0, deep = 0;
        while (term < p->terms && deep < SLICE && slices < PIECES) {
            const Term *t = &p->term[term];
            int left = t->depth - at, parts = (left + SLICE - 1) / SLICE;
            int depth = parts == 1 ? left : (left / parts + 1) / EACH_STEP * EACH_STEP;
            if (slices && deep + depth > SLICE + SMALL) break;
            slice[slices].term = term, slice[slices].at = at, slice[slices++].depth = depth;
            deep += depth, at += depth;
            if (at >= t->depth) term++, at = 0;
        }
        for (int column = first * PANEL; column < last * PANEL; column += PANEL) {
            Piece piece[PIECES];
            uint32_t *to = room;
            for (int i = 0; i < slices; i++) {
                const Term *t = &p->term[slice[i].term];
                (t->turned ? lay_out_turned : lay_out_straight)(t, p->columns, column, slice[i].at, slice[i].depth, to);
                piece[i] = (Piece){to, t->x + slice[i].at, t->x_stride, slice[i].depth};
                to += (size_t)((slice[i].depth + EACH_STEP - 1) / EACH_STEP) * PANEL;
            }
            for (int i = 0, row = first_row; i < tiles; i++) {
                int end = first_row + (int)((int64_t)(last_row - first_row) * (i + 1) / tiles);
                some_rows(p, piece, slices, row, column, end - row, begins, term == p->terms && p->format != NOWHERE);
                row = end;
            }
        }
    }
}

typedef struct {
    Product *product;
    int count;
} Products;

static void products_part(void *what, int thread, int threads) {
    const Products *all = what;
    uint32_t room[PANELS] LINE;
    for (int i = 0; i < all->count; i++) {
        const Product *p = &all->product[i];
        int panels = (p->columns + PANEL - 1) / PANEL, chunks = (p->rows + CHUNK - 1) / CHUNK;
        if (panels < 4 * threads && chunks * panels < 2 * threads) chunks = (2 * threads + panels - 1) / panels;
        if (chunks > p->rows) chunks = p->rows;
        int begin = (int)((int64_t)chunks * panels * thread / threads), end = (int)((int64_t)chunks * panels * (thread + 1) / threads);
        for (int chunk = begin / panels; chunk * panels < end; chunk++) {
            int first = begin > chunk * panels ? begin - chunk * panels : 0;
            int last = end < (chunk + 1) * panels ? end - chunk * panels : panels;
            product_part(p, (int)((int64_t)p->rows * chunk / chunks), (int)((int64_t)p->rows * (chunk + 1) / chunks), first, last, room);
        }
    }
}
#endif

#endif
