/* sum, prod, max, min over any axes of any strided array.
 *
 * Python sorts and merges the dimensions (kernels/reduce.py) into kept and reduced lists, outermost
 * first, and says which list holds the contiguous (or nearest) dimension. In ROWS mode that is the
 * last reduced one: every output is the combination of leaves, pieces of at most LEAF elements
 * along it. In COLS mode it is the last kept one: leaves are blocks of ROWS_LEAF rows, added into a
 * tile of columns. Inputs that are not contiguous there, or are 16-bit floats to be added, are
 * first gathered into a tile in L1.
 *
 * Leaves are combined as a wide tree and grouped into units that depend on the sizes alone: a
 * float sum has the error of pairwise summation and the same bits for any number of threads. */
#include "dims.h"
#include "reduce_kinds.h"
#include <string.h>

enum {
    LEAF = 32 * TD_VEC,     /* elements of a row leaf: 16 additions in each lane of float32 */
    ROWS_LEAF = 32,         /* rows of a column leaf */
    FAN = 8,                /* of the tree over column leaves */
    TILE_BYTES = 65536, ACC_BYTES = 16384, BATCH = 1024, GRAIN = 65536,
    FAR_BYTES = 2 << 20     /* inputs that are read from L3 or beyond */
};

typedef struct {
    const td_kind *kind;
    td_order order;
    const td_dim *kept, *reduced;
    int n_kept, n_reduced;
    int64_t outputs;            /* product of the kept dimensions, the columns not counted */
    int64_t runs;               /* product of the reduced dimensions outside the innermost */
    int64_t n, stride;          /* the innermost reduced dimension */
    int64_t per_run, leaves;    /* leaves of one run, of one output */
    int64_t cut, cuts;          /* leaves in a unit, units of an output (of a column tile) */
    int64_t units;              /* all units */
    int64_t span, large;        /* units of a task; of each of the first `threads` tasks */
    int threads;
    int64_t width, fold;        /* columns; rows that are laid side by side */
    int64_t tile, tiles;        /* columns of a tile, tiles */
    const char *x;
    char *y, *partial;          /* partial: the accumulators of all units, when cuts > 1 */
} td_job;

static const td_order no_order;

static void fill_start(const td_kind *kind, void *acc, int64_t n) {
    switch (kind->acc) {
    case 1: memset(acc, (int)kind->start, (size_t)n); break;
    case 2: for (int64_t j = 0; j < n; j++) ((uint16_t *)acc)[j] = (uint16_t)kind->start; break;
    case 4: for (int64_t j = 0; j < n; j++) ((uint32_t *)acc)[j] = (uint32_t)kind->start; break;
    default: for (int64_t j = 0; j < n; j++) ((uint64_t *)acc)[j] = kind->start;
    }
}

/* Shares the units out. Large inputs are read fastest in one long piece per thread, which also
 * finds what is left of its piece in the cache the next time; the last sixteenth goes in small
 * pieces to whoever is free. */
static int64_t plan_tasks(td_job *b, int64_t unit) {
    b->span = TD_MAX(1, GRAIN / unit);
    b->threads = td_threads();
    if (b->units / b->span < 8 * b->threads) b->threads = 0;
    else b->large = b->units / 16 * 15 / b->threads;
    const int64_t rest = b->units - b->threads * b->large;
    if (b->threads) b->span = TD_MAX(b->span, rest / (2 * b->threads));
    return b->threads + (rest + b->span - 1) / b->span;
}

static void task_units(const td_job *b, int64_t t, int64_t *from, int64_t *to) {
    const int64_t rest = b->threads * b->large + (t - b->threads) * b->span;
    *from = t < b->threads ? t * b->large : rest;
    *to = t < b->threads ? *from + b->large : TD_MIN(b->units, rest + b->span);
}

/* ---- rows ---- */

/* Reduces m rows of n <= LEAF elements at x, rs elements apart, into m accumulators. */
static void rows_any(const td_job *b, const char *x, int64_t m, int64_t n, int64_t rs, char *acc) {
    const td_kind *kind = b->kind;
    if (b->stride == 1 && !kind->convert) {
        kind->rows(x, m, n, rs, acc, &b->order);
        return;
    }
    _Alignas(64) char tile[TILE_BYTES];
    const int64_t step = TILE_BYTES / kind->acc / n;
    for (int64_t i = 0; i < m; i += step) {
        const int64_t rows = TD_MIN(step, m - i);
        kind->pull(x + i * rs * kind->size, rows, n, rs, b->stride, tile);
        kind->rows(tile, rows, n, n, acc + i * kind->acc, &b->order);
    }
}

