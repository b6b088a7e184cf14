/* Convolutions of float64; the headers are written for `real`. */
typedef double real;
#define REAL_SIZE 8
#define PASS(name) KERNEL(name##_f64)
#include "conv_passes.h"
