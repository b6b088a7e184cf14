/* The elementwise kernels of float32, which serves float16 and bfloat16 as well. */
#include "fused.h"
#include "mathf.h"
#include "elementwise_f32.inc"

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

const td_entry KERNEL(elementwise_f32_table)[] = {
#include "elementwise_f32.inc"
    {0, 0},
};

/* What fused regions may run, in the order of their codes. */
#undef EW_KERNEL
#undef EW_FUSED
#define EW_KERNEL(...)
#define EW_FUSED(loop) loop,
const td_loop KERNEL(loops_f32)[] = {
#include "elementwise_f32.inc"
};
