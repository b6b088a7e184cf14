/* Optimizer steps and gradient clipping over lists of tensors, one call for all of them.
 *
 * The elements of all tensors form one sequence that is cut into tasks of GRAIN, so sixty small
 * tensors cost one fork-join and a few tiny ones none. The half types are converted to float32 a
 * tile at a time. Outputs may be their inputs.
 *
 * Formulas are those of PyTorch's single-tensor steps. Adam's sqrt(v) / root + eps is used as
 * (sqrt(v) + eps * root) / root, which saves a division. Denormals: while a float32 or float64
 * step with eps above 1e-30 (Adam) or momentum (SGD) runs, the processor takes numbers below the
 * smallest normal one (1e-38 for float32) for 0. A moment that decays under a zero gradient
 * would otherwise make the step some twenty times slower long before it could move a parameter
 * again. */
#include <math.h>
#include <string.h>
#include "scalar.h"

enum { GRAIN = 16384, ALIGN = 16, TILE = 256, MOST = 4 };

typedef struct td_job td_job;
typedef void (*td_piece)(td_job *b, int64_t k, int64_t from, int64_t n, int64_t task);

struct td_job {
    const int64_t *start;   /* n + 1: where each tensor begins in the sequence */
    int64_t n;
    char **in, **out;       /* tensor k of list l is in[l * n + k] */
    int lists_in, lists_out;
    td_piece piece;
    int flush;              /* denormal results become 0 */
    int dtype, size;
    /* SGD */
    double lr, momentum, keep, decay, sign;
    int nesterov, first;
    /* Adam */
    double beta1, beta2, eps, shrink, step;
    /* clipping */
    double *partial, scale;
};

/* ---- walking the sequence ---- */

#if defined(__SSE__) || defined(__x86_64__)
static unsigned flush_denormals(int on) {
    const unsigned before = __builtin_ia32_stmxcsr();
    if (on) __builtin_ia32_ldmxcsr(before | 0x8040); /* flush to zero, denormals are zeros */
    return before;
}
static void restore_denormals(unsigned before) { __builtin_ia32_ldmxcsr(before); }
#else
static unsigned flush_denormals(int on) { return (unsigned)on; }
static void restore_denormals(unsigned before) { (void)before; }
#endif

/* The tensor that holds element e of the sequence (the last one that starts at or before it). */
static int64_t tensor_of(const td_job *b, int64_t e) {
    int64_t low = 0, high = b->n - 1;
    while (low < high) {
        const int64_t k = (low + high + 1) / 2;
        if (b->start[k] <= e) low = k;
        else high = k - 1;
    }
    return low;
}

/* Cuts inside a tensor are moved up to a multiple of ALIGN elements: both neighbours agree on
 * them. */
static int64_t cut(int64_t e, int64_t size) {
    return e <= 0 ? 0 : TD_MIN(size, (e + ALIGN - 1) / ALIGN * ALIGN);
}

static void task(int64_t t, void *ctx) {
    td_job *b = ctx;
    const unsigned before = flush_denormals(b->flush);
    const int64_t from = t * GRAIN, to = TD_MIN(from + GRAIN, b->start[b->n]);
    for (int64_t k = tensor_of(b, from); k < b->n && b->start[k] < to; k++) {
        const int64_t size = b->start[k + 1] - b->start[k];
        const int64_t first = cut(from - b->start[k], size), last = cut(to - b->start[k], size);
        if (last > first) b->piece(b, k, first, last - first, t);
    }
    restore_denormals(before);
}

static int64_t tasks(const td_job *b) { return (b->start[b->n] + GRAIN - 1) / GRAIN; }

/* ---- the half types: every list's part of a tile is widened, stepped and narrowed ---- */

typedef void (*td_step)(const td_job *b, char **in, char **out, int64_t n);

static void widen(int dtype, const char *x_, int64_t n, float *out) {
    const uint16_t *x = (const uint16_t *)x_;
    if (dtype == TD_F16) for (int64_t j = 0; j < n; j++) out[j] = td_f16_to_f32(x[j]);
    else for (int64_t j = 0; j < n; j++) out[j] = td_bf16_to_f32(x[j]);
}

