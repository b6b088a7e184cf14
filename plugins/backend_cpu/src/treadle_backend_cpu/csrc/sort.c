/* Stable sort along the last axis, with values and int64 indices; NaN last, first when descending.
 *
 * Elements become unsigned keys in the wanted order. A key of 32 bits and its index share one
 * 64-bit item, longer keys make a pair. Short runs are merged, longer ones sorted by digits; a
 * row that is large beside few others is cut into pieces for the threads, whose merging is cut
 * as well. A stable sort has one result, so none of this shows in it. */
#include "ranks.h"
#include <string.h>

#define ITEM uint64_t
#define NAME(f) narrow_##f
#define BEFORE(a, b) ((a) < (b))
#define DIGIT(e, d) ((e) >> (32 + 8 * (d)) & 255)
#define DIGITS 4
#define RADIX_FROM 192
#include "sort_run.h"
#undef ITEM
#undef NAME
#undef BEFORE
#undef DIGIT
#undef DIGITS
#undef RADIX_FROM

typedef struct { uint64_t key, at; } td_pair;
#define ITEM td_pair
#define NAME(f) wide_##f
#define BEFORE(a, b) ((a).key < (b).key)
#define DIGIT(e, d) ((e).key >> (8 * (d)) & 255)
#define DIGITS 8
#define RADIX_FROM 512
#include "sort_run.h"

enum { BLOCK = 512, GRAIN = 8192, PIECE = 32768, MOST_PIECES = 64 };

typedef struct {
    const td_rank_kind *kind;
    int wide, descending;
    int64_t rows, n, span;
    const char *x;
    char *values;
    int64_t *indices;
    /* one large row, cut for the threads */
    int64_t row, pieces;
    int64_t runs;               /* how many sorted runs are left, of pieces / runs pieces each */
    void *items, *spare;
    int failed;
} td_job;

/* Items of elements from..to-1 of the row at x. */
static void pack(const td_job *b, const char *x, int64_t from, int64_t to, void *items) {
    union { int32_t narrow[BLOCK]; int64_t wide[BLOCK]; } keys;
    for (int64_t i = from; i < to; i += BLOCK) {
        const int64_t n = TD_MIN(BLOCK, to - i);
        b->kind->load(x + i * b->kind->size, n, 1, &keys, b->kind->flip, b->kind->inf);
        if (b->wide) {
            const uint64_t flip = b->descending ? INT64_MAX : 1ull << 63;
            for (int64_t j = 0; j < n; j++) {
                const int64_t key = b->kind->wide ? keys.wide[j] : keys.narrow[j];
                ((td_pair *)items)[i + j] = (td_pair){(uint64_t)key ^ flip, (uint64_t)(i + j)};
            }
        } else {
            const uint32_t flip = b->descending ? INT32_MAX : 1u << 31;
            for (int64_t j = 0; j < n; j++) {
                const uint64_t key = (uint32_t)keys.narrow[j] ^ flip;
                ((uint64_t *)items)[i + j] = key << 32 | (uint64_t)(i + j);
            }
        }
    }
}

#define PICK(T) for (int64_t j = 0; j < n; j++) ((T *)y)[j] = ((const T *)x)[at[j]]

/* Writes results from..to-1 of a row: indices out of the items, values by them. */
static void unpack(const td_job *b, int64_t row, int64_t from, int64_t to, const void *items) {
    const int size = b->kind->size;
    const char *x = b->x + row * b->n * size;
    int64_t local[BLOCK];
    for (int64_t i = from; i < to; i += BLOCK) {
        const int64_t n = TD_MIN(BLOCK, to - i);
        int64_t *at = b->indices ? b->indices + row * b->n + i : local;
        char *y = b->values + (row * b->n + i) * size;
        const td_pair *pair = (const td_pair *)items + i;
        const uint64_t *item = (const uint64_t *)items + i;
        if (b->wide) for (int64_t j = 0; j < n; j++) at[j] = (int64_t)pair[j].at;
        else for (int64_t j = 0; j < n; j++) at[j] = item[j] & UINT32_MAX;
        if (!b->values) continue;
        if (size == 1) PICK(uint8_t);
        else if (size == 2) PICK(uint16_t);
        else if (size == 4) PICK(uint32_t);
        else PICK(uint64_t);
    }
}

static size_t item_size(const td_job *b) { return b->wide ? sizeof(td_pair) : sizeof(uint64_t); }

