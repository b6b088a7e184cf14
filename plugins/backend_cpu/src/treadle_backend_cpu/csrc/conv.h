/* What the convolution files share: the shape of a convolution and its axes as index arithmetic. */
#ifndef TREADLE_CONV_H
#define TREADLE_CONV_H
#include "treadle_cpu.h"

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Where part i begins when `total` things are shared out evenly. */
static inline int64_t share(int64_t total, int64_t parts, int64_t i) { return total * i / parts; }

/* Index 0 is the vertical axis, 1 the horizontal one; channels are those of one group. */
typedef struct {
    int64_t batch, groups, in_channels, out_channels;
    int64_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];
    int relu; /* of the forward pass: applied to the result */
} conv_shape;

/* One axis of a strided correlation: output j under tap t reads the source at
 * j * step + first + delta[t], zero outside. */
typedef struct {
    int64_t out, in, step, first;
    int64_t taps, span;     /* 0 <= delta[t] < span */
    int64_t *delta, *index; /* per tap: its distance, and its place in the kernel */
} conv_axis;

/* The axis of the convolution itself. delta and index have room for kernel[a] numbers. */
static inline void forward_axis(conv_axis *axis, const conv_shape *s, int a)
{
    axis->out = s->out[a];
    axis->in = s->in[a];
    axis->step = s->stride[a];
    axis->first = -s->padding[a];
    axis->taps = s->kernel[a];
    axis->span = (s->kernel[a] - 1) * s->dilation[a] + 1;
    for (int64_t k = 0; k < axis->taps; k++) {
        axis->delta[k] = k * s->dilation[a];
        axis->index[k] = k;
    }
}

/* The input gradient at positions phase, phase + stride, ...: output o was read from input
 * o * stride - padding + k * dilation, so position j * stride + phase collects from output
 * j + (phase + padding - k * dilation) / stride for every k where that is whole. */
static inline void backward_axis(conv_axis *axis, const conv_shape *s, int a, int64_t phase)
{
    axis->out = phase < s->in[a] ? ceil_div(s->in[a] - phase, s->stride[a]) : 0;
    axis->in = s->out[a];
    axis->step = 1;
    axis->taps = axis->span = axis->first = 0;
    for (int64_t k = 0; k < s->kernel[a]; k++) {
        int64_t distance = phase + s->padding[a] - k * s->dilation[a];
        if (distance % s->stride[a]) continue;
        axis->delta[axis->taps] = distance / s->stride[a];
        axis->index[axis->taps++] = k;
    }
    if (!axis->taps) return;
    axis->first = axis->delta[axis->taps - 1]; /* distances fall with k */
    axis->span = axis->delta[0] - axis->first + 1;
    for (int64_t t = 0; t < axis->taps; t++) axis->delta[t] -= axis->first;
}

/* The passes, compiled once per type. in: x, w and a bias and a scale per channel or NULL; g, w; g,
 * x. */
typedef int conv_pass(const conv_shape *s, const void *const *in, void *out);
conv_pass KERNEL(conv_forward_f32), KERNEL(conv_input_grad_f32), KERNEL(conv_weight_grad_f32);
conv_pass KERNEL(conv_forward_f64), KERNEL(conv_input_grad_f64), KERNEL(conv_weight_grad_f64);
#endif
