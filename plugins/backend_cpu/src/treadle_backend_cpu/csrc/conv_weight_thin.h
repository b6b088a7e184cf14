/* The weight gradient by thin tiles (lanes = pixels): for few products, as in first layers and
 * depthwise convolutions. */
#ifndef TREADLE_CONV_WEIGHT_THIN_H
#define TREADLE_CONV_WEIGHT_THIN_H
#include "conv_weight.h"

#define DOT_UNIT_WORK 300000 /* multiply-adds of a task, aimed at */

typedef struct {
    const conv_shape *s;
    padded_layout layout;
    const real *g, *x;
    real *gw;
    int64_t taps, depth;
    int64_t partials; /* of images */
    int64_t per_task; /* groups */
    int64_t most_lines;
    real *sums; /* [group][partial][output channel x row x LANES, in tiles] */
    int failed;
} dot_plan;

TD_INLINE int64_t dot_channels(const conv_shape *s, int64_t first)
{
    const int64_t left = s->out_channels - first;
    return left >= DOT_CHANNELS ? DOT_CHANNELS : left >= 2 ? 2 : 1;
}

/* One group, some lines of one image. */
static void dot_lines(const dot_plan *p, int64_t group, int64_t image, int64_t line, int64_t lines,
                      real *padded, real *sums)
{
    const conv_shape *s = p->s;
    const int64_t in = s->in[0] * s->in[1], out = s->out[0] * s->out[1];
    const int64_t plane = padded_plane(&p->layout, lines);
    const real *x = p->x + (image * s->groups + group) * s->in_channels * in;
    const real *g = p->g + (image * s->groups + group) * s->out_channels * out + line * s->out[1];
    for (int64_t i = 0; i < s->in_channels; i++)
        pad_plane(&p->layout, x + i * in, line, lines, padded + i * plane);
    const pixel_block block = {1, lines, s->out[1], 0, p->layout.rows.step * p->layout.pitch};
    const int64_t tiles = ceil_div(p->depth, DOT_ROWS);
    for (int64_t c = 0, channels; c < s->out_channels; c += channels) {
        channels = dot_channels(s, c);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t from = share(p->depth, tiles, t);
            const int64_t n = share(p->depth, tiles, t + 1) - from;
            const real *row[DOT_ROWS];
            for (int64_t r = 0; r < n; r++) {
                const int64_t channel = (from + r) / p->taps, tap = (from + r) % p->taps;
                row[r] = padded + channel * plane + p->layout.offset[tap];
            }
            dot_tiles[channels][n](&block, g + c * out, out, 0, row,
                                   sums + (c * p->depth + channels * from) * LANES);
        }
    }
}

static void run_dot_group(const dot_plan *p, int64_t group, int64_t partial, real *padded)
{
    const conv_shape *s = p->s;
    const int64_t count = s->out_channels * p->depth * LANES;
    real *sums = p->sums + (group * p->partials + partial) * count;
    memset(sums, 0, (size_t)count * sizeof *sums);
    for (int64_t n = share(s->batch, p->partials, partial);
         n < share(s->batch, p->partials, partial + 1); n++)
        for (int64_t line = 0; line < s->out[0]; line += p->most_lines)
            dot_lines(p, group, n, line, TD_MIN(p->most_lines, s->out[0] - line), padded, sums);
}

static void run_dot_task(int64_t t, void *ctx)
{
    dot_plan *p = ctx;
    const conv_shape *s = p->s;
    const int64_t partial = t % p->partials, first = t / p->partials * p->per_task;
    const int64_t plane = padded_plane(&p->layout, TD_MIN(p->most_lines, s->out[0]));
    real *padded = td_scratch((size_t)(s->in_channels * plane) * sizeof(real));
    if (!padded) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t g = first; g < TD_MIN(first + p->per_task, s->groups); g++)
        run_dot_group(p, g, partial, padded);
    td_scratch_free(padded);
}

/* Adds up partials and lanes, always in the same order. */
static void add_dots(int64_t group, void *ctx)
{
    const dot_plan *p = ctx;
    const conv_shape *s = p->s;
    const int64_t count = s->out_channels * p->depth * LANES, tiles = ceil_div(p->depth, DOT_ROWS);
    const real *sums = p->sums + group * p->partials * count;
    real *gw = p->gw + group * s->out_channels * p->depth;
    for (int64_t c = 0, channels; c < s->out_channels; c += channels) {
        channels = dot_channels(s, c);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t from = share(p->depth, tiles, t),
                          n = share(p->depth, tiles, t + 1) - from;
            for (int64_t i = 0; i < channels * n; i++, sums += LANES) {
                vec v = vec_load(sums);
                for (int64_t q = 1; q < p->partials; q++) v += vec_load(sums + q * count);
                real total = 0;
                for (int l = 0; l < LANES; l++) total += v[l];
                gw[(c + i / n) * p->depth + from + i % n] = total;
            }
        }
    }
}

static int weight_thin(const conv_shape *s, const conv_axis *rows, const conv_axis *cols,
                       const real *g, const real *x, real *gw)
{
    dot_plan p = {.s = s, .g = g, .x = x, .gw = gw, .taps = rows->taps * cols->taps};
    p.depth = p.taps * s->in_channels;
    int64_t *tables = td_scratch((size_t)layout_numbers(rows, cols) * sizeof(int64_t));
    if (!tables) return TD_ERR_MEMORY;
    lay_out(&p.layout, rows, cols, 0, tables);
    const int64_t line_bytes = s->in_channels * rows->step * p.layout.pitch * REAL_SIZE;
    const int64_t work = s->out_channels * p.depth * s->out[0] * s->out[1];
    p.most_lines = TD_MAX(1, TD_MIN(s->out[0], SOURCE_BYTES / line_bytes));
    p.partials = TD_MAX(1, TD_MIN(s->batch, WEIGHT_UNITS / s->groups));
    p.per_task = ceil_div(DOT_UNIT_WORK, TD_MAX(1, work * ceil_div(s->batch, p.partials)));
    p.sums = td_scratch((size_t)(s->groups * p.partials * s->out_channels * p.depth * LANES)
                        * sizeof(real));
    p.failed = !p.sums;
    if (!p.failed) td_parallel(p.partials * ceil_div(s->groups, p.per_task), run_dot_task, &p);
    if (!p.failed) td_parallel(s->groups, add_dots, &p);
    td_scratch_free(p.sums);
    td_scratch_free(tables);
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}

/* Cycles per pixel, roughly; a wide tile has to transpose the gradient first. */
static int weight_thin_is_better(const conv_shape *s)
{
    const double depth = (double)(s->kernel[0] * s->kernel[1] * s->in_channels);
    double wide = (double)ceil_div(s->out_channels, LANES) * (depth + 7);
    double thin = 1.4 * (double)s->out_channels * depth / LANES;
    thin *= (double)(ceil_div(s->out[1], LANES) * LANES) / (double)s->out[1];
    return thin < wide;
}
#endif
