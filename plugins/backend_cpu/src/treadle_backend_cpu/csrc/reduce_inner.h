/* The typed inner loops of reductions: rows (each row to one number) and columns (row after row
 * into an array).
 *
 * Sums and products of floats keep many vector lanes in flight, because gcc may not reorder
 * float additions by itself; integer loops it vectorises. Maxima compare integer keys: an
 * integer or float is mapped to a signed integer of the same width whose order is the wanted one
 * (unsigned: top bit flipped; float: negative values mirrored, -0 below +0, every NaN above
 * +inf), and a minimum is the maximum of keys of the complement (integers) or negation (floats). */
#ifndef TD_REDUCE_INNER_H
#define TD_REDUCE_INNER_H
#include "order_keys.h"

/* How a maximum reads its input: bits to flip first, and (floats) the largest magnitude that is
 * not NaN. far: the whole input is too large for L2, which sums of floats want to know. */
typedef struct { int64_t flip, inf; int far; } td_order;

typedef void (*td_rows)(const void *x, int64_t m, int64_t n, int64_t stride, void *out,
                        const td_order *o);
typedef void (*td_cols)(const void *x, int64_t m, int64_t ld, int64_t w, void *acc,
                        const td_order *o);
typedef void (*td_decode)(const void *acc, int64_t n, void *y, int64_t stride, const td_order *o);

#define TD_ADD(a, b) ((a) + (b))
#define TD_MUL(a, b) ((a) * (b))

/* acc[j] = op(acc[j], x[0][j], x[1][j], ...), four rows at a time: a quarter of the accumulator
 * traffic. */
#define TD_COLS(name, T, A, OP, READ)                                              \
    static void name(const void *x_, int64_t m, int64_t ld, int64_t w, void *acc_, \
                     const td_order *o) {                                          \
        const T *x = x_;                                                           \
        A *acc = acc_;                                                             \
        const A flip = (A)o->flip, inf = (A)o->inf;                                \
        (void)flip, (void)inf;                                                     \
        int64_t r = 0;                                                             \
        for (; r + 4 <= m; r += 4, x += 4 * ld)                                    \
            _Pragma("GCC ivdep") for (int64_t j = 0; j < w; j++) {                 \
                A a = READ(x[j]), b = READ(x[j + ld]);                             \
                A c = READ(x[j + 2 * ld]), d = READ(x[j + 3 * ld]);                \
                a = OP(a, b), c = OP(c, d), a = OP(a, c);                          \
                acc[j] = OP(acc[j], a);                                            \
            }                                                                      \
        for (; r < m; r++, x += ld)                                                \
            _Pragma("GCC ivdep") for (int64_t j = 0; j < w; j++) {                 \
                A a = READ(x[j]);                                                  \
                acc[j] = OP(acc[j], a);                                            \
            }                                                                      \
    }

#define TD_INT_ROWS(name, T, A, OP, START, READ)                                      \
    static void name(const void *x_, int64_t m, int64_t n, int64_t stride, void *out, \
                     const td_order *o) {                                             \
        const A flip = (A)o->flip, inf = (A)o->inf;                                   \
        (void)flip, (void)inf;                                                        \
        const T *x = x_;                                                              \
        for (int64_t i = 0; i < m; i++, x += stride) {                                \
            A acc = START;                                                            \
            for (int64_t j = 0; j < n; j++) {                                         \
                A a = READ(x[j]);                                                     \
                acc = OP(acc, a);                                                     \
            }                                                                         \
            ((A *)out)[i] = acc;                                                      \
        }                                                                             \
    }

/* Bytes read ahead: far enough to cover L3 or DRAM, near enough to stay in L2. A far input is asked
 * for into L2 only where a vector is a whole cache line: a tenth faster than into L1 (Zen 4), but a
 * third slower with shorter vectors. */
#define TD_AHEAD 8192
#define TD_AHEAD_FAR 4096

/* Eight vectors of lanes, folded in halves at the end. */
#define TD_FLOAT_ROWS(name, T, OP, START)                                                   \
    TD_INLINE T name##_row(const T *x, int64_t n, int far) {                                \
        typedef T V __attribute__((vector_size(TD_VEC)));                                   \
        typedef T U __attribute__((vector_size(TD_VEC), aligned(sizeof(T)), may_alias));    \
        enum { L = TD_VEC / sizeof(T) };                                                    \
        T tail = START;                                                                     \
        int64_t j = 0;                                                                      \
        if (n >= L) {                                                                       \
            V a0, a1, a2, a3, a4, a5, a6, a7;                                               \
            const V start = (V){} + (T)START;                                               \
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = start;                                  \
            for (; j + 8 * L <= n; j += 8 * L) {                                            \
                const U *v = (const U *)(x + j);                                            \
                for (int k = 0; k < 8 * TD_VEC; k += 64)                                    \
                    if (far) __builtin_prefetch((const char *)v + TD_AHEAD_FAR + k, 0, 2);  \
                    else __builtin_prefetch((const char *)v + TD_AHEAD + k);                \
                a0 = OP(a0, v[0]), a1 = OP(a1, v[1]), a2 = OP(a2, v[2]), a3 = OP(a3, v[3]); \
                a4 = OP(a4, v[4]), a5 = OP(a5, v[5]), a6 = OP(a6, v[6]), a7 = OP(a7, v[7]); \
            }                                                                               \
            for (; j + L <= n; j += L) a0 = OP(a0, *(const U *)(x + j));                    \
            a0 = OP(a0, a4), a1 = OP(a1, a5), a2 = OP(a2, a6), a3 = OP(a3, a7);             \
            a0 = OP(OP(a0, a2), OP(a1, a3));                                                \
            T lane[L];                                                                      \
            __builtin_memcpy(lane, &a0, TD_VEC);                                            \
            for (int h = L / 2; h; h /= 2)                                                  \
                for (int k = 0; k < h; k++) lane[k] = OP(lane[k], lane[k + h]);             \
            tail = lane[0];                                                                 \
        }                                                                                   \
        for (; j < n; j++) tail = OP(tail, x[j]);                                           \
        return tail;                                                                        \
    }                                                                                       \
    static void name(const void *x_, int64_t m, int64_t n, int64_t stride, void *out,       \
                     const td_order *o) {                                                   \
        const T *x = x_;                                                                    \
        T *y = out;                                                                         \
        if (o->far) for (int64_t i = 0; i < m; i++) y[i] = name##_row(x + i * stride, n, 1); \
        else for (int64_t i = 0; i < m; i++) y[i] = name##_row(x + i * stride, n, 0);       \
    }

