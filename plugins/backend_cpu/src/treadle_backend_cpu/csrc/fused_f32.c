/* Fused regions of float32, which serves float16 and bfloat16 as well. */
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#include "fused.h"
#include "mathf.h"
#define REAL float
#define BITS uint32_t
#define SIGNED int32_t
#define FUSED_INC "fused_f32.inc"
#include "fused_functions.h"

static const td_machine machine = {
    .size = 4,
    .load = {[FUSED_F16] = KERNEL(load_f16), [FUSED_BF16] = KERNEL(load_bf16), [FUSED_BOOL] = load_truth},
    .store = {[FUSED_F16] = KERNEL(store_f16), [FUSED_BF16] = KERNEL(store_bf16), [FUSED_BOOL] = store_truth},
    .loops = KERNEL(loops_f32),
    .stages = run_stages,
};

static int KERNEL(fused_f32)(const td_plan *p, char **io) {
    return KERNEL(fused_run)(p, io, &machine);
}

const td_entry KERNEL(fused_f32_table)[] = {
    {"fused_f32", KERNEL(fused_f32)},
    {0, 0},
};
