/* gather_nd: rows of an array picked by index tuples. All indices are checked before anything is
 * written. */
#include "index_list.h"
#include <string.h>

enum { AHEAD = 6, LINE = 64, COPY_GRAIN = 65536 };

typedef struct {
    td_index_list list;
    int64_t bytes, span;    /* of a row; rows of a task */
    const char *x;
    char *y;
} td_job;

/* A row of several narrow elements is as wide as these but no better aligned than one of them. */
typedef uint16_t row16 __attribute__((aligned(1), may_alias));
typedef uint32_t row32 __attribute__((aligned(1), may_alias));
typedef uint64_t row64 __attribute__((aligned(1), may_alias));

#define COPY(T) for (int64_t j = 0; j < n; j++) ((T *)y)[j] = ((const T *)b->x)[row[j]]

/* Rows that do not fit a register: the first lines of coming rows are fetched early, as the
 * jumps are random. */
static void copy_long(const td_job *b, const int64_t *row, int64_t n, char *y) {
    const int64_t reach = TD_MIN(b->bytes, 4 * LINE);
    for (int64_t j = 0; j < n; j++) {
        const char *next = b->x + row[TD_MIN(j + AHEAD, n - 1)] * b->bytes;
        for (int64_t k = 0; k < reach; k += LINE) __builtin_prefetch(next + k);
        memcpy(y + j * b->bytes, b->x + row[j] * b->bytes, (size_t)b->bytes);
    }
}

/* Scalar code on purpose: gather instructions are slower than loads on several processors. */
__attribute__((optimize("no-tree-vectorize")))
static void copy_rows(const td_job *b, const int64_t *row, int64_t n, char *y) {
    switch (b->bytes) {
    case 1: COPY(uint8_t); break;
    case 2: COPY(row16); break;
    case 4: COPY(row32); break;
    case 8: COPY(row64); break;
    default: copy_long(b, row, n, y);
    }
}

static void task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    int64_t row[TD_INDEX_BLOCK];
    const int64_t to = TD_MIN(b->list.count, (t + 1) * b->span);
    for (int64_t i = t * b->span; i < to; i += TD_INDEX_BLOCK) {
        const int64_t n = TD_MIN(TD_INDEX_BLOCK, to - i);
        td_index_rows(&b->list, i, n, row);
        copy_rows(b, row, n, b->y + i * b->bytes);
    }
}

/* i: bytes of a row, whether indices are int64, count, k, k sizes */
static int KERNEL(gather_nd)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    td_job b = {.list = {.index = io[1], .sizes = i + 4, .count = i[2], .k = (int)i[3],
                         .wide = (int)i[1]},
                .bytes = i[0], .x = io[0], .y = io[2]};
    const int status = td_index_check(&b.list, "gather_nd");
    if (status || !b.bytes) return status;
    b.span = TD_MAX(1, COPY_GRAIN / TD_MAX(b.bytes, 8));
    td_parallel((b.list.count + b.span - 1) / b.span, task, &b);
    return TD_OK;
}

const td_entry KERNEL(index_table)[] = {{"gather_nd", KERNEL(gather_nd)}, {0, 0}};