static void narrow(int dtype, const float *x, int64_t n, char *out_) {
    uint16_t *out = (uint16_t *)out_;
    if (dtype == TD_F16) for (int64_t j = 0; j < n; j++) out[j] = td_f32_to_f16(x[j]);
    else for (int64_t j = 0; j < n; j++) out[j] = td_f32_to_bf16(x[j]);
}

/* Runs step on elements from..from+n-1 of tensor k, in float32 or float64. */
static void apply(const td_job *b, td_step step, int64_t k, int64_t from, int64_t n) {
    char *in[MOST], *out[MOST];
    for (int l = 0; l < b->lists_in; l++) in[l] = b->in[l * b->n + k] + from * b->size;
    for (int l = 0; l < b->lists_out; l++) out[l] = b->out[l * b->n + k] + from * b->size;
    if (b->dtype >= TD_F32) {
        step(b, in, out, n);
        return;
    }
    float wide[MOST][TILE], result[MOST][TILE];
    char *x[MOST], *y[MOST];
    for (int l = 0; l < MOST; l++) x[l] = (char *)wide[l], y[l] = (char *)result[l];
    for (int64_t j = 0; j < n; j += TILE) {
        const int64_t m = TD_MIN(TILE, n - j);
        for (int l = 0; l < b->lists_in; l++) widen(b->dtype, in[l] + 2 * j, m, wide[l]);
        step(b, x, y, m);
        for (int l = 0; l < b->lists_out; l++) narrow(b->dtype, result[l], m, out[l] + 2 * j);
    }
}

/* ---- SGD: lists p, g, buf to p, buf; buf only with momentum ---- */

/* kind: 0 no momentum, 1 momentum, 2 the first step, whose buffer is the gradient. */
#define SGD(name, T)                                                                          \
    TD_INLINE void name##_loop(const td_job *b, char **in, char **out, int64_t n, int kind) { \
        const T lr = (T)b->lr, mu = (T)b->momentum, keep = (T)b->keep, decay = (T)b->decay;   \
        const T sign = (T)b->sign;                                                            \
        const int decays = b->decay != 0, nesterov = b->nesterov;                             \
        const T *p = (const T *)in[0], *g = (const T *)in[1];                                 \
        const T *v = (const T *)in[kind == 1 ? 2 : 0];                                        \
        T *new_p = (T *)out[0], *new_v = (T *)out[kind ? 1 : 0];                              \
        _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) {                                \
            const T x = p[j], pull = decay * x;                                               \
            T d = sign * g[j];                                                                \
            d = decays ? d + pull : d;                                                        \
            if (kind) {                                                                       \
                const T buf = kind == 1 ? mu * v[j] + keep * d : d, ahead = d + mu * buf;     \
                new_v[j] = buf;                                                               \
                d = nesterov ? ahead : buf;                                                   \
            }                                                                                 \
            new_p[j] = x - lr * d;                                                            \
        }                                                                                     \
    }                                                                                         \
    static void name(const td_job *b, char **in, char **out, int64_t n) {                     \
        if (b->lists_out == 1) name##_loop(b, in, out, n, 0);                                 \
        else if (!b->first) name##_loop(b, in, out, n, 1);                                    \
        else name##_loop(b, in, out, n, 2);                                                   \
    }
SGD(sgd_f32, float)
SGD(sgd_f64, double)

static void sgd_piece(td_job *b, int64_t k, int64_t from, int64_t n, int64_t t) {
    (void)t;
    apply(b, b->dtype == TD_F64 ? sgd_f64 : sgd_f32, k, from, n);
}

/* ---- Adam: lists p, g, m, v to p, m, v ---- */

