/* Pooling over planes (images x channels) of `real`; half-width floats are widened plane by plane.
 * The including file defines real, REAL_SIZE and NATIVE, the dtype of real. A plane is padded into
 * rows in which the inputs of neighbouring windows are neighbours (conv_source.h); windows of 2 x 2
 * side by side are taken from the plane itself. */
#ifndef TREADLE_POOLING_H
#define TREADLE_POOLING_H
#include "conv_source.h"
#include "scalar.h"
#include <math.h>

#define TASK_ELEMENTS 16384 /* inputs of one task, aimed at */
#define CHECKED_INDICES 65536 /* indices of one task that only looks at them, aimed at */

/* Integers of the forward kernels; the gradient of max_pool2d has only the first five. */
typedef struct {
    int64_t planes;
    int64_t in[2], out[2];
    int64_t kernel[2], stride[2], padding[2], dilation[2];
    int count_padding; /* of avg_pool2d: whether padding counts as elements */
} pool_shape;

typedef struct pool_plan pool_plan;

/* Computes one plane and returns TD_OK or an error; scratch: a plane of input, one of output, and
 * `extra` elements. */
typedef int plane_job(const pool_plan *p, int64_t plane, real *scratch);

struct pool_plan {
    pool_shape s;
    padded_layout layout;
    int side_by_side; /* windows are 2 x 2, do not overlap and need no padding */
    plane_job *job;
    int64_t per_task; /* planes */
    int64_t extra;    /* elements of scratch besides a plane of input and one of output */
    const char *in;   /* x; of gradients: g */
    char *out;
    const int64_t *indices_in;
    int64_t *indices;
    int64_t *distance; /* max: from the corner of a window in its plane, per tap */
    real *col_counts;  /* avg: elements in a window of each output column */
    int format;        /* of the planes in memory: enum td_dtype */
    int status;
};

/* Planes of `real` in memory are used in place; half-width ones are converted to and from scratch.
 */
static const real *plane_in(const pool_plan *p, int64_t plane, int64_t n, real *scratch)
{
    if (p->format == NATIVE) return (const real *)p->in + plane * n;
#if REAL_SIZE == 4
    const uint16_t *from = (const uint16_t *)p->in + plane * n;
    if (p->format == TD_F16)
        for (int64_t i = 0; i < n; i++) scratch[i] = td_f16_to_f32(from[i]);
    else
        for (int64_t i = 0; i < n; i++) scratch[i] = td_bf16_to_f32(from[i]);
#endif
    return scratch;
}

static real *plane_out(const pool_plan *p, int64_t plane, int64_t n, real *scratch)
{
    return p->format == NATIVE && p->out ? (real *)p->out + plane * n : scratch;
}

static void finish_plane(const pool_plan *p, int64_t plane, int64_t n, const real *from)
{
#if REAL_SIZE == 4
    if (!p->out) return;
    uint16_t *to = (uint16_t *)p->out + plane * n;
    if (p->format == TD_F16)
        for (int64_t i = 0; i < n; i++) to[i] = td_f32_to_f16(from[i]);
    if (p->format == TD_BF16)
        for (int64_t i = 0; i < n; i++) to[i] = td_f32_to_bf16(from[i]);
#else
    (void)p, (void)plane, (void)n, (void)from;
#endif
}

static void pool_axes(const pool_shape *s, conv_axis *rows, conv_axis *cols, int64_t *tables)
{
    conv_shape c = {.batch = s->planes};
    for (int a = 0; a < 2; a++) {
        c.in[a] = s->in[a];
        c.out[a] = s->out[a];
        c.kernel[a] = s->kernel[a];
        c.stride[a] = s->stride[a];
        c.padding[a] = s->padding[a];
        c.dilation[a] = s->dilation[a];
    }
    rows->delta = tables;
    rows->index = rows->delta + s->kernel[0];
    cols->delta = rows->index + s->kernel[0];
    cols->index = cols->delta + s->kernel[1];
    forward_axis(rows, &c, 0);
    forward_axis(cols, &c, 1);
}

static int are_side_by_side(const pool_shape *s)
{
    for (int a = 0; a < 2; a++)
        if (s->kernel[a] != 2 || s->stride[a] != 2 || s->padding[a] || s->dilation[a] != 1
            || 2 * s->out[a] > s->in[a])
            return 0;
    return 1;
}

/* ---- maximum ---- */

