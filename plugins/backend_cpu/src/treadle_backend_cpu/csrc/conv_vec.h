/* Vectors of `real` (float or double, chosen by the including file) for the convolutions: whole and
 * partial loads and stores, and a transposition in registers. */
#ifndef TREADLE_CONV_VEC_H
#define TREADLE_CONV_VEC_H
#include "treadle_cpu.h"
#include <string.h>
#if TD_VEC > 16
#include <immintrin.h>
#endif

/* REAL_SIZE is sizeof(real), for the preprocessor. */
#define LANES ((int)(TD_VEC / REAL_SIZE))

/* A loop over a few registers, written out. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

typedef real vec __attribute__((vector_size(TD_VEC)));
typedef real loose_vec __attribute__((vector_size(TD_VEC), aligned(REAL_SIZE), may_alias));

TD_INLINE vec vec_load(const real *p) { return *(const loose_vec *)p; }
TD_INLINE void vec_store(real *p, vec v) { *(loose_vec *)p = v; }
TD_INLINE vec vec_all(real x) { return x - (vec){0}; }

/* Whether n says all lanes and a whole vector is faster than a masked one: AVX2's masked stores take
 * tens of cycles on some processors. */
#define WHOLE_(n) (TD_VEC < 64 && (n) == LANES)

/* The first n lanes (0 <= n <= LANES); the others are zero, and their memory is not touched. */
TD_INLINE vec vec_load_n(const real *p, int64_t n)
{
    if (WHOLE_(n)) return vec_load(p);
#if TD_VEC == 64 && REAL_SIZE == 4
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif TD_VEC == 64
    return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif TD_VEC == 32 && REAL_SIZE == 4
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (vec)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane));
#elif TD_VEC == 32
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return (vec)_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane));
#else
    vec v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
#endif
}

TD_INLINE void vec_store_n(real *p, vec v, int64_t n)
{
    if (WHOLE_(n)) {
        vec_store(p, v);
        return;
    }
#if TD_VEC == 64 && REAL_SIZE == 4
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif TD_VEC == 64
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#elif TD_VEC == 32 && REAL_SIZE == 4
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane), (__m256)v);
#elif TD_VEC == 32
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    _mm256_maskstore_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane), (__m256d)v);
#else
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

#if REAL_SIZE == 4
typedef int32_t lane_type;
#else
typedef int64_t lane_type;
#endif
typedef lane_type lane_index __attribute__((vector_size(TD_VEC)));

/* Yes where the lanes of mask are all ones, no where they are zero. */
TD_INLINE vec vec_select(lane_index mask, vec yes, vec no)
{
    return (vec)((mask & (lane_index)yes) | (~mask & (lane_index)no));
}

/* 0 where v is not above it; a NaN stays. */
TD_INLINE vec vec_relu(vec v)
{
    return (vec)(~(v <= 0) & (lane_index)v);
}

/* SHUFFLE_(a, b, F, h) has the lanes F(h, 0), F(h, 1), ... of a and b, those of b from LANES on. */
#define LIST2_(F, h, j) F(h, j), F(h, (j) + 1)
#define LIST4_(F, h, j) LIST2_(F, h, j), LIST2_(F, h, (j) + 2)
#define LIST8_(F, h, j) LIST4_(F, h, j), LIST4_(F, h, (j) + 4)
#define LIST16_(F, h, j) LIST8_(F, h, j), LIST8_(F, h, (j) + 8)
#if TD_VEC / REAL_SIZE == 2
#define LIST_(F, h) LIST2_(F, h, 0)
#elif TD_VEC / REAL_SIZE == 4
#define LIST_(F, h) LIST4_(F, h, 0)
#elif TD_VEC / REAL_SIZE == 8
#define LIST_(F, h) LIST8_(F, h, 0)
#else
#define LIST_(F, h) LIST16_(F, h, 0)
#endif
#if defined(__clang__)
#define SHUFFLE_(a, b, F, h) __builtin_shufflevector(a, b, LIST_(F, h))
#else
#define SHUFFLE_(a, b, F, h) __builtin_shuffle(a, b, (lane_index){LIST_(F, h)})
#endif

