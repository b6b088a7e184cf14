/* Cross entropy. The kernels are named by the type they compute in; codes tell how the arrays
 * are stored. */
#define REAL_BITS 32
#include "cross_entropy.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "cross_entropy.inc"

const td_entry KERNEL(cross_entropy_table)[] = {
    {"cross_entropy_f32", cross_entropy_f32}, {"cross_entropy_f64", cross_entropy_f64},
    {"cross_entropy_grad_f32", cross_entropy_grad_f32},
    {"cross_entropy_grad_f64", cross_entropy_grad_f64},
    {0, 0},
};
