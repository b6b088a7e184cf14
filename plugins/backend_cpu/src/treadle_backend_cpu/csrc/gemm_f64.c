/* The float64 product. */
#define T double
#include "gemm_plan.h"
#include "matmul.h"

int KERNEL(product_f64)(const td_matmul *x)
{
    job j = {.items = {x->count, x->dims, x->size, x->a_batch, x->b_batch}};
    j.p = (product){.m = x->m, .n = x->n, .k = x->k, .a = operand_of(x->a, x->a_row, x->a_col),
                    .b = operand_of(x->b, x->b_row, x->b_col), .c = x->c, .c_row = x->n,
                    .c_col = 1, .bias_n = x->bias, .alpha = 1, .act = x->act};
    return run_job(&j, td_threads());
}
