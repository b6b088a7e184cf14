/* The micro-kernel for few rows of A and a B that is contiguous along k: inner products, with
 * vectors along k. Transposing B for the other micro-kernel would cost more than the product
 * itself. Included after gemm_tile.h, with the same T. */
#ifndef TREADLE_GEMM_DOT_H
#define TREADLE_GEMM_DOT_H
#include "gemm_tile.h"

/* A tile is up to DOT_ROWS rows of A by four columns of B: 24, 12 or 8 accumulators. */
enum { DOT_ROWS = TD_VEC == 64 ? 6 : TD_VEC == 32 ? 3 : 2, DOT_COLUMNS = 4, DOT_PITCH = 32 };

typedef struct {
    int64_t k;                          /* at least VL */
    const T *a;
    int64_t a_row;
    const T *b[DOT_COLUMNS];
    T *sums;                            /* rows DOT_PITCH apart */
} dot;
typedef void (*dot_fn)(const dot *d);

/* Lanes 0, 2, 4... of a next to those of b, added to lanes 1, 3, 5...: sums of two vectors in one,
 * half as many lanes each. */
TD_INLINE vec add_pairs(vec a, vec b)
{
    const lanes even = (numbered() & ~1) + (numbered() & 1) * VL;
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
}
/* Adds the lanes whose numbers differ in bit `step` alone. */
TD_INLINE vec add_lanes(vec a, lane step) { return a + __builtin_shuffle(a, numbered() ^ step); }

/* Sums the lanes of each of four vectors. */
TD_INLINE void sum_four(const vec *v, T *sums)
{
    vec r[2] = {add_pairs(v[0], v[1]), add_pairs(v[2], v[3])};
    UNROLL(2)
    for (int x = 0; x < 2; x++) {
        UNROLL(4)
        for (int step = 2; step < VL; step *= 2) r[x] = add_lanes(r[x], step);
        sums[2 * x] = r[x][0];
        sums[2 * x + 1] = r[x][1];
    }
}

TD_INLINE vec only(lanes keep, vec x) { return (vec)((lanes)x & keep); }

TD_INLINE void dot_body(const int rows, const dot *d)
{
    vec acc[DOT_ROWS * DOT_COLUMNS];
    UNROLL(24)
    for (int i = 0; i < rows * DOT_COLUMNS; i++) {
        acc[i] = (vec){0};
        IN_REGISTER(acc[i]);
    }
    const T *a = d->a, *b0 = d->b[0], *b1 = d->b[1], *b2 = d->b[2], *b3 = d->b[3];
    const int64_t a_row = d->a_row;
    int64_t k = 0;
    for (; k + VL <= d->k; k += VL) {
        const vec b[DOT_COLUMNS] = {load(b0 + k), load(b1 + k), load(b2 + k), load(b3 + k)};
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            const vec ai = load(a + i * a_row + k);
            UNROLL(4)
            for (int j = 0; j < DOT_COLUMNS; j++) acc[i * DOT_COLUMNS + j] += ai * b[j];
        }
    }
    if (k < d->k) {     /* the last VL elements, with those that have been counted set to zero */
        const lanes keep = numbered() >= (lane)(VL - (d->k - k));
        k = d->k - VL;
        const vec b[DOT_COLUMNS] = {only(keep, load(b0 + k)), only(keep, load(b1 + k)),
                                    only(keep, load(b2 + k)), only(keep, load(b3 + k))};
        UNROLL(6)
        for (int i = 0; i < rows; i++) {
            const vec ai = only(keep, load(a + i * a_row + k));
            UNROLL(4)
            for (int j = 0; j < DOT_COLUMNS; j++) acc[i * DOT_COLUMNS + j] += ai * b[j];
        }
    }
    UNROLL(6)
    for (int i = 0; i < rows; i++) sum_four(acc + i * DOT_COLUMNS, d->sums + i * DOT_PITCH);
}
#define DOT(rows) static void dot_##rows(const dot *d) { dot_body(rows, d); }
DOT(1) DOT(2)
#if TD_VEC >= 32
DOT(3)
#endif
#if TD_VEC == 64
DOT(4) DOT(5) DOT(6)
#endif
static const dot_fn dots[DOT_ROWS + 1] = {
    0, dot_1, dot_2,
#if TD_VEC >= 32
    dot_3,
#endif
#if TD_VEC == 64
    dot_4, dot_5, dot_6,
#endif
};
#endif
