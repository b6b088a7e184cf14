/* Attention. The kernels are named by the type they compute in; codes tell how the arrays are
 * stored. */
#define REAL_BITS 32
#include "attention.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "attention.inc"

const td_entry KERNEL(attention_table)[] = {
    {"attention_f32", attention_f32}, {"attention_f64", attention_f64},
    {"attention_grad_f32", attention_grad_f32}, {"attention_grad_f64", attention_grad_f64},
    {0, 0},
};
