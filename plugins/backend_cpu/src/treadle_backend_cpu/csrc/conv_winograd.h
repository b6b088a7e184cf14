/* 3 x 3 convolutions of stride 1 by Winograd's method, in float32. A tile of 4 x 4 outputs takes 36
 * multiplications per pair of channels instead of 144, of transformed inputs and weights. */
#ifndef TREADLE_CONV_WINOGRAD_H
#define TREADLE_CONV_WINOGRAD_H
#include "conv.h"

#define WINOGRAD_VALUES 36 /* of a transformed tile: 6 x 6 */

/* y[n, o, j, i] = act(bias[o] + scale[o] * sum over c and taps a, b of
 * x[n, c, first[0] + j + a, first[1] + i + b] * w[o * w_out + c * w_in + tap[3 * a + b]]), with zeros
 * outside of x. x and y are dense. */
typedef struct {
    int64_t batch, in_channels, out_channels;
    int64_t in[2], out[2], first[2];
    const float *x, *w, *bias, *scale; /* bias, scale: NULL for none */
    int relu;                          /* act: relu or nothing */
    float *y;
    int64_t w_out, w_in, tap[9];
    uint8_t *redo; /* per image: becomes 1 where a result is not finite */
} td_winograd;

int KERNEL(winograd_f32)(const td_winograd *c);

/* gw[o, c, a, b] = sum over n, j, i of g[n, o, j, i] * x[n, c, first[0] + j + a, first[1] + i + b],
 * all dense. */
typedef struct {
    int64_t batch, in_channels, out_channels;
    int64_t in[2], out[2], first[2];
    const float *g, *x;
    float *gw;
    int bad; /* becomes 1 if a result is not finite */
} td_winograd_weight;

int KERNEL(winograd_weight_f32)(td_winograd_weight *c);

/* The 36 products of matrices of transformed numbers, sums = a b [+ sums]: a is (rows, depth) with
 * any strides, b (depth, vectors * lanes) and the sums are dense. */
typedef struct {
    const float *a, *b;
    float *sums;
    int64_t a_value, b_value, sums_value; /* elements from one of the products to the next */
    int64_t rows, depth, vectors;         /* vectors: 1 or 2 */
    int64_t a_row, a_col;
    int accumulate;
} td_winograd_products;

void KERNEL(winograd_multiply)(const td_winograd_products *m);
#endif