#define TD_SAME(v) (v)
#define TD_LARGER(a, b) ((a) > (b) ? (a) : (b))
#define TD_INT_KEY(v) ((v) ^ flip)

#define TD_KEY16(v) td_key16((int16_t)((v) ^ flip), inf)
#define TD_KEY32(v) td_key32((v) ^ flip, inf)
#define TD_KEY64(v) td_key64((v) ^ flip, inf)

TD_COLS(add_cols_8, uint8_t, uint8_t, TD_ADD, TD_SAME)
TD_COLS(add_cols_16, uint16_t, uint16_t, TD_ADD, TD_SAME)
TD_COLS(add_cols_32, uint32_t, uint32_t, TD_ADD, TD_SAME)
TD_COLS(add_cols_64, uint64_t, uint64_t, TD_ADD, TD_SAME)
TD_COLS(add_cols_f32, float, float, TD_ADD, TD_SAME)
TD_COLS(add_cols_f64, double, double, TD_ADD, TD_SAME)
TD_INT_ROWS(add_rows_8, uint8_t, uint8_t, TD_ADD, 0, TD_SAME)
TD_INT_ROWS(add_rows_16, uint16_t, uint16_t, TD_ADD, 0, TD_SAME)
TD_INT_ROWS(add_rows_32, uint32_t, uint32_t, TD_ADD, 0, TD_SAME)
TD_INT_ROWS(add_rows_64, uint64_t, uint64_t, TD_ADD, 0, TD_SAME)
TD_FLOAT_ROWS(add_rows_f32, float, TD_ADD, 0)
TD_FLOAT_ROWS(add_rows_f64, double, TD_ADD, 0)

/* 16-bit products go through 32 bits: uint16 * uint16 would overflow int. */
#define TD_MUL_16(a, b) ((uint16_t)((uint32_t)(a) * (b)))
TD_COLS(mul_cols_8, uint8_t, uint8_t, TD_MUL, TD_SAME)
TD_COLS(mul_cols_16, uint16_t, uint16_t, TD_MUL_16, TD_SAME)
TD_COLS(mul_cols_32, uint32_t, uint32_t, TD_MUL, TD_SAME)
TD_COLS(mul_cols_64, uint64_t, uint64_t, TD_MUL, TD_SAME)
TD_COLS(mul_cols_f32, float, float, TD_MUL, TD_SAME)
TD_COLS(mul_cols_f64, double, double, TD_MUL, TD_SAME)
TD_INT_ROWS(mul_rows_8, uint8_t, uint8_t, TD_MUL, 1, TD_SAME)
TD_INT_ROWS(mul_rows_16, uint16_t, uint16_t, TD_MUL_16, 1, TD_SAME)
TD_INT_ROWS(mul_rows_32, uint32_t, uint32_t, TD_MUL, 1, TD_SAME)
TD_INT_ROWS(mul_rows_64, uint64_t, uint64_t, TD_MUL, 1, TD_SAME)
TD_FLOAT_ROWS(mul_rows_f32, float, TD_MUL, 1)
TD_FLOAT_ROWS(mul_rows_f64, double, TD_MUL, 1)

TD_COLS(max_cols_8, int8_t, int8_t, TD_LARGER, TD_INT_KEY)
TD_COLS(max_cols_16, int16_t, int16_t, TD_LARGER, TD_INT_KEY)
TD_COLS(max_cols_32, int32_t, int32_t, TD_LARGER, TD_INT_KEY)
TD_COLS(max_cols_64, int64_t, int64_t, TD_LARGER, TD_INT_KEY)
TD_COLS(max_cols_f16, int16_t, int16_t, TD_LARGER, TD_KEY16)
TD_COLS(max_cols_f32, int32_t, int32_t, TD_LARGER, TD_KEY32)
TD_COLS(max_cols_f64, int64_t, int64_t, TD_LARGER, TD_KEY64)
TD_INT_ROWS(max_rows_8, int8_t, int8_t, TD_LARGER, INT8_MIN, TD_INT_KEY)
TD_INT_ROWS(max_rows_16, int16_t, int16_t, TD_LARGER, INT16_MIN, TD_INT_KEY)
TD_INT_ROWS(max_rows_32, int32_t, int32_t, TD_LARGER, INT32_MIN, TD_INT_KEY)
TD_INT_ROWS(max_rows_64, int64_t, int64_t, TD_LARGER, INT64_MIN, TD_INT_KEY)
TD_INT_ROWS(max_rows_f16, int16_t, int16_t, TD_LARGER, INT16_MIN, TD_KEY16)
TD_INT_ROWS(max_rows_f32, int32_t, int32_t, TD_LARGER, INT32_MIN, TD_KEY32)
TD_INT_ROWS(max_rows_f64, int64_t, int64_t, TD_LARGER, INT64_MIN, TD_KEY64)
#endif
