/* The elementwise kernels of integers and bool, and of ops that only move bits, for all dtypes. */
#include "elementwise.h"
#include "integer.h"
#include "elementwise_int.inc"

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

const td_entry KERNEL(elementwise_int_table)[] = {
#include "elementwise_int.inc"
    {0, 0},
};
