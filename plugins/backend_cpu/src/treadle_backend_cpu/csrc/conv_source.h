/* The input of a correlation, laid out for the tiles: padded planes in which the pixels that one
 * tap reads for neighbouring outputs are neighbours too. With a column step s every row is
 * therefore split into s phases, phase 0 | phase 1 | ..., and element q of phase f is the source
 * column first + q * s + f. */
#ifndef TREADLE_CONV_SOURCE_H
#define TREADLE_CONV_SOURCE_H
#include "conv.h"
#include "conv_vec.h"

typedef struct {
    conv_axis rows, cols;
    int64_t phases, width; /* phases per row and elements per phase */
    int64_t pitch;         /* elements per row */
    int64_t *offset;       /* taps of rows x taps of columns */
    int64_t *low, *high;   /* per phase: elements low <= q < high come from the source */
    real padding;          /* the value of the others */
} padded_layout;

static int64_t count_phases(const conv_axis *cols) { return TD_MIN(cols->step, cols->span); }

/* How many numbers lay_out() needs for the tables of its layout. */
static int64_t layout_numbers(const conv_axis *rows, const conv_axis *cols)
{
    return rows->taps * cols->taps + 2 * count_phases(cols);
}

/* extra: how many elements past the last pixel of a row must be there. */
static void lay_out(padded_layout *l, const conv_axis *rows, const conv_axis *cols, int64_t extra,
                    int64_t *tables)
{
    l->rows = *rows;
    l->cols = *cols;
    l->padding = 0;
    l->phases = count_phases(cols);
    l->width = cols->out - 1 + ceil_div(cols->span, cols->step) + extra;
    l->pitch = l->phases * l->width;
    l->low = tables;
    l->high = tables + l->phases;
    l->offset = tables + 2 * l->phases;
    for (int64_t f = 0; f < l->phases; f++) {
        const int64_t start = cols->first + f; /* the source column of element 0 */
        const int64_t low = start < 0 ? ceil_div(-start, cols->step) : 0;
        const int64_t high = cols->in > start ? ceil_div(cols->in - start, cols->step) : 0;
        l->low[f] = TD_MIN(low, l->width);
        l->high[f] = TD_MAX(TD_MIN(high, l->width), l->low[f]);
    }
    for (int64_t i = 0; i < rows->taps; i++) {
        for (int64_t j = 0; j < cols->taps; j++) {
            const int64_t d = cols->delta[j];
            l->offset[i * cols->taps + j]
                = rows->delta[i] * l->pitch + d % cols->step * l->width + d / cols->step;
        }
    }
}

/* Whether the source is its own padded layout. */
static inline int needs_no_padding(const padded_layout *l)
{
    const conv_axis *r = &l->rows, *c = &l->cols;
    return r->step == 1 && c->step == 1 && !r->first && !c->first && l->pitch == c->in
           && r->out - 1 + r->span == r->in;
}

/* The row taps first ... last - 1 of output row j that lie inside the input: the others would only
 * add zeros. */
static inline void inner_taps(const conv_axis *a, int64_t j, int64_t *first, int64_t *last)
{
    int64_t at = j * a->step + a->first, low = 0, high = a->taps;
    while (low < high && (uint64_t)(at + a->delta[low]) >= (uint64_t)a->in) low++;
    while (high > low && (uint64_t)(at + a->delta[high - 1]) >= (uint64_t)a->in) high--;
    *first = low;
    *last = high;
}

static int64_t padded_rows(const padded_layout *l, int64_t lines)
{
    return (lines - 1) * l->rows.step + l->rows.span;
}

/* Elements from one plane to the next: an odd number of cache lines, so that planes do not meet in
 * one cache set, with a vector of slack, because rows are written in whole vectors. */
static int64_t padded_plane(const padded_layout *l, int64_t lines)
{
    const int64_t line = 64 / REAL_SIZE;
    return (ceil_div(padded_rows(l, lines) * l->pitch + LANES, line) | 1) * line;
}

