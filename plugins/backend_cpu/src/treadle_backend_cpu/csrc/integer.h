/* Integer functions of the elementwise kernels, for every width: nothing undefined, overflow wraps.
 * A zero divisor is refused before a loop runs; but loops also run over padding, which may be 0. */
#ifndef TREADLE_INTEGER_H
#define TREADLE_INTEGER_H
#include "scalar.h"

#define TD_INTEGER(t, T, U, BITS)                                                                  \
    TD_INLINE T td_max_##t(T a, T b) { return a > b ? a : b; }                                     \
    TD_INLINE T td_min_##t(T a, T b) { return a < b ? a : b; }                                     \
    TD_INLINE T td_shl_##t(T a, T b) {                                                             \
        const U shifted = (U)((U)a * 1u << ((U)b & (BITS - 1)));                                   \
        return (T)((U)b < BITS ? shifted : (U)0);                                                  \
    }                                                                                              \
    TD_INLINE T td_power_##t(T a, U b) {                                                           \
        U r = 1, x = (U)a;                                                                         \
        for (; b; b >>= 1) {                                                                       \
            r = b & 1 ? (U)(r * (uint64_t)x) : r;                                                  \
            x = (U)(x * (uint64_t)x);                                                              \
        }                                                                                          \
        return (T)r;                                                                               \
    }

#define TD_UNSIGNED(t, T, BITS)                                                                    \
    TD_INTEGER(t, T, T, BITS)                                                                      \
    TD_INLINE T td_abs_##t(T x) { return x; }                                                      \
    TD_INLINE T td_sign_##t(T x) { return x != 0; }                                                \
    TD_INLINE T td_pow_##t(T a, T b) { return td_power_##t(a, b); }                                \
    TD_INLINE T td_shr_##t(T a, T b) { return b < BITS ? (T)(a >> (b & (BITS - 1))) : (T)0; }      \
    TD_INLINE T td_trunc_div_##t(T a, T b) { return b ? (T)(a / b) : (T)0; }                       \
    TD_INLINE T td_trunc_rem_##t(T a, T b) { return b ? (T)(a % b) : (T)0; }

#define TD_SIGNED(t, T, U, BITS)                                                                   \
    TD_INTEGER(t, T, U, BITS)                                                                      \
    TD_INLINE T td_abs_##t(T x) { return (T)(x < 0 ? (U)(0u - (U)x) : (U)x); }                     \
    TD_INLINE T td_sign_##t(T x) { return (T)((x > 0) - (x < 0)); }                                \
    TD_INLINE T td_pow_##t(T a, T b) {                                                             \
        if (b < 0) return (T)(a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0);                        \
        return td_power_##t(a, (U)b);                                                              \
    }                                                                                              \
    TD_INLINE T td_shr_##t(T a, T b) { return (T)(a >> ((U)b < BITS ? (U)b : (U)(BITS - 1))); }    \
    TD_INLINE T td_trunc_div_##t(T a, T b) {                                                       \
        if (b == 0 || b == -1) return (T)(b ? 0u - (U)a : 0u); /* lowest / -1 wraps */             \
        return (T)(a / b);                                                                         \
    }                                                                                              \
    TD_INLINE T td_trunc_rem_##t(T a, T b) { return b == 0 || b == -1 ? (T)0 : (T)(a % b); }

TD_UNSIGNED(u8, uint8_t, 8)
TD_UNSIGNED(u16, uint16_t, 16)
TD_UNSIGNED(u32, uint32_t, 32)
TD_UNSIGNED(u64, uint64_t, 64)
TD_SIGNED(i8, int8_t, uint8_t, 8)
TD_SIGNED(i16, int16_t, uint16_t, 16)
TD_SIGNED(i32, int32_t, uint32_t, 32)
TD_SIGNED(i64, int64_t, uint64_t, 64)
#endif
