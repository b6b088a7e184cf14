/* All kernels by name, for the best instruction set level that was built and that the processor
 * has. tables.inc is written by setup.py: one TD_TABLE line per kernel file, TD_HAS_* for the
 * levels that were built. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host.h"
#include "tables.inc"

#define TD_TABLE(name) extern const td_entry td_base_##name[];
#if TD_HAS_BASE
TD_TABLES
#endif
#undef TD_TABLE
#define TD_TABLE(name) extern const td_entry td_avx2_##name[];
#if TD_HAS_AVX2
TD_TABLES
#endif
#undef TD_TABLE
#define TD_TABLE(name) extern const td_entry td_avx512_##name[];
#if TD_HAS_AVX512
TD_TABLES
#endif
#undef TD_TABLE

#define TD_TABLE(name) td_base_##name,
#if TD_HAS_BASE
static const td_entry *const base_tables[] = {TD_TABLES NULL};
#else
#define base_tables NULL
#endif
#undef TD_TABLE
#define TD_TABLE(name) td_avx2_##name,
#if TD_HAS_AVX2
static const td_entry *const avx2_tables[] = {TD_TABLES NULL};
#else
#define avx2_tables NULL
#endif
#undef TD_TABLE
#define TD_TABLE(name) td_avx512_##name,
#if TD_HAS_AVX512
static const td_entry *const avx512_tables[] = {TD_TABLES NULL};
#else
#define avx512_tables NULL
#endif
#undef TD_TABLE

static const td_level levels[TD_LEVELS] = {
    [TD_LEVEL_BASE] = {"base", base_tables},
    [TD_LEVEL_AVX2] = {"avx2", avx2_tables},
    [TD_LEVEL_AVX512] = {"avx512", avx512_tables},
};

static struct { const td_level *level; td_entry *kernels; int n; } loaded;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const td_entry *)a)->name, ((const td_entry *)b)->name);
}

static const char *collect(const td_level *level)
{
    int n = 0;
    for (int t = 0; level->tables[t]; t++)
        for (const td_entry *e = level->tables[t]; e->name; e++) n++;
    td_entry *kernels = malloc(((size_t)n + 1) * sizeof *kernels);
    if (!kernels) return "out of memory";
    n = 0;
    for (int t = 0; level->tables[t]; t++)
        for (const td_entry *e = level->tables[t]; e->name; e++) kernels[n++] = *e;
    qsort(kernels, (size_t)n, sizeof *kernels, by_name);
    free(loaded.kernels);
    loaded.level = level;
    loaded.kernels = kernels;
    loaded.n = n;
    return NULL;
}

static const td_level *best_level(void)
{
    for (int i = TD_LEVELS - 1; i >= 0; i--)
        if (levels[i].tables && td_cpu_has((enum td_isa_level)i)) return &levels[i];
    return NULL;
}

const char *td_registry_load(void)
{
    static char problem[160];
    const char *forced = getenv("TREADLE_CPU_ISA");
    if (!forced || !*forced) {
        const td_level *level = best_level();
        return level ? collect(level) : "no level of this build runs on this processor";
    }
    for (int i = 0; i < TD_LEVELS; i++) {
        if (strcmp(forced, levels[i].name)) continue;
        if (levels[i].tables && td_cpu_has((enum td_isa_level)i)) return collect(&levels[i]);
        snprintf(problem, sizeof problem, "TREADLE_CPU_ISA=%s: %s", forced,
                 levels[i].tables ? "this processor or its system lacks it"
                                  : "this build does not contain it");
        return problem;
    }
    snprintf(problem, sizeof problem, "TREADLE_CPU_ISA=%.40s: unknown; use base, avx2 or avx512",
             forced);
    return problem;
}

const char *td_isa(void)
{
    return loaded.level->name;
}

const td_entry *td_find(const char *name)
{
    const td_entry key = {name, NULL};
    return bsearch(&key, loaded.kernels, (size_t)loaded.n, sizeof key, by_name);
}

const td_entry *td_kernels(int *n)
{
    *n = loaded.n;
    return loaded.kernels;
}
