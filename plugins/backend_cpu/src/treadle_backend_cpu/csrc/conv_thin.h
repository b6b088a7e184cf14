/* A correlation by thin tiles (lanes = pixels of a row): for few output channels, as in depthwise
 * convolutions and input gradients of first layers, and for few products per output, as in first
 * layers, where transposing the result would cost more than computing it. */
#ifndef TREADLE_CONV_THIN_H
#define TREADLE_CONV_THIN_H
#include "conv_wide.h"

#define THIN_SOURCE_BYTES (256 << 10) /* prepared input of a unit, aimed at */

typedef struct {
    const correlation *c;
    padded_layout layout;
    int64_t depth; /* input channels x weights of the kernel */
    tap *taps;
    int64_t rows;            /* output channels per tile: 1, 2, 4 or 8 */
    int64_t blocks;          /* of that many */
    int64_t ranges;          /* of lines */
    int64_t units, per_task; /* units: image x group x range */
    real *weights;           /* [group][block][input channel][kernel][row] */
    real *bias;              /* [group][block][row], behind them */
    int failed;
} thin_plan;

static void pack_thin_block(const thin_plan *p, int64_t group, int64_t block)
{
    const correlation *c = p->c;
    const int64_t first = block * p->rows, valid = TD_MIN(c->out_channels - first, p->rows);
    const real *w = c->w + group * c->w_group + first * c->w_out;
    real *to = p->weights + (group * p->blocks + block) * p->rows * p->depth;
    real *bias = p->bias + (group * p->blocks + block) * p->rows;
    for (int64_t r = 0; r < p->rows; r++)
        bias[r] = c->bias && r < valid ? c->bias[group * c->out_channels + first + r] : 0;
    const int64_t kernel = kernel_size(c);
    real scale[ROWS];
    for (int64_t r = 0; r < p->rows; r++)
        scale[r] = c->scale && r < valid ? c->scale[group * c->out_channels + first + r] : 1;
    for (int64_t i = 0; i < c->in_channels; i++, w += c->w_in)
        for (int64_t k = 0; k < kernel; k++, to += p->rows)
            for (int64_t r = 0; r < p->rows; r++)
                to[r] = r < valid ? w[k + r * c->w_out] * scale[r] : 0;
}

/* All channels of one row of outputs. `strip` holds a tile's result where the output's columns are
 * not neighbours. */
static void thin_line(const thin_plan *p, const tile_sum *s, int64_t group, const real *x, real *y,
                      real *strip)
{
    const correlation *c = p->c;
    const int64_t width = c->cols.out;
    for (int64_t col = 0, n; col < width; col += n) {
        int64_t vectors = TD_MIN(ceil_div(width - col, LANES), THIN_VECTORS);
        while (!thin_tiles[p->rows][vectors]) vectors--;
        n = TD_MIN(width - col, vectors * LANES);
        thin_part part = {p->rows, n, c->y_col == 1 ? c->y_channel : THIN_VECTORS * LANES, c->relu};
        for (int64_t b = 0; b < p->blocks; b++) {
            const int64_t g = group * p->blocks + b;
            real *to = y + b * p->rows * c->y_channel + col * c->y_col;
            part.valid = TD_MIN(c->out_channels - b * p->rows, p->rows);
            thin_tiles[p->rows][vectors](s, x + col, p->weights + g * p->rows * p->depth,
                                         p->bias + g * p->rows, c->y_col == 1 ? to : strip, &part);
            if (c->y_col == 1) continue;
            for (int64_t r = 0; r < part.valid; r++)
                for (int64_t i = 0; i < n; i++)
                    to[r * c->y_channel + i * c->y_col] = strip[r * part.y_pitch + i];
        }
    }
}

static void run_thin_unit(const thin_plan *p, int64_t unit, real *padded)
{
    const correlation *c = p->c;
    const int64_t range = unit % p->ranges, line0 = share(c->rows.out, p->ranges, range);
    const int64_t lines = share(c->rows.out, p->ranges, range + 1) - line0;
    const int64_t plane_index = unit / p->ranges, group = plane_index % c->groups;
    const int64_t pixels = c->rows.in * c->cols.in, plane = padded_plane(&p->layout, lines);
    const real *x = c->x + plane_index * c->in_channels * pixels;
    real *y = c->y + plane_index / c->groups * c->y_image + group * c->out_channels * c->y_channel
              + line0 * c->y_row;
    real strip[ROWS * THIN_VECTORS * LANES];
    const tap *end = p->taps + c->rows.taps * c->cols.taps;
    tile_sum s = {c->in_channels, plane, kernel_size(c), p->taps, end};
    for (int64_t i = 0; i < c->in_channels; i++)
        pad_plane(&p->layout, x + i * pixels, line0, lines, padded + i * plane);
    for (int64_t j = 0; j < lines; j++)
        thin_line(p, &s, group, padded + j * c->rows.step * p->layout.pitch, y + j * c->y_row,
                  strip);
}

