/* Where Winograd's method takes a correlation over, and the images that it leaves to the others. */
#ifndef TREADLE_CONV_WINOGRAD_CHOICE_H
#define TREADLE_CONV_WINOGRAD_CHOICE_H
#include "conv_thin.h"
#include "conv_winograd.h"

#define WINOGRAD_CHANNELS 16 /* at least: with fewer, sums are too short for its larger error */

/* How far outputs reach out of the input on either side. With 2, the outermost ones read a single
 * row or column of it. */
static int64_t reach_before(const conv_axis *a) { return -a->first; }
static int64_t reach_after(const conv_axis *a) { return a->out + a->first + 2 - a->in; }
static int64_t far_ends(const conv_axis *a)
{
    return (reach_before(a) == 2) + (reach_after(a) == 2);
}
static int winograd_axis(const conv_axis *a)
{
    return a->step == 1 && a->taps == 3 && a->span == 3 && reach_before(a) <= 2
           && reach_after(a) <= 2;
}

/* Cycles, roughly, for a pair of vectors of channels: 9 of the direct way for an output against 36
 * for a tile, 250 for transforming the weights, and those of a tile's input and output, which serve
 * all channels on the other side; then the outputs that correct_edges() computes. */
static int winograd_is_better(const correlation *c)
{
    const conv_axis *rows = &c->rows, *cols = &c->cols;
    if (!winograd_axis(rows) || !winograd_axis(cols) || c->groups != 1) return 0;
    if (c->kernel[0] != 3 || c->kernel[1] != 3) return 0;
    if (c->y_col != 1 || c->y_row != cols->out) return 0;
    if (c->in_channels < WINOGRAD_CHANNELS || c->out_channels < WINOGRAD_CHANNELS) return 0;
    const double tiles = (double)(ceil_div(rows->out, 4) * ceil_div(cols->out, 4));
    const double ends = (double)(far_ends(rows) * cols->out + far_ends(cols) * rows->out);
    const double sides = 200.0 / (double)c->in_channels + 200.0 / (double)c->out_channels;
    const double direct = 9.0 * (double)(rows->out * cols->out);
    return (double)c->batch * (tiles * (40 + sides) + 20 * ends) + 250
           < 0.85 * (double)c->batch * direct;
}

/* A product of zero and infinity spreads over a tile, and so does an overflow: images with a result
 * that is not finite are computed again, where every output sees only its own inputs. */
static int correct_images(const correlation *c, const uint8_t *redo)
{
    correlation one = *c;
    int status = TD_OK;
    one.batch = 1;
    for (int64_t n = 0; n < c->batch && !status; n++) {
        if (!redo[n]) continue;
        one.x = c->x + n * c->in_channels * c->rows.in * c->cols.in;
        one.y = c->y + n * c->y_image;
        status = correlate(&one);
    }
    return status;
}

/* Outputs that read a third of the kernel or less are computed again, with that third: the error of
 * a tile, which comes from all of its inputs, would be large for them. */
static int correct_edges(const correlation *c)
{
    int64_t nothing = 0;
    correlation one = *c;
    int status = TD_OK;
    one.share_weights = 1;
    for (int edge = 0; edge < 4 && !status; edge++) {
        const conv_axis *from = edge < 2 ? &c->rows : &c->cols;
        const int64_t reach = edge % 2 ? reach_after(from) : reach_before(from);
        const int64_t at = edge % 2 ? from->out - 1 : 0, tap = edge % 2 ? 0 : 2;
        if (reach < 2) continue;
        one.rows = c->rows;
        one.cols = c->cols;
        one.y = c->y + at * (edge < 2 ? c->y_row : c->y_col);
        conv_axis *axis = edge < 2 ? &one.rows : &one.cols;
        axis->out = axis->taps = axis->span = 1;
        axis->first += at + tap;
        axis->index += from->delta[0] ? 2 - tap : tap; /* distances rise or fall */
        axis->delta = &nothing;
        status = correlate(&one);
    }
    td_scratch_free(one.packed);
    return status;
}

static int correlate_winograd(const correlation *c)
{
    td_winograd w = {
        .batch = c->batch,
        .in_channels = c->in_channels,
        .out_channels = c->out_channels,
        .in = {c->rows.in, c->cols.in},
        .out = {c->rows.out, c->cols.out},
        .first = {c->rows.first, c->cols.first},
        .x = c->x,
        .w = c->w,
        .bias = c->bias,
        .scale = c->scale,
        .relu = c->relu,
        .y = c->y,
        .w_out = c->w_out,
        .w_in = c->w_in,
    };
    for (int64_t i = 0; i < 9; i++)
        w.tap[3 * c->rows.delta[i / 3] + c->cols.delta[i % 3]] = tap_weight(c, i);
    w.redo = td_scratch((size_t)c->batch);
    if (!w.redo) return TD_ERR_MEMORY;
    memset(w.redo, 0, (size_t)c->batch);
    int status = KERNEL(winograd_f32)(&w);
    if (!status) status = correct_edges(c);
    if (!status) status = correct_images(c, w.redo);
    td_scratch_free(w.redo);
    return status;
}

static int correlate_best(correlation *c)
{
    return winograd_is_better(c) ? correlate_winograd(c) : correlate(c);
}

/* With fewer than 3 rows or columns, some taps would read only zeros. */
static int weight_winograd_is_better(const conv_shape *s)
{
    for (int a = 0; a < 2; a++)
        if (s->kernel[a] != 3 || s->stride[a] != 1 || s->dilation[a] != 1 || s->in[a] < 3) return 0;
    if (s->groups != 1) return 0;
    if (s->in_channels < WINOGRAD_CHANNELS || s->out_channels < WINOGRAD_CHANNELS) return 0;
    const double tiles = (double)(ceil_div(s->out[0], 4) * ceil_div(s->out[1], 4));
    const double sides = 200.0 / (double)s->in_channels + 200.0 / (double)s->out_channels;
    const double direct = 9.0 * (double)(s->out[0] * s->out[1]);
    return (double)s->batch * tiles * (40 + sides) + 250 < 0.85 * (double)s->batch * direct;
}

static int weight_best(const conv_shape *s, const conv_axis *rows, const conv_axis *cols,
                       const real *g, const real *x, real *gw)
{
    weight_pass *pass = weight_thin_is_better(s) ? weight_thin : weight_wide;
    td_winograd_weight w = {
        .batch = s->batch,
        .in_channels = s->in_channels,
        .out_channels = s->out_channels,
        .in = {s->in[0], s->in[1]},
        .out = {s->out[0], s->out[1]},
        .first = {-s->padding[0], -s->padding[1]},
        .g = g,
        .x = x,
        .gw = gw,
    };
    if (!weight_winograd_is_better(s)) return pass(s, rows, cols, g, x, gw);
    int status = KERNEL(winograd_weight_f32)(&w);
    return !status && w.bad ? pass(s, rows, cols, g, x, gw) : status;
}
#endif
