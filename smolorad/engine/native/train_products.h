/* Sums of products of matrices, as training needs them: out = added + x1 w1 + x2 w2 + ..., rounded once.
 *
 * The second factors are read where torch has them, row-major and transposed or not, and packed into one panel at a time. That
 * costs a fiftieth of the product. A tile of 12 rows and a panel's 32 columns has its sums in registers. No sum depends on how
 * many threads there are, or on which of them computes it.
 */
#ifndef SMOLORA_TRAIN_PRODUCTS_H
#define SMOLORA_TRAIN_PRODUCTS_H

#include "team.h"
#include "train_structs.h"

enum {
    MAX_SLICES = 8,       /* slices of terms that a tile adds before it stores its sums */
    SLICE_DEPTH = 640,    /* depth of a panel that stays in the first cache beside a tile's rows */
    SLICE_SLACK = 64,     /* how much deeper slices may be: a LoRA's few numbers need no pass of their own */
    SLICE_PANEL = (SLICE_DEPTH + SLICE_SLACK + MAX_SLICES) / STEP * PANEL, /* numbers of 32 bits in the panel of all slices */
    ROW_CHUNK = 32 * TILE /* rows of SLICE_DEPTH numbers that stay in the second cache */
};

#if defined(CAN_TRAIN)

/* A part of a term's depth: rows of x, and the packed panel of w. */
typedef struct {
    const uint32_t *panel;
    const Number *x;
    int64_t stride;
    int depth;
} Slice;

/* The mask of the columns of a panel that are there. */
INLINE __mmask32 columns_of(int left) { return left >= PANEL ? ~0u : (1u << left) - 1; }

/* Packs 32 columns of w, from `column` on, and rows at..at+depth-1 of it; what is not there is 0. */
#if defined(TRAIN_FP32)
static void pack_panel_straight(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    __mmask32 there = columns_of(columns - column);
    const float *from = t->w + at * t->w_stride + column;
    for (int i = 0; i < depth; i++, from += t->w_stride, to += PANEL) {
        _mm512_store_ps(to, load_masked(from, (__mmask16)there));
        _mm512_store_ps(to + BLOCK, load_masked(from + BLOCK, (__mmask16)(there >> BLOCK)));
    }
}
#else
static void pack_panel_straight(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    static const uint16_t order[2][32] CACHE_LINE = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63},
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
#endif

/* The same of a transposed w. */
static void pack_panel_transposed(const Term *t, int columns, int column, int at, int depth, uint32_t *to) {
    pack_panel(NUMBER_FORMAT, t->w + column * t->w_stride + at, t->w_stride, depth, columns - column, 2, to);
}

/* Adds the slices to the sums of a tile. `begins`: they start from 0 or `added`, otherwise from `partial`. `ends`: they are rounded
 * into `out`, otherwise kept in `partial`. */
INLINE void tile(const Product *p, const Slice *slice, int slices, int row, int column, int count, int begins, int ends) {
    f32x16 sums[TILE][2];
    int left = p->columns - column;
    __mmask32 there = columns_of(left);
    __mmask16 half[2] = {(__mmask16)there, (__mmask16)(there >> BLOCK)};
    float *partial = p->partial + row * p->partial_stride + column;
    size_t wide = p->format == FP32 ? sizeof(float) : sizeof(Number);
    for (int i = 0; i < count; i++) {
        if (ends) __builtin_prefetch((char *)p->out + ((row + i) * p->out_stride + column) * wide, 1);
        if (!begins) {
            for (int b = 0; b < 2; b++) sums[i][b] = load_f32x16(partial + i * p->partial_stride + 16 * b);
        } else if (p->added) {
            const Number *added = p->added + (row + i) * p->added_stride + column;
            for (int b = 0; b < 2; b++) sums[i][b] = (f32x16)load_masked(added + BLOCK * b, half[b]);
        } else {
            sums[i][0] = sums[i][1] = (f32x16){0};
        }
    }
    for (int k = 0; k < slices; k++) {
        const uint32_t *panel = slice[k].panel;
        const Number *x = slice[k].x + row * slice[k].stride;
        for (int step = 0; step < slice[k].depth / STEP; step++, panel += PANEL, x += STEP) {
            __m512i w[2] = {_mm512_load_si512(panel), _mm512_load_si512(panel + 16)};
            for (int i = 0; i < count; i++) {
                __m512i both = _mm512_set1_epi32(*(const any32 *)(x + i * slice[k].stride));
                for (int b = 0; b < 2; b++) sums[i][b] = multiply_add_step(sums[i][b], w[b], both);
            }
        }
        for (int i = 0; i < count && slice[k].depth % STEP; i++) { /* the last number of an odd depth */
            __m512i last = _mm512_set1_epi32((int)x[i * slice[k].stride]);
            for (int b = 0; b < 2; b++) sums[i][b] = multiply_add_step(sums[i][b], _mm512_load_si512(panel + 16 * b), last);
        }
    }
    for (int i = 0; i < count; i++) {
        if (!ends) {
            for (int b = 0; b < 2; b++) memcpy(partial + i * p->partial_stride + 16 * b, &sums[i][b], sizeof(f32x16));
        } else if (p->format == FP32) {
            float *out = (float *)p->out + (row + i) * p->out_stride + column;
            for (int b = 0; b < 2; b++) _mm512_mask_storeu_ps(out + BLOCK * b, half[b], (__m512)sums[i][b]);
        } else {
            Number *out = (Number *)p->out + (row + i) * p->out_stride + column;
            for (int b = 0; b < 2; b++) store_masked(out + BLOCK * b, half[b], (__m512)sums[i][b]);
        }
    }
}