/* The first NaN wins over everything, otherwise the first of equals stays. */
TD_INLINE void take_larger(vec *best, lane_index *at, vec v, int64_t distance)
{
    lane_index better = ~(lane_index)(v <= *best) & (lane_index)(*best == *best);
    *best = vec_select(better, v, *best);
    *at = (better & ((lane_index){0} + (lane_type)distance)) | (~better & *at);
}

/* index[l] = corner + l * step + at[l] for l < n */
TD_INLINE void put_indices(int64_t *index, lane_index at, int64_t n, int64_t corner, int64_t step)
{
#if TD_VEC == 64 && REAL_SIZE == 4
    const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), steps = _mm512_set1_epi64(step);
    const __m512i start
        = _mm512_add_epi64(_mm512_mullo_epi64(lane, steps), _mm512_set1_epi64(corner));
    const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256((__m512i)at));
    const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64((__m512i)at, 1));
    const unsigned mask = (1u << n) - 1;
    _mm512_mask_storeu_epi64(index, (__mmask8)mask, _mm512_add_epi64(start, low));
    _mm512_mask_storeu_epi64(
        index + 8, (__mmask8)(mask >> 8),
        _mm512_add_epi64(_mm512_add_epi64(start, _mm512_slli_epi64(steps, 3)), high));
#else
    for (int64_t l = 0; l < n; l++) index[l] = corner + l * step + at[l];
#endif
}

/* The reverse with step 2, for indices inside a plane of less than 2^31 elements where lanes have 32
 * bits: their lower halves say all. The remaining lanes become 0. */
TD_INLINE lane_index take_distances(const int64_t *index, int64_t n, int64_t corner)
{
    lane_index lane, at = {0};
    for (int l = 0; l < LANES; l++) lane[l] = l;
#if REAL_SIZE == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const real *halves = (const real *)index;
    const int64_t left = TD_MIN(2 * n, LANES);
    const vec a = vec_load_n(halves, left), b = vec_load_n(halves + left, 2 * n - left);
    at = (lane_index)vec_even(a, b);
#else
    for (int64_t l = 0; l < n; l++) at[l] = (lane_type)index[l];
#endif
    return (lane < (lane_type)n) & (at - (lane_type)corner - 2 * lane);
}

static void max_side_by_side(const pool_plan *p, const real *x, real *y, int64_t *index)
{
    const int64_t width = p->s.in[1], out = p->s.out[1];
    for (int64_t j = 0; j < p->s.out[0]; j++) {
        const real *upper = x + 2 * j * width, *lower = upper + width;
        for (int64_t i = 0; i < out; i += LANES) {
            const int64_t n = TD_MIN(out - i, LANES);
            const int64_t left = TD_MIN(2 * n, LANES), right = 2 * n - left;
            vec a = vec_load_n(upper + 2 * i, left), b = vec_load_n(upper + 2 * i + left, right);
            vec c = vec_load_n(lower + 2 * i, left), d = vec_load_n(lower + 2 * i + left, right);
            vec best = vec_even(a, b);
            lane_index at = {0};
            take_larger(&best, &at, vec_odd(a, b), 1);
            take_larger(&best, &at, vec_even(c, d), width);
            take_larger(&best, &at, vec_odd(c, d), width + 1);
            vec_store_n(y + j * out + i, best, n);
            if (index) put_indices(index + j * out + i, at, n, 2 * (j * width + i), 2);
        }
    }
}

/* The distance of the first element of each window that is inside the plane, which is the result
 * where all are -inf. */
static lane_index first_inside(const pool_shape *s, int64_t row, int64_t col)
{
    lane_type distance[LANES];
    const int64_t down
        = row < 0 ? ceil_div(-row, s->dilation[0]) * s->dilation[0] * s->in[1] : 0;
    for (int l = 0; l < LANES; l++, col += s->stride[1])
        distance[l]
            = (lane_type)(down
                          + (col < 0 ? ceil_div(-col, s->dilation[1]) * s->dilation[1] : 0));
    lane_index at;
    memcpy(&at, distance, sizeof at);
    return at;
}

