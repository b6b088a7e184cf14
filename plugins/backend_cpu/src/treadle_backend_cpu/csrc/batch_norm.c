/* Batch normalisation. The kernels are named by the type they compute in; codes tell how the
 * arrays are stored. */
#define REAL_BITS 32
#include "batch_norm.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "batch_norm.inc"

const td_entry KERNEL(batch_norm_table)[] = {
    {"batch_norm_f32", batch_norm_f32}, {"batch_norm_f64", batch_norm_f64},
    {"batch_norm_grad_f32", batch_norm_grad_f32}, {"batch_norm_grad_f64", batch_norm_grad_f64},
    {"batch_norm_inference_f32", batch_norm_inference_f32},
    {"batch_norm_inference_f64", batch_norm_inference_f64},
    {0, 0},
};
