/* The instructions of AVX-512 that the native code uses, one number after the other in plain C: for `scripts/sanitize.py`, which
 * so looks at what is compiled for processors with them on any other. A masked load reads what its mask names, and no more. */
#ifndef SMOLORA_AVX512_H
#define SMOLORA_AVX512_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef long long __m256i __attribute__((vector_size(32), may_alias));
typedef short __m512bh __attribute__((vector_size(64), may_alias));
typedef short __m256bh __attribute__((vector_size(32), may_alias));
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;

typedef union {
    __m512 f;
    __m512i i;
    __m512bh h;
    float ps[16];
    int32_t i32[16];
    uint32_t u32[16];
    int64_t i64[8];
    uint16_t u16[32];
    uint8_t u8[64];
    int8_t i8[64];
} Wide;

typedef union {
    __m256i i;
    __m256bh h;
    uint16_t u16[16];
} Half;

enum { _MM_FROUND_TO_NEAREST_INT = 0, _MM_FROUND_NO_EXC = 8 };

#define EMULATED static inline __attribute__((always_inline))
#define EACH(n) for (int n_ = (n), i = 0; i < n_; i++)
#define THERE(mask) ((mask) >> i & 1)

EMULATED void _mm_pause(void) {}

/* --- loads and stores: those that want a whole line are reached by its own type, so that another place is undefined ---- */

EMULATED __m512i _mm512_load_si512(const void *from) { return *(const __m512i *)from; }
EMULATED void _mm512_store_si512(void *to, __m512i v) { *(__m512i *)to = v; }
EMULATED void _mm512_store_ps(void *to, __m512 v) { *(__m512 *)to = v; }

EMULATED __m512i _mm512_loadu_si512(const void *from) {
    __m512i v;
    memcpy(&v, from, sizeof v);
    return v;
}
EMULATED void _mm512_storeu_si512(void *to, __m512i v) { memcpy(to, &v, sizeof v); }
EMULATED __m512 _mm512_loadu_ps(const void *from) { return (__m512)_mm512_loadu_si512(from); }
EMULATED __m256i _mm256_loadu_si256(const __m256i *from) {
    __m256i v;
    memcpy(&v, from, sizeof v);
    return v;
}
EMULATED void _mm256_storeu_si256(__m256i *to, __m256i v) { memcpy(to, &v, sizeof v); }

EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void *from) {
    Wide v = {{0}};
    EACH(16) if (THERE(mask)) memcpy(&v.ps[i], (const char *)from + 4 * i, 4);
    return v.f;
}
EMULATED void _mm512_mask_storeu_ps(void *to, __mmask16 mask, __m512 from) {
    Wide v = {from};
    EACH(16) if (THERE(mask)) memcpy((char *)to + 4 * i, &v.ps[i], 4);
}
EMULATED __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void *from) {
    Wide v = {{0}};
    EACH(32) if (THERE(mask)) memcpy(&v.u16[i], (const char *)from + 2 * i, 2);
    return v.i;
}
EMULATED __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void *from) {
    Half v = {{0}};
    EACH(16) if (THERE(mask)) memcpy(&v.u16[i], (const char *)from + 2 * i, 2);
    return v.i;
}
EMULATED void _mm256_mask_storeu_epi16(void *to, __mmask16 mask, __m256i from) {
    Half v = {from};
    EACH(16) if (THERE(mask)) memcpy((char *)to + 2 * i, &v.u16[i], 2);
}

/* --- arithmetic ---------------------------------------------------------------------------------------------------------- */

EMULATED __m512 _mm512_setzero_ps(void) { return (__m512){0}; }
EMULATED __m512i _mm512_setzero_si512(void) { return (__m512i){0}; }
EMULATED __m512 _mm512_set1_ps(float value) { return value - (__m512){0}; }
EMULATED __m512i _mm512_set1_epi32(int32_t value) {
    Wide v;
    EACH(16) v.i32[i] = value;
    return v.i;
}
EMULATED __m512 _mm512_castsi512_ps(__m512i v) { return (__m512)v; }
EMULATED float _mm512_cvtss_f32(__m512 v) { return v[0]; }
EMULATED __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
EMULATED __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
EMULATED __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
EMULATED __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
EMULATED __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }

EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    EACH(16) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
EMULATED __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(-a, b, c); }
EMULATED __m512 _mm512_maskz_mul_ps(__mmask16 mask, __m512 a, __m512 b) {
    EACH(16) a[i] = THERE(mask) ? a[i] * b[i] : 0;
    return a;
}
EMULATED __m512 _mm512_mask_add_ps(__m512 otherwise, __mmask16 mask, __m512 a, __m512 b) {
    EACH(16) if (THERE(mask)) otherwise[i] = a[i] + b[i];
    return otherwise;
}
EMULATED __m512 _mm512_mask_max_ps(__m512 otherwise, __mmask16 mask, __m512 a, __m512 b) {
    EACH(16) if (THERE(mask)) otherwise[i] = a[i] > b[i] ? a[i] : b[i];
    return otherwise;
}
EMULATED float _mm512_reduce_add_ps(__m512 v) {
    for (int size = 8; size; size /= 2) EACH(size) v[i] += v[i + size];
    return v[0];
}
EMULATED float _mm512_reduce_max_ps(__m512 v) {
    for (int size = 8; size; size /= 2) EACH(size) v[i] = v[i] > v[i + size] ? v[i] : v[i + size];
    return v[0];
}
EMULATED __m512 _mm512_roundscale_ps(__m512 v, int how) {
    (void)how;
    EACH(16) v[i] = nearbyintf(v[i]);
    return v;
}
EMULATED __m512 _mm512_scalef_ps(__m512 a, __m512 by) {
    EACH(16) {
        float power = floorf(by[i]);
        if (by[i] != by[i]) a[i] = by[i];
        else if (isinf(by[i])) a[i] = by[i] > 0 ? INFINITY : 0;
        else a[i] = ldexpf(a[i], power > 1000 ? 1000 : power < -1000 ? -1000 : (int)power);
    }
    return a;
}
EMULATED __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i unsigned_, __m512i signed_) {
    Wide s = {.i = sums}, a = {.i = unsigned_}, b = {.i = signed_};
    EACH(64) s.i32[i / 4] += a.u8[i] * b.i8[i];
    return s.i;
}

/* --- bf16 ------------------------------------------------------------------------------------------------------------------ */

EMULATED float widened_(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
EMULATED __m512 _mm512_dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
    Wide x = {.h = a}, y = {.h = b};
    EACH(16) for (int k = 1; k >= 0; k--) sums[i] += widened_(x.u16[2 * i + k]) * widened_(y.u16[2 * i + k]);
    return sums;
}
EMULATED __m256bh _mm512_cvtneps_pbh(__m512 from) {
    Wide v = {from};
    Half to;
    EACH(16) {
        uint32_t bits = v.u32[i];
        to.u16[i] = v.ps[i] != v.ps[i] ? (uint16_t)(bits >> 16 | 64) : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return to.h;
}

/* --- from place to place ---------------------------------------------------------------------------------------------------- */

EMULATED __m512i _mm512_cvtepu16_epi32(__m256i from) {
    Half h = {from};
    Wide v;
    EACH(16) v.u32[i] = h.u16[i];
    return v.i;
}
EMULATED __m512i _mm512_slli_epi32(__m512i from, unsigned by) {
    Wide v = {.i = from};
    EACH(16) v.u32[i] <<= by;
    return v.i;
}
EMULATED __m512i unpacked32_(__m512i a, __m512i b, int high) {
    Wide x = {.i = a}, y = {.i = b}, v;
    EACH(16) v.i32[i] = (i % 2 ? y : x).i32[i / 4 * 4 + 2 * high + i % 4 / 2];
    return v.i;
}
EMULATED __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) { return unpacked32_(a, b, 0); }
EMULATED __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) { return unpacked32_(a, b, 1); }
EMULATED __m512i unpacked64_(__m512i a, __m512i b, int high) {
    EACH(8) if (i % 2) a[i] = b[i - 1 + high]; else if (high) a[i] = a[i + 1];
    return a;
}
EMULATED __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) { return unpacked64_(a, b, 0); }
EMULATED __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) { return unpacked64_(a, b, 1); }
EMULATED __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int which) {
    __m512i v;
    EACH(8) v[i] = (i < 4 ? a : b)[2 * (which >> i / 2 * 2 & 3) + i % 2];
    return v;
}
EMULATED __m512i _mm512_permutex2var_epi16(__m512i a, __m512i order, __m512i b) {
    Wide x = {.i = a}, o = {.i = order}, y = {.i = b}, v;
    EACH(32) v.u16[i] = (o.u16[i] & 32 ? y : x).u16[o.u16[i] & 31];
    return v.i;
}

#endif
