/* A batch of products as matmul.c reads it from a plan, whatever the element type. */
#ifndef TREADLE_MATMUL_H
#define TREADLE_MATMUL_H
#include "treadle_cpu.h"

typedef struct {
    int dtype;                          /* enum td_dtype, of a, b, bias and c alike */
    int64_t m, n, k;
    const void *a, *b, *bias;           /* bias: n elements, or NULL */
    void *c;                            /* (count, m, n), dense */
    int64_t a_row, a_col, b_row, b_col; /* strides in elements */
    int64_t count;                      /* the product of size[0..dims) */
    int dims;
    const int64_t *size, *a_batch, *b_batch;    /* batch axes and their strides */
    int act;                            /* enum td_act; of floating-point types */
} td_matmul;

int KERNEL(product_f32)(const td_matmul *x);    /* float32, float16, bfloat16 */
int KERNEL(product_f64)(const td_matmul *x);
#endif
