/* One product in the calling thread: cuts k into blocks, packs what must be packed, runs the micro-
 * kernels, finishes their sums. Included after T is defined. */
#ifndef TREADLE_GEMM_BLOCK_H
#define TREADLE_GEMM_BLOCK_H
#include "gemm.h"
#include "gemm_dot.h"
#include "gemm_pack.h"

/* GROUP row blocks of A, MR x KC each, meet one panel of B, KC x NR, before the next panel comes:
 * so the panel is read from L2 once per group and the row blocks once per panel. KC x NC of B stay
 * in L2. */
enum { KC = TD_VEC == 64 ? 512 : 256, NC = 512, GROUP = TD_VEC == 64 ? 4 : 16 };

/* Steps of k per block where a B of another type is converted for few rows: the copy should not
 * leave the nearest caches. Inner products have no use for blocks, except that a block is what is
 * fetched at a time. */
enum { KC_FEW_ROWS = 64, KC_DOTS = 2048 };

typedef struct {
    int64_t m, n, k;
    operand a, b;               /* (m, k) with strides (major, minor); (k, n) */
    T *c;
    int64_t c_row, c_col;
    const T *bias_n, *bias_m;
    T alpha;
    int accumulate, act;
    int by_dots, pack_a, pack_b;        /* how: chosen by gemm_plan.h */
    int64_t kc;                 /* the longest block of k */
} product;

typedef struct { int64_t i, m, j, n; } region;  /* rows i..i+m and columns j..j+n of C */

static int64_t k_blocks(const product *p) { return TD_MAX(1, (p->k + p->kc - 1) / p->kc); }

static int64_t k_begin(const product *p, int64_t block)
{
    const int64_t blocks = k_blocks(p);
    return block == blocks ? p->k : (p->k * block / blocks) & ~(int64_t)15;
}

/* One block of k: what has been packed of B, and where it stands among the blocks. */
typedef struct {
    const product *p;
    int64_t k0, k;
    int add;                    /* whether C holds something to add to */
    int last;                   /* whether this is the last block */
    const T *b;                 /* packed panels, or NULL: B is read in place */
    int64_t b_j;                /* the column of C that goes with the first panel */
} stage;

/* Finishes n sums that belong at (i, j): scale, add to C, add bias, activate. Each step rounds by
 * itself, as in a full tile. */
static void finish_row(const stage *s, T *sums, int64_t i, int64_t j, int64_t n)
{
    const product *p = s->p;
    if (p->alpha != 1) for (int64_t x = 0; x < n; x++) sums[x] *= p->alpha;
    if (s->add) {
        const T *c = p->c + i * p->c_row + j * p->c_col;
        for (int64_t x = 0; x < n; x++) sums[x] += c[x * p->c_col];
    }
    if (!s->last) return;
    if (p->bias_n) for (int64_t x = 0; x < n; x++) sums[x] += p->bias_n[j + x];
    if (p->bias_m) for (int64_t x = 0; x < n; x++) sums[x] += p->bias_m[i];
    if (p->act == TD_ACT_RELU) for (int64_t x = 0; x < n; x++) sums[x] = sums[x] <= 0 ? 0 : sums[x];
}

/* Finishes a tile of sums, rows `pitch` apart, into C. */
static void finish(const stage *s, T *sums, int64_t pitch, const region *r)
{
    for (int64_t i = r->i; i < r->i + r->m; i++, sums += pitch) {
        finish_row(s, sums, i, r->j, r->n);
        memcpy(s->p->c + i * s->p->c_row + r->j, sums, (size_t)r->n * sizeof(T));
    }
}

static tile_fn tile_for(int64_t rows, int width)
{
    if (width == 8) return tile_1x8;
    if (width == 4) return rows == 1 ? tile_1x4 : tile_2x4;
    return tiles[width - 1][rows];
}

/* The columns of one tile: `skip` of them, at its left, have been computed already. */
typedef struct { int64_t j; int width, skip; } panel;

/* The panel that begins at column j. At the right edge of a B read in place it is moved left, so as
 * not to read past the end. */
