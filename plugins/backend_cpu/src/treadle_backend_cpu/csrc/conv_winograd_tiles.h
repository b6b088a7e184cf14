/* How Winograd's method cuts images into tiles of 4 x 4 outputs, and the transform of images. Tiles
 * are numbered in the order (image, chunk of columns, row of tiles, column); a line is what lies in
 * one row of one chunk, a segment some lines of one chunk. */
#ifndef TREADLE_CONV_WINOGRAD_TILES_H
#define TREADLE_CONV_WINOGRAD_TILES_H
typedef float real;
#define REAL_SIZE 4
#include "conv_winograd.h"
#include "conv_winograd_transform.h"

#define VALUES WINOGRAD_VALUES
#define WIDE (2 * LANES) /* output channels of a panel */
#define CACHE_LINE 16    /* elements */
#define LINE_TILES 64    /* tiles of a line at most */

typedef struct {
    int64_t across, down; /* tiles of an image */
    int64_t chunks;       /* of the tiles across */
    int64_t lines;        /* of all images */
    int64_t line_tiles;   /* tiles of the longest line */
} tiling;

static inline tiling cut_into_tiles(const int64_t out[2], int64_t batch)
{
    tiling t = {.across = ceil_div(out[1], 4), .down = ceil_div(out[0], 4)};
    t.chunks = ceil_div(t.across, LINE_TILES);
    t.lines = batch * t.chunks * t.down;
    t.line_tiles = ceil_div(t.across, t.chunks);
    return t;
}

typedef struct {
    int64_t image, row, rows, col, cols, tiles;
} segment;

/* The segment that begins at a line and ends before line `end` at the latest. */
static inline segment segment_at(const tiling *t, int64_t line, int64_t end)
{
    const int64_t row = line % t->down, column = line / t->down, chunk = column % t->chunks;
    segment s = {.image = column / t->chunks, .row = row};
    s.rows = TD_MIN(t->down - row, end - line);
    s.col = share(t->across, t->chunks, chunk);
    s.cols = share(t->across, t->chunks, chunk + 1) - s.col;
    s.tiles = s.rows * s.cols;
    return s;
}

static inline int64_t tiles_before(const tiling *t, int64_t line)
{
    const int64_t row = line % t->down, column = line / t->down, chunk = column % t->chunks;
    const int64_t left = share(t->across, t->chunks, chunk);
    const int64_t cols = share(t->across, t->chunks, chunk + 1) - left;
    return (column / t->chunks * t->across + left) * t->down + row * cols;
}

static inline int64_t count_tiles(const tiling *t, int64_t first, int64_t end)
{
    return tiles_before(t, end) - tiles_before(t, first);
}

/* From one of the 36 values to the next when `rows` rows of `pitch` elements lie between them:
 * never a power of two, or they would meet in one cache set. */
TD_INLINE int64_t value_pitch(int64_t rows, int64_t pitch) { return rows * pitch + CACHE_LINE; }

/* Elements from tile to tile of transformed images: whole vectors. */
static inline int64_t tile_pitch(int64_t channels)
{
    const int64_t pitch = ceil_div(channels, CACHE_LINE) * CACHE_LINE;
    return pitch % 256 ? pitch : pitch + CACHE_LINE; /* or tiles would meet in few cache sets */
}

/* ---- the transform of images ---- */

/* What a tile takes of an image: window x window pixels, those of tile (0, 0) from `first` on. */
typedef struct {
    const float *x; /* [image][channel][row][col] */
    int64_t channels, size[2], first[2];
    int64_t window; /* 6: inputs, 4: gradients of outputs */
} images;

/* Elements of a strip, which holds one vector of channels of `lines` lines. */
static inline int64_t image_strip(const tiling *t, const images *m, int64_t lines)
{
    const int64_t more = m->window - 4;
    return (4 * TD_MIN(lines, t->down) + more) * (4 * t->line_tiles + more) * LANES;
}

