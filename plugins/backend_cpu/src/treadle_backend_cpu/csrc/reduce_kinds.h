/* Which loops reduce which dtype: a table of kinds, and how an input is gathered and a result
 * written. */
#ifndef TD_REDUCE_KINDS_H
#define TD_REDUCE_KINDS_H
#include "reduce_inner.h"
#include "scalar.h"

/* out[i * n + j] = x[i * rs + j * cs], converted to the accumulator's type. */
typedef void (*td_pull)(const void *x, int64_t m, int64_t n, int64_t rs, int64_t cs, void *out);

#define TD_PULL(name, T, A, READ)                                                                \
    static void name(const void *x_, int64_t m, int64_t n, int64_t rs, int64_t cs, void *out_) { \
        const T *x = x_;                                                                         \
        A *out = out_;                                                                           \
        if (cs == 1)                                                                             \
            for (int64_t i = 0; i < m; i++)                                                      \
                for (int64_t j = 0; j < n; j++) out[i * n + j] = READ(x[i * rs + j]);            \
        else if (cs <= rs || m == 1)                                                             \
            for (int64_t i = 0; i < m; i++)                                                      \
                for (int64_t j = 0; j < n; j++) out[i * n + j] = READ(x[i * rs + j * cs]);       \
        else                                                                                     \
            for (int64_t j = 0; j < n; j++)                                                      \
                for (int64_t i = 0; i < m; i++) out[i * n + j] = READ(x[i * rs + j * cs]);       \
    }
TD_PULL(pull_8, uint8_t, uint8_t, TD_SAME)
TD_PULL(pull_16, uint16_t, uint16_t, TD_SAME)
TD_PULL(pull_32, uint32_t, uint32_t, TD_SAME)
TD_PULL(pull_64, uint64_t, uint64_t, TD_SAME)
TD_PULL(pull_f16_any, uint16_t, float, td_f16_to_f32)
TD_PULL(pull_bf16, uint16_t, float, td_bf16_to_f32)

/* Contiguous float16: eight at a time where the processor converts them itself. */
static void pull_f16(const void *x_, int64_t m, int64_t n, int64_t rs, int64_t cs, void *out_) {
#ifdef __F16C__
    typedef short Half __attribute__((vector_size(16), aligned(2), may_alias));
    typedef float Single __attribute__((vector_size(32), aligned(4), may_alias));
    const uint16_t *x = x_;
    float *out = out_;
    for (int64_t i = 0; cs == 1 && i < m; i++, x += rs, out += n) {
        int64_t j = 0;
        for (; j + 8 <= n; j += 8)
            *(Single *)(out + j) = __builtin_ia32_vcvtph2ps256(*(const Half *)(x + j));
        for (; j < n; j++) out[j] = td_f16_to_f32(x[j]);
    }
    if (cs == 1) return;
#endif
    pull_f16_any(x_, m, n, rs, cs, out_);
}

#define TD_DECODE(name, A, Y, WRITE)                                                             \
    static void name(const void *acc_, int64_t n, void *y_, int64_t stride, const td_order *o) { \
        const A *acc = acc_;                                                                     \
        Y *y = y_;                                                                               \
        const A flip = (A)o->flip;                                                               \
        (void)flip;                                                                              \
        for (int64_t j = 0; j < n; j++) y[j * stride] = WRITE(acc[j]);                           \
    }
#define TD_UNKEY16(k) ((int16_t)((k) ^ (((k) >> 15) & INT16_MAX)) ^ flip)
#define TD_UNKEY32(k) ((k) ^ (((k) >> 31) & INT32_MAX) ^ flip)
#define TD_UNKEY64(k) ((k) ^ (((k) >> 63) & INT64_MAX) ^ flip)
TD_DECODE(put_8, int8_t, int8_t, TD_INT_KEY)
TD_DECODE(put_16, int16_t, int16_t, TD_INT_KEY)
TD_DECODE(put_32, int32_t, int32_t, TD_INT_KEY)
TD_DECODE(put_64, int64_t, int64_t, TD_INT_KEY)
TD_DECODE(put_key16, int16_t, int16_t, TD_UNKEY16)
TD_DECODE(put_key32, int32_t, int32_t, TD_UNKEY32)
TD_DECODE(put_key64, int64_t, int64_t, TD_UNKEY64)
TD_DECODE(put_f16, float, uint16_t, td_f32_to_f16)
TD_DECODE(put_bf16, float, uint16_t, td_f32_to_bf16)

