/* Convolution kernels: conv2d (x, w, bias or nothing -> y), conv2d_input_grad (g, w -> gx), conv2d_weight_grad (g, x -> gw).
 * Integers: batch, groups, input and output channels of a group, then height and width of input, output, kernel, stride, padding and
 * dilation. All tensors are dense, NCHW and OIHW. Half-width floats are computed in float32. */
#include "conv.h"
#include "scalar.h"

#define CHUNK 32768             /* elements converted per task */

typedef struct { const uint16_t *half; float *wide; int64_t n; uint16_t *to; int bf16; } conversion;

static void widen(int64_t t, void *ctx)
{
    const conversion *c = ctx;
    int64_t first = t * CHUNK, last = TD_MIN(first + CHUNK, c->n);
    if (c->bf16) for (int64_t i = first; i < last; i++) c->wide[i] = td_bf16_to_f32(c->half[i]);
    else for (int64_t i = first; i < last; i++) c->wide[i] = td_f16_to_f32(c->half[i]);
}

static void narrow(int64_t t, void *ctx)
{
    const conversion *c = ctx;
    int64_t first = t * CHUNK, last = TD_MIN(first + CHUNK, c->n);
    if (c->bf16) for (int64_t i = first; i < last; i++) c->to[i] = td_f32_to_bf16(c->wide[i]);
    else for (int64_t i = first; i < last; i++) c->to[i] = td_f32_to_f16(c->wide[i]);
}

static conv_shape shape_of(const td_plan *p)
{
    const int64_t *i = p->i;
    return (conv_shape){
        .batch = i[0], .groups = i[1], .in_channels = i[2], .out_channels = i[3],
        .in = {i[4], i[5]}, .out = {i[6], i[7]}, .kernel = {i[8], i[9]},
        .stride = {i[10], i[11]}, .padding = {i[12], i[13]}, .dilation = {i[14], i[15]},
    };
}

enum operand { INPUT, WEIGHT, OUTPUT, BIAS };

static int64_t elements(const conv_shape *s, enum operand which)
{
    switch (which) {
    case INPUT: return s->batch * s->groups * s->in_channels * s->in[0] * s->in[1];
    case WEIGHT: return s->groups * s->out_channels * s->in_channels * s->kernel[0] * s->kernel[1];
    case OUTPUT: return s->batch * s->groups * s->out_channels * s->out[0] * s->out[1];
    default: return s->groups * s->out_channels;
    }
}

/* Runs a float32 pass on half-width floats: widens the inputs, narrows the result. */
static int through_f32(conv_pass *pass, const conv_shape *s, const enum operand *kinds, int inputs, char **io, int bf16)
{
    float *wide[4] = {0};
    int status = TD_OK;
    for (int i = 0; i <= inputs && !status; i++) {
        if (!io[i]) continue;
        conversion c = {.half = (const uint16_t *)io[i], .n = elements(s, kinds[i]), .bf16 = bf16};
        wide[i] = c.wide = td_scratch((size_t)c.n * sizeof(float));
        if (!c.wide) status = TD_ERR_MEMORY;
        else if (i < inputs) td_parallel((c.n + CHUNK - 1) / CHUNK, widen, &c);
    }
    if (!status) status = pass(s, wide[0], wide[1], inputs == 3 ? wide[2] : NULL, wide[inputs]);
    if (!status) {
        conversion c = {.wide = wide[inputs], .n = elements(s, kinds[inputs]), .to = (uint16_t *)io[inputs], .bf16 = bf16};
        td_parallel((c.n + CHUNK - 1) / CHUNK, narrow, &c);
    }
    for (int i = 0; i <= inputs; i++) td_scratch_free(wide[i]);
    return status;
}

#define NATIVE_KERNEL(op, pass, type)                                                                                   \
    static int op##_##type(const td_plan *p, char **io)                                                                 \
    {                                                                                                                   \
        conv_shape s = shape_of(p);                                                                                     \
        return KERNEL(pass##_##type)(&s, io[0], io[1], p->n_in == 3 ? io[2] : NULL, io[p->n_in]);                       \
    }
#define HALF_KERNEL(op, pass, type, ...)                                                                                \
    static int op##_##type(const td_plan *p, char **io)                                                                 \
    {                                                                                                                   \
        conv_shape s = shape_of(p);                                                                                     \
        const enum operand with_bias[] = {__VA_ARGS__}, without[] = {with_bias[0], with_bias[1], with_bias[3]};         \
        return through_f32(KERNEL(pass##_f32), &s, p->n_in == 3 ? with_bias : without, p->n_in, io, sizeof #type > 4);  \
    }
#define KERNELS(op, pass, ...)                                                                                          \
    NATIVE_KERNEL(op, pass, f32)                                                                                        \
    NATIVE_KERNEL(op, pass, f64)                                                                                        \
    HALF_KERNEL(op, pass, f16, __VA_ARGS__)                                                                             \
    HALF_KERNEL(op, pass, bf16, __VA_ARGS__)
#define ENTRIES(op) {#op "_f32", op##_f32}, {#op "_f64", op##_f64}, {#op "_f16", op##_f16}, {#op "_bf16", op##_bf16}

KERNELS(conv2d, conv_forward, INPUT, WEIGHT, BIAS, OUTPUT)
KERNELS(conv2d_input_grad, conv_input_grad, OUTPUT, WEIGHT, BIAS, INPUT)
KERNELS(conv2d_weight_grad, conv_weight_grad, OUTPUT, INPUT, BIAS, WEIGHT)

const td_entry KERNEL(conv_table)[] = {
    ENTRIES(conv2d), ENTRIES(conv2d_input_grad), ENTRIES(conv2d_weight_grad), {0, 0},
};