static void max_windows(const pool_plan *p, const real *padded, real *y, int64_t *index)
{
    const pool_shape *s = &p->s;
    const padded_layout *l = &p->layout;
    const int64_t taps = s->kernel[0] * s->kernel[1], out = s->out[1];
    for (int64_t j = 0; j < s->out[0]; j++, padded += l->rows.step * l->pitch) {
        const int64_t row = j * s->stride[0] - s->padding[0];
        for (int64_t i = 0; i < out; i += LANES) {
            const int64_t col = i * s->stride[1] - s->padding[1], n = TD_MIN(out - i, LANES);
            vec best = vec_all((real)-INFINITY);
            lane_index at = row < 0 || col < 0 ? first_inside(s, row, col) : (lane_index){0};
            for (int64_t t = 0; t < taps; t++)
                take_larger(&best, &at, vec_load(padded + l->offset[t] + i), p->distance[t]);
            vec_store_n(y + j * out + i, best, n);
            if (index) put_indices(index + j * out + i, at, n, row * s->in[1] + col, s->stride[1]);
        }
    }
}

static int max_plane(const pool_plan *p, int64_t plane, real *scratch)
{
    const pool_shape *s = &p->s;
    const int64_t in = s->in[0] * s->in[1], out = s->out[0] * s->out[1];
    const real *x = plane_in(p, plane, in, scratch);
    real *y = plane_out(p, plane, out, scratch + in), *padded = scratch + in + out;
    int64_t *index = p->indices ? p->indices + plane * out : NULL;
    if (p->side_by_side) max_side_by_side(p, x, y, index);
    else {
        pad_plane(&p->layout, x, 0, s->out[0], padded);
        max_windows(p, padded, y, index);
    }
    finish_plane(p, plane, out, y);
    return TD_OK;
}

/* Writes the gradient of n <= LANES windows of 2 x 2. Returns lanes that are not zero where a maximum
 * lay outside its window. */
TD_INLINE lane_index spread_windows(const real *g, const int64_t *index, int64_t corner, int64_t n,
                                    int64_t width, real *upper)
{
    real *lower = upper + width;
    const int64_t left = TD_MIN(2 * n, LANES), right = 2 * n - left;
    const lane_index at = take_distances(index, n, corner), below = at - (lane_type)width;
    lane_index hit[4] = {at == 0, at == 1, below == 0, below == 1};
    vec v = vec_load_n(g, n), part[4];
    for (int k = 0; k < 4; k++) part[k] = (vec)(hit[k] & (lane_index)v);
    vec_store_n(upper, vec_zip_low(part[0], part[1]), left);
    vec_store_n(lower, vec_zip_low(part[2], part[3]), left);
    vec_store_n(upper + left, vec_zip_high(part[0], part[1]), right);
    vec_store_n(lower + left, vec_zip_high(part[2], part[3]), right);
    return ~(hit[0] | hit[1] | hit[2] | hit[3]);
}

/* The same for a row of them. The last whole vector may overlap the one before: parts of vectors are
 * slow without AVX-512. */
TD_INLINE lane_index spread_row(const real *g, const int64_t *index, int64_t corner, int64_t out,
                                int64_t width, real *upper)
{
    lane_index strange = {0};
    if (out < LANES) return spread_windows(g, index, corner, out, width, upper);
    for (int64_t i = 0; i < out; i += LANES) {
        const int64_t at = TD_MIN(i, out - LANES);
        strange |= spread_windows(g + at, index + at, corner + 2 * at, LANES, width, upper + 2 * at);
    }
    return strange;
}

/* Writes the gradient of a plane if its windows are 2 x 2 side by side, where nothing needs to be
 * added up; returns whether they are. */
static int spread_side_by_side(const pool_shape *s, const real *g, const int64_t *index, real *gx)
{
    const int64_t width = s->in[1], out = s->out[1];
    lane_index strange = {0};
    for (int64_t j = 0; j < s->out[0]; j++) {
        real *upper = gx + 2 * j * width;
        strange |= spread_row(g + j * out, index + j * out, 2 * j * width, out, width, upper);
        if (width > 2 * out) upper[width - 1] = upper[2 * width - 1] = 0;
    }
    if (s->in[0] > 2 * s->out[0]) memset(gx + 2 * s->out[0] * width, 0, (size_t)width * sizeof *gx);
    lane_type any = 0;
    for (int l = 0; l < LANES; l++) any |= strange[l];
    return !any;
}

/* Looks at one task's share of the indices: the top bit of either term says that one is outside of
 * 0 .. last, on every instruction set without a 64-bit comparison. */
