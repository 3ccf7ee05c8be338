/* Packs a row-major matrix of torch's into INT8 or INT4, once when a model is loaded. */
#ifndef SMOLORA_PACK_MATRIX_H
#define SMOLORA_PACK_MATRIX_H

#include "matrix.h"

static inline size_t packed_block_bytes(int format, int cols) {
    return (size_t)(cols / GROUP) * (format == INT8 ? INT8_GROUP : INT4_GROUP);
}

/* The bytes of whole blocks: the last is filled up with rows of zeros. */
static inline size_t packed_bytes(int format, int rows, int cols) {
    return (size_t)((rows + BLOCK - 1) / BLOCK) * packed_block_bytes(format, cols);
}

/* The largest size of 32 weights; NaN if one of them is NaN or infinity: as the scale, it makes every sum NaN. */
static float largest(const float *x) {
    float most = 0, not_finite = 0;
    for (int i = 0; i < GROUP; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        not_finite += x[i] - x[i]; /* 0, except for NaN and infinity */
    }
    return most + not_finite;
}

/* Rounds 32 weights to w = scale * q; all are 0 if they are too small for a scale. */
static void round_int8(const float *x, uint8_t *q, float *scale) {
    float most = largest(x);
    memset(q, 128, GROUP);
    *scale = bf16_to_f32(f32_to_bf16_up(most / 127.0f));
    if (!(*scale > 1.0f / FLT_MAX)) return;
    float to = 1.0f / *scale;
    for (int i = 0; i < GROUP; i++) q[i] = (uint8_t)(int)(nearbyintf(x[i] * to) + 128.0f);
}

/* Rounds 32 weights to w = scale * q + minimum. The numbers' own range is not the best one: this tries some others, fits a line
 * to the rounded numbers by least squares for each, and keeps the one with the least error. */
static void fit_int4(const float *x, uint8_t *q, float *scale, float *minimum) {
    float low = x[0], high = x[0], best = FLT_MAX;
    for (int i = 1; i < GROUP; i++) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
    *scale = 0, *minimum = bf16_to_f32(f32_to_bf16(low));
    if (!(high - low > 16.0f / FLT_MAX)) return;
    for (int tried = -4; tried <= 4; tried++) {
        float steps = (15.0f + 0.2f * (float)tried) / (high - low), rounded[GROUP];
        float sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0, error = 0;
#pragma omp simd reduction(+ : sum_q, sum_qq, sum_x, sum_qx)
        for (int i = 0; i < GROUP; i++) {
            float r = ROUND((x[i] - low) * steps);
            r = r > 15.0f ? 15.0f : r;
            rounded[i] = r, sum_q += r, sum_qq += r * r, sum_x += x[i], sum_qx += r * x[i];
        }
        float spread = GROUP * sum_qq - sum_q * sum_q;
        if (!(spread > 0)) continue;
        float line = bf16_to_f32(f32_to_bf16((GROUP * sum_qx - sum_q * sum_x) / spread));
        float begin = bf16_to_f32(f32_to_bf16((sum_x - line * sum_q) / GROUP));
#pragma omp simd reduction(+ : error)
        for (int i = 0; i < GROUP; i++) {
            float off = line * rounded[i] + begin - x[i];
            error += off * off;
        }
        if (!(error < best)) continue;
        best = error, *scale = line, *minimum = begin;
        for (int i = 0; i < GROUP; i++) q[i] = (uint8_t)rounded[i];
    }
}

/* `fit_int4` for weights of any size: the squares of very large ones would be infinite, so they are scaled down first. */
static void round_int4(const float *x, uint8_t *q, float *scale, float *minimum) {
    const float unit = 0x1p-100f;
    float most = largest(x), smaller[GROUP];
    memset(q, 0, GROUP);
    if (most != most) {
        *scale = *minimum = most;
    } else if (most > 1e15f) {
        for (int i = 0; i < GROUP; i++) smaller[i] = x[i] * unit;
        fit_int4(smaller, q, scale, minimum);
        *scale /= unit, *minimum /= unit;
    } else {
        fit_int4(x, q, scale, minimum);
    }
}

/* Packs one group of one row. */
static void pack_group(int format, const float *x, int row, uint8_t *group) {
    uint8_t q[GROUP];
    float scale, minimum;
    if (format == INT8) {
        round_int8(x, q, &scale);
        for (int i = 0; i < GROUP; i++) group[(i / 4) * 4 * BLOCK + 4 * row + i % 4] = q[i];
        ((uint16_t *)(group + BLOCK * GROUP))[row] = f32_to_bf16(scale);
        return;
    }
    round_int4(x, q, &scale, &minimum);
    for (int i = 0; i < GROUP; i++) {
        uint8_t *at = group + (i / 8) * 4 * BLOCK + 4 * row + i % 4;
        *at = (i / 4) % 2 ? (uint8_t)(*at | q[i] << 4) : q[i];
    }
    uint16_t *scales = (uint16_t *)(group + BLOCK * GROUP / 2);
    scales[row] = f32_to_bf16(scale), scales[BLOCK + row] = f32_to_bf16(minimum);
}

/* Packs blocks first..last-1 of `from` (FP32 or BF16) into `to`. */
static inline void pack(const Matrix *from, int format, int first, int last, uint8_t *to) {
    size_t size = packed_block_bytes(format, from->cols);
    for (int block = first; block < last; block++)
        for (int r = 0; r < BLOCK; r++)
            for (int g = 0; g < from->cols / GROUP; g++) {
                float x[GROUP] = {0};
                int row = block * BLOCK + r;
                size_t at = (size_t)row * from->cols + (size_t)g * GROUP;
                for (int i = 0; row < from->rows && i < GROUP; i++)
                    x[i] = load1(from->format, from->values, at + i);
                pack_group(format, x, r, to + block * size + (size_t)g * (format == INT8 ? INT8_GROUP : INT4_GROUP));
            }
}

#endif
