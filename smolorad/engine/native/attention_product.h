/* The two products of attention: of queries with keys, and of softmax weights with values.
 *
 * The order of a sum's terms is the same whether there are few queries or many: what a token gets does not depend on the tokens
 * that are computed along with it. */
#ifndef SMOLORA_ATTENTION_PRODUCT_H
#define SMOLORA_ATTENTION_PRODUCT_H

#include "product.h"
#include "weighted_sum.h"

#if defined(ONLY_AVX2)

enum { MANY_QUERIES = 24 }; /* from here on, packing keys and values costs less than it saves */

/* A panel of 16 keys with `count` queries, a constant. As in `dot_tile`, each 8th term of a product is summed in a lane of its own,
 * and the lanes are then added in pairs; here the lanes are summed one after the other. */
INLINE void key_tile(const float *panel, int d, const float *x, int stride, int count, int keys, float *out, int out_stride) {
    lanes lane[8][PROMPT_TILE][PARTS], sums[PROMPT_TILE][PARTS];
    const int whole = d / 8 * 8;
    for (int first = 0; first < 8; first++) {
        for (int s = 0; s < count; s++)
            for (int k = 0; k < PARTS; k++) sums[s][k] = (lanes){0};
        for (int i = first; i < whole; i += 8) {
            lanes key[PARTS];
            for (int k = 0; k < PARTS; k++) memcpy(&key[k], panel + i * BLOCK + k * LANES, sizeof key[k]);
            for (int s = 0; s < count; s++) {
                lanes both = x[(size_t)s * stride + i] - (lanes){0};
                for (int k = 0; k < PARTS; k++) sums[s][k] = add_product(sums[s][k], key[k], both);
            }
        }
        memcpy(lane[first], sums, sizeof sums);
    }
    for (int s = 0; s < count; s++) {
        float sum[BLOCK];
        for (int k = 0; k < PARTS; k++) {
            lanes low = (lane[0][s][k] + lane[1][s][k]) + (lane[2][s][k] + lane[3][s][k]);
            lanes high = (lane[4][s][k] + lane[5][s][k]) + (lane[6][s][k] + lane[7][s][k]);
            low += high;
            memcpy(sum + k * LANES, &low, sizeof low);
        }
        for (int i = whole; i < d; i++)
            for (int key = 0; key < BLOCK; key++) sum[key] = fmaf(panel[i * BLOCK + key], x[(size_t)s * stride + i], sum[key]);
        store_panel_sums(sum, keys, out + (size_t)s * out_stride);
    }
}

/* `multiply_keys` of many queries. */
INLINE void key_product(int format, const void *keys, int d, int n, const Vectors *queries, float *scores, int stride) {
    float *panel = (float *)queries->panel;
    int tiles = prompt_tiles(queries->count); /* of 6 or 5 queries */
    size_t key_bytes = (size_t)d * number_bytes(format);
    for (int key = 0; key < n; key += BLOCK) {
        pack_prompt_panel(format, (const char *)keys + key * key_bytes, d, n - key, d, panel);
        for (int i = 0; i < tiles; i++) {
            int s = queries->count * i / tiles, count = queries->count * (i + 1) / tiles - s;
            const float *x = queries->x + (size_t)s * queries->stride;
            float *to = scores + (size_t)s * stride + key;
            if (count == PROMPT_TILE) key_tile(panel, d, x, queries->stride, PROMPT_TILE, n - key, to, stride);
            else key_tile(panel, d, x, queries->stride, PROMPT_TILE - 1, n - key, to, stride);
        }
    }
}

/* `sum_values` of many queries; `panel` has room for 16 numbers of each value. */
static void value_product(int format, const void *values, int d, int n, const float *weights, int stride, int queries, float *panel,
                          float *out) {
    int tiles = prompt_tiles(queries);
    for (int at = 0; at < d; at += BLOCK) {
        int wide = d - at < BLOCK ? d - at : BLOCK;
        for (int t = 0; t < n; t++)
            for (int k = 0; k < BLOCK; k++) panel[t * BLOCK + k] = load1(format, values, (size_t)t * d + at + (k < wide ? k : 0));
        for (int i = 0; i < tiles; i++) {
            int s = queries * i / tiles, count = queries * (i + 1) / tiles - s;
            prompt_tile(panel, n, weights + (size_t)s * stride, stride, count, wide, 1, out + (size_t)s * d + at, d);
        }
    }
}
#endif

/* scores[s][t] = keys[t] . queries[s], n keys of d numbers. */
static void multiply_keys(int format, const void *keys, int d, int n, const Vectors *queries, float *scores, int stride) {
#if defined(ONLY_AVX2)
    if (queries->count >= MANY_QUERIES) {
        if (format == BF16) key_product(BF16, keys, d, n, queries, scores, stride);
        else key_product(FP32, keys, d, n, queries, scores, stride);
        return;
    }
#endif
    if (format == BF16) product_bf16(keys, d, 0, n, queries, scores, stride);
    else product_f32(keys, d, 0, n, queries, scores, stride);
}

/* out[s] (d numbers) = the sum of values[t] * weights[s][t] over t < n. `panel` is of `alloc_panel`, for KEY_BLOCK columns or more. */
static void sum_values(int format, const void *values, int d, int n, const float *weights, int stride, int queries,
                       uint32_t *panel, float *out) {
#if defined(ONLY_AVX2)
    if (queries >= MANY_QUERIES) {
        value_product(format, values, d, n, weights, stride, queries, (float *)panel, out);
        return;
    }
#else
    (void)panel;
#endif
    if (format == BF16) weighted_sum_bf16(values, d, weights, stride, n, queries, out, d);
    else weighted_sum_f32(values, d, weights, stride, n, queries, out, d);
}

#endif
