/* Fused regions of float64. */
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "fused.h"
#include "mathd.h"
#define REAL double
#define BITS uint64_t
#define SIGNED int64_t
#define FUSED_INC "fused_f64.inc"
#include "fused_functions.h"

static const td_machine machine = {
    .size = 8,
    .load = {[FUSED_BOOL] = load_truth},
    .store = {[FUSED_BOOL] = store_truth},
    .loops = KERNEL(loops_f64),
    .stages = run_stages,
};

static int KERNEL(fused_f64)(const td_plan *p, char **io) {
    return KERNEL(fused_run)(p, io, &machine);
}

const td_entry KERNEL(fused_f64_table)[] = {
    {"fused_f64", KERNEL(fused_f64)},
    {0, 0},
};