#define EVEN_(h, j) (2 * (j))
#define ODD_(h, j) (2 * (j) + 1)
#define ZIP_(h, j) ((h) + (j) / 2 + ((j) % 2) * LANES)
#define LOW_(h, j) ((j) & (h) ? LANES + (j) - (h) : (j))
#define HIGH_(h, j) ((j) & (h) ? LANES + (j) : (j) + (h))

/* Lanes 0, 2, 4, ... (1, 3, 5, ...) of a and then of b. */
TD_INLINE vec vec_even(vec a, vec b) { return SHUFFLE_(a, b, EVEN_, 0); }
TD_INLINE vec vec_odd(vec a, vec b) { return SHUFFLE_(a, b, ODD_, 0); }
/* a0 b0 a1 b1 ...: the first and the second half of it. */
TD_INLINE vec vec_zip_low(vec a, vec b) { return SHUFFLE_(a, b, ZIP_, 0); }
TD_INLINE vec vec_zip_high(vec a, vec b) { return SHUFFLE_(a, b, ZIP_, LANES / 2); }

/* A step of a transposition: rows i and i + h exchange the upper h lanes of every 2 h of the one
 * and the lower ones of the other. */
#define EXCHANGE_(h)                                                                               \
    EACH(i, LANES) if (!(i & (h))) {                                                               \
        vec low = SHUFFLE_(row[i], row[i + (h)], LOW_, h);                                         \
        row[i + (h)] = SHUFFLE_(row[i], row[i + (h)], HIGH_, h);                                   \
        row[i] = low;                                                                              \
    }

TD_INLINE void vec_transpose(vec row[LANES])
{
#if TD_VEC / REAL_SIZE >= 16
    EXCHANGE_(8)
#endif
#if TD_VEC / REAL_SIZE >= 8
    EXCHANGE_(4)
#endif
#if TD_VEC / REAL_SIZE >= 4
    EXCHANGE_(2)
#endif
    EXCHANGE_(1)
}

/* to[c * to_pitch + r] = from[r * pitch + c] for r < rows <= LANES and c < cols; the lanes from
 * `rows` on become zero. */
static inline void transpose_into_lanes(const real *from, int64_t pitch, int64_t rows, int64_t cols,
                                        real *to, int64_t to_pitch)
{
    for (int64_t c = 0; c < cols; c += LANES, from += LANES, to += LANES * to_pitch) {
        const int64_t n = TD_MIN(cols - c, LANES);
        vec row[LANES];
        if (n == LANES && rows == LANES) EACH(r, LANES) row[r] = vec_load(from + r * pitch);
        else EACH(r, LANES) row[r] = r < rows ? vec_load_n(from + r * pitch, n) : (vec){0};
        vec_transpose(row);
        if (n == LANES) EACH(i, LANES) vec_store(to + i * to_pitch, row[i]);
        else for (int i = 0; i < n; i++) vec_store(to + i * to_pitch, row[i]);
    }
}

/* to[l * to_pitch + i] = from[i * pitch + l] for i < count <= LANES and l < lanes <= LANES; reads
 * whole vectors of `from`. */
static inline void transpose_from_lanes(const real *from, int64_t pitch, int64_t count,
                                        int64_t lanes, real *to, int64_t to_pitch)
{
    vec row[LANES];
    EACH(i, LANES) row[i] = i < count ? vec_load(from + i * pitch) : (vec){0};
    vec_transpose(row);
    if (lanes == LANES) EACH(l, LANES) vec_store_n(to + l * to_pitch, row[l], count);
    else for (int l = 0; l < lanes; l++) vec_store_n(to + l * to_pitch, row[l], count);
}
#endif