#define ADAM(name, T, SQRT)                                                                        \
    static void name(const td_job *b, char **in, char **out, int64_t n) {                          \
        const T c1 = (T)(1 - b->beta1), b2 = (T)b->beta2, c2 = (T)(1 - b->beta2), eps = (T)b->eps, \
                step = (T)b->step, shrink = (T)b->shrink, decay = (T)b->decay, sign = (T)b->sign;  \
        const int decays = b->decay != 0;                                                          \
        const T *p = (const T *)in[0], *g = (const T *)in[1];                                      \
        const T *m = (const T *)in[2], *v = (const T *)in[3];                                      \
        T *new_p = (T *)out[0], *new_m = (T *)out[1], *new_v = (T *)out[2];                        \
        _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) {                                     \
            const T x = p[j], pull = decay * x;                                                    \
            T d = sign * g[j];                                                                     \
            d = decays ? d + pull : d;                                                             \
            const T a = m[j] + c1 * (d - m[j]), s = b2 * v[j] + c2 * (d * d);                      \
            new_m[j] = a, new_v[j] = s;                                                            \
            new_p[j] = x * shrink - step * (a / (SQRT(s) + eps));                                  \
        }                                                                                          \
    }
ADAM(adam_f32, float, __builtin_sqrtf)
ADAM(adam_f64, double, __builtin_sqrt)

static void adam_piece(td_job *b, int64_t k, int64_t from, int64_t n, int64_t t) {
    (void)t;
    apply(b, b->dtype == TD_F64 ? adam_f64 : adam_f32, k, from, n);
}

/* ---- clipping by the norm of everything ---- */

/* The sum of squares in double: no square of a float32 overflows or vanishes there. */
#define SQUARES(name, T)                                                                          \
    static double name(const T *x, int64_t n) {                                                   \
        typedef double V __attribute__((vector_size(TD_VEC)));                                    \
        typedef T Q __attribute__((vector_size(TD_VEC / 8 * sizeof(T)), aligned(sizeof(T)),       \
                                   may_alias));                                                   \
        enum { L = TD_VEC / 8 };                                                                  \
        V a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};                                                 \
        int64_t j = 0;                                                                            \
        for (; j + 4 * L <= n; j += 4 * L) {                                                      \
            const Q *q = (const Q *)(x + j);                                                      \
            const V x0 = __builtin_convertvector(q[0], V), x1 = __builtin_convertvector(q[1], V), \
                    x2 = __builtin_convertvector(q[2], V), x3 = __builtin_convertvector(q[3], V); \
            a0 += x0 * x0, a1 += x1 * x1, a2 += x2 * x2, a3 += x3 * x3;                           \
        }                                                                                         \
        a0 += a1, a2 += a3, a0 += a2;                                                             \
        double sum = 0;                                                                           \
        for (int k = 0; k < L; k++) sum += a0[k];                                                 \
        for (; j < n; j++) sum += (double)x[j] * x[j];                                            \
        return sum;                                                                               \
    }
SQUARES(squares_f32, float)
SQUARES(squares_f64, double)

static void squares_piece(td_job *b, int64_t k, int64_t from, int64_t n, int64_t t) {
    const char *x = b->in[k] + from * b->size;
    if (b->dtype == TD_F64) b->partial[t] += squares_f64((const double *)x, n);
    else if (b->dtype == TD_F32) b->partial[t] += squares_f32((const float *)x, n);
    else
        for (int64_t j = 0; j < n; j += TILE) {
            float wide[TILE];
            widen(b->dtype, x + 2 * j, TD_MIN(TILE, n - j), wide);
            b->partial[t] += squares_f32(wide, TD_MIN(TILE, n - j));
        }
}

#define SCALE(name, T)                                                            \
    static void name(const td_job *b, char **in, char **out, int64_t n) {         \
        const T scale = (T)b->scale, *x = (const T *)in[0];                       \
        T *y = (T *)out[0];                                                       \
        _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) y[j] = x[j] * scale; \
    }
SCALE(scale_f32, float)
SCALE(scale_f64, double)

static void scale_piece(td_job *b, int64_t k, int64_t from, int64_t n, int64_t t) {
    (void)t;
    apply(b, b->dtype == TD_F64 ? scale_f64 : scale_f32, k, from, n);
}

