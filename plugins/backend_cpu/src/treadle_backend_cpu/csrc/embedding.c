/* Rows of a table by number, and the gradient of the table. Rows are moved as bytes, so the
 * first serves every type. */
#include "treadle_cpu.h"
#include <string.h>

/* Element i of an index array of 4 or 8 byte integers. */
TD_INLINE int64_t index_at(const char *indices, int wide, int64_t i) {
    return wide ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
}

static int check_indices(const char *indices, int wide, int64_t count, int64_t n) {
    int64_t low = 0, high = -1;
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = index_at(indices, wide, i);
        low = TD_MIN(low, row);
        high = TD_MAX(high, row);
    }
    if (low >= 0 && high < n) return TD_OK;
    return td_fail(TD_ERR_INDEX, "embedding: index %lld is outside [0, %lld)",
                   (long long)(low < 0 ? low : high), (long long)n);
}

typedef struct {
    const char *table, *indices;
    char *out;
    int wide;
    int64_t count, row_bytes, tasks;
} gather_job;

static void gather_rows(int64_t t, void *ctx) {
    const gather_job *j = ctx;
    const size_t bytes = (size_t)j->row_bytes;
    for (int64_t i = t * j->count / j->tasks; i < (t + 1) * j->count / j->tasks; i++)
        memcpy(j->out + (size_t)i * bytes,
               j->table + (size_t)index_at(j->indices, j->wide, i) * bytes, bytes);
}

/* w i -> y. i: 1 for int64 indices (else int32), rows of the table, number of indices, bytes of
 * a row. */
static int embedding(const td_plan *p, char **io) {
    gather_job j = {.table = io[0], .indices = io[1], .out = io[2], .wide = (int)p->i[0],
                    .count = p->i[2], .row_bytes = p->i[3]};
    const int status = check_indices(j.indices, j.wide, j.count, p->i[1]);
    if (status != TD_OK || !j.row_bytes) return status;
    j.tasks = TD_MAX(1, TD_MIN(j.count, TD_MIN(64, j.count * j.row_bytes / 65536)));
    td_parallel(j.tasks, gather_rows, &j);
    return TD_OK;
}

/* The gradient gathers too: for every row of the table a chain of the places that used it, in
 * their order, so that each row is written once, by one thread, in an order that depends on the
 * indices alone. */
typedef struct {
    const char *g;
    char *gw;
    const int64_t *first, *next;   /* of each row of the table; of each place; -1 ends */
    int code, error;
    int64_t rows, n, tasks;
} chain_job;

static void build_chains(const char *indices, int wide, int64_t count, int64_t rows,
                         int64_t padding, int64_t *first, int64_t *next) {
    for (int64_t r = 0; r < rows; r++) first[r] = -1;
    for (int64_t i = count - 1; i >= 0; i--) {
        const int64_t row = index_at(indices, wide, i);
        if (row == padding) continue;
        next[i] = first[row];
        first[row] = i;
    }
}

/* g i -> gw. i: 1 for int64 indices, rows of the table, number of indices, elements of a row,
 * code of g and gw, padding_idx. */
static int chain_run(const td_plan *p, char **io, td_body body) {
    const int64_t rows = p->i[1], count = p->i[2];
    const int wide = (int)p->i[0], status = check_indices(io[1], wide, count, rows);
    if (status != TD_OK) return status;
    int64_t *first = td_scratch((size_t)(rows + count) * sizeof *first + 1), *next = first + rows;
    if (!first) return TD_ERR_MEMORY;
    build_chains(io[1], wide, count, rows, p->i[5], first, next);
    chain_job j = {.g = io[0], .gw = io[2], .first = first, .next = next, .code = (int)p->i[4],
                   .rows = rows, .n = p->i[3]};
    j.tasks = TD_MAX(1, TD_MIN(rows, TD_MIN(64, (rows + count) * j.n / 16384)));
    td_parallel(j.tasks, body, &j);
    td_scratch_free(first);
    return j.error;
}

#define REAL_BITS 32
#include "embedding.inc"
#undef REAL_BITS
#define REAL_BITS 64
#include "embedding.inc"

const td_entry KERNEL(embedding_table)[] = {
    {"embedding", embedding},
    {"embedding_grad_f32", embedding_grad_f32}, {"embedding_grad_f64", embedding_grad_f64},
    {0, 0},
};
