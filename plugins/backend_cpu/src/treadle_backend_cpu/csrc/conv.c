/* Convolution kernels: conv2d (x, w, then perhaps a bias, then perhaps a scale per channel -> y),
 * conv2d_input_grad (g, w -> gx), conv2d_weight_grad (g, x -> gw). Integers: batch, groups, input and
 * output channels of a group, then height and width of input, output, kernel, stride, padding and
 * dilation; for conv2d perhaps one more: whether relu comes last. All tensors are
 * dense, NCHW and OIHW. Half-width floats are computed in float32. */
#include "conv.h"
#include "scalar.h"

#define CHUNK 32768 /* elements converted per task */

typedef struct {
    uint16_t *half;
    float *wide;
    int64_t n;
    enum td_dtype format;
} conversion;

static void widen(int64_t t, void *ctx)
{
    const conversion *c = ctx;
    const int64_t first = t * CHUNK, last = TD_MIN(first + CHUNK, c->n);
    if (c->format == TD_BF16)
        for (int64_t i = first; i < last; i++) c->wide[i] = td_bf16_to_f32(c->half[i]);
    else
        for (int64_t i = first; i < last; i++) c->wide[i] = td_f16_to_f32(c->half[i]);
}

static void narrow(int64_t t, void *ctx)
{
    const conversion *c = ctx;
    const int64_t first = t * CHUNK, last = TD_MIN(first + CHUNK, c->n);
    if (c->format == TD_BF16)
        for (int64_t i = first; i < last; i++) c->half[i] = td_f32_to_bf16(c->wide[i]);
    else
        for (int64_t i = first; i < last; i++) c->half[i] = td_f32_to_f16(c->wide[i]);
}

static conv_shape shape_of(const td_plan *p)
{
    const int64_t *i = p->i;
    return (conv_shape){
        .batch = i[0],
        .groups = i[1],
        .in_channels = i[2],
        .out_channels = i[3],
        .in = {i[4], i[5]},
        .out = {i[6], i[7]},
        .kernel = {i[8], i[9]},
        .stride = {i[10], i[11]},
        .padding = {i[12], i[13]},
        .dilation = {i[14], i[15]},
        .relu = p->n_i > 16 && i[16],
    };
}

/* The factories decline empty operands; the passes divide by sizes. */
static int check_sizes(const conv_shape *s)
{
    int64_t least = TD_MIN(TD_MIN(s->batch, s->groups), TD_MIN(s->in_channels, s->out_channels));
    for (int a = 0; a < 2; a++) {
        least = TD_MIN(least, TD_MIN(s->in[a], s->out[a]));
        least = TD_MIN(least, TD_MIN(s->kernel[a], TD_MIN(s->stride[a], s->dilation[a])));
    }
    return least > 0 ? TD_OK : td_fail(TD_ERR_VALUE, "convolution: every size must be positive");
}

enum operand { INPUT, WEIGHT, OUTPUT, PER_CHANNEL };
enum { MOST = 4 }; /* inputs of a pass */

static int64_t elements(const conv_shape *s, enum operand which)
{
    const int64_t in = s->groups * s->in_channels, out = s->groups * s->out_channels;
    switch (which) {
    case INPUT: return s->batch * in * s->in[0] * s->in[1];
    case WEIGHT: return out * s->in_channels * s->kernel[0] * s->kernel[1];
    case OUTPUT: return s->batch * out * s->out[0] * s->out[1];
    default: return out;
    }
}

/* operands: the first two inputs, then the result; more inputs are one number per channel. */
typedef struct {
    conv_pass *pass;
    enum operand operands[3];
} pass_entry;

static int run_wide(const td_plan *p, char **io, conv_pass *pass)
{
    const conv_shape s = shape_of(p);
    const void *in[MOST] = {0};
    for (int k = 0; k < p->n_in; k++) in[k] = io[k];
    const int status = check_sizes(&s);
    return status ? status : pass(&s, in, io[p->n_in]);
}

/* Widens the inputs to float32, runs a pass on them and narrows the result. */
static int run_half(const td_plan *p, char **io, pass_entry entry, enum td_dtype format)
{
    const conv_shape s = shape_of(p);
    conversion c[MOST + 1] = {0};
    const void *in[MOST] = {0};
    int status = check_sizes(&s), made = 0;
    for (; made <= p->n_in && !status; made++) {
        const enum operand *kinds = entry.operands;
        const int is_out = made == p->n_in;
        const int64_t n = elements(&s, is_out ? kinds[2] : made >= 2 ? PER_CHANNEL : kinds[made]);
        float *wide = td_scratch((size_t)n * sizeof *wide);
        c[made] = (conversion){(uint16_t *)io[made], wide, n, format};
        if (!wide) status = TD_ERR_MEMORY;
        if (!wide || is_out) continue;
        in[made] = wide;
        td_parallel(ceil_div(n, CHUNK), widen, &c[made]);
    }
    conversion *out = &c[p->n_in];
    if (!status) status = entry.pass(&s, in, out->wide);
    if (!status) td_parallel(ceil_div(out->n, CHUNK), narrow, out);
    while (made--) td_scratch_free(c[made].wide);
    return status;
}

#define KERNELS(op, name, ...)                                                                     \
    static int op##_f32(const td_plan *p, char **io)                                               \
    {                                                                                              \
        return run_wide(p, io, KERNEL(name##_f32));                                                \
    }                                                                                              \
    static int op##_f64(const td_plan *p, char **io)                                               \
    {                                                                                              \
        return run_wide(p, io, KERNEL(name##_f64));                                                \
    }                                                                                              \
    static const pass_entry op##_entry = {KERNEL(name##_f32), {__VA_ARGS__}};                      \
    static int op##_f16(const td_plan *p, char **io)                                               \
    {                                                                                              \
        return run_half(p, io, op##_entry, TD_F16);                                                \
    }                                                                                              \
    static int op##_bf16(const td_plan *p, char **io)                                              \
    {                                                                                              \
        return run_half(p, io, op##_entry, TD_BF16);                                               \
    }
#define ENTRY(op, type) {#op "_" #type, op##_##type}
#define ENTRIES(op) ENTRY(op, f32), ENTRY(op, f64), ENTRY(op, f16), ENTRY(op, bf16)

KERNELS(conv2d, conv_forward, INPUT, WEIGHT, OUTPUT)
KERNELS(conv2d_input_grad, conv_input_grad, OUTPUT, WEIGHT, INPUT)
KERNELS(conv2d_weight_grad, conv_weight_grad, OUTPUT, INPUT, WEIGHT)

const td_entry KERNEL(conv_table)[] = {
    ENTRIES(conv2d),
    ENTRIES(conv2d_input_grad),
    ENTRIES(conv2d_weight_grad),
    {0, 0},
};
