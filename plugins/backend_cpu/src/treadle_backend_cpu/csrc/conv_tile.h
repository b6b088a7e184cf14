/* The innermost loops of a convolution. Both tiles compute, over channels c and taps,
 *     sum[i][j] += x[c * plane + tap.at + ...] * w[(c * kernel + tap.weight) * ...]
 * from packed weights that are read from start to end. The lanes of a vector are
 *   wide tile   output channels: weights are vectors, inputs are broadcast to all lanes;
 *   thin tile   pixels: inputs are vectors, weights are broadcast. For few output channels. */
#ifndef TREADLE_CONV_TILE_H
#define TREADLE_CONV_TILE_H
#include "conv_vec.h"

/* A tap reads its input `at` elements from the start (wide tiles: 4 * elements + edge) and
 * multiplies by one of the kernel's weights. */
typedef struct {
    int64_t at, weight;
} tap;

/* Which pixel of a wide tile a tap leaves out because its input is padding. (One at either end is
 * what 3 x 3 needs.) */
enum edge { EDGE_NONE, EDGE_FIRST, EDGE_LAST };

typedef struct {
    int64_t channels, plane; /* input channels to sum over and their distance */
    int64_t kernel;          /* weights of a channel */
    const tap *first, *end;  /* the taps to sum over */
} tile_sum;

/* ---- wide tiles ---- */

#if TD_VEC == 64
#define PIXELS 14 /* 14 x 2 sums, 2 weights and a broadcast fill 31 of 32 registers */
#define PIXEL_CASES(F, v)                                                                          \
    F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v) F(7, v)                                        \
    F(8, v) F(9, v) F(10, v) F(11, v) F(12, v) F(13, v) F(14, v)
#else
#define PIXELS 6 /* 6 x 2 sums, 2 weights and a broadcast: 15 of 16 */
#define PIXEL_CASES(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v)
#endif
#define WIDE (2 * LANES) /* output channels of a wide tile */
#define FEW_PIXELS 4     /* a wide tile of fewer pixels waits for its own sums */

/* sums: pixels x (vectors * LANES), read first unless `fresh`. */
typedef void (*wide_tile)(const tile_sum *s, const real *x, const real *w, real *sums, int fresh);

#define ADD_PIXELS_(low, high)                                                                     \
    {                                                                                              \
        EACH(i, pixels) {                                                                          \
            if (i < (low) || i >= (high)) continue;                                                \
            vec p = vec_all(pixel[i]);                                                             \
            sum[i][0] += p * w0;                                                                   \
            if (vectors == 2) sum[i][1] += p * w1;                                                 \
        }                                                                                          \
    }

TD_INLINE void wide_tile_body(const int pixels, const int vectors, const tile_sum *s, const real *x,
                              const real *w, real *sums, int fresh)
{
    const int row = vectors * LANES;
    vec sum[PIXELS][2];
    EACH(i, pixels)
        EACH(v, vectors) sum[i][v] = fresh ? (vec){0} : vec_load(sums + i * row + v * LANES);
    const tap *first = s->first, *end = s->end;
    const int64_t plane = s->plane, kernel = s->kernel * row;
    for (int64_t c = s->channels; c > 0; c--, x += plane, w += kernel) {
        for (const tap *t = first; t < end; t++) {
            const real *pixel = x + (t->at >> 2), *weight = w + t->weight * row;
            const int edge = t->at & 3;
            vec w0 = vec_load(weight), w1 = vectors == 2 ? vec_load(weight + LANES) : w0;
            if (edge == EDGE_NONE) ADD_PIXELS_(0, pixels)
            else if (edge == EDGE_FIRST) ADD_PIXELS_(1, pixels)
            else ADD_PIXELS_(0, pixels - 1)
        }
    }
    EACH(i, pixels) EACH(v, vectors) vec_store(sums + i * row + v * LANES, sum[i][v]);
}

