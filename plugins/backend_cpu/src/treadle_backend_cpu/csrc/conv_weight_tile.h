/* The innermost loops of the weight gradient: over pixels,
 *     gw[channel][row] += g[channel][pixel] * x[row][pixel]
 * where a row is one input channel under one tap. Both tiles go over a rectangle of pixels and add
 * to sums that they find in memory. The lanes of a vector are
 *   wide tile   output channels: g is transposed beforehand, inputs are broadcast to all lanes;
 *   thin tile   pixels: both are read as they are, lanes are added up at the very end. For few
 *               products, where transposing would cost more than computing. */
#ifndef TREADLE_CONV_WEIGHT_TILE_H
#define TREADLE_CONV_WEIGHT_TILE_H
#include "conv_vec.h"

/* A rectangle of pixels in the padded input. */
typedef struct {
    int64_t images, lines, width;
    int64_t image_pitch, line_pitch;
} pixel_block;

/* ---- wide tiles ---- */

#if TD_VEC == 64
#define WEIGHT_ROWS 9 /* 9 x 2 sums; each row needs an address register, too */
#define WEIGHT_CASES(F, v)                                                                         \
    F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v) F(7, v) F(8, v) F(9, v)
#else
#define WEIGHT_ROWS 6
#define WEIGHT_CASES(F, v) F(1, v) F(2, v) F(3, v) F(4, v) F(5, v) F(6, v)
#endif

/* g: pixels x (vectors * LANES); x[r]: the first pixel of row r; sums: rows x (vectors * LANES),
 * read first unless `fresh`. */
typedef void (*weight_tile)(const pixel_block *b, const real *g, const real *const *x, real *sums,
                            int fresh);

TD_INLINE void weight_tile_body(const int rows, const int vectors, const pixel_block *b,
                                const real *g, const real *const *x, real *sums, int fresh)
{
    const int pitch = vectors * LANES;
    const real *row[WEIGHT_ROWS];
    vec sum[WEIGHT_ROWS][2];
    EACH(r, rows) row[r] = x[r];
    EACH(r, rows)
        EACH(v, vectors) sum[r][v] = fresh ? (vec){0} : vec_load(sums + r * pitch + v * LANES);
    for (int64_t n = 0; n < b->images; n++) {
        for (int64_t l = 0; l < b->lines; l++) {
            const int64_t start = n * b->image_pitch + l * b->line_pitch, end = start + b->width;
            for (int64_t i = start; i < end; i++, g += pitch) {
                vec g0 = vec_load(g), g1 = vectors == 2 ? vec_load(g + LANES) : g0;
                EACH(r, rows) {
                    vec p = vec_all(row[r][i]);
                    sum[r][0] += p * g0;
                    if (vectors == 2) sum[r][1] += p * g1;
                }
            }
        }
    }
    EACH(r, rows) EACH(v, vectors) vec_store(sums + r * pitch + v * LANES, sum[r][v]);
}

#define WEIGHT_TILE_(rows, vectors)                                                                \
    static void weight_##vectors##_##rows(const pixel_block *b, const real *g,                     \
                                          const real *const *x, real *sums, int fresh)             \
    {                                                                                              \
        weight_tile_body(rows, vectors, b, g, x, sums, fresh);                                     \
    }
#define WEIGHT_NAME_(rows, vectors) weight_##vectors##_##rows,

WEIGHT_CASES(WEIGHT_TILE_, 1)
WEIGHT_CASES(WEIGHT_TILE_, 2)
static const weight_tile weight_tiles[2][WEIGHT_ROWS] = {
    {WEIGHT_CASES(WEIGHT_NAME_, 1)},
    {WEIGHT_CASES(WEIGHT_NAME_, 2)},
};

/* ---- thin tiles: dot products along rows of pixels ---- */

#if TD_VEC == 64
#define DOT_ROWS 6
#define DOT_CHANNELS 4
#define DOT_CASES_(F, c) F(c, 1) F(c, 2) F(c, 3) F(c, 4) F(c, 5) F(c, 6)
#define DOT_CASES(F) DOT_CASES_(F, 1) DOT_CASES_(F, 2) DOT_CASES_(F, 4)
#else
#define DOT_ROWS 5
#define DOT_CHANNELS 2
#define DOT_CASES_(F, c) F(c, 1) F(c, 2) F(c, 3) F(c, 4) F(c, 5)
#define DOT_CASES(F) DOT_CASES_(F, 1) DOT_CASES_(F, 2)
#endif

/* g: channels g_pitch apart, images g_image apart, lines dense; sums: channels x rows x LANES. */
typedef void (*dot_tile)(const pixel_block *b, const real *g, int64_t g_pitch, int64_t g_image,
                         const real *const *x, real *sums);

#define DOT_STEP_(load)                                                                            \
    vec pixel[DOT_CHANNELS];                                                                       \
    EACH(c, channels) pixel[c] = load(line + c * g_pitch + i);                                     \
    EACH(r, rows) {                                                                                \
        vec p = load(row[r] + start + i);                                                          \
        EACH(c, channels) sum[c][r] += p * pixel[c];                                               \
    }
#define LOAD_REST_(p) vec_load_n(p, rest)

TD_INLINE void dot_tile_body(const int channels, const int rows, const pixel_block *b,
                             const real *g, int64_t g_pitch, int64_t g_image, const real *const *x,
                             real *sums)
{
    const real *row[DOT_ROWS];
    vec sum[DOT_CHANNELS][DOT_ROWS];
    EACH(r, rows) row[r] = x[r];
    EACH(c, channels) EACH(r, rows) sum[c][r] = vec_load(sums + (c * rows + r) * LANES);
    for (int64_t n = 0; n < b->images; n++) {
        for (int64_t l = 0; l < b->lines; l++) {
            const int64_t start = n * b->image_pitch + l * b->line_pitch;
            const real *line = g + n * g_image + l * b->width;
            int64_t i = 0;
            for (; i + LANES <= b->width; i += LANES) {
                DOT_STEP_(vec_load)
            }
            const int64_t rest = b->width - i;
            if (rest) {
                DOT_STEP_(LOAD_REST_)
            }
        }
    }
    EACH(c, channels) EACH(r, rows) vec_store(sums + (c * rows + r) * LANES, sum[c][r]);
}

#define DOT_TILE_(channels, rows)                                                                  \
    static void dot_##channels##_##rows(const pixel_block *b, const real *g, int64_t g_pitch,      \
                                        int64_t g_image, const real *const *x, real *sums)         \
    {                                                                                              \
        dot_tile_body(channels, rows, b, g, g_pitch, g_image, x, sums);                            \
    }
#define DOT_ENTRY_(channels, rows) [channels][rows] = dot_##channels##_##rows,

DOT_CASES(DOT_TILE_)
static const dot_tile dot_tiles[DOT_CHANNELS + 1][DOT_ROWS + 1] = {DOT_CASES(DOT_ENTRY_)};
#endif