static panel panel_at(const stage *s, int64_t m, int64_t j, int64_t end)
{
    const int64_t left = end - j;
    if (s->b) return (panel){j, left > VL ? 2 : 1, 0};
    int width = m == 1 ? 8 : m == 2 ? 4 : 2;
    while (width > 1 && (left <= width / 2 * VL || end < width * VL)) width /= 2;
    const int64_t start = TD_MIN(j, end - width * VL);
    return (panel){start, width, (int)(j - start)};
}

static void run_tile(const stage *s, tile *t, int64_t i, int64_t rows, panel q, int64_t end)
{
    const product *p = s->p;
    t->b_row = s->b ? NR : p->b.major;
    if (s->b) t->b = s->b + (q.j - s->b_j) / NR * panel_pitch(s->k);
    else t->b = address(&p->b, s->k0 * p->b.major + q.j);
    const tile_fn run = tile_for(rows, q.width);
    const region r = {i, rows, q.j + q.skip, TD_MIN(end - q.j, q.width * VL) - q.skip};
    if (p->alpha == 1 && !(s->last && p->bias_m) && r.n == q.width * VL) {
        t->c = p->c + i * p->c_row + q.j;
        t->c_row = p->c_row;
        t->accumulate = s->add;
        t->bias = s->last && p->bias_n ? p->bias_n + q.j : NULL;
        t->act = s->last ? p->act : TD_ACT_NONE;
        run(t);
        return;
    }
    T sums[TILE_MAX] __attribute__((aligned(64)));
    t->c = sums;
    t->c_row = q.width * VL;
    t->accumulate = 0;
    t->bias = NULL;
    t->act = TD_ACT_NONE;
    run(t);
    finish(s, sums + q.skip, t->c_row, &r);
}

/* Points the tile's prefetching at a part of the row block that begins at row i: one row, or every
 * fourth step of k. */
static void look_ahead(const stage *s, tile *t, int64_t i, int64_t part)
{
    const operand *a = &s->p->a;
    const int rows_together = along(a->major, a->minor);
    const int64_t row = TD_MIN(rows_together ? i : i + part, s->p->m - 1);
    const int64_t k = s->k0 + (rows_together ? part & 3 : 0);
    t->ahead = address(a, row * a->major + k * a->minor);
    t->ahead_step = 4 * a->minor * a->size;
}

/* All tiles of a region for one block of k. a_copy: room for GROUP packed row blocks, or NULL to
 * read A in place. */
static void run_tiles(const stage *s, const region *r, T *a_copy)
{
    const product *p = s->p;
    const int64_t blocks = (r->m + MR - 1) / MR, end = r->j + r->n;
    for (int64_t q = 0; q < blocks; q += GROUP) {
        const int n = (int)TD_MIN(GROUP, blocks - q);
        int64_t i[GROUP + 1];
        tile t[GROUP];
        for (int x = 0; x <= n; x++) i[x] = r->i + (q + x) * r->m / blocks;
        for (int x = 0; x < n; x++) {
            t[x] = (tile){.k = s->k, .a = address(&p->a, i[x] * p->a.major + s->k0 * p->a.minor),
                          .a_row = p->a.major, .a_col = p->a.minor};
            if (!a_copy) continue;
            T *copy = a_copy + x * MR * (s->k + PACKED_A_PAD);
            pack_a(&p->a, i[x], i[x + 1] - i[x], s->k0, s->k, copy, &t[x].a_row, &t[x].a_col);
            t[x].a = copy;
        }
        int64_t part = 0;
        for (int64_t j = r->j; j < end;) {
            const panel at = panel_at(s, r->m, j, end);
            for (int x = 0; x < n; x++) {
                look_ahead(s, &t[x], i[n], part++);
                run_tile(s, &t[x], i[x], i[x + 1] - i[x], at, end);
            }
            j = at.j + at.width * VL;
        }
    }
}

/* Room for copies of parts of A and B. */
typedef struct { T *all, *a, *b, *fetched; } buffers;

