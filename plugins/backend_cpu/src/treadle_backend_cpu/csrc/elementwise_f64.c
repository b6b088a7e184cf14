/* The elementwise kernels of float64. */
#include "fused.h"
#include "mathd.h"
#include "elementwise_f64.inc"

#undef EW_LOOP1
#undef EW_LOOP2
#undef EW_LOOP3
#undef EW_LOOP4
#undef EW_FAR1
#undef EW_FAR2
#undef EW_KERNEL
#define EW_LOOP1(...)
#define EW_LOOP2(...)
#define EW_LOOP3(...)
#define EW_LOOP4(...)
#define EW_FAR1(...)
#define EW_FAR2(...)
#define EW_KERNEL(name, ...) {#name, KERNEL(name)},

const td_entry KERNEL(elementwise_f64_table)[] = {
#include "elementwise_f64.inc"
    {0, 0},
};

/* What fused regions may run, in the order of their codes. */
#undef EW_KERNEL
#undef EW_FUSED
#define EW_KERNEL(...)
#define EW_FUSED(loop) loop,
const td_loop KERNEL(loops_f64)[] = {
#include "elementwise_f64.inc"
};