/* A rectangle of planes that are `width` wide, and its place in the strip: channels innermost, rows
 * `pitch` apart. */
typedef struct {
    int64_t rows, cols, width, plane, pitch;
} rectangle;

/* n pixels from (row, col) on; they may run over the end of the row if that is the whole width. */
static inline void turn_pixels(const float *x, const rectangle *r, int64_t channels, int64_t row,
                               int64_t col, int64_t n, float *to)
{
    const float *from = x + row * r->width + col;
    const int64_t gap = r->pitch - r->cols * LANES;
    vec pixel[LANES];
    to += row * r->pitch + col * LANES;
    if (n == LANES && channels == LANES) EACH(l, LANES) pixel[l] = vec_load(from + l * r->plane);
    else
        EACH(l, LANES) pixel[l] = l < channels ? vec_load_n(from + l * r->plane, n) : (vec){0};
    vec_transpose(pixel);
    if (n == LANES && r->cols - col >= LANES) {
        EACH(i, LANES) vec_store(to + i * LANES, pixel[i]);
        return;
    }
    for (int64_t i = 0; i < n; i++, col++, to += LANES) {
        if (col == r->cols) {
            to += gap;
            col = 0;
        }
        vec_store(to, pixel[i]);
    }
}

static inline void turn_rectangle(const float *x, const rectangle *r, int64_t channels, float *to)
{
    const int whole = r->cols == r->width;
    const int64_t runs = whole ? 1 : r->rows, length = whole ? r->rows * r->cols : r->cols;
    for (int64_t run = 0; run < runs; run++) {
        for (int64_t i = 0; i < length; i += LANES) {
            const int64_t row = whole ? i / r->cols : run, col = whole ? i % r->cols : i;
            turn_pixels(x, r, channels, row, col, TD_MIN(length - i, LANES), to);
        }
    }
}

/* Some channels of a segment; to: [value][tile][channel], tiles `pitch`, values `value` apart. */
static inline void transform_segment(const images *m, const segment *s, int64_t channel,
                                     int64_t channels, float *strip, float *to, int64_t pitch,
                                     int64_t value)
{
    const int64_t height = 4 * s->rows + m->window - 4, width = 4 * s->cols + m->window - 4;
    const int64_t top = 4 * s->row + m->first[0], left = 4 * s->col + m->first[1];
    const int64_t low = TD_MAX(top, 0), high = TD_MIN(top + height, m->size[0]);
    const int64_t from = TD_MAX(left, 0), end = TD_MIN(left + width, m->size[1]);
    const int64_t plane = m->size[0] * m->size[1];
    const rectangle r = {high - low, end - from, m->size[1], plane, width * LANES};
    const float *x = m->x + (s->image * m->channels + channel) * plane + low * m->size[1] + from;
    float *inner = strip + (low - top) * r.pitch + (from - left) * LANES;
    memset(strip, 0, (size_t)(height * r.pitch) * sizeof *strip);
    for (int64_t k = 0; k < channels; k += LANES, x += LANES * plane, to += LANES) {
        if (r.rows > 0 && r.cols > 0) turn_rectangle(x, &r, TD_MIN(channels - k, LANES), inner);
        for (int64_t t = 0; t < s->tiles; t++) {
            const float *d = strip + 4 * (t / s->cols * r.pitch + t % s->cols * LANES);
            if (m->window == 6) transform_input_tile(d, r.pitch, to + t * pitch, value);
            else transform_gradient_tile(d, r.pitch, to + t * pitch, value);
        }
    }
}

/* Some channels of some lines. */
static inline void transform_lines(const tiling *t, const images *m, int64_t line, int64_t end,
                                   int64_t channel, int64_t channels, float *strip, float *to,
                                   int64_t pitch, int64_t value)
{
    while (line < end) {
        const segment s = segment_at(t, line, end);
        transform_segment(m, &s, channel, channels, strip, to, pitch, value);
        to += s.tiles * pitch;
        line += s.rows;
    }
}
#endif