static void check_indices(int64_t task, void *ctx)
{
    pool_plan *p = ctx;
    const pool_shape *s = &p->s;
    const int64_t out = s->out[0] * s->out[1], from = task * p->per_task;
    const uint64_t last = (uint64_t)(s->in[0] * s->in[1] - 1), *index = (const uint64_t *)p->indices_in;
    const int64_t end = TD_MIN(from + p->per_task, s->planes) * out;
    uint64_t outside = 0;
    for (int64_t i = from * out; i < end; i++) outside |= index[i] | (last - index[i]);
    if (outside >> 63) __atomic_store_n(&p->status, TD_ERR_INDEX, __ATOMIC_RELAXED);
}

static int max_grad_plane(const pool_plan *p, int64_t plane, real *scratch)
{
    const pool_shape *s = &p->s;
    const int64_t in = s->in[0] * s->in[1], out = s->out[0] * s->out[1];
    const real *g = plane_in(p, plane, out, scratch + in);
    const int64_t *index = p->indices_in + plane * out;
    real *gx = plane_out(p, plane, in, scratch);
    if (!p->side_by_side || !spread_side_by_side(s, g, index, gx)) {
        memset(gx, 0, (size_t)in * sizeof *gx);
        for (int64_t i = 0; i < out; i++) gx[index[i]] += g[i];
    }
    finish_plane(p, plane, in, gx);
    return TD_OK;
}

/* ---- average ---- */

/* How many elements a window counts along one axis. */
static int64_t counted(const pool_shape *s, int a, int64_t j)
{
    const int64_t start = j * s->stride[a] - s->padding[a];
    const int64_t end = TD_MIN(start + s->kernel[a], s->in[a] + s->padding[a]);
    if (s->count_padding) return end - start;
    return TD_MIN(end, s->in[a]) - TD_MAX(start, 0);
}

static void average_side_by_side(const pool_plan *p, const real *x, real *y)
{
    const int64_t width = p->s.in[1], out = p->s.out[1];
    for (int64_t j = 0; j < p->s.out[0]; j++) {
        const real *upper = x + 2 * j * width, *lower = upper + width;
        for (int64_t i = 0; i < out; i += LANES) {
            const int64_t n = TD_MIN(out - i, LANES);
            const int64_t left = TD_MIN(2 * n, LANES), right = 2 * n - left;
            vec a = vec_load_n(upper + 2 * i, left) + vec_load_n(lower + 2 * i, left);
            const real *next = upper + 2 * i + left;
            vec b = vec_load_n(next, right) + vec_load_n(next + width, right);
            vec_store_n(y + j * out + i, (vec_even(a, b) + vec_odd(a, b)) * (real)0.25, n);
        }
    }
}

static void average_windows(const pool_plan *p, const real *padded, real *y)
{
    const pool_shape *s = &p->s;
    const padded_layout *l = &p->layout;
    const int64_t taps = s->kernel[0] * s->kernel[1], width = s->out[1];
    for (int64_t j = 0; j < s->out[0]; j++, padded += l->rows.step * l->pitch) {
        const real rows = (real)counted(s, 0, j);
        for (int64_t i = 0; i < width; i += LANES) {
            vec sum = {0};
            for (int64_t t = 0; t < taps; t++) sum += vec_load(padded + l->offset[t] + i);
            vec_store_n(y + j * width + i, sum / (vec_load(p->col_counts + i) * rows),
                        TD_MIN(width - i, LANES));
        }
    }
}

static int average_plane(const pool_plan *p, int64_t plane, real *scratch)
{
    const pool_shape *s = &p->s;
    const int64_t in = s->in[0] * s->in[1], out = s->out[0] * s->out[1];
    const real *x = plane_in(p, plane, in, scratch);
    real *y = plane_out(p, plane, out, scratch + in), *padded = scratch + in + out;
    if (p->side_by_side) average_side_by_side(p, x, y);
    else {
        pad_plane(&p->layout, x, 0, s->out[0], padded);
        average_windows(p, padded, y);
    }
    finish_plane(p, plane, out, y);
    return TD_OK;
}

/* Adds `share` of each window of one row to one row of the input, for the column tap k. */
static void spread_tap(const pool_shape *s, const real *share, int64_t k, real *row)
{
    const int64_t step = s->stride[1], start = k - s->padding[1];
    const int64_t low = start < 0 ? ceil_div(-start, step) : 0;
    const int64_t end = s->in[1] > start ? ceil_div(s->in[1] - start, step) : 0;
    const int64_t high = TD_MIN(s->out[1], end);
    row += start;
    if (step == 1) for (int64_t i = low; i < high; i++) row[i] += share[i];
    else for (int64_t i = low; i < high; i++) row[i * step] += share[i];
}