static void write_float(int dtype, double x, char *y) {
    if (dtype == TD_F64) memcpy(y, &x, 8);
    else if (dtype == TD_F32) memcpy(y, &(float){(float)x}, 4);
    else memcpy(y, &(uint16_t){dtype == TD_F16 ? td_f64_to_f16(x) : td_f64_to_bf16(x)}, 2);
}

/* ---- the kernels. i: dtype, n, whole-number attributes, then the n + 1 starts. ---- */

static td_job job(const td_plan *p, char **io, int attributes, int lists_in, int lists_out) {
    const int dtype = (int)p->i[0];
    return (td_job){.dtype = dtype, .size = td_dtype_size[dtype], .n = p->i[1],
                    .start = p->i + 2 + attributes, .in = io, .out = io + p->n_in,
                    .lists_in = lists_in, .lists_out = lists_out};
}

/* i: ..., nesterov, maximize, first; f: dampening, weight decay. The last inputs are lr and the
 * momentum, doubles. */
static int KERNEL(sgd_step)(const td_plan *p, char **io) {
    const int with_buf = p->n_in == 3 * p->i[1] + 2;
    td_job b = job(p, io, 3, 2 + with_buf, 1 + with_buf);
    b.piece = sgd_piece, b.flush = with_buf && b.dtype >= TD_F32;
    b.nesterov = (int)p->i[2], b.sign = p->i[3] ? -1 : 1, b.first = (int)p->i[4];
    b.momentum = *(const double *)io[p->n_in - 1], b.lr = *(const double *)io[p->n_in - 2];
    b.keep = 1 - p->f[0], b.decay = p->f[1];
    td_parallel(tasks(&b), task, &b);
    return TD_OK;
}

/* i: ..., decoupled, maximize; f: beta2, eps, weight decay. The last inputs are lr, the step and
 * beta1, doubles. */
static int KERNEL(adam_step)(const td_plan *p, char **io) {
    td_job b = job(p, io, 2, 4, 3);
    const double lr = *(const double *)io[p->n_in - 3], t = *(const double *)io[p->n_in - 2];
    b.beta1 = *(const double *)io[p->n_in - 1], b.beta2 = p->f[0];
    const double root = sqrt(1 - pow(b.beta2, t));
    b.piece = adam_piece, b.flush = p->f[1] > 1e-30 && b.dtype >= TD_F32;
    b.step = lr / (1 - pow(b.beta1, t)) * root, b.eps = p->f[1] * root;
    b.sign = p->i[3] ? -1 : 1;
    b.shrink = p->i[2] ? 1 - lr * p->f[2] : 1, b.decay = p->i[2] ? 0 : p->f[2];
    td_parallel(tasks(&b), task, &b);
    return TD_OK;
}

/* The last input is the largest norm, a double; the last output the norm found. */
static int KERNEL(clip_by_global_norm)(const td_plan *p, char **io) {
    td_job b = job(p, io, 0, 1, 1);
    const int64_t count = tasks(&b);
    double total = 0;
    if (!(b.partial = td_scratch(sizeof(double) * (size_t)(count + 1))))
        return td_fail(TD_ERR_MEMORY, "clip_by_global_norm: no memory for partial sums");
    for (int64_t t = 0; t < count; t++) b.partial[t] = 0;
    b.piece = squares_piece;
    td_parallel(count, task, &b);
    for (int64_t t = 0; t < count; t++) total += b.partial[t];
    td_scratch_free(b.partial);
    const double norm = sqrt(total), scale = *(const double *)io[p->n_in - 1] / (norm + 1e-6);
    b.scale = scale >= 1 ? 1 : scale; /* a NaN stays */
    b.piece = scale_piece;
    int same = b.scale == 1;
    for (int64_t k = 0; k < b.n; k++) same &= b.in[k] == b.out[k];
    if (!same) td_parallel(count, task, &b);
    write_float(b.dtype, norm, b.out[b.n]);
    return TD_OK;
}

const td_entry KERNEL(optim_table)[] = {
    {"sgd_step", KERNEL(sgd_step)}, {"adam_step", KERNEL(adam_step)},
    {"clip_by_global_norm", KERNEL(clip_by_global_norm)}, {0, 0}};
