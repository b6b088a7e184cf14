/* Which instruction set levels this processor and its operating system support. */
#include "host.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* Features of x86-64-v3 and v4, as the psABI lists them. */
#define V3_LEAF1 (bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C)
#define V3_LEAF7 (bit_AVX2 | bit_BMI | bit_BMI2)
#define V4_LEAF7 (bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL)
#define YMM_STATE 0x06u                         /* XCR0: the system saves xmm and ymm registers */
#define ZMM_STATE 0xe6u                         /* and zmm and mask registers */

static bool all_set(unsigned value, unsigned bits)
{
    return (value & bits) == bits;
}

static unsigned saved_state(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool td_cpu_has(enum td_isa_level level)
{
    unsigned a, b, c1 = 0, b7 = 0, c81 = 0, c, d;
    if (level == TD_LEVEL_BASE) return true;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !all_set(c1, V3_LEAF1)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d) || !all_set(b7, V3_LEAF7)) return false;
    if (!__get_cpuid(0x80000001, &a, &b, &c81, &d) || !all_set(c81, bit_LZCNT)) return false;
    unsigned state = saved_state();
    if (level == TD_LEVEL_AVX2) return all_set(state, YMM_STATE);
    return all_set(b7, V4_LEAF7) && all_set(state, ZMM_STATE);
}
#else
bool td_cpu_has(enum td_isa_level level)
{
    return level == TD_LEVEL_BASE;
}
#endif
