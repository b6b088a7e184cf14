/* Convolutions of float32; the headers are written for `real`. */
typedef float real;
#define REAL_SIZE 4
#define PASS(name) KERNEL(name##_f32)
#include "conv_passes.h"
