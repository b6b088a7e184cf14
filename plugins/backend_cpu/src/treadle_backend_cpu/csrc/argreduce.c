/* argmax and argmin along one axis: the first of equal elements wins, a NaN wins over everything.
 *
 * Elements become signed integer keys of 32 or 64 bits (a minimum is the maximum of complemented
 * or negated keys; -0 and +0 have one key, all NaN the largest). Rows: the largest key of each
 * block, then a search in the best block. Columns (the axis is not the nearest dimension, or it
 * is short): a running best and its index for a tile of neighbours. */
#include "dims.h"
#include "ranks.h"

enum { BLOCK = 1024, TILE = 256, GRAIN = 65536, LONGEST = 1 << 24 };

typedef struct { int64_t key, at; } td_best;

typedef struct {
    const td_rank_kind *kind;
    const td_dim *kept;
    const td_dim *column;            /* the kept dimension that is searched side by side, or NULL */
    int n_kept;
    int64_t n, stride, flip;         /* the axis */
    int64_t outer, width, tiles;     /* outputs = outer * width, in tiles of at most TILE columns */
    int64_t cut, cuts;               /* pieces of the axis */
    int64_t units, span;             /* outer * cuts * tiles; how many one task takes */
    const char *x;
    int64_t *y;
    td_best *partial;                /* (outer, cuts, width), when cuts > 1 */
} td_job;

static void load_keys(const td_job *b, const char *x, int64_t n, int64_t stride, void *keys) {
    b->kind->load(x, n, stride, keys, b->flip, b->kind->inf);
}

#define ROWS(name, K, LEAST)                                                        \
    static td_best name(const td_job *b, const char *x, int64_t from, int64_t to) { \
        K keys[BLOCK], best = LEAST;                                                \
        const int64_t step = b->stride * b->kind->size;                             \
        int64_t at = from;                                                          \
        for (int64_t i = from; i < to; i += BLOCK) {                                \
            const int64_t n = TD_MIN(BLOCK, to - i);                                \
            K peak = LEAST;                                                         \
            load_keys(b, x + i * step, n, b->stride, keys);                         \
            for (int64_t j = 0; j < n; j++) peak = keys[j] > peak ? keys[j] : peak; \
            if (peak > best) best = peak, at = i;                                   \
        }                                                                           \
        load_keys(b, x + at * step, TD_MIN(BLOCK, to - at), b->stride, keys);       \
        for (const K *k = keys; *k != best; k++) at++;                              \
        return (td_best){best, at};                                                 \
    }
ROWS(rows_32, int32_t, INT32_MIN)
ROWS(rows_64, int64_t, INT64_MIN)

/* Indices are kept in the width of the keys, relative to `from`: a cut is shorter than LONGEST. */
#define COLS(name, K)                                                                     \
    static void name(const td_job *b, const char *x, int64_t w, int64_t from, int64_t to, \
                     td_best *out) {                                                      \
        K keys[TILE], best[TILE], at[TILE];                                               \
        const int64_t step = b->stride * b->kind->size;                                   \
        load_keys(b, x + from * step, w, b->column->xs, best);                            \
        for (int64_t j = 0; j < w; j++) at[j] = 0;                                        \
        for (int64_t i = from + 1; i < to; i++) {                                         \
            const K r = (K)(i - from);                                                    \
            load_keys(b, x + i * step, w, b->column->xs, keys);                           \
            for (int64_t j = 0; j < w; j++) {                                             \
                const K k = keys[j], old = best[j];                                       \
                at[j] = k > old ? r : at[j];                                              \
                best[j] = k > old ? k : old;                                              \
            }                                                                             \
        }                                                                                 \
        for (int64_t j = 0; j < w; j++) out[j] = (td_best){best[j], from + at[j]};        \
    }
COLS(cols_32, int32_t)
COLS(cols_64, int64_t)

