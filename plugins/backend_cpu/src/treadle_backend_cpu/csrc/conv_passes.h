/* Forward pass and input gradient as correlations. The file that includes this defines real,
 * REAL_SIZE and PASS(name). */
#ifndef TREADLE_CONV_PASSES_H
#define TREADLE_CONV_PASSES_H
#include "conv_thin.h"
#include "conv_weight_thin.h"
#if REAL_SIZE == 4
#include "conv_winograd_choice.h"
#else
#define correlate_best correlate
static int weight_best(const conv_shape *s, const conv_axis *rows, const conv_axis *cols,
                       const real *g, const real *x, real *gw)
{
    weight_pass *pass = weight_thin_is_better(s) ? weight_thin : weight_wide;
    return pass(s, rows, cols, g, x, gw);
}
#endif

/* Memory for the taps of both axes; NULL when there is none. */
static int64_t *axis_tables(const conv_shape *s, conv_axis *rows, conv_axis *cols)
{
    int64_t *tables = td_scratch((size_t)(2 * (s->kernel[0] + s->kernel[1])) * sizeof(int64_t));
    rows->delta = tables;
    rows->index = tables + s->kernel[0];
    cols->delta = tables + 2 * s->kernel[0];
    cols->index = cols->delta + s->kernel[1];
    return tables;
}

int PASS(conv_forward)(const conv_shape *s, const void *const *in, void *y)
{
    const int64_t taps = s->kernel[0] * s->kernel[1], pixels = s->out[0] * s->out[1];
    correlation c = {
        .batch = s->batch,
        .groups = s->groups,
        .in_channels = s->in_channels,
        .out_channels = s->out_channels,
        .x = in[0],
        .w = in[1],
        .bias = in[2],
        .scale = in[3],
        .relu = s->relu,
        .y = y,
        .w_group = s->out_channels * s->in_channels * taps,
        .w_out = s->in_channels * taps,
        .w_in = taps,
        .kernel = {s->kernel[0], s->kernel[1]},
        .y_image = s->groups * s->out_channels * pixels,
        .y_channel = pixels,
        .y_row = s->out[1],
        .y_col = 1,
    };
    int64_t *tables = axis_tables(s, &c.rows, &c.cols);
    if (!tables) return TD_ERR_MEMORY;
    forward_axis(&c.rows, s, 0);
    forward_axis(&c.cols, s, 1);
    int status = correlate_best(&c);
    td_scratch_free(tables);
    return status;
}

/* One correlation per phase of the stride; positions that no output reached stay zero. */
int PASS(conv_input_grad)(const conv_shape *s, const void *const *in, void *gx)
{
    const int64_t taps = s->kernel[0] * s->kernel[1], pixels = s->in[0] * s->in[1];
    correlation c = {
        .batch = s->batch,
        .groups = s->groups,
        .in_channels = s->out_channels,
        .out_channels = s->in_channels,
        .x = in[0],
        .w = in[1],
        .w_group = s->out_channels * s->in_channels * taps,
        .w_out = taps,
        .w_in = s->in_channels * taps,
        .kernel = {s->kernel[0], s->kernel[1]},
        .y_image = s->groups * s->in_channels * pixels,
        .y_channel = pixels,
        .y_row = s->in[1] * s->stride[0],
        .y_col = s->stride[1],
    };
    int64_t *tables = axis_tables(s, &c.rows, &c.cols);
    if (!tables) return TD_ERR_MEMORY;
    int status = TD_OK;
    c.share_weights = s->stride[0] > 1 || s->stride[1] > 1;
    if (c.share_weights) memset(gx, 0, (size_t)(s->batch * c.y_image) * sizeof(real));
    for (int64_t i = 0; i < s->stride[0] && !status; i++) {
        backward_axis(&c.rows, s, 0, i);
        for (int64_t j = 0; j < s->stride[1] && !status; j++) {
            backward_axis(&c.cols, s, 1, j);
            c.y = (real *)gx + i * s->in[1] + j;
            if (c.rows.taps && c.cols.taps && c.rows.out && c.cols.out) status = correlate_best(&c);
        }
    }
    td_scratch_free(c.packed);
    td_scratch_free(tables);
    return status;
}

int PASS(conv_weight_grad)(const conv_shape *s, const void *const *in, void *gw)
{
    conv_axis rows, cols;
    int64_t *tables = axis_tables(s, &rows, &cols);
    if (!tables) return TD_ERR_MEMORY;
    forward_axis(&rows, s, 0);
    forward_axis(&cols, s, 1);
    int status = weight_best(s, &rows, &cols, in[0], in[1], gw);
    td_scratch_free(tables);
    return status;
}
#endif
