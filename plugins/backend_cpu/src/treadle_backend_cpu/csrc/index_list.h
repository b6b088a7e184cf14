/* A list of index tuples into the first dimensions of a dense array: checking them all, and
 * where they point. */
#ifndef TD_INDEX_LIST_H
#define TD_INDEX_LIST_H
#include "treadle_cpu.h"

enum { TD_INDEX_BLOCK = 256, TD_INDEX_GRAIN = 16384 };

typedef struct {
    const char *index;      /* (count, k) of int32, or of int64 when wide */
    const int64_t *sizes;   /* k sizes */
    int64_t count;
    int k, wide;
    int64_t bad;            /* the first element of index that is out of range */
} td_index_list;

TD_INLINE int64_t td_index_at(const td_index_list *l, int64_t e) {
    return l->wide ? ((const int64_t *)l->index)[e] : ((const int32_t *)l->index)[e];
}

/* Whether i is outside [-n, n): one unsigned comparison. */
TD_INLINE int td_index_outside(int64_t i, int64_t n) {
    return (uint64_t)i + (uint64_t)n >= 2 * (uint64_t)n;
}

/* The first tuple of from..to-1 with an index out of range, or `to`. */
static int64_t td_index_scan(const td_index_list *l, int64_t from, int64_t to) {
    if (l->k == 1) { /* usual: a loop that vectorises says whether the slow one is needed */
        const int64_t n = l->sizes[0], *wide = (const int64_t *)l->index;
        const int32_t *narrow = (const int32_t *)l->index;
        int outside = 0;
        if (l->wide) for (int64_t j = from; j < to; j++) outside |= td_index_outside(wide[j], n);
        else for (int64_t j = from; j < to; j++) outside |= td_index_outside(narrow[j], n);
        if (!outside) return to;
    }
    for (int64_t j = from; j < to; j++)
        for (int d = 0; d < l->k; d++)
            if (td_index_outside(td_index_at(l, j * l->k + d), l->sizes[d])) return j;
    return to;
}

static void td_index_check_task(int64_t t, void *ctx) {
    td_index_list *l = ctx;
    const int64_t to = TD_MIN(l->count, (t + 1) * TD_INDEX_GRAIN);
    const int64_t at = td_index_scan(l, t * TD_INDEX_GRAIN, to);
    int64_t seen = __atomic_load_n(&l->bad, __ATOMIC_RELAXED);
    const int order = __ATOMIC_RELAXED;
    while (at < to && at < seen)
        if (__atomic_compare_exchange_n(&l->bad, &seen, at, 1, order, order)) break;
}

/* Checks every index before anything is written; the error names the first offender. */
static int td_index_check(td_index_list *l, const char *op) {
    l->bad = INT64_MAX;
    td_parallel((l->count + TD_INDEX_GRAIN - 1) / TD_INDEX_GRAIN, td_index_check_task, l);
    if (l->bad == INT64_MAX) return TD_OK;
    int d = 0;
    while (!td_index_outside(td_index_at(l, l->bad * l->k + d), l->sizes[d])) d++;
    return td_fail(TD_ERR_INDEX, "%s: index %lld is out of range for dimension %d of size %lld", op,
                   (long long)td_index_at(l, l->bad * l->k + d), d, (long long)l->sizes[d]);
}

TD_INLINE int64_t td_index_wrap(int64_t i, int64_t size) { return i + (i < 0 ? size : 0); }

/* The row numbers that n <= TD_INDEX_BLOCK tuples from `from` point to; negative indices count
 * from the end. */
static void td_index_rows(const td_index_list *l, int64_t from, int64_t n, int64_t *row) {
    const int k = l->k;
    const int64_t *wide = (const int64_t *)l->index + from * k;
    const int32_t *narrow = (const int32_t *)l->index + from * k;
    if (k == 0) for (int64_t j = 0; j < n; j++) row[j] = 0;
    for (int d = 0; d < k; d++, wide++, narrow++) {
        const int64_t s = l->sizes[d];
        if (d) for (int64_t j = 0; j < n; j++) row[j] *= s;
        if (!d && l->wide) for (int64_t j = 0; j < n; j++) row[j] = td_index_wrap(wide[j * k], s);
        else if (!d) for (int64_t j = 0; j < n; j++) row[j] = td_index_wrap(narrow[j * k], s);
        else if (l->wide) for (int64_t j = 0; j < n; j++) row[j] += td_index_wrap(wide[j * k], s);
        else for (int64_t j = 0; j < n; j++) row[j] += td_index_wrap(narrow[j * k], s);
    }
}
#endif