static void rows_task(int64_t t, void *ctx) {
    td_job *b = ctx;
    char *items = td_scratch(2 * item_size(b) * (size_t)b->n);
    if (!items) {
        __atomic_store_n(&b->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    void *spare = items + item_size(b) * (size_t)b->n, *sorted;
    for (int64_t r = t * b->span; r < TD_MIN(b->rows, (t + 1) * b->span); r++) {
        pack(b, b->x + r * b->n * b->kind->size, 0, b->n, items);
        if (b->wide) sorted = wide_sort((td_pair *)items, spare, b->n);
        else sorted = narrow_sort((uint64_t *)items, spare, b->n);
        unpack(b, r, 0, b->n, sorted);
    }
    td_scratch_free(items);
}

/* ---- one large row ---- */

static int64_t start(const td_job *b, int64_t piece) {
    return b->n / b->pieces * piece + TD_MIN(piece, b->n % b->pieces);
}

static void piece_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const int64_t from = start(b, t), n = start(b, t + 1) - from, at = from * (int64_t)item_size(b);
    char *a = (char *)b->items + at, *c = (char *)b->spare + at, *done;
    pack(b, b->x + b->row * b->n * b->kind->size, from, from + n, b->items);
    if (b->wide) done = (char *)wide_sort((td_pair *)a, (td_pair *)c, n);
    else done = (char *)narrow_sort((uint64_t *)a, (uint64_t *)c, n);
    if (done != a) memcpy(a, done, (size_t)n * item_size(b));
}

/* Merges two neighbouring runs; task t does the share of the result that as many tasks as pieces
 * get. */
static void merge_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const int64_t length = b->pieces / b->runs, first = t / (2 * length) * 2 * length; /* pieces */
    const int64_t at = start(b, first), middle = start(b, first + length);
    const int64_t na = middle - at, nb = start(b, first + 2 * length) - middle;
    const int64_t from = start(b, t) - at, to = start(b, t + 1) - at;
    if (b->wide) {
        const td_pair *x = (td_pair *)b->items + at, *y = (td_pair *)b->items + middle;
        td_pair *out = (td_pair *)b->spare + at + from;
        const int64_t i = wide_split(x, na, y, nb, from), j = wide_split(x, na, y, nb, to);
        wide_merge(x + i, j - i, y + from - i, to - from - (j - i), out);
    } else {
        const uint64_t *x = (uint64_t *)b->items + at, *y = (uint64_t *)b->items + middle;
        uint64_t *out = (uint64_t *)b->spare + at + from;
        const int64_t i = narrow_split(x, na, y, nb, from), j = narrow_split(x, na, y, nb, to);
        narrow_merge(x + i, j - i, y + from - i, to - from - (j - i), out);
    }
}

static void unpack_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    unpack(b, b->row, start(b, t), start(b, t + 1), b->items);
}

static int sort_large(td_job *b, int64_t pieces) {
    b->pieces = pieces;
    b->items = td_scratch(item_size(b) * (size_t)b->n);
    b->spare = td_scratch(item_size(b) * (size_t)b->n);
    for (b->row = 0; b->items && b->spare && b->row < b->rows; b->row++) {
        td_parallel(pieces, piece_task, b);
        for (b->runs = pieces; b->runs > 1; b->runs /= 2) {
            td_parallel(pieces, merge_task, b);
            void *t = b->items;
            b->items = b->spare, b->spare = t;
        }
        td_parallel(pieces, unpack_task, b);
    }
    b->failed = !b->items || !b->spare;
    td_scratch_free(b->items);
    td_scratch_free(b->spare);
    return b->failed;
}

/* i: dtype, descending, rows, n */
static int KERNEL(sort)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    td_job b = {.kind = &td_rank_kinds[i[0]], .descending = (int)i[1], .rows = i[2], .n = i[3],
                .x = io[0], .values = io[1], .indices = (int64_t *)io[2]};
    if (b.rows * b.n == 0) return TD_OK;
    b.wide = b.kind->wide || b.n > (int64_t)UINT32_MAX;
    int64_t pieces = 1;
    const int64_t most = TD_MIN(MOST_PIECES, b.n / PIECE);
    while (pieces * b.rows < td_threads() && 2 * pieces <= most) pieces *= 2;
    if (pieces > 1) sort_large(&b, pieces);
    else {
        b.span = TD_MAX(1, GRAIN / b.n);
        td_parallel((b.rows + b.span - 1) / b.span, rows_task, &b);
    }
    if (!b.failed) return TD_OK;
    return td_fail(TD_ERR_MEMORY, "sort: no memory for a row of %lld elements", (long long)b.n);
}

const td_entry KERNEL(sort_table)[] = {{"sort", KERNEL(sort)}, {0, 0}};
