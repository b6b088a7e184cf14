/* Layer normalisation. The kernels are named by the type they compute in; codes tell how the
 * arrays are stored. */
#define REAL_BITS 32
#include "layer_norm.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "layer_norm.inc"

const td_entry KERNEL(layer_norm_table)[] = {
    {"layer_norm_f32", layer_norm_f32}, {"layer_norm_f64", layer_norm_f64},
    {"layer_norm_grad_f32", layer_norm_grad_f32}, {"layer_norm_grad_f64", layer_norm_grad_f64},
    {0, 0},
};