/* Windows of 2 x 2 side by side: a quarter to each element. */
static void quarter_plane(const pool_shape *s, const real *g, real *gx)
{
    const int64_t width = s->in[1], out = s->out[1];
    if (s->in[0] > 2 * s->out[0] || width > 2 * out)
        memset(gx, 0, (size_t)(s->in[0] * width) * sizeof *gx);
    for (int64_t j = 0; j < s->out[0]; j++, g += out, gx += 2 * width) {
        for (int64_t i = 0; i < out; i += LANES) {
            const int64_t n = TD_MIN(out - i, LANES);
            const int64_t left = TD_MIN(2 * n, LANES), right = 2 * n - left;
            const vec v = vec_load_n(g + i, n) * (real)0.25;
            const vec low = vec_zip_low(v, v), high = vec_zip_high(v, v);
            vec_store_n(gx + 2 * i, low, left);
            vec_store_n(gx + width + 2 * i, low, left);
            if (!right) continue;
            vec_store_n(gx + 2 * i + left, high, right);
            vec_store_n(gx + width + 2 * i + left, high, right);
        }
    }
}

static void spread_plane(const pool_plan *p, const real *g, real *gx, real *share)
{
    const pool_shape *s = &p->s;
    const int64_t width = s->out[1];
    memset(gx, 0, (size_t)(s->in[0] * s->in[1]) * sizeof *gx);
    for (int64_t j = 0; j < s->out[0]; j++) {
        const real rows = (real)counted(s, 0, j);
        const int64_t start = j * s->stride[0] - s->padding[0];
        for (int64_t i = 0; i < width; i += LANES)
            vec_store(share + i, vec_load_n(g + j * width + i, TD_MIN(width - i, LANES))
                                     / (vec_load(p->col_counts + i) * rows));
        for (int64_t r = TD_MAX(start, 0); r < TD_MIN(start + s->kernel[0], s->in[0]); r++)
            for (int64_t k = 0; k < s->kernel[1]; k++) spread_tap(s, share, k, gx + r * s->in[1]);
    }
}

static int average_grad_plane(const pool_plan *p, int64_t plane, real *scratch)
{
    const pool_shape *s = &p->s;
    const int64_t in = s->in[0] * s->in[1], out = s->out[0] * s->out[1];
    const real *g = plane_in(p, plane, out, scratch + in);
    real *gx = plane_out(p, plane, in, scratch);
    if (p->side_by_side) quarter_plane(s, g, gx);
    else spread_plane(p, g, gx, scratch + in + out);
    finish_plane(p, plane, in, gx);
    return TD_OK;
}

/* ---- kernels ---- */

static void run_planes(int64_t task, void *ctx)
{
    pool_plan *p = ctx;
    const pool_shape *s = &p->s;
    const int64_t planes = s->in[0] * s->in[1] + s->out[0] * s->out[1];
    const int64_t end = TD_MIN((task + 1) * p->per_task, s->planes);
    real *scratch = td_scratch((size_t)(planes + p->extra) * sizeof(real));
    int status = scratch ? TD_OK : TD_ERR_MEMORY;
    for (int64_t q = task * p->per_task; q < end && !status; q++) status = p->job(p, q, scratch);
    td_scratch_free(scratch);
    if (status) __atomic_store_n(&p->status, status, __ATOMIC_RELAXED);
}

static int run_pool(pool_plan *p)
{
    const pool_shape *s = &p->s;
    p->per_task = TD_MAX(1, TASK_ELEMENTS / TD_MAX(1, s->in[0] * s->in[1]));
    td_parallel(ceil_div(s->planes, p->per_task), run_planes, p);
    return p->status;
}

/* Integers: planes, then height and width of input, output, kernel, stride, padding and dilation,
 * then count_padding. */
static pool_shape pool_shape_of(const td_plan *p)
{
    const int64_t *i = p->i;
    pool_shape s = {.planes = i[0], .in = {i[1], i[2]}, .out = {i[3], i[4]}};
    if (p->n_i <= 5) return s;
    for (int a = 0; a < 2; a++) {
        s.kernel[a] = i[5 + a];
        s.stride[a] = i[7 + a];
        s.padding[a] = i[9 + a];
        s.dilation[a] = i[11 + a];
    }
    s.count_padding = (int)i[13];
    return s;
}