#define WIDE_TILE_(pixels, vectors)                                                                \
    static void wide_##vectors##_##pixels(const tile_sum *s, const real *x, const real *w,         \
                                          real *sums, int fresh)                                   \
    {                                                                                              \
        wide_tile_body(pixels, vectors, s, x, w, sums, fresh);                                     \
    }
#define WIDE_NAME_(pixels, vectors) wide_##vectors##_##pixels,

PIXEL_CASES(WIDE_TILE_, 1)
PIXEL_CASES(WIDE_TILE_, 2)
static const wide_tile wide_tiles[2][PIXELS] = {
    {PIXEL_CASES(WIDE_NAME_, 1)},
    {PIXEL_CASES(WIDE_NAME_, 2)},
};

/* ---- thin tiles ---- */

#define ROWS 8         /* output channels of a thin tile at most */
#define THIN_VECTORS 4 /* of pixels, likewise; the product is bounded by the registers */
#define FEW_ROWS_(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(2, 3) F(2, 4)
#if TD_VEC == 64
#define THIN_CASES(F) FEW_ROWS_(F) F(4, 1) F(4, 2) F(4, 3) F(4, 4) F(8, 1) F(8, 2)
#else
#define THIN_CASES(F) FEW_ROWS_(F) F(4, 1) F(4, 2) F(8, 1)
#endif

/* What a thin tile writes: `valid` rows (channels) of `count` pixels, rows y_pitch apart. */
typedef struct {
    int64_t valid, count, y_pitch;
    int relu;
} thin_part;
typedef void (*thin_tile)(const tile_sum *s, const real *x, const real *w, const real *bias,
                          real *y, const thin_part *part);

/* Reads x for whole vectors. */
TD_INLINE void thin_tile_body(const int rows, const int vectors, const tile_sum *s, const real *x,
                              const real *w, const real *bias, real *y, const thin_part *part)
{
    vec sum[ROWS][THIN_VECTORS];
    EACH(i, rows) EACH(v, vectors) sum[i][v] = vec_all(bias[i]);
    const tap *first = s->first, *end = s->end;
    const int64_t plane = s->plane, kernel = s->kernel * rows;
    for (int64_t c = s->channels; c > 0; c--, x += plane, w += kernel) {
        for (const tap *t = first; t < end; t++) {
            const real *weight = w + t->weight * rows;
            vec pixel[THIN_VECTORS];
            EACH(v, vectors) pixel[v] = vec_load(x + t->at + v * LANES);
            EACH(i, rows) {
                vec p = vec_all(weight[i]);
                EACH(v, vectors) sum[i][v] += p * pixel[v];
            }
        }
    }
    if (part->relu) EACH(i, rows) EACH(v, vectors) sum[i][v] = vec_relu(sum[i][v]);
    const int64_t rest = part->count - (vectors - 1) * LANES;
    EACH(i, rows) {
        if (i >= part->valid) break;
        real *last = y + i * part->y_pitch + (vectors - 1) * LANES;
        EACH(v, vectors - 1) vec_store(y + i * part->y_pitch + v * LANES, sum[i][v]);
        if (rest == LANES) vec_store(last, sum[i][vectors - 1]);
        else vec_store_n(last, sum[i][vectors - 1], rest);
    }
}

#define THIN_TILE_(rows, vectors)                                                                  \
    static void thin_##rows##_##vectors(const tile_sum *s, const real *x, const real *w,           \
                                        const real *bias, real *y, const thin_part *part)          \
    {                                                                                              \
        thin_tile_body(rows, vectors, s, x, w, bias, y, part);                                     \
    }
#define THIN_ENTRY_(rows, vectors) [rows][vectors] = thin_##rows##_##vectors,

THIN_CASES(THIN_TILE_)
static const thin_tile thin_tiles[ROWS + 1][THIN_VECTORS + 1] = {THIN_CASES(THIN_ENTRY_)};
#endif
