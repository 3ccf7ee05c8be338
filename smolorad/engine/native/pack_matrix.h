/* Packs a row-major matrix of torch's into INT8, INT5 or INT4, once when a model is loaded. */
#ifndef SMOLORA_PACK_MATRIX_H
#define SMOLORA_PACK_MATRIX_H

#include "matrix.h"

/* The bytes of whole blocks: the last is filled up with rows of zeros. */
static inline size_t packed_bytes(int format, int rows, int cols) {
    return (size_t)((rows + BLOCK - 1) / BLOCK) * block_bytes(format, cols / GROUP);
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

enum { TRIES = 9 };
#define ON_GRID (0.001f * GROUP) /* the error of a group on a grid, in squares of its step: numbers on none have a twelfth each */

/* How a group of INT4 or INT5 is rounded: w = unit * (step * (q - levels / 2) + center_unit * center). */
typedef struct {
    float q[GROUP], error;
    int step, center;
} Fit;

static inline int whole_between(float value, int low, int high) {
    float rounded = ROUND(value);
    return rounded < (float)low ? low : rounded > (float)high ? high : (int)rounded;
}

/* Rounds 32 numbers, in the row's unit, with `steps` of them over their range: the line that fits the rounded numbers best, by least
 * squares, gives the step and the center; these are rounded, and then the numbers again. */
static inline void fit_steps(int format, const float *x, float low, float range, float steps, Fit *fit) {
    const float levels = (float)levels_of(format), middle = 0.5f * levels, unit = center_unit(format);
    float to = steps / range, sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0, error = 0;
#pragma omp simd reduction(+ : sum_q, sum_qq, sum_x, sum_qx)
    for (int i = 0; i < GROUP; i++) {
        float q = ROUND((x[i] - low) * to);
        q = (q > levels ? levels : q) - middle;
        sum_q += q, sum_qq += q * q, sum_x += x[i], sum_qx += q * x[i];
    }
    float spread = GROUP * sum_qq - sum_q * sum_q;
    fit->step = spread > 0 ? whole_between((GROUP * sum_qx - sum_q * sum_x) / spread, 1, 255) : 1;
    fit->center = whole_between((sum_x - (float)fit->step * sum_q) / (GROUP * unit), -127, 127);
    float step = (float)fit->step, by = 1.0f / step, center = unit * (float)fit->center;
#pragma omp simd reduction(+ : error)
    for (int i = 0; i < GROUP; i++) {
        float q = ROUND((x[i] - center) * by + middle);
        q = q < 0 ? 0 : q > levels ? levels : q;
        float off = step * (q - middle) + center - x[i];
        error += off * off, fit->q[i] = q;
    }
    fit->error = error;
}

/* 32 numbers that are hardly apart as their center alone: with a step, the least of which is a unit, zeros would be half a unit off. */
static inline void fit_center(int format, const float *x, Fit *fit) {
    float sum = 0;
    for (int i = 0; i < GROUP; i++) sum += x[i];
    *fit = (Fit){.step = 0, .center = whole_between(sum / (GROUP * center_unit(format)), -127, 127)};
    for (int i = 0; i < GROUP; i++) {
        float off = center_unit(format) * (float)fit->center - x[i];
        fit->error += off * off;
    }
}

/* The numbers' own range is not the best one, so this tries some others. Those with whole steps find numbers that lie on a grid of as many
 * bits already: there next to nothing is lost. */
static void fit_group(int format, const float *x, Fit *best) {
    static const float tries[2][TRIES] = {{15, 15.7f, 15.3f, 14.6f, 14.3f, 14, 13, 12, 11}, {31, 31.6f, 30.6f, 30, 29.5f, 29, 28, 27, 26}};
    float low = x[0], high = x[0];
    for (int i = 1; i < GROUP; i++) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
    float range = high - low > 1 ? high - low : 1;
    if (high - low < 1) fit_center(format, x, best);
    else best->error = FLT_MAX;
    if (best->error < ON_GRID) return;
    for (int i = 0; i < TRIES; i++) {
        Fit fit;
        fit_steps(format, x, low, range, tries[format == INT5][i], &fit);
        if (fit.error < best->error) *best = fit;
        if (fit.error < ON_GRID * (float)(fit.step * fit.step)) break;
    }
}

/* The least unit with which every group of a row has a step, also where its range is fewer steps than there are levels, and a center.
 * Centers end where they are a whole number of half steps over all levels, so that zeros beside one large number stay zeros:
 * 125 * 6 = 100 * 7.5, and 124 * 12 = 96 * 15.5. `x`: `groups` times GROUP numbers. */
static float row_unit(int format, const float *x, int groups) {
    const float steps = 255 * (format == INT4 ? 12.0f : 27.0f), centers = 2 * center_unit(format) * (format == INT4 ? 125.0f : 124.0f);
    float unit = 0;
    for (int g = 0; g < groups; g++, x += GROUP) {
        float low = x[0], high = x[0];
        for (int i = 1; i < GROUP; i++) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
        float step = (high - low) / steps, center = fabsf(high + low) / centers;
        unit = step > unit ? step : unit;
        unit = center > unit ? center : unit;
    }
    return unit;
}

/* Packs a row of INT4 or INT5, and returns the sum of the squares of its errors, in squares of its unit. `x` becomes multiples of the
 * unit. NaN and infinity make the unit NaN, and so every product with the row. */
static float pack_with_units(int format, float *x, int groups, int row, uint8_t *block) {
    float most = 0, error = 0, unit, *units = (float *)block;
    for (int g = 0; g < groups; g++) {
        float size = largest(x + g * GROUP);
        if (!(size <= most)) most = size;
        if (size != size) break;
    }
    /* The squares of very large numbers would be infinite, and those of very small ones 0. */
    float to = most > 1e15f ? 0x1p-100f : most < 1e-15f ? 0x1p100f : 1.0f;
    for (int i = 0; i < groups * GROUP; i++) x[i] *= to;
    unit = row_unit(format, x, groups);
    units[row] = most != most ? most : unit / to;
    float by = most == most && unit > 0 ? 1.0f / unit : 0;
    uint8_t *group = block + UNITS;
    for (int g = 0; g < groups; g++, group += group_bytes(format)) {
        Fit fit = {.step = 0};
        for (int i = 0; i < GROUP; i++) x[g * GROUP + i] *= by;
        if (by > 0) fit_group(format, x + g * GROUP, &fit), error += fit.error;
        for (int i = 0; i < GROUP; i++) {
            int q = (int)fit.q[i], quad = i / 4, lane = 4 * row + i % 4;
            group[quad / 2 * 4 * BLOCK + lane] |= (uint8_t)((q & 15) << 4 * (quad % 2));
            if (format == INT5) group[HALVES + lane] |= (uint8_t)((q >> 4) << quad);
        }
        group[steps_at(format) + row] = (uint8_t)fit.step;
        group[steps_at(format) + BLOCK + row] = (uint8_t)(int8_t)fit.center;
    }
    return error;
}

static void pack_int8(const float *x, int groups, int row, uint8_t *block) {
    for (int g = 0; g < groups; g++, x += GROUP, block += INT8_GROUP) {
        uint8_t q[GROUP];
        float scale;
        round_int8(x, q, &scale);
        for (int i = 0; i < GROUP; i++) block[(i / 4) * 4 * BLOCK + 4 * row + i % 4] = q[i];
        ((uint16_t *)(block + BLOCK * GROUP))[row] = f32_to_bf16(scale);
    }
}

/* `x` = row `row` in FP32; zeros where the matrix has ended. */
static void read_row(const Matrix *from, size_t row, float *x) {
    for (int i = 0; i < from->cols; i++)
        x[i] = row < (size_t)from->rows ? load1(from->format, from->values, row * (size_t)from->cols + (size_t)i) : 0;
}

/* The error of the first block in INT4, relative to its weights, as a mean over its rows of ratios of squares. Rows of zeros fit every
 * format, so they do not count: 1 if there are no others. `block`: room for one. */
static inline float int4_error(const Matrix *from, float *x, uint8_t *block) {
    int rows = from->rows < BLOCK ? from->rows : BLOCK, counted = 0;
    float sum = 0;
    memset(block, 0, block_bytes(INT4, from->cols / GROUP));
    for (int row = 0; row < rows; row++) {
        float squares = 0;
        read_row(from, (size_t)row, x);
        float error = pack_with_units(INT4, x, from->cols / GROUP, row, block);
        for (int i = 0; i < from->cols; i++) squares += x[i] * x[i];
        if (squares > 0) sum += error / squares, counted++;
    }
    return counted ? sum / (float)counted : 1;
}

/* Packs blocks first..last-1 of `from` (FP32 or BF16) into `to`. `x`: room for a row in FP32. */
static inline void pack(const Matrix *from, int format, int first, int last, uint8_t *to, float *x) {
    int groups = from->cols / GROUP;
    size_t size = block_bytes(format, groups);
    for (int block = first; block < last; block++) {
        uint8_t *at = to + (size_t)block * size;
        memset(at, 0, size);
        for (int r = 0; r < BLOCK; r++) {
            read_row(from, (size_t)block * BLOCK + (size_t)r, x);
            if (format == INT8) pack_int8(x, groups, r, at);
            else pack_with_units(format, x, groups, r, at);
        }
    }
}

#endif
