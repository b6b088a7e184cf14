/* One number at a time: bits, half-width floats, saturating casts. Every function is branch-free,
 * so that gcc makes vector code of a loop over it, and keeps its meaning when denormals are
 * flushed. */
#ifndef TREADLE_SCALAR_H
#define TREADLE_SCALAR_H
#include "treadle_cpu.h"
#include <string.h>

TD_INLINE uint32_t td_bits_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
TD_INLINE float td_from_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
TD_INLINE uint64_t td_bits_f64(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}
TD_INLINE double td_from_bits_f64(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/* ---- bfloat16: the upper half of a float32 ---- */

TD_INLINE float td_bf16_to_f32(uint16_t h) { return td_from_bits_f32((uint32_t)h << 16); }

TD_INLINE uint16_t td_f32_to_bf16(float x) {
    uint32_t u = td_bits_f32(x);
    /* ties to even; may carry into infinity */
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* ---- float16 ---- */

TD_INLINE float td_f16_to_f32(uint16_t h) {
    uint32_t magnitude = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    /* Normal numbers, infinities, NaN: fields moved with a too large exponent, then scaled back. */
    float normal = td_from_bits_f32((magnitude << 13) + (0xe0u << 23)) * 0x1p-112f;
    /* Subnormals: an integer below 2^10 set into the mantissa of 0.5, whose last place is 2^-24. */
    float small = td_from_bits_f32(magnitude | (126u << 23)) - 0.5f;
    float value = magnitude < 0x400u ? small : normal;
    return td_from_bits_f32(td_bits_f32(value) | sign);
}

TD_INLINE uint16_t td_f32_to_f16(float x) {
    uint32_t u = td_bits_f32(x), a = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
    uint32_t normal = (a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13;
    uint32_t small = td_bits_f32(td_from_bits_f32(a) + 0.5f) - (126u << 23);
    uint32_t nan = 0x7e00u | ((a >> 13) & 0x3ffu);
    uint32_t r = a < 0x38800000u ? small : normal;
    r = a >= 0x47800000u ? 0x7c00u : r; /* 65536 and above */
    r = a > 0x7f800000u ? nan : r;
    return (uint16_t)(r | sign);
}

/* ---- float64 to a narrower float, rounded once ----
 * Rounding to odd first (an inexact result gets its last bit set) lets the second rounding see that
 * something was cut off. */

TD_INLINE float td_f64_to_f32_odd(double x) {
    float near = (float)x;
    double back = (double)near;
    uint32_t u = td_bits_f32(near);
    int inexact = back != x && x == x;
    uint32_t down = u - 1u, up = u + 1u; /* towards and away from zero */
    double mx = x < 0 ? -x : x, mb = back < 0 ? -back : back;
    uint32_t odd = mb > mx ? down : up;
    u = (inexact && !(u & 1u)) ? odd : u;
    return td_from_bits_f32(u);
}

TD_INLINE uint16_t td_f64_to_f16(double x) { return td_f32_to_f16(td_f64_to_f32_odd(x)); }
TD_INLINE uint16_t td_f64_to_bf16(double x) { return td_f32_to_bf16(td_f64_to_f32_odd(x)); }

/* ---- 64-bit integers to a float64 that may be rounded again ---- */

TD_INLINE double td_u64_to_f64_odd(uint64_t x) {
    uint64_t sticky = (x & 0x7ffu) != 0;
    /* at most 53 bits, the last one sticky */
    uint64_t big = (x & ~(uint64_t)0x7ff) | (sticky << 11);
    uint64_t kept = x >> 53 ? big : x;
    return (double)kept;
}

TD_INLINE double td_i64_to_f64_odd(int64_t x) {
    uint64_t magnitude = x < 0 ? 0u - (uint64_t)x : (uint64_t)x;
    double r = td_u64_to_f64_odd(magnitude);
    return x < 0 ? -r : r;
}

/* ---- float to integer: truncates, saturates, NaN gives 0 ----
 * The comparisons guard the conversion, so that nothing undefined is computed. */

#define TD_SATURATE(name, F, T, low, limit, highest)                                               \
    TD_INLINE T name(F x) {                                                                        \
        return x >= (F)(limit) ? (T)(highest) : x > (F)(low) ? (T)x : x == x ? (T)(low) : (T)0;    \
    }
#define TD_SATURATE_SMALL(name, F, T, low, highest)                                                \
    TD_INLINE T name(F x) {                                                                        \
        F c = x<(F)(low) ? (F)(low) : x>(F)(highest) ? (F)(highest) : x == x ? x : (F)0;           \
        return (T)(int32_t)c;                                                                      \
    }
#define TD_SATURATE_FROM(f, F)                                                                     \
    TD_SATURATE_SMALL(td_##f##_to_i8, F, int8_t, -128, 127)                                        \
    TD_SATURATE_SMALL(td_##f##_to_u8, F, uint8_t, 0, 255)                                          \
    TD_SATURATE_SMALL(td_##f##_to_i16, F, int16_t, -32768, 32767)                                  \
    TD_SATURATE_SMALL(td_##f##_to_u16, F, uint16_t, 0, 65535)                                      \
    TD_SATURATE(td_##f##_to_i32, F, int32_t, INT32_MIN, 0x1p31, INT32_MAX)                         \
    TD_SATURATE(td_##f##_to_u32, F, uint32_t, 0, 0x1p32, UINT32_MAX)                               \
    TD_SATURATE(td_##f##_to_i64, F, int64_t, INT64_MIN, 0x1p63, INT64_MAX)                         \
    TD_SATURATE(td_##f##_to_u64, F, uint64_t, 0, 0x1p64, UINT64_MAX)
TD_SATURATE_FROM(f32, float)
TD_SATURATE_FROM(f64, double)

/* ---- what each dtype is in memory, by its short name: td_t_bf16 x; ---- */

typedef uint8_t td_t_b1;
typedef int8_t td_t_i8;
typedef int16_t td_t_i16;
typedef int32_t td_t_i32;
typedef int64_t td_t_i64;
typedef uint8_t td_t_u8;
typedef uint16_t td_t_u16;
typedef uint32_t td_t_u32;
typedef uint64_t td_t_u64;
typedef uint16_t td_t_f16;
typedef uint16_t td_t_bf16;
typedef float td_t_f32;
typedef double td_t_f64;

/* A float kernel loads and stores through these, so that one body serves four dtypes:
 * float x = TD_LOAD(bf16, p, i); TD_STORE(bf16, q, i, x). All but f64 are computed as float. */
#define TD_LOAD(dt, p, i) td_load_##dt((p) + (i))
#define TD_STORE(dt, p, i, x) td_store_##dt((p) + (i), x)

TD_INLINE float td_load_f32(const float *p) { return *p; }
TD_INLINE double td_load_f64(const double *p) { return *p; }
TD_INLINE float td_load_f16(const uint16_t *p) { return td_f16_to_f32(*p); }
TD_INLINE float td_load_bf16(const uint16_t *p) { return td_bf16_to_f32(*p); }
TD_INLINE void td_store_f32(float *p, float x) { *p = x; }
TD_INLINE void td_store_f64(double *p, double x) { *p = x; }
TD_INLINE void td_store_f16(uint16_t *p, float x) { *p = td_f32_to_f16(x); }
TD_INLINE void td_store_bf16(uint16_t *p, float x) { *p = td_f32_to_bf16(x); }

static const uint8_t td_dtype_size[TD_DTYPES] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 2, 4, 8};
#endif
