/* The innermost loops of a convolution. Both tiles compute, for every channel c < channels and every tap,
 *     sum[i][j] += x[c * plane + tap.at + ...] * w[(c * kernel + tap.weight) * row + ...]
 * over packed weights that are read from start to end. They differ in what the lanes of a vector are:
 *   wide tile   lanes = output channels, rows = pixels: weights are vectors, inputs are broadcast;
 *   thin tile   lanes = pixels, rows = output channels: inputs are vectors, weights are broadcast. For few channels. */
#ifndef TREADLE_CONV_TILE_H
#define TREADLE_CONV_TILE_H
#include "conv_vec.h"

#if TD_VEC == 64
#define PIXELS 14               /* 14 x 2 sums, 2 weights and a broadcast fill 31 of 32 registers */
#define PIXEL_CASES(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v) F(7, v) F(8, v) F(9, v) F(10, v) F(11, v) F(12, v) \
    F(13, v) F(14, v)
#else
#define PIXELS 6                /* 6 x 2 sums, 2 weights and a broadcast: 15 of 16 */
#define PIXEL_CASES(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v)
#endif
#define WIDE (2 * LANES)        /* output channels of a wide tile */
#define FEW_PIXELS 4            /* a wide tile of fewer pixels waits for its own sums */

/* A tap reads its input `at` elements from the start (wide tiles: 4 * elements + edge) and multiplies by one of the kernel's weights. */
typedef struct { int64_t at, weight; } tap;

/* Which pixel of a wide tile a tap leaves out because its input is padding. (Leaving one out at each end is what 3 x 3 needs.) */
enum edge { EDGE_NONE, EDGE_FIRST, EDGE_LAST };

typedef struct {
    int64_t channels, plane;    /* input channels to sum over and their distance */
    int64_t kernel;             /* weights of a channel */
    const tap *first, *end;     /* the taps to sum over */
} tile_sum;

/* sums: pixels x (vectors * LANES), read first unless `fresh`. */
typedef void (*wide_tile)(const tile_sum *s, const real *x, const real *w, real *sums, int fresh);

#define WIDE_TILE(pixels, vectors)                                                                                      \
    static void wide_##vectors##_##pixels(const tile_sum *s, const real *x, const real *w, real *sums, int fresh)       \
    {                                                                                                                   \
        wide_tile_body(pixels, vectors, s, x, w, sums, fresh);                                                          \
    }
#define WIDE_NAME(pixels, vectors) wide_##vectors##_##pixels,

#define ADD_PIXELS(first, last)                                                                                         \
    _Pragma("GCC unroll 14") for (int i = first; i < last; i++) {                                                       \
        vec p = vec_all(pixel[i]);                                                                                      \
        sum[i][0] += p * w0;                                                                                            \
        if (vectors == 2) sum[i][1] += p * w1;                                                                          \
    }

TD_INLINE void wide_tile_body(const int pixels, const int vectors, const tile_sum *s, const real *x, const real *w, real *sums,
                              int fresh)
{
    vec sum[PIXELS][2];
    _Pragma("GCC unroll 14") for (int i = 0; i < pixels; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = fresh ? (vec){0} : vec_load(sums + (i * vectors + v) * LANES);
    const tap *first = s->first, *end = s->end;
    const int64_t plane = s->plane, kernel = s->kernel * vectors * LANES;
    for (int64_t c = s->channels; c > 0; c--, x += plane, w += kernel) {
        for (const tap *t = first; t < end; t++) {
            const real *pixel = x + (t->at >> 2), *weight = w + t->weight * vectors * LANES;
            const int edge = t->at & 3;
            vec w0 = vec_load(weight), w1 = vectors == 2 ? vec_load(weight + LANES) : w0;
            if (edge == EDGE_NONE) ADD_PIXELS(0, pixels)
            else if (edge == EDGE_FIRST) ADD_PIXELS(1, pixels)
            else ADD_PIXELS(0, pixels - 1)
        }
    }
    _Pragma("GCC unroll 14") for (int i = 0; i < pixels; i++)
        for (int v = 0; v < vectors; v++) vec_store(sums + (i * vectors + v) * LANES, sum[i][v]);
}

PIXEL_CASES(WIDE_TILE, 1)
PIXEL_CASES(WIDE_TILE, 2)
static const wide_tile wide_tiles[2][PIXELS] = {{PIXEL_CASES(WIDE_NAME, 1)}, {PIXEL_CASES(WIDE_NAME, 2)}};

/* Writes `valid` rows (channels) of `count` pixels to y, rows y_pitch apart; x is read for whole vectors. */
typedef struct { int64_t valid, count, y_pitch; } thin_part;
typedef void (*thin_tile)(const tile_sum *s, const real *x, const real *w, const real *bias, real *y, const thin_part *part);

#define ROWS 8                  /* output channels of a thin tile at most */
#define THIN_VECTORS 4          /* of pixels, likewise; rows x vectors is bounded by the registers */
#define THIN_FEW_ROWS(F) F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(2, 3) F(2, 4)
#if TD_VEC == 64
#define THIN_CASES(F) THIN_FEW_ROWS(F) F(4, 1) F(4, 2) F(4, 3) F(4, 4) F(8, 1) F(8, 2)
#else
#define THIN_CASES(F) THIN_FEW_ROWS(F) F(4, 1) F(4, 2) F(8, 1)
#endif
#define THIN_TILE(rows, vectors)                                                                                        \
    static void thin_##rows##_##vectors(const tile_sum *s, const real *x, const real *w, const real *bias, real *y,     \
                                        const thin_part *part)                                                          \
    {                                                                                                                   \
        thin_tile_body(rows, vectors, s, x, w, bias, y, part);                                                          \
    }
#define THIN_ENTRY(rows, vectors) [rows][vectors] = thin_##rows##_##vectors,

TD_INLINE void thin_tile_body(const int rows, const int vectors, const tile_sum *s, const real *x, const real *w,
                              const real *bias, real *y, const thin_part *part)
{
    vec sum[ROWS][THIN_VECTORS];
    _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sum[i][v] = vec_all(bias[i]);
    const tap *first = s->first, *end = s->end;
    const int64_t plane = s->plane, kernel = s->kernel * rows;
    for (int64_t c = s->channels; c > 0; c--, x += plane, w += kernel) {
        for (const tap *t = first; t < end; t++) {
            const real *weight = w + t->weight * rows;
            vec pixel[THIN_VECTORS];
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) pixel[v] = vec_load(x + t->at + v * LANES);
            _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) {
                vec p = vec_all(weight[i]);
                _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sum[i][v] += p * pixel[v];
            }
        }
    }
    const int64_t rest = part->count - (vectors - 1) * LANES;
    _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) {
        if (i >= part->valid) break;
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors - 1; v++) vec_store(y + v * LANES, sum[i][v]);
        if (rest == LANES) vec_store(y + (vectors - 1) * LANES, sum[i][vectors - 1]);
        else vec_store_n(y + (vectors - 1) * LANES, sum[i][vectors - 1], rest);
        y += part->y_pitch;
    }
}

THIN_CASES(THIN_TILE)
static const thin_tile thin_tiles[ROWS + 1][THIN_VECTORS + 1] = {THIN_CASES(THIN_ENTRY)};
#endif