/* Reduces leaves from..to-1 of the output whose data start at x, each to one accumulator. */
static void row_leaves(const td_job *b, const char *x, int64_t from, int64_t to, char *acc) {
    const td_kind *kind = b->kind;
    const td_dim *inner = b->reduced + b->n_reduced - 2; /* the dimension of consecutive runs */
    while (from < to) {
        const int64_t run = from / b->per_run, part = from - run * b->per_run;
        const int64_t at = td_offset(b->reduced, b->n_reduced - 1, run, 0);
        const char *p = x + (at + part * LEAF * b->stride) * kind->size;
        int64_t count = 1;
        if (b->per_run > 1) {
            count = TD_MIN(to - from, b->n / LEAF - part);
            if (count > 0) rows_any(b, p, count, LEAF, LEAF * b->stride, acc);
            else rows_any(b, p, count = 1, b->n % LEAF, 0, acc);
        } else if (b->n_reduced > 1) {
            count = TD_MIN(to - from, inner->size - run % inner->size);
            rows_any(b, p, count, b->n, inner->xs, acc);
        } else rows_any(b, p, 1, b->n, 0, acc);
        acc += count * kind->acc, from += count;
    }
}

/* Writes accumulators of outputs k..k+count-1, which lie in one run of the innermost kept
 * dimension. */
static void write_rows(const td_job *b, int64_t k, int64_t count, const char *acc) {
    int64_t at = 0;
    td_offset(b->kept, b->n_kept, k, &at);
    b->kind->put(acc, count, b->y + at * b->kind->size, b->kept[b->n_kept - 1].ys, &b->order);
}

/* Units from..to-1 of outputs that have one unit each: a run of outputs at a time. */
static void row_outputs(const td_job *b, int64_t from, int64_t to) {
    const td_kind *kind = b->kind;
    const td_dim *inner = b->kept + b->n_kept - 1;
    _Alignas(64) char acc[BATCH * 8], leaf[BATCH * 8];
    while (from < to) {
        const int64_t count = TD_MIN(TD_MIN(to - from, BATCH), inner->size - from % inner->size);
        const char *x = b->x + td_offset(b->kept, b->n_kept, from, 0) * kind->size;
        if (b->leaves == 1) rows_any(b, x, count, b->n, inner->xs, acc);
        else
            for (int64_t i = 0; i < count; i++) {
                row_leaves(b, x + i * inner->xs * kind->size, 0, b->leaves, leaf);
                kind->merge_rows(leaf, 1, b->leaves, 0, acc + i * kind->acc, &no_order);
            }
        write_rows(b, from, count, acc);
        from += count;
    }
}

static void row_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    int64_t from, to;
    task_units(b, t, &from, &to);
    if (b->cuts == 1) {
        row_outputs(b, from, to);
        return;
    }
    _Alignas(64) char leaf[BATCH * 8];
    for (int64_t u = from; u < to; u++) {
        const int64_t k = u / b->cuts, first = (u - k * b->cuts) * b->cut;
        const int64_t last = TD_MIN(first + b->cut, b->leaves);
        const char *x = b->x + td_offset(b->kept, b->n_kept, k, 0) * b->kind->size;
        row_leaves(b, x, first, last, leaf);
        b->kind->merge_rows(leaf, 1, last - first, 0, b->partial + u * b->kind->acc, &no_order);
    }
}

static void finish_rows(const td_job *b) {
    char acc[8];
    for (int64_t k = 0; k < b->outputs; k++) {
        b->kind->merge_rows(b->partial + k * b->cuts * b->kind->acc, 1, b->cuts, 0, acc, &no_order);
        write_rows(b, k, 1, acc);
    }
}

static int run_rows(td_job *b) {
    const int64_t leaf = TD_MIN(b->n, LEAF);
    b->per_run = (b->n + LEAF - 1) / LEAF;
    b->leaves = b->per_run * b->runs;
    b->cut = TD_MIN(TD_MAX(1, GRAIN / leaf), BATCH);
    b->cuts = (b->leaves + b->cut - 1) / b->cut;
    b->units = b->outputs * b->cuts;
    if (b->cuts > 1) {
        b->partial = td_scratch((size_t)(b->units * b->kind->acc));
        if (!b->partial) return td_fail(TD_ERR_MEMORY, "reduce: no memory for partial results");
    }
    td_parallel(plan_tasks(b, TD_MIN(b->leaves, b->cut) * leaf), row_task, b);
    if (b->cuts > 1) finish_rows(b);
    td_scratch_free(b->partial);
    return TD_OK;
}

