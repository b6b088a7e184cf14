/* Pooling kernels of float64; see pooling.c. */
typedef double real;
#define REAL_SIZE 8
#define NATIVE TD_F64
#include "pooling.h"

POOL_KERNELS(f64, TD_F64)

const td_entry KERNEL(pooling_f64_table)[] = {POOL_ENTRIES(f64), {0, 0}};