/* Searches cut c of tile t of outer index k into out[0..w). */
static void search(const td_job *b, int64_t k, int64_t first, int64_t w, int64_t c, td_best *out) {
    const int64_t from = c * b->cut, to = TD_MIN(b->n, from + b->cut);
    const int64_t at = td_offset(b->kept, b->n_kept, k, 0);
    const char *x = b->x + (at + (b->column ? first * b->column->xs : 0)) * b->kind->size;
    if (b->column) (b->kind->wide ? cols_64 : cols_32)(b, x, w, from, to, out);
    else *out = (b->kind->wide ? rows_64 : rows_32)(b, x, from, to);
}

static void write_best(const td_job *b, int64_t k, int64_t first, int64_t w, const td_best *best) {
    const int64_t ys = b->column ? b->column->ys : 0;
    int64_t y = first * ys;
    td_offset(b->kept, b->n_kept, k, &y);
    for (int64_t j = 0; j < w; j++) b->y[y + j * ys] = best[j].at;
}

static void task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    for (int64_t u = t * b->span; u < TD_MIN(b->units, (t + 1) * b->span); u++) {
        const int64_t kc = u / b->tiles, k = kc / b->cuts, first = (u - kc * b->tiles) * TILE;
        const int64_t w = TD_MIN(TILE, b->width - first);
        td_best local[TILE];
        td_best *out = b->cuts > 1 ? b->partial + kc * b->width + first : local;
        search(b, k, first, w, kc - k * b->cuts, out);
        if (b->cuts == 1) write_best(b, k, first, w, out);
    }
}

/* The best of all cuts, in order, so that the first of equals stays. */
static void finish(const td_job *b) {
    for (int64_t k = 0; k < b->outer; k++) {
        td_best *all = b->partial + k * b->cuts * b->width;
        for (int64_t c = 1; c < b->cuts; c++)
            for (int64_t j = 0; j < b->width; j++)
                if (all[c * b->width + j].key > all[j].key) all[j] = all[c * b->width + j];
        write_best(b, k, 0, b->width, all);
    }
}

/* i: dtype, minimum, axis size, axis stride, x offset, y offset, by columns, number of kept
 * dimensions, then (size, input stride, output stride) of each; by columns the last of them
 * holds the neighbours. The axis is not empty. */
static int KERNEL(argreduce)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    td_job b = {.kind = &td_rank_kinds[i[0]], .n = i[2], .stride = i[3], .n_kept = (int)i[7],
                .kept = (const td_dim *)(i + 8), .outer = 1, .width = 1};
    const int is_float = b.kind->inf != 0;
    b.flip = b.kind->flip ^ (i[1] ? (is_float ? (b.kind->wide ? INT64_MIN : INT32_MIN) : -1) : 0);
    b.x = io[0] + i[4] * b.kind->size, b.y = (int64_t *)io[1] + i[5];
    if (i[6]) b.column = &b.kept[--b.n_kept], b.width = b.column->size;
    for (int a = 0; a < b.n_kept; a++) b.outer *= b.kept[a].size;
    if (b.outer * b.width == 0) return TD_OK;
    b.tiles = (b.width + TILE - 1) / TILE;
    const int64_t w = TD_MIN(TILE, b.width);
    b.cut = TD_MIN(b.n, b.outer * b.tiles < 16 ? TD_MAX(1, GRAIN / w) : LONGEST);
    b.cuts = (b.n + b.cut - 1) / b.cut;
    b.units = b.outer * b.cuts * b.tiles;
    b.span = TD_MAX(1, GRAIN / (b.cut * w));
    const size_t partial = sizeof(td_best) * (size_t)(b.outer * b.cuts * b.width);
    if (b.cuts > 1 && !(b.partial = td_scratch(partial)))
        return td_fail(TD_ERR_MEMORY, "argmax: no memory for partial results");
    td_parallel((b.units + b.span - 1) / b.span, task, &b);
    if (b.cuts > 1) finish(&b);
    td_scratch_free(b.partial);
    return TD_OK;
}

const td_entry KERNEL(argreduce_table)[] = {{"argreduce", KERNEL(argreduce)}, {0, 0}};