/* ---- columns ---- */

/* Combines m rows of w columns at x, ld elements apart, into the accumulators. */
static void cols_any(const td_job *b, const char *x, int64_t m, int64_t ld, int64_t w, char *acc) {
    const td_kind *kind = b->kind;
    const int64_t cs = b->kept[b->n_kept].xs;
    if (cs == 1 && !kind->convert) {
        kind->cols(x, m, ld, w, acc, &b->order);
        return;
    }
    _Alignas(64) char tile[TILE_BYTES];
    const int64_t step = TILE_BYTES / kind->acc / w;
    for (int64_t r = 0; r < m; r += step) {
        const int64_t rows = TD_MIN(step, m - r);
        kind->pull(x + r * ld * kind->size, rows, w, ld, cs, tile);
        kind->cols(tile, rows, w, w, acc, &b->order);
    }
}

/* Combines one leaf of the columns at x into the accumulators. The last leaf of a folded run is
 * its ragged end. */
static void col_leaf(const td_job *b, const char *x, int64_t leaf, int64_t w, char *acc) {
    const int64_t run = leaf / b->per_run, part = leaf - run * b->per_run, rows = b->n / b->fold;
    const int64_t row = part * ROWS_LEAF, ld = b->stride * b->fold;
    const int64_t at = td_offset(b->reduced, b->n_reduced - 1, run, 0) + TD_MIN(row, rows) * ld;
    const char *p = x + at * b->kind->size;
    if (row < rows) cols_any(b, p, TD_MIN(ROWS_LEAF, rows - row), ld, w, acc);
    else cols_any(b, p, 1, ld, b->n % b->fold * b->width, acc);
}

/* Combines leaves from..to-1 into fresh accumulators, as a tree. */
static void col_tree(const td_job *b, const char *x, int64_t from, int64_t to, int64_t w,
                     char *acc) {
    fill_start(b->kind, acc, w);
    if (to - from == 1) {
        col_leaf(b, x, from, w, acc);
        return;
    }
    int64_t step = 1;
    while (step * FAN < to - from) step *= FAN;
    _Alignas(64) char part[ACC_BYTES];
    for (; from < to; from += step) {
        col_tree(b, x, from, TD_MIN(to, from + step), w, part);
        b->kind->merge_cols(part, 1, w, w, acc, &no_order);
    }
}

/* Writes one tile of the columns of output k; rows that lie side by side are combined first. */
static void write_cols(const td_job *b, int64_t k, int64_t first, int64_t w, char *acc) {
    const td_kind *kind = b->kind;
    const td_dim *column = b->kept + b->n_kept;
    int64_t at = first * column->ys;
    for (int64_t rows = b->fold; rows > 1; rows -= rows / 2) {
        w = rows / 2 * b->width; /* the second half into the first */
        kind->merge_cols(acc + (rows - rows / 2) * b->width * kind->acc, 1, w, w, acc, &no_order);
    }
    w = b->fold > 1 ? b->width : w;
    td_offset(b->kept, b->n_kept, k, &at);
    kind->put(acc, w, b->y + at * kind->size, column->ys, &b->order);
}

/* Unit u is (output, cut, tile), tiles fastest, so that neighbouring tasks read neighbouring
 * memory. */
static void col_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const td_kind *kind = b->kind;
    const int64_t all = b->width * b->fold;
    int64_t u, to;
    for (task_units(b, t, &u, &to); u < to; u++) {
        const int64_t kc = u / b->tiles, k = kc / b->cuts, cut = (kc - k * b->cuts) * b->cut;
        const int64_t first = (u - kc * b->tiles) * b->tile, w = TD_MIN(b->tile, all - first);
        const int64_t at = td_offset(b->kept, b->n_kept, k, 0) + first * b->kept[b->n_kept].xs;
        _Alignas(64) char local[ACC_BYTES];
        char *acc = b->cuts > 1 ? b->partial + (kc * all + first) * kind->acc : local;
        col_tree(b, b->x + at * kind->size, cut, TD_MIN(cut + b->cut, b->leaves), w, acc);
        if (b->cuts == 1) write_cols(b, k, first, w, acc);
    }
}

