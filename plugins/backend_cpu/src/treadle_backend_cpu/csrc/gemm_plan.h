/* How a product is done: which way round, by which micro-kernel, in which parts. Included after T
 * is defined.
 *
 * What may change the bits of a result (orientation, micro-kernel, cuts of k) depends on sizes and
 * strides only. The number of threads decides nothing but how C is cut into regions. */
#ifndef TREADLE_GEMM_PLAN_H
#define TREADLE_GEMM_PLAN_H
#include "gemm_block.h"

/* Puts n results into a C of another type, `stride` elements apart, the first at index `at`. */
typedef void (*store_fn)(void *c, int64_t at, int64_t stride, const T *src, int64_t n);

/* Many products of the same form; strides in elements, the results one behind the other. */
typedef struct {
    int64_t count;
    int dims;
    const int64_t *size, *a, *b;
} batch;

typedef struct {
    product p;                  /* of item 0 */
    batch items;
    store_fn store;             /* NULL: C is p.c, of type T; else it is */
    void *out;                  /* this, and nothing is added to what it held */
    int is_turned;              /* whether p has been exchanged for C' = B' A' */
} job;

/* ---- which way ---- */

/* Estimated cycles of an m x n part of C. Only ratios matter: they choose between ways to do it. */
static double cycles(const product *p, int64_t m, int64_t n)
{
    const double k = (double)p->k, area = (double)m * (double)n, b = k * (double)n;
    const double per_vector = TD_VEC == 32 ? 0.5 : 1;
    const int far = b * sizeof(T) > 1 << 20;    /* B is in L3 */
    const double a_copy = p->pack_a ? (double)m * k * (double)((n + NC - 1) / NC) * 0.25 : 0;
    if (p->by_dots) {
        const double groups = (double)((m + DOT_ROWS - 1) / DOT_ROWS);
        const double products = area * (k / VL * per_vector + 5.5);
        return products + b * (groups / VL + (p->b.fetch ? 0.3 : 0)) + a_copy;
    }
    const double vectors = (double)((n + VL - 1) / VL) * (n <= VL ? 1.15 : 1);
    const int transposed = !along(p->b.minor, p->b.major) && !p->b.fetch && !far;
    const double b_read = (far ? 0.3 : 0.1) + (!p->pack_b ? 0 : transposed ? 0.4 : 1);
    const double finish = (double)k_blocks(p) * 0.1 + (p->c_col == 1 ? 0 : 0.6);
    return k * (double)m * vectors * per_vector + b * b_read + area * finish + a_copy;
}

/* Rows a multiple of 4 KiB apart all fall into one set of the L1 cache, and into few of L2. */
static int collides(int64_t stride) { return stride * (int64_t)sizeof(T) % 4096 == 0; }

/* Whether reading A in place would be slow. Tall tiles read each line of a transposed A whole, so
 * it may come from L2. */
static int a_collides(const product *p)
{
    if (p->m <= 4 || p->n < NR) return 0;
    if (p->a.minor == 1) return collides(p->a.major);
    return TD_VEC < 64 && collides(p->a.minor) && p->n >= 4 * NR;
}

/* The copies that a way cannot do without, or not in any of its parts; and the blocks of k. */
static void choose_copies(product *p)
{
    p->kc = p->by_dots ? KC_DOTS : p->b.fetch && p->m <= MR ? KC_FEW_ROWS : KC;
    p->pack_a = p->a.fetch || (p->by_dots && p->a.minor != 1) || a_collides(p);
    p->pack_b = !p->by_dots && (p->b.fetch || p->b.minor != 1 || p->n < VL);
}

/* A large B whose rows collide is worth a copy to parts with many rows; sooner where a panel of it
 * should stay in L1. */
static int pays_to_pack_b(const product *p, int64_t rows)
{
    const int64_t least_rows = TD_VEC == 64 ? 384 : 64;
    const int64_t least_bytes = TD_VEC == 64 ? 2 << 20 : 256 << 10;
    if (p->by_dots || rows < least_rows || !collides(p->b.major)) return 0;
    return p->k * p->n * (int64_t)sizeof(T) > least_bytes;
}

/* C' = B' A': the same numbers with rows and columns exchanged. */
static product turned(const product *p)
{
    product q = *p;
    q.m = p->n;
    q.n = p->m;
    q.a = (operand){p->b.data, p->b.minor, p->b.major, p->b.size, p->b.fetch};
    q.b = (operand){p->a.data, p->a.minor, p->a.major, p->a.size, p->a.fetch};
    q.c_row = p->c_col;
    q.c_col = p->c_row;
    q.bias_m = p->bias_n;
    q.bias_n = p->bias_m;
    return q;
}

/* Inner products need a B that runs along k, or is nearest to it. */
static int dots_fit(const product *p)
{
    const int runs_along_k = p->b.fetch ? along(p->b.major, p->b.minor) : p->b.major == 1;
    return runs_along_k && p->k >= 2 * VL && p->m <= 2 * DOT_ROWS;
}

