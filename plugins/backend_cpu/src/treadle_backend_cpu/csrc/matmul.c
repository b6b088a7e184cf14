/* The kernels matmul_* and linear_*: products of matrices with any strides, alone or in batches;
 * and gemm_f32: one product with all that td_gemm offers.
 *
 * Plan: i = m, n, k, a_row, a_col, b_row, b_col, dims, then size[dims], a_batch[dims],
 * b_batch[dims], act; strides in elements. Inputs a (batch, m, k), b (batch, k, n) and for linear_* bias
 * (n) too; the output (batch, m, n) is dense. */
#include <string.h>
#include "gemm.h"
#include "matmul.h"

enum { M, N, K, A_ROW, A_COL, B_ROW, B_COL, DIMS, BATCH };

static td_matmul read_plan(const td_plan *p, char **io, int dtype)
{
    const int64_t *i = p->i, *size = i + BATCH;
    const int dims = (int)i[DIMS];
    td_matmul x = {.dtype = dtype, .m = i[M], .n = i[N], .k = i[K], .a = io[0], .b = io[1],
                   .a_row = i[A_ROW], .a_col = i[A_COL], .b_row = i[B_ROW], .b_col = i[B_COL],
                   .bias = p->n_in > 2 ? io[2] : NULL, .c = io[p->n_in], .count = 1, .dims = dims,
                   .size = size, .a_batch = size + dims, .b_batch = size + 2 * dims,
                   .act = (int)size[3 * dims]};
    for (int d = 0; d < dims; d++) x.count *= size[d];
    return x;
}

/* ---- integers: sums wrap, so unsigned arithmetic serves both signs; bool is "or" of "and"s
 * ---- */

/* A task is ROWS rows by COLUMNS columns of one item; it copies K_BLOCK rows of B at a time. */
enum { COLUMNS = 256, K_BLOCK = 32, ROWS = 32 };

typedef struct {
    int64_t m, n;               /* rows and columns */
    int64_t a, b, c;            /* where they begin */
} block;

static block block_at(const td_matmul *x, int64_t t)
{
    const int64_t columns = (x->n + COLUMNS - 1) / COLUMNS, rows = (x->m + ROWS - 1) / ROWS;
    const int64_t j = t % columns * COLUMNS, i = t / columns % rows * ROWS;
    int64_t item = t / columns / rows;
    block q = {.m = TD_MIN(ROWS, x->m - i), .n = TD_MIN(COLUMNS, x->n - j),
               .a = i * x->a_row, .b = j * x->b_col, .c = (item * x->m + i) * x->n + j};
    for (int d = x->dims - 1; d >= 0; d--) {
        q.a += item % x->size[d] * x->a_batch[d];
        q.b += item % x->size[d] * x->b_batch[d];
        item /= x->size[d];
    }
    return q;
}

static int run_integers(const td_matmul *x, td_body body)
{
    const int64_t columns = (x->n + COLUMNS - 1) / COLUMNS, rows = (x->m + ROWS - 1) / ROWS;
    td_parallel(x->count * rows * columns, body, (void *)x);
    return TD_OK;
}

#define INTEGER(name, type, wide, join)                                                          \
    static void block_##name(int64_t t, void *ctx)                                               \
    {                                                                                            \
        const td_matmul *x = ctx;                                                                \
        const block q = block_at(x, t);                                                          \
        const type *a = (const type *)x->a + q.a, *b = (const type *)x->b + q.b;                 \
        type *c = (type *)x->c + q.c, rows_of_b[K_BLOCK][COLUMNS];                               \
        for (int64_t i = 0; i < q.m; i++) memset(c + i * x->n, 0, (size_t)q.n * sizeof(type));   \
        for (int64_t k0 = 0; k0 < x->k; k0 += K_BLOCK) {                                         \
            const int64_t steps = TD_MIN(K_BLOCK, x->k - k0);                                    \
            for (int64_t k = 0; k < steps; k++) {                                                \
                const type *row = b + (k0 + k) * x->b_row;                                       \
                for (int64_t j = 0; j < q.n; j++) rows_of_b[k][j] = row[j * x->b_col];           \
            }                                                                                    \
            for (int64_t i = 0; i < q.m; i++)                                                    \
                for (int64_t k = 0; k < steps; k++) {                                            \
                    const wide ai = a[i * x->a_row + (k0 + k) * x->a_col];                       \
                    const type *bk = rows_of_b[k];                                               \
                    type *TD_RESTRICT ci = c + i * x->n;                                         \
                    for (int64_t j = 0; j < q.n; j++) ci[j] = (type)join(ci[j], ai, bk[j]);      \
                }                                                                                \
        }                                                                                        \
    }