#define TILE_OF(count) \
    case count: tile(p, slice, slices, row, column, count, begins, ends); break;
static void tile_rows(const Product *p, const Slice *slice, int slices, int row, int column, int count, int begins, int ends) {
    switch (count) { /* a constant count lets the sums stay in registers */
        TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6)
        TILE_OF(7) TILE_OF(8) TILE_OF(9) TILE_OF(10) TILE_OF(11) TILE_OF(12)
    }
}

/* Rows first_row..last_row-1 of the panels first..last-1; `panels` has room for SLICE_PANEL numbers. */
static void product_part(const Product *p, int first_row, int last_row, int first, int last, uint32_t *panels) {
    int tiles = (last_row - first_row + TILE - 1) / TILE;
    for (int term = 0, at = 0, begins = p->format != ACCUMULATE; term < p->terms; begins = 0) {
        struct { int term, at, depth; } cut[MAX_SLICES];
        int cuts = 0, deep = 0;
        while (term < p->terms && deep < SLICE_DEPTH && cuts < MAX_SLICES) {
            const Term *t = &p->term[term];
            int left = t->depth - at, parts = (left + SLICE_DEPTH - 1) / SLICE_DEPTH;
            int depth = parts == 1 ? left : (left / parts + 1) / STEP * STEP;
            if (cuts && deep + depth > SLICE_DEPTH + SLICE_SLACK) break;
            cut[cuts].term = term, cut[cuts].at = at, cut[cuts++].depth = depth;
            deep += depth, at += depth;
            if (at >= t->depth) term++, at = 0;
        }
        for (int column = first * PANEL; column < last * PANEL; column += PANEL) {
            Slice slice[MAX_SLICES];
            uint32_t *to = panels;
            for (int i = 0; i < cuts; i++) {
                const Term *t = &p->term[cut[i].term];
                if (t->transposed) pack_panel_transposed(t, p->columns, column, cut[i].at, cut[i].depth, to);
                else pack_panel_straight(t, p->columns, column, cut[i].at, cut[i].depth, to);
                slice[i] = (Slice){to, t->x + cut[i].at, t->x_stride, cut[i].depth};
                to += (size_t)((cut[i].depth + STEP - 1) / STEP) * PANEL;
            }
            for (int i = 0, row = first_row; i < tiles; i++) {
                int end = first_row + (int)((int64_t)(last_row - first_row) * (i + 1) / tiles);
                tile_rows(p, slice, cuts, row, column, end - row, begins, term == p->terms && p->format != ACCUMULATE);
                row = end;
            }
        }
    }
}

typedef struct {
    Product *product;
    int count;
} Products;

/* One thread's part of all products: of each a range of chunks of rows times panels. */
static void products_part(void *context, int thread, int threads) {
    const Products *all = context;
    uint32_t slice_panels[SLICE_PANEL] CACHE_LINE;
    for (int i = 0; i < all->count; i++) {
        const Product *p = &all->product[i];
        int panels = (p->columns + PANEL - 1) / PANEL, chunks = (p->rows + ROW_CHUNK - 1) / ROW_CHUNK;
        if (panels < 4 * threads && chunks * panels < 2 * threads) chunks = (2 * threads + panels - 1) / panels;
        if (chunks > p->rows) chunks = p->rows;
        int64_t units = (int64_t)chunks * panels;
        int begin = (int)(units * thread / threads), end = (int)(units * (thread + 1) / threads);
        for (int chunk = begin / panels; chunk * panels < end; chunk++) {
            int first = begin > chunk * panels ? begin - chunk * panels : 0;
            int last = end < (chunk + 1) * panels ? end - chunk * panels : panels;
            int first_row = (int)((int64_t)p->rows * chunk / chunks), last_row = (int)((int64_t)p->rows * (chunk + 1) / chunks);
            product_part(p, first_row, last_row, first, last, slice_panels);
        }
    }
}
#endif

#endif