static void run_thin_task(int64_t t, void *ctx)
{
    thin_plan *p = ctx;
    const correlation *c = p->c;
    int64_t plane = padded_plane(&p->layout, ceil_div(c->rows.out, p->ranges));
    real *padded = td_scratch((size_t)(c->in_channels * plane) * sizeof(real));
    if (!padded) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (int64_t u = t * p->per_task; u < TD_MIN((t + 1) * p->per_task, p->units); u++)
        run_thin_unit(p, u, padded);
    td_scratch_free(padded);
}

static void cut_thin(thin_plan *p)
{
    const correlation *c = p->c;
    const int64_t planes = c->batch * c->groups, lines = c->rows.out;
    const int64_t line_bytes = c->in_channels * c->rows.step * p->layout.pitch * REAL_SIZE;
    const int64_t depth = c->rows.taps * c->cols.taps * c->in_channels;
    const int64_t for_threads = ceil_div(units_for_threads(c, depth), planes);
    const int64_t for_cache = ceil_div(lines * line_bytes, THIN_SOURCE_BYTES);
    p->ranges = TD_MIN(lines, TD_MAX(for_threads, for_cache));
    p->units = planes * p->ranges;
    const int64_t work = c->out_channels * depth * lines * c->cols.out / p->ranges;
    p->per_task = ceil_div(UNIT_WORK, TD_MAX(work, 1));
}

static int correlate_thin(const correlation *c)
{
    const int64_t taps = c->rows.taps * c->cols.taps, numbers = layout_numbers(&c->rows, &c->cols);
    thin_plan p = {.c = c, .depth = kernel_size(c) * c->in_channels};
    p.rows = c->out_channels >= 8 ? 8 : c->out_channels > 2 ? 4 : c->out_channels;
    p.blocks = ceil_div(c->out_channels, p.rows);
    const int64_t rows = c->groups * p.blocks * p.rows;
    p.taps = td_scratch((size_t)taps * sizeof(tap) + (size_t)numbers * sizeof(int64_t));
    p.weights = td_scratch((size_t)(rows * (p.depth + 1)) * sizeof(real));
    if (p.taps && p.weights) {
        p.bias = p.weights + rows * p.depth;
        for (int64_t t = 0; t < c->groups * p.blocks; t++)
            pack_thin_block(&p, t / p.blocks, t % p.blocks);
        lay_out(&p.layout, &c->rows, &c->cols, 0, (int64_t *)(p.taps + taps));
        for (int64_t t = 0; t < taps; t++) p.taps[t] = (tap){p.layout.offset[t], tap_weight(c, t)};
        cut_thin(&p);
        td_parallel(ceil_div(p.units, p.per_task), run_thin_task, &p);
    } else p.failed = 1;
    td_scratch_free(p.weights);
    td_scratch_free(p.taps);
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}

/* Cycles per output pixel, roughly: a wide tile multiplies whole vectors of channels and transposes
 * its result; a thin one multiplies whole vectors of pixels. */
static int thin_is_better(const correlation *c)
{
    const double depth = (double)(c->rows.taps * c->cols.taps * c->in_channels);
    const int64_t rows = c->out_channels >= 8 ? 8 : c->out_channels > 2 ? 4 : c->out_channels;
    double wide = (double)ceil_div(c->out_channels, LANES) * (depth + 9);
    double thin = (double)(ceil_div(c->out_channels, rows) * rows) / LANES * (depth + 4);
    thin *= (double)(ceil_div(c->cols.out, LANES) * LANES) / (double)c->cols.out;
    return thin * 1.05 < wide;
}

static int correlate(correlation *c)
{
    return thin_is_better(c) ? correlate_thin(c) : correlate_wide(c);
}
#endif