static void finish_cols(const td_job *b) {
    const td_kind *kind = b->kind;
    const int64_t all = b->width * b->fold, pitch = all * kind->acc;
    for (int64_t k = 0; k < b->outputs; k++) {
        char *acc = b->partial + k * b->cuts * pitch;
        for (int64_t step = 1; step < b->cuts; step *= FAN)
            for (int64_t c = 0; c + step < b->cuts; c += step * FAN) {
                const int64_t rows = TD_MIN(FAN - 1, (b->cuts - c - 1) / step);
                const char *more = acc + (c + step) * pitch;
                kind->merge_cols(more, rows, step * all, all, acc + c * pitch, &no_order);
            }
        write_cols(b, k, 0, all, acc);
    }
}

static int run_cols(td_job *b) {
    const int64_t all = b->width * b->fold, rows = b->n / b->fold;
    b->tile = TD_MIN(all, ACC_BYTES / b->kind->acc);
    b->tiles = (all + b->tile - 1) / b->tile;
    b->per_run = (rows + ROWS_LEAF - 1) / ROWS_LEAF + (b->n % b->fold > 0);
    b->leaves = b->per_run * b->runs;
    const int64_t work = b->tile * TD_MIN(rows, ROWS_LEAF); /* elements of a leaf */
    b->cut = b->leaves;
    if (b->outputs * b->tiles < 16)
        b->cut = TD_MAX(TD_MAX(1, GRAIN / work), (b->leaves + 1023) / 1024);
    b->cuts = (b->leaves + b->cut - 1) / b->cut;
    b->units = b->outputs * b->cuts * b->tiles;
    if (b->cuts > 1) {
        b->partial = td_scratch((size_t)(b->outputs * b->cuts * all * b->kind->acc));
        if (!b->partial) return td_fail(TD_ERR_MEMORY, "reduce: no memory for partial results");
    }
    td_parallel(plan_tasks(b, work * TD_MIN(b->cut, b->leaves)), col_task, b);
    if (b->cuts > 1) finish_cols(b);
    td_scratch_free(b->partial);
    return TD_OK;
}

/* Nothing to combine: every output is the neutral element (outputs are dense). */
static int run_empty(const td_job *b, int64_t count) {
    _Alignas(8) char acc[8];
    fill_start(b->kind, acc, 1);
    for (int64_t k = 0; k < count; k++)
        b->kind->put(acc, 1, b->y + k * b->kind->size, 1, &b->order);
    return TD_OK;
}

/* i: op, dtype, column mode, fold, x offset, y offset, number of kept and of reduced dimensions,
 * then (size, input stride, output stride) of each, kept first, outermost first; both lists have
 * at least one. */
static int KERNEL(reduce)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    const int n_kept = (int)i[6], n_reduced = (int)i[7];
    td_job b = {.kind = &kinds[TD_MIN(i[0], MAX)][(int)kind_of[i[1]]],
                .order = order_of((int)i[0], (int)i[1]),
                .kept = (const td_dim *)(i + 8), .reduced = (const td_dim *)(i + 8) + n_kept,
                .n_kept = n_kept, .n_reduced = n_reduced, .outputs = 1, .runs = 1, .fold = i[3]};
    const td_dim *last = b.reduced + n_reduced - 1;
    b.n = last->size, b.stride = last->xs;
    b.x = io[0] + i[4] * b.kind->size, b.y = io[1] + i[5] * b.kind->size;
    for (int a = 0; a < n_kept; a++) b.outputs *= b.kept[a].size;
    for (int a = 0; a < n_reduced - 1; a++) b.runs *= b.reduced[a].size;
    if (b.outputs == 0) return TD_OK;
    if (b.n * b.runs == 0) return run_empty(&b, b.outputs);
    b.order.far = TD_VEC == 64 && b.outputs * b.runs * b.n * b.kind->size > FAR_BYTES;
    if (!i[2]) return run_rows(&b);
    b.width = b.kept[--b.n_kept].size;
    b.outputs /= b.width;
    return run_cols(&b);
}

const td_entry KERNEL(reduce_table)[] = {{"reduce", KERNEL(reduce)}, {0, 0}};