/* Runs a job that needs the padded layout, tap distances and column counts. */
static int run_windows(const td_plan *plan, char **io, enum td_dtype format, plane_job *job,
                       real padding, char *indices)
{
    pool_plan p = {.s = pool_shape_of(plan), .job = job, .in = io[0], .out = io[1]};
    p.format = (int)format;
    p.indices = (int64_t *)indices;
    if (p.indices && plan->n_out == 1) p.out = NULL; /* only they are asked for */
    const pool_shape *s = &p.s;
    const int64_t taps = s->kernel[0] * s->kernel[1];
    const int64_t counts = ceil_div(s->out[1], LANES) * LANES;
    if (s->planes == 0) return TD_OK;
    int64_t least = 1;
    for (int a = 0; a < 2; a++) {
        least = TD_MIN(least, TD_MIN(s->in[a], s->out[a]));
        least = TD_MIN(least, TD_MIN(s->kernel[a], TD_MIN(s->stride[a], s->dilation[a])));
    }
    if (least < 1) return td_fail(TD_ERR_VALUE, "pooling: every size must be positive");
    int64_t *axes = td_scratch((size_t)(2 * (s->kernel[0] + s->kernel[1])) * sizeof(int64_t));
    conv_axis rows, cols;
    if (!axes) return TD_ERR_MEMORY;
    pool_axes(s, &rows, &cols, axes);
    const int64_t numbers = taps + layout_numbers(&rows, &cols) + counts;
    int64_t *tables = td_scratch((size_t)numbers * sizeof(int64_t));
    p.status = tables ? TD_OK : TD_ERR_MEMORY;
    if (tables) {
        p.distance = tables + counts;
        p.col_counts = (real *)tables;
        lay_out(&p.layout, &rows, &cols, LANES, p.distance + taps);
        p.layout.padding = padding;
        for (int64_t t = 0; t < taps; t++)
            p.distance[t] = rows.delta[t / s->kernel[1]] * s->in[1] + cols.delta[t % s->kernel[1]];
        for (int64_t i = 0; i < counts; i++)
            p.col_counts[i] = i < s->out[1] ? (real)counted(s, 1, i) : 1;
        p.side_by_side = are_side_by_side(s);
        p.extra = TD_MAX(padded_plane(&p.layout, s->out[0]), counts) + LANES;
        p.status = run_pool(&p);
    }
    td_scratch_free(tables);
    td_scratch_free(axes);
    return p.status;
}

static int run_max_grad(const td_plan *plan, char **io, enum td_dtype format)
{
    pool_plan p = {.s = pool_shape_of(plan), .job = max_grad_plane, .in = io[0], .out = io[2]};
    const int64_t *in = p.s.in, *out = p.s.out;
    p.format = (int)format;
    p.indices_in = (const int64_t *)io[1];
    p.side_by_side = in[0] / 2 == out[0] && in[1] / 2 == out[1] && in[0] * in[1] <= INT32_MAX;
    p.per_task = TD_MAX(1, CHECKED_INDICES / TD_MAX(1, out[0] * out[1]));
    td_parallel(ceil_div(p.s.planes, p.per_task), check_indices, &p);
    if (p.status)
        return td_fail(TD_ERR_INDEX, "max_pool2d_grad: an index lies outside its plane");
    return run_pool(&p);
}

#define POOL_KERNEL(name, type, call)                                                              \
    static int name##_##type(const td_plan *p, char **io) { return call; }
#define POOL_KERNELS(type, format)                                                                 \
    POOL_KERNEL(max_pool2d, type,                                                                  \
                run_windows(p, io, format, max_plane, -INFINITY, p->n_out > 1 ? io[2] : NULL))     \
    POOL_KERNEL(max_pool2d_indices, type, run_windows(p, io, format, max_plane, -INFINITY, io[1])) \
    POOL_KERNEL(max_pool2d_grad, type, run_max_grad(p, io, format))                                \
    POOL_KERNEL(avg_pool2d, type, run_windows(p, io, format, average_plane, 0, NULL))              \
    POOL_KERNEL(avg_pool2d_grad, type, run_windows(p, io, format, average_grad_plane, 0, NULL))
#define POOL_ENTRY(name, type) {#name "_" #type, name##_##type}
#define POOL_ENTRIES(type)                                                                         \
    POOL_ENTRY(max_pool2d, type), POOL_ENTRY(max_pool2d_indices, type),                            \
        POOL_ENTRY(max_pool2d_grad, type), POOL_ENTRY(avg_pool2d, type),                           \
        POOL_ENTRY(avg_pool2d_grad, type)
#endif
