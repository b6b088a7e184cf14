/* The softmax family. The kernels are named by the type they compute in; i[0] tells how the
 * arrays are stored. */
#define REAL_BITS 32
#include "softmax.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "softmax.inc"

const td_entry KERNEL(softmax_table)[] = {
    {"softmax_f32", run_softmax_f32}, {"softmax_f64", run_softmax_f64},
    {"softmax_grad_f32", run_softmax_grad_f32}, {"softmax_grad_f64", run_softmax_grad_f64},
    {"log_softmax_f32", run_log_softmax_f32}, {"log_softmax_f64", run_log_softmax_f64},
    {"log_softmax_grad_f32", run_log_softmax_grad_f32},
    {"log_softmax_grad_f64", run_log_softmax_grad_f64},
    {"logsumexp_f32", run_logsumexp_f32}, {"logsumexp_f64", run_logsumexp_f64},
    {0, 0},
};