/* The cheapest of four ways. */
static void choose_way(job *j)
{
    const product given = j->p;
    double least = 0;
    for (int way = 0; way < 4; way++) {
        product p = way < 2 ? given : turned(&given);
        p.by_dots = way & 1;
        if (p.by_dots && !dots_fit(&p)) continue;
        choose_copies(&p);
        const double c = cycles(&p, p.m, p.n);
        if (way && c >= least) continue;
        least = c;
        j->p = p;
        j->is_turned = way >= 2;
    }
}

/* Item t of the batch; p.c is where it begins in a C of type T. */
static product item(const job *j, int64_t t)
{
    product p = j->p;
    int64_t a = 0, b = 0, rest = t;
    for (int d = j->items.dims - 1; d >= 0; d--) {
        const int64_t x = rest % j->items.size[d];
        rest /= j->items.size[d];
        a += x * j->items.a[d];
        b += x * j->items.b[d];
    }
    p.a.data = address(&p.a, j->is_turned ? b : a);
    p.b.data = address(&p.b, j->is_turned ? a : b);
    if (p.c) p.c += t * p.m * p.n;
    return p;
}

/* ---- sums that cannot go to C at once: k is cut, or C is of a narrower type ---- */

/* The plain sums of a region over part of k, densely. */
static int sum_region(const product *whole, const region *r, int64_t k0, int64_t k, T *sums)
{
    product p = *whole;
    p.a.data = address(&p.a, r->i * p.a.major + k0 * p.a.minor);
    p.b.data = address(&p.b, k0 * p.b.major + r->j * p.b.minor);
    p.m = r->m;
    p.n = r->n;
    p.k = k;
    p.c = sums;
    p.c_row = p.n;
    p.c_col = 1;
    p.bias_m = p.bias_n = NULL;
    p.alpha = 1;
    p.accumulate = p.act = 0;
    p.pack_b |= !p.by_dots && p.n < VL;
    const region all = {0, p.m, 0, p.n};
    buffers room;
    if (get_buffers(&p, &all, &room)) return TD_ERR_MEMORY;
    run_region(&p, &all, &room);
    if (room.all) td_scratch_free(room.all);
    return TD_OK;
}

/* Finishes what sum_region computed. p is item t. */
static void put(const job *j, const product *p, int64_t t, const region *r, T *sums)
{
    const stage s = {.p = p, .add = p->accumulate, .last = 1};
    for (int64_t i = 0; i < r->m; i++) {
        T *row = sums + i * r->n;
        finish_row(&s, row, r->i + i, r->j, r->n);
        const int64_t at = (r->i + i) * p->c_row + r->j * p->c_col;
        if (j->store) j->store(j->out, t * p->m * p->n + at, p->c_col, row, r->n);
        else if (p->c_col == 1) memcpy(p->c + at, row, (size_t)r->n * sizeof(T));
    }
    if (j->store || p->c_col == 1) return;
    T *c = p->c + r->i * p->c_row + r->j * p->c_col;
    copy_transposed(c, p->c_col, sums, r->n, r->m, r->n);
}

/* ---- long sums for a small C: partial sums in a fixed number, added in order ---- */

enum { MAX_SPLITS = 8 };

static int64_t k_splits(const job *j)
{
    const product *p = &j->p;
    const int64_t tiles_of_c = (p->m + MR - 1) / MR * ((p->n + NR - 1) / NR);
    if (j->items.count > 1 || tiles_of_c * 2 > MAX_SPLITS) return 1;
    return TD_MAX(1, TD_MIN(MAX_SPLITS, p->k / (2 * KC)));
}

typedef struct {
    const product *p;
    int64_t splits;
    T *sums;                    /* (splits, m, n) */
    int failed;
} split;

static void run_split(int64_t t, void *ctx)
{
    split *s = ctx;
    const product *p = s->p;
    const int64_t begin = p->k * t / s->splits, end = p->k * (t + 1) / s->splits;
    const region all = {0, p->m, 0, p->n};
    if (sum_region(p, &all, begin, end - begin, s->sums + t * p->m * p->n))
        __atomic_store_n(&s->failed, 1, __ATOMIC_RELAXED);
}

static int run_splits(const job *j, int64_t splits, int threads)
{
    const product *p = &j->p;
    const int64_t area = p->m * p->n;
    split s = {p, splits, td_scratch((size_t)(splits * area) * sizeof(T)), 0};
    if (!s.sums) return TD_ERR_MEMORY;
    if (threads > 1) td_parallel(splits, run_split, &s);
    else for (int64_t t = 0; t < splits; t++) run_split(t, &s);
    for (int64_t t = 1; t < splits; t++)
        for (int64_t x = 0; x < area; x++) s.sums[x] += s.sums[t * area + x];
    if (!s.failed) put(j, p, 0, &(region){0, p->m, 0, p->n}, s.sums);
    td_scratch_free(s.sums);
    return s.failed ? TD_ERR_MEMORY : TD_OK;
}

/* ---- in which parts ---- */

typedef struct {
    const job *j;
    int64_t rows, columns;      /* parts of one item */
    int64_t items;              /* items of one task */
    int failed;
} cut;

