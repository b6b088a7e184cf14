/* Kernels that compute nothing of use: the tests of binding, errors and threads look through
 * them. */
#include <string.h>
#include "treadle_cpu.h"

/* Copies i[k] bytes of input k to result k. */
static int KERNEL(probe_copy)(const td_plan *p, char **io)
{
    for (int k = 0; k < p->n_out; k++)
        if (io[p->n_in + k]) memcpy(io[p->n_in + k], io[k], (size_t)p->i[k]);
    return TD_OK;
}

/* i[0] elements of i[1] bytes, each equal to the number that is the input. */
static int KERNEL(probe_fill)(const td_plan *p, char **io)
{
    for (int64_t k = 0; k < p->i[0]; k++) memcpy(io[1] + k * p->i[1], io[0], (size_t)p->i[1]);
    return TD_OK;
}

static void fail_task(int64_t t, void *ctx)
{
    const td_plan *p = ctx;
    if (t == p->i[2]) td_fail((int)p->i[0], "task %lld of %g failed", (long long)t, p->f[0]);
}

/* Fails with code i[0]: without a message (i[1] = 0), or with one from task i[2] of i[1]. */
static int KERNEL(probe_fail)(const td_plan *p, char **io)
{
    (void)io;
    td_parallel(p->i[1], fail_task, (void *)p);
    return (int)p->i[0];
}

typedef struct { const td_plan *p; int64_t *to; } count_job;

static void add_index(int64_t t, void *ctx)
{
    ((int64_t *)ctx)[t] = t;
}

/* A task: i[1] steps of a generator from its own index on, and a nested job of 4 tasks. */
static void count_task(int64_t t, void *ctx)
{
    count_job *job = ctx;
    uint64_t x = (uint64_t)t;
    int64_t nested[4];
    for (int64_t k = 0; k < job->p->i[1]; k++) x = x * 6364136223846793005u + 1442695040888963407u;
    td_parallel(4, add_index, nested);
    job->to[t] = (int64_t)(x >> 1) + nested[3];
}

/* i[0] int64 values from as many tasks. */
static int KERNEL(probe_tasks)(const td_plan *p, char **io)
{
    count_job job = {p, (int64_t *)(void *)io[p->n_in]};
    td_parallel(p->i[0], count_task, &job);
    return TD_OK;
}

/* Takes i[0] bytes of working memory, writes both ends and gives it back. */
static int KERNEL(probe_scratch)(const td_plan *p, char **io)
{
    (void)io;
    char *memory = td_scratch((size_t)p->i[0]);
    if (!memory) return TD_ERR_MEMORY;
    if (p->i[0] > 0) memory[0] = memory[p->i[0] - 1] = 1;
    td_scratch_free(memory);
    return (uintptr_t)memory % 64 ? td_fail(TD_ERR_VALUE, "working memory is not aligned") : TD_OK;
}

const td_entry KERNEL(probe_table)[] = {
    {"probe_copy", KERNEL(probe_copy)},
    {"probe_fill", KERNEL(probe_fill)},
    {"probe_fail", KERNEL(probe_fail)},
    {"probe_tasks", KERNEL(probe_tasks)},
    {"probe_scratch", KERNEL(probe_scratch)},
    {0, 0},
};