/* The three below write whole vectors, so up to LANES - 1 elements too many: what follows is
 * written after them. */
static inline void fill_vectors(real *to, int64_t n, real value)
{
    for (int64_t i = 0; i < n; i += LANES) vec_store(to + i, vec_all(value));
}

static inline void copy_vectors(real *to, const real *from, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vec_store(to + i, vec_load(from + i));
    if (i < n) vec_store(to + i, vec_load_n(from + i, n - i));
}

static inline void copy_every_second(real *to, const real *from, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES < n; i += LANES)
        vec_store(to + i, vec_even(vec_load(from + 2 * i), vec_load(from + 2 * i + LANES)));
    if (i < n) {
        const int64_t left = 2 * (n - i) - 1;
        vec a = vec_load_n(from + 2 * i, TD_MIN(left, LANES));
        vec b = left > LANES ? vec_load_n(from + 2 * i + LANES, left - LANES) : (vec){0};
        vec_store(to + i, vec_even(a, b));
    }
}

/* One source row. */
static inline void pad_row(const padded_layout *l, const real *row, real *to)
{
    const int64_t step = l->cols.step;
    for (int64_t f = 0; f < l->phases; f++, to += l->width) {
        const int64_t low = l->low[f], high = l->high[f], n = high - low;
        fill_vectors(to, low, l->padding);
        if (n) {
            const real *from = row + low * step + l->cols.first + f;
            if (step == 1) copy_vectors(to + low, from, n);
            else if (step == 2) copy_every_second(to + low, from, n);
            else for (int64_t i = 0; i < n; i++) to[low + i] = from[step * i];
        }
        fill_vectors(to + high, l->width - high, l->padding);
    }
}

/* The rows of one channel that the outputs `line` ... `line + lines - 1` read. The same rows of the
 * next channel are fetched meanwhile. */
static void pad_plane(const padded_layout *l, const real *channel, int64_t line, int64_t lines,
                      real *to)
{
    const conv_axis *a = &l->rows;
    const int64_t next = l->rows.in * l->cols.in, count = padded_rows(l, lines);
    int64_t row = line * a->step + a->first;
    for (int64_t q = 0; q < count; q++, row++, to += l->pitch) {
        if (a->span < a->step && q % a->step >= a->span) continue; /* a row between the taps */
        if (row < 0 || row >= a->in) {
            fill_vectors(to, l->pitch, l->padding);
            continue;
        }
        const real *from = channel + row * l->cols.in;
        for (int64_t i = 0; i < l->cols.in; i += 64 / REAL_SIZE)
            __builtin_prefetch(from + next + i);
        pad_row(l, from, to);
    }
}

/* All planes of an input, padded by the pool: to[plane * pitch]. */
typedef struct {
    const padded_layout *layout;
    const real *x;
    real *to;
    int64_t planes, pitch;
} padding_job;

#define PADDED_TOGETHER 16 /* planes of a task */

static void pad_some_planes(int64_t t, void *ctx)
{
    const padding_job *j = ctx;
    const padded_layout *l = j->layout;
    const int64_t pixels = l->rows.in * l->cols.in;
    for (int64_t i = t * PADDED_TOGETHER; i < TD_MIN((t + 1) * PADDED_TOGETHER, j->planes); i++)
        pad_plane(l, j->x + i * pixels, 0, l->rows.out, j->to + i * j->pitch);
}

/* Pads them into scratch memory, with a vector of slack at the end; NULL when there is none. */
static inline real *pad_planes(const padded_layout *l, const real *x, int64_t planes, int64_t pitch)
{
    real *to = td_scratch((size_t)(planes * pitch + LANES) * sizeof *to);
    padding_job j = {l, x, to, planes, pitch};
    if (to) td_parallel(ceil_div(planes, PADDED_TOGETHER), pad_some_planes, &j);
    return to;
}
#endif