/* Below this many cycles (about 10 us) waking another thread does not pay. */
static const double TOO_SMALL = 40e3;

/* Two threads that write to the same rows of C take lines from each other, ahead of their need:
 * cycles per row and block of k. */
static const double ROW_SHARED = 4000;

/* Estimated time until `bands` bands of m rows, each cut into `columns` parts, are done: nobody
 * idles but at the end. */
static double makespan(const product *p, int64_t bands, int64_t columns, int64_t m, int threads)
{
    const int64_t panels = (p->n + NR - 1) / NR, wide = panels % columns, n = panels / columns * NR;
    const double small = cycles(p, m, TD_MIN(p->n, n));
    const double large = wide ? cycles(p, m, TD_MIN(p->n, n + NR)) : small;
    const double shared = columns > 1 ? ROW_SHARED * (double)(m * k_blocks(p)) : 0;
    const double band = (double)wide * large + (double)(columns - wide) * small + shared;
    const double all = (double)bands * band;
    return TD_MAX(all / threads, large) + large * (bands * columns % threads ? 0.5 : 0.04);
}

/* One to four tasks per thread: cores are not equally fast, but every part copies what it must of
 * B. (One copy for all would cost more: a line that another core has just written comes slower than
 * sixteen elements can be copied.) */
static cut cut_up(const job *j, int threads)
{
    const product *p = &j->p;
    const int64_t count = j->items.count, panels = (p->n + NR - 1) / NR;
    const double all = cycles(p, p->m, p->n) * (double)count;
    cut best = {j, 1, 1, count, 0};
    if (threads <= 1 || all < TOO_SMALL) return best;
    double least = 0;
    for (int64_t tasks = threads; tasks <= threads * (all / threads > 2e6 ? 4 : 1); tasks *= 2) {
        const int64_t parts = (tasks + count - 1) / count;
        for (int64_t columns = 1; columns <= TD_MIN(parts, panels); columns++) {
            const int64_t rows = TD_MIN(parts / columns, p->m);
            const double c = makespan(p, count * rows, columns, (p->m + rows - 1) / rows, threads);
            if (least > 0 && c >= least) continue;
            least = c;
            best = (cut){j, rows, columns, TD_MAX(1, count / tasks), 0};
        }
    }
    return best;
}

static region part_of(const cut *c, int64_t t)
{
    const product *p = &c->j->p;
    const int64_t x = t / c->columns, y = t % c->columns, panels = (p->n + NR - 1) / NR;
    const int64_t i = p->m * x / c->rows, j = panels * y / c->columns * NR;
    const int64_t end = TD_MIN(panels * (y + 1) / c->columns * NR, p->n);
    return (region){i, p->m * (x + 1) / c->rows - i, j, end - j};
}

/* Whether sums go to C as they come; a C of another type or with rows and columns exchanged is
 * written once, from dense sums. */
static int direct(const job *j) { return !j->store && j->p.c_col == 1; }

static int run_part(const job *j, int64_t t, const region *r, const buffers *room)
{
    const product p = item(j, t);
    if (direct(j)) {
        run_region(&p, r, room);
        return TD_OK;
    }
    T *sums = td_scratch((size_t)(r->m * r->n) * sizeof(T));
    const int failed = !sums || sum_region(&p, r, 0, p.k, sums);
    if (!failed) put(j, &p, t, r, sums);
    if (sums) td_scratch_free(sums);
    return failed ? TD_ERR_MEMORY : TD_OK;
}

static void run_task(int64_t t, void *ctx)
{
    cut *c = ctx;
    const int64_t parts = c->rows * c->columns;
    const region r = part_of(c, t % parts);
    const int64_t begin = t / parts * c->items, end = TD_MIN(begin + c->items, c->j->items.count);
    buffers room = {0};
    int failed = direct(c->j) && get_buffers(&c->j->p, &r, &room);
    for (int64_t x = begin; x < end && !failed; x++) failed = run_part(c->j, x, &r, &room);
    if (room.all) td_scratch_free(room.all);
    if (failed) __atomic_store_n(&c->failed, 1, __ATOMIC_RELAXED);
}

/* Runs a job whose p is as the caller gave it. threads: how many may take part. */
static int run_job(job *j, int threads)
{
    static const T nothing[1];
    product *p = &j->p;
    if (p->m == 0 || p->n == 0 || j->items.count == 0) return TD_OK;
    if (p->k == 0) p->a = p->b = operand_of(nothing, 0, 1);
    choose_way(j);
    const int64_t splits = k_splits(j);
    if (splits > 1) return run_splits(j, splits, threads);
    cut c = cut_up(j, threads);
    p->pack_b |= pays_to_pack_b(p, p->m / c.rows);
    const int64_t tasks = c.rows * c.columns * ((j->items.count + c.items - 1) / c.items);
    if (threads > 1) td_parallel(tasks, run_task, &c);
    else run_task(0, &c);
    return c.failed ? TD_ERR_MEMORY : TD_OK;
}
#endif
