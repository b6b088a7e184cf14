/* Pooling kernels of float32, float16 and bfloat16: max_pool2d (x -> y, indices),
 * max_pool2d_indices (x -> indices), max_pool2d_grad (g, indices -> gx), avg_pool2d (x -> y),
 * avg_pool2d_grad (g -> gx). Integers: see pool_shape_of(). Tensors are dense, NCHW; indices are
 * int64. */
typedef float real;
#define REAL_SIZE 4
#define NATIVE TD_F32
#include "pooling.h"

POOL_KERNELS(f32, TD_F32)
POOL_KERNELS(f16, TD_F16)
POOL_KERNELS(bf16, TD_BF16)

const td_entry KERNEL(pooling_table)[] = {
    POOL_ENTRIES(f32),
    POOL_ENTRIES(f16),
    POOL_ENTRIES(bf16),
    {0, 0},
};
