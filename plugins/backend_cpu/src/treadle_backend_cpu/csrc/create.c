/* iota: y[i] = start + i * step, in int64 (wrapping) or in double, then converted. */
#pragma GCC optimize("fp-contract=off") /* the product is rounded before the sum, as NumPy does */
#include "scalar.h"

enum { GRAIN = 65536 };

typedef struct { int64_t i, istep; double d, dstep; } td_line;
typedef void (*td_fill)(void *y, int64_t from, int64_t to, const td_line *l);

/* The product i * step wraps in unsigned arithmetic W, which is exact modulo the width of the
 * result. */
#define INTS(name, T, W)                                                     \
    static void name(void *y_, int64_t from, int64_t to, const td_line *l) { \
        const W start = (W)l->i, step = (W)l->istep;                         \
        T *y = y_;                                                           \
        for (int64_t i = from; i < to; i++) y[i] = (T)(start + (W)i * step); \
    }
#define REALS(name, T, WRITE)                                                          \
    static void name(void *y_, int64_t from, int64_t to, const td_line *l) {           \
        T *y = y_;                                                                     \
        for (int64_t i = from; i < to; i++) y[i] = WRITE(l->d + (double)i * l->dstep); \
    }
#define TO_F32(v) ((float)(v))
#define SAME(v) (v)
INTS(ints_8, uint8_t, uint32_t)
INTS(ints_16, uint16_t, uint32_t)
INTS(ints_32, uint32_t, uint32_t)
INTS(ints_64, uint64_t, uint64_t)
REALS(reals_f16, uint16_t, td_f64_to_f16)
REALS(reals_bf16, uint16_t, td_f64_to_bf16)
REALS(reals_f32, float, TO_F32)
REALS(reals_f64, double, SAME)

static void ints_bool(void *y_, int64_t from, int64_t to, const td_line *l) {
    for (int64_t i = from; i < to; i++)
        ((uint8_t *)y_)[i] = ((uint64_t)l->i + (uint64_t)i * (uint64_t)l->istep) != 0;
}

/* Integers from a real line saturate, NaN becomes 0. */
#define CAST(name, T, FROM)                                                           \
    static void name(void *y_, int64_t from, int64_t to, const td_line *l) {          \
        T *y = y_;                                                                    \
        for (int64_t i = from; i < to; i++) y[i] = FROM(l->d + (double)i * l->dstep); \
    }
#define TO_BOOL(v) ((v) != 0)
CAST(cast_b1, uint8_t, TO_BOOL)
CAST(cast_i8, int8_t, td_f64_to_i8)
CAST(cast_i16, int16_t, td_f64_to_i16)
CAST(cast_i32, int32_t, td_f64_to_i32)
CAST(cast_i64, int64_t, td_f64_to_i64)
CAST(cast_u8, uint8_t, td_f64_to_u8)
CAST(cast_u16, uint16_t, td_f64_to_u16)
CAST(cast_u32, uint32_t, td_f64_to_u32)
CAST(cast_u64, uint64_t, td_f64_to_u64)

static const td_fill fills[2][TD_DTYPES] = {
    {cast_b1, cast_i8, cast_i16, cast_i32, cast_i64, cast_u8, cast_u16, cast_u32, cast_u64,
     reals_f16, reals_bf16, reals_f32, reals_f64},
    {ints_bool, ints_8, ints_16, ints_32, ints_64, ints_8, ints_16, ints_32, ints_64, 0, 0, 0, 0}};

typedef struct { td_fill fill; void *y; int64_t n; td_line line; } td_job;

static void task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    b->fill(b->y, t * GRAIN, TD_MIN(b->n, (t + 1) * GRAIN), &b->line);
}

/* i: size, dtype, whether start and step are int64 (else double); int64 only for integer
 * results. */
static int KERNEL(iota)(const td_plan *p, char **io) {
    td_job b = {.fill = fills[p->i[2]][p->i[1]], .y = io[2], .n = p->i[0]};
    if (p->i[2]) b.line.i = *(const int64_t *)io[0], b.line.istep = *(const int64_t *)io[1];
    else b.line.d = *(const double *)io[0], b.line.dstep = *(const double *)io[1];
    td_parallel((b.n + GRAIN - 1) / GRAIN, task, &b);
    return TD_OK;
}

const td_entry KERNEL(create_table)[] = {{"iota", KERNEL(iota)}, {0, 0}};
