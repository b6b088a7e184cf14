/* The matrix product that other kernels build on: C = act(alpha * A B + bias [+ C]) in true
 * float32.
 *
 * A is (m, k) and B is (k, n), each with a row stride and a column stride in elements: any values,
 * zero and negative included, so a transposed operand is the same memory with its strides
 * exchanged. C is row-major with rows ldc apart and must not overlap A or B. Fastest: B with b_col
 * == 1 (nothing is copied while it fits L2). Fields left out of a designated initialiser are zero,
 * so
 *     td_gemm g = {.m = m, .n = n, .k = k, .a = x, .a_row = k, .a_col = 1,
 *                  .b = w, .b_row = n, .b_col = 1, .c = y, .ldc = n, .alpha = 1};
 * is a plain product. Bits never depend on the number of threads: sums over k are cut by the sizes
 * alone. */
#ifndef TREADLE_GEMM_H
#define TREADLE_GEMM_H
#include "treadle_cpu.h"

enum td_act { TD_ACT_NONE = 0, TD_ACT_RELU = 1 };   /* relu(NaN) is NaN, relu(-0) is 0 */

typedef struct {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_col;
    const float *b;
    int64_t b_row, b_col;
    float *c;
    int64_t ldc;
    const float *bias_n, *bias_m;   /* one value per column, one per row; NULL for none */
    float alpha;
    int accumulate;                 /* add to what C holds instead of overwriting it */
    int act;                        /* enum td_act, applied last */
} td_gemm;

/* threads: 0 runs in the calling thread (for use inside a td_parallel body), 1 may use the pool.
 * Returns TD_OK or TD_ERR_MEMORY. */
int KERNEL(gemm_f32)(const td_gemm *g, int threads);
#endif