/* rows and cols read the input (or what pull made of it); merge_* combine accumulators with each
 * other. */
typedef struct {
    int size, acc;      /* bytes of an element, of an accumulator */
    int convert;        /* the input must go through pull even when it is contiguous */
    uint64_t start;     /* bits of the neutral element */
    td_pull pull;
    td_rows rows, merge_rows;
    td_cols cols, merge_cols;
    td_decode put;
} td_kind;

enum { SUM, PROD, MAX, MIN };

/* size, acc, convert, start; then pull, the loops of one family and type, put */
#define LOOPS(op, read, merge) \
    op##_rows_##read, op##_rows_##merge, op##_cols_##read, op##_cols_##merge
#define INTS(op, s8, s16, s32, s64)                     \
    {1, 1, 0, s8, pull_8, LOOPS(op, 8, 8), put_8},      \
    {2, 2, 0, s16, pull_16, LOOPS(op, 16, 16), put_16}, \
    {4, 4, 0, s32, pull_32, LOOPS(op, 32, 32), put_32}, \
    {8, 8, 0, s64, pull_64, LOOPS(op, 64, 64), put_64}
#define FLOATS(op, one32, one64)                                \
    {2, 4, 1, one32, pull_f16, LOOPS(op, f32, f32), put_f16},   \
    {2, 4, 1, one32, pull_bf16, LOOPS(op, f32, f32), put_bf16}, \
    {4, 4, 0, one32, pull_32, LOOPS(op, f32, f32), put_32},     \
    {8, 8, 0, one64, pull_64, LOOPS(op, f64, f64), put_64}
#define LEAST16 0x8000
#define LEAST32 0x80000000
#define LEAST64 (1ull << 63)

enum { K8, K16, K32, K64, KF16, KBF16, KF32, KF64, KINDS };

static const td_kind kinds[3][KINDS] = {
    {INTS(add, 0, 0, 0, 0), FLOATS(add, 0, 0)},
    {INTS(mul, 1, 1, 1, 1), FLOATS(mul, 0x3f800000, 0x3ff0000000000000)},
    {INTS(max, 0x80, LEAST16, LEAST32, LEAST64),
     {2, 2, 0, LEAST16, pull_16, LOOPS(max, f16, 16), put_key16},
     {2, 2, 0, LEAST16, pull_16, LOOPS(max, f16, 16), put_key16},
     {4, 4, 0, LEAST32, pull_32, LOOPS(max, f32, 32), put_key32},
     {8, 8, 0, LEAST64, pull_64, LOOPS(max, f64, 64), put_key64}}};

static const signed char kind_of[TD_DTYPES] = {K8,  K8,  K16, K32,  K64,   K8,   K16,
                                               K32, K64, KF16, KBF16, KF32, KF64};

/* The bits to flip and the infinity of a maximum or minimum; zero for sums and products. */
static td_order order_of(int op, int dtype) {
    static const int64_t inf[KINDS] = {0, 0, 0, 0, 0x7c00, 0x7f80, 0x7f800000, 0x7ff0000000000000};
    const int kind = kind_of[dtype];
    const int64_t top = (int64_t)(1ull << (8 * kinds[MAX][kind].size - 1));
    const int is_unsigned = dtype == TD_B1 || (dtype >= TD_U8 && dtype <= TD_U64);
    if (op < MAX) return (td_order){0};
    if (kind >= KF16) return (td_order){op == MIN ? top : 0, inf[kind], 0};
    return (td_order){(is_unsigned ? top : 0) ^ (op == MIN ? -1 : 0), 0, 0};
}
#endif
