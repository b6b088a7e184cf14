/* Winograd's transforms in vectors whose lanes are channels. The polynomials are evaluated at 0,
 * +-1/sqrt(2), +-sqrt(2) and infinity, which lose half as many bits as the usual small integers.
 * A tile of 6 x 6 numbers is `pitch` elements from one of its 36 values to the next. */
#ifndef TREADLE_CONV_WINOGRAD_TRANSFORM_H
#define TREADLE_CONV_WINOGRAD_TRANSFORM_H
#include "conv_vec.h"

#define POINT_A 0.70710678f /* the points +-a and +-b; a * a = 1/2, b * b = 2 */
#define POINT_B 1.41421356f
#define NEAR (-2.0f / 3) /* weights in the interpolation, of values at +-a and +-b */
#define FAR (1.0f / 6)

/* ---- input: 6 -> 6 ---- */

TD_INLINE void put_input_row(const vec d[6], float *to, int64_t pitch)
{
    const vec a = d[4] - 2.0f * d[2], b = POINT_A * (d[3] - 2.0f * d[1]);
    const vec e = d[4] - 0.5f * d[2], f = POINT_B * (d[3] - 0.5f * d[1]);
    vec_store(to, d[0] - 2.5f * d[2] + d[4]);
    vec_store(to + pitch, a + b);
    vec_store(to + 2 * pitch, a - b);
    vec_store(to + 3 * pitch, e + f);
    vec_store(to + 4 * pitch, e - f);
    vec_store(to + 5 * pitch, d[1] - 2.5f * d[3] + d[5]);
}

#define AT_(i, j) vec_load(x + (i) * row + (j) * LANES)

/* The values of +-point; `other` is the square of the other point. */
TD_INLINE void put_input_pair(const float *x, int64_t row, const float point, const float other,
                              float *to, int64_t pitch)
{
    vec even[6], odd[6];
    EACH(j, 6) {
        const vec s = AT_(4, j) - other * AT_(2, j), d = point * (AT_(3, j) - other * AT_(1, j));
        even[j] = s + d;
        odd[j] = s - d;
    }
    put_input_row(even, to, pitch);
    put_input_row(odd, to + 6 * pitch, pitch);
}

/* x: 6 rows of 6 vectors, rows `row` elements apart. */
TD_INLINE void transform_input_tile(const float *x, int64_t row, float *to, int64_t pitch)
{
    vec d[6];
    EACH(j, 6) d[j] = AT_(0, j) - 2.5f * AT_(2, j) + AT_(4, j);
    put_input_row(d, to, pitch);
    put_input_pair(x, row, POINT_A, 2.0f, to + 6 * pitch, pitch);
    put_input_pair(x, row, POINT_B, 0.5f, to + 18 * pitch, pitch);
    EACH(j, 6) d[j] = AT_(1, j) - 2.5f * AT_(3, j) + AT_(5, j);
    put_input_row(d, to + 30 * pitch, pitch);
}
#undef AT_

/* ---- gradients of outputs: 4 -> 6 ---- */

TD_INLINE void gradient_values(const vec g[4], vec to[6])
{
    const vec s = NEAR * (g[0] + 0.5f * g[2]), d = NEAR * POINT_A * (g[1] + 0.5f * g[3]);
    const vec t = FAR * (g[0] + 2.0f * g[2]), e = FAR * POINT_B * (g[1] + 2.0f * g[3]);
    to[0] = g[0];
    to[1] = s + d;
    to[2] = s - d;
    to[3] = t + e;
    to[4] = t - e;
    to[5] = g[3];
}

/* g: 4 rows of 4 vectors, rows `row` elements apart. */
TD_INLINE void transform_gradient_tile(const float *g, int64_t row, float *to, int64_t pitch)
{
    vec h[4][6];
    EACH(i, 4) {
        vec d[4];
        EACH(j, 4) d[j] = vec_load(g + i * row + j * LANES);
        gradient_values(d, h[i]);
    }
    EACH(j, 6) {
        const vec d[4] = {h[0][j], h[1][j], h[2][j], h[3][j]};
        vec v[6];
        gradient_values(d, v);
        EACH(i, 6) vec_store(to + (6 * i + j) * pitch, v[i]);
    }
}

/* ---- weights: 3 -> 6 ---- */

TD_INLINE void weight_values(vec a, vec b, vec c, vec to[6])
{
    const vec s = NEAR * (a + 0.5f * c), d = NEAR * POINT_A * b;
    const vec t = FAR * (a + 2.0f * c), e = FAR * POINT_B * b;
    to[0] = a;
    to[1] = s + d;
    to[2] = s - d;
    to[3] = t + e;
    to[4] = t - e;
    to[5] = c;
}

/* w: 9 vectors; weight 3 * i + j is w[tap[3 * i + j]]. */
TD_INLINE void transform_weight_tile(const float *w, const int64_t tap[9], float *to, int64_t pitch)
{
    vec h[3][6];
    EACH(i, 3)
        weight_values(vec_load(w + tap[3 * i] * LANES), vec_load(w + tap[3 * i + 1] * LANES),
                      vec_load(w + tap[3 * i + 2] * LANES), h[i]);
    EACH(j, 6) {
        vec v[6];
        weight_values(h[0][j], h[1][j], h[2][j], v);
        EACH(i, 6) vec_store(to + (6 * i + j) * pitch, v[i]);
    }
}

/* ---- products: 6 -> 4 ---- */

TD_INLINE void output_values(const vec m[6], vec to[4])
{
    const vec p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    to[0] = m[0] + p + r;
    to[1] = POINT_A * q + POINT_B * s;
    to[2] = 0.5f * p + 2.0f * r;
    to[3] = (0.5f * POINT_A) * q + (2.0f * POINT_B * s + m[5]);
}

/* y: 4 rows of 4 pixels. */
TD_INLINE void transform_output_tile(const float *m, int64_t pitch, vec scale, vec bias,
                                     vec y[4][4])
{
    vec h[4][6];
    EACH(j, 6) {
        vec column[6], v[4];
        EACH(i, 6) column[i] = vec_load(m + (6 * i + j) * pitch);
        output_values(column, v);
        EACH(i, 4) h[i][j] = v[i];
    }
    EACH(i, 4) {
        output_values(h[i], y[i]);
        EACH(j, 4) y[i][j] = y[i][j] * scale + bias;
    }
}

/* ---- products: 6 -> 3 ---- */

TD_INLINE void weight_sums(const vec m[6], vec to[3])
{
    const vec p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    to[0] = m[0] + p + r;
    to[1] = POINT_A * q + POINT_B * s;
    to[2] = 0.5f * p + (2.0f * r + m[5]);
}

/* The gradient of the nine weights. */
TD_INLINE void transform_weight_sums(const float *m, int64_t pitch, vec w[9])
{
    vec h[3][6];
    EACH(j, 6) {
        vec column[6], v[3];
        EACH(i, 6) column[i] = vec_load(m + (6 * i + j) * pitch);
        weight_sums(column, v);
        EACH(i, 3) h[i][j] = v[i];
    }
    EACH(i, 3) weight_sums(h[i], w + 3 * i);
}
#endif