#define MULTIPLY_ADD(sum, a, b) ((sum) + (a) * (b))
#define ANY_BOTH(sum, a, b) ((sum) | ((a) & (b)))
INTEGER(b1, uint8_t, uint8_t, ANY_BOTH)
INTEGER(w8, uint8_t, uint8_t, MULTIPLY_ADD)
INTEGER(w16, uint16_t, uint32_t, MULTIPLY_ADD)
INTEGER(w32, uint32_t, uint32_t, MULTIPLY_ADD)
INTEGER(w64, uint64_t, uint64_t, MULTIPLY_ADD)

/* ---- gemm_f32 ---- */

enum { ACT = B_COL + 1, HAS };
enum { HAS_C = 1, HAS_BIAS_N = 2, HAS_BIAS_M = 4 };

/* Plan: i = m, n, k, a_row, a_col, b_row, b_col, act, has; f = alpha. Inputs a, b and those that
 * `has` names, in this order: c (m, n), which is added to, bias_n (n), bias_m (m). */
static int run_gemm(const td_plan *p, char **io)
{
    const int64_t *i = p->i;
    char **next = io + 2;
    const char *c = i[HAS] & HAS_C ? *next++ : NULL;
    const char *bias_n = i[HAS] & HAS_BIAS_N ? *next++ : NULL;
    const char *bias_m = i[HAS] & HAS_BIAS_M ? *next++ : NULL;
    const td_gemm g = {.m = i[M], .n = i[N], .k = i[K], .a = (float *)io[0], .b = (float *)io[1],
                       .a_row = i[A_ROW], .a_col = i[A_COL], .b_row = i[B_ROW], .b_col = i[B_COL],
                       .c = (float *)io[p->n_in], .ldc = i[N], .bias_n = (const float *)bias_n,
                       .bias_m = (const float *)bias_m, .alpha = (float)p->f[0],
                       .accumulate = c != NULL, .act = (int)i[ACT]};
    if (c && (const float *)c != g.c) memcpy(g.c, c, (size_t)(g.m * g.n) * sizeof(float));
    return KERNEL(gemm_f32)(&g, 1);
}

/* ---- the table ---- */

#define KERNEL_OF(name, dtype, run)                         \
    static int name(const td_plan *p, char **io)            \
    {                                                       \
        const td_matmul x = read_plan(p, io, dtype);        \
        return run;                                         \
    }
KERNEL_OF(matmul_f16, TD_F16, KERNEL(product_f32)(&x))
KERNEL_OF(matmul_bf16, TD_BF16, KERNEL(product_f32)(&x))
KERNEL_OF(matmul_f32, TD_F32, KERNEL(product_f32)(&x))
KERNEL_OF(matmul_f64, TD_F64, KERNEL(product_f64)(&x))
KERNEL_OF(matmul_b1, TD_B1, run_integers(&x, block_b1))
KERNEL_OF(matmul_w8, TD_U8, run_integers(&x, block_w8))
KERNEL_OF(matmul_w16, TD_U16, run_integers(&x, block_w16))
KERNEL_OF(matmul_w32, TD_U32, run_integers(&x, block_w32))
KERNEL_OF(matmul_w64, TD_U64, run_integers(&x, block_w64))

const td_entry KERNEL(matmul_table)[] = {
    {"matmul_f16", matmul_f16}, {"matmul_bf16", matmul_bf16}, {"matmul_f32", matmul_f32},
    {"matmul_f64", matmul_f64}, {"linear_f16", matmul_f16},   {"linear_bf16", matmul_bf16},
    {"linear_f32", matmul_f32}, {"linear_f64", matmul_f64},   {"matmul_b1", matmul_b1},
    {"matmul_i8", matmul_w8},   {"matmul_u8", matmul_w8},     {"matmul_i16", matmul_w16},
    {"matmul_u16", matmul_w16}, {"matmul_i32", matmul_w32},   {"matmul_u32", matmul_w32},
    {"matmul_i64", matmul_w64}, {"matmul_u64", matmul_w64},   {"gemm_f32", run_gemm},
    {0, 0},
};