/* A column of B for one block of k, fetched into `room` if it must be. */
static const T *column_of_b(const stage *s, int64_t j, T *room)
{
    const operand *b = &s->p->b;
    const int64_t at = s->k0 * b->major + j * b->minor;
    if (!b->fetch) return address(b, at);
    b->fetch(room, b->data, at, b->major, s->k);
    return room;
}

/* The same by inner products, for at most 2 * DOT_ROWS rows. room->a: a copy of the rows, s->k +
 * PACKED_A_PAD apart, or NULL to read A in place; room->fetched: for DOT_COLUMNS columns of B if
 * they must be fetched. */
static void run_dots(const stage *s, const region *r, const buffers *room)
{
    const product *p = s->p;
    const int64_t end = r->j + r->n, groups = (r->m + DOT_ROWS - 1) / DOT_ROWS;
    const T *a = room->a ? room->a : address(&p->a, r->i * p->a.major + s->k0);
    T sums[2 * DOT_ROWS * DOT_PITCH];
    dot d = {.k = s->k, .a_row = room->a ? s->k + PACKED_A_PAD : p->a.major};
    for (int64_t j = r->j; j < end; j += DOT_PITCH) {
        for (int64_t q = j; q < TD_MIN(j + DOT_PITCH, end); q += DOT_COLUMNS) {
            for (int x = 0; x < DOT_COLUMNS; x++)
                d.b[x] = column_of_b(s, TD_MIN(q + x, end - 1), room->fetched + x * s->k);
            for (int64_t g = 0; g < groups; g++) {
                const int64_t i = g * r->m / groups;
                d.a = a + i * d.a_row;
                d.sums = sums + i * DOT_PITCH + q - j;
                dots[(g + 1) * r->m / groups - i](&d);
            }
        }
        finish(s, sums, DOT_PITCH, &(region){r->i, r->m, j, TD_MIN(end - j, DOT_PITCH)});
    }
}

static int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

static int get_buffers(const product *p, const region *r, buffers *out)
{
    const int64_t k = round_up(TD_MIN(p->k, p->kc), 16) + 16, n = TD_MIN(round_up(r->n, NR), NC);
    const int64_t a_rows = p->by_dots ? 2 * DOT_ROWS : GROUP * MR;
    const int64_t a = p->pack_a ? a_rows * (k + PACKED_A_PAD) : 0;
    const int64_t b = p->pack_b ? n / NR * panel_pitch(k) : 0;
    const int64_t fetched = !p->b.fetch ? 0 : p->by_dots ? DOT_COLUMNS * k : TD_MAX(n, VL * k);
    *out = (buffers){0};
    if (a + b + fetched == 0) return TD_OK;
    T *all = td_scratch((size_t)(a + b + fetched) * sizeof(T));
    if (!all) return TD_ERR_MEMORY;
    *out = (buffers){all, a ? all : NULL, b ? all + a : NULL, all + a + b};
    return TD_OK;
}

static void run_stage(const stage *s, const region *r, const buffers *room)
{
    const product *p = s->p;
    if (!p->by_dots) {
        if (room->b) pack_b(&p->b, s->k0, s->k, r->j, r->n, room->b, room->fetched);
        run_tiles(s, r, room->a);
        return;
    }
    if (room->a) copy_rows(&p->a, r->i, r->m, s->k0, s->k, room->a, s->k + PACKED_A_PAD);
    run_dots(s, r, room);
}

static void run_region(const product *p, const region *r, const buffers *room)
{
    const int64_t end = r->j + r->n, blocks = k_blocks(p);
    for (int64_t j = r->j; j < end; j += NC) {
        const region part = {r->i, r->m, j, TD_MIN(NC, end - j)};
        for (int64_t x = 0; x < blocks; x++) {
            const int64_t k0 = k_begin(p, x);
            const stage s = {.p = p, .k0 = k0, .k = k_begin(p, x + 1) - k0, .b = room->b, .b_j = j,
                             .add = x > 0 || p->accumulate, .last = x == blocks - 1};
            run_stage(&s, &part, room);
        }
    }
}
#endif
