/* The weight gradient by wide tiles (lanes = output channels). Pixels are cut into `partials`, each
 * with sums of its own, which are added in order at the end; how many there are depends on the
 * sizes only, so the result is the same for any number of threads. */
#ifndef TREADLE_CONV_WEIGHT_H
#define TREADLE_CONV_WEIGHT_H
#include "conv_weight_tile.h"
#include "conv_wide.h"

#define BLOCK_PIXELS 384 /* pixels whose transposed gradient stays in L2 (32 channels: 48 KB) */
#define PARTIALS 16      /* at most */
#define PARTIAL_BYTES (4 << 20) /* of the sums of all partials */
#define WEIGHT_UNITS 16         /* units aimed at */
#define SUM_SLICES 4            /* tasks per block when partials are added up */

typedef struct {
    const conv_shape *s;
    padded_layout layout;
    const real *g, *x;
    real *gw;
    int64_t taps, depth;      /* depth: taps x input channels, the rows of the gradient */
    int64_t blocks;           /* of WIDE output channels */
    int64_t part;             /* input channels taken at a time */
    int64_t partials, chunks; /* of lines, of blocks: together the units of a group */
    int64_t most_lines;       /* lines of pixels taken at a time */
    const real *padded;       /* [image][group][channel][plane], or NULL: units pad their own */
    real *own_padded;         /* the same, where it is not the input itself */
    int64_t plane;
    real *sums; /* [partial][group][block][row][lane], or NULL: straight into gw */
    int failed;
} weight_plan;

/* Lines of pixels, counted over all images, that a tile can take at once: some of one image, or
 * several whole images. */
typedef struct {
    int64_t image, images, line, lines;
} line_block;

static line_block next_lines(const weight_plan *p, int64_t from, int64_t to)
{
    const int64_t height = p->s->out[0], left = to - from;
    const int64_t image = from / height, line = from % height;
    if (line == 0 && left >= height && 2 * height <= p->most_lines)
        return (line_block){image, TD_MIN(left, p->most_lines) / height, 0, height};
    int64_t lines = TD_MIN(left, height - line);
    return (line_block){image, 1, line, ceil_div(lines, ceil_div(lines, p->most_lines))};
}

/* Adds up or passes on the sums of `rows` rows of one block and writes them to the gradient. */
static void put_rows(const weight_plan *p, int64_t group, int64_t block, int64_t row, int64_t rows,
                     const real *sums)
{
    const conv_shape *s = p->s;
    const int64_t first = block * WIDE, lanes = s->out_channels - first;
    const int64_t pitch = lanes > LANES ? WIDE : LANES;
    real *gw = p->gw + (group * s->out_channels + first) * p->depth + row;
    for (int64_t v = 0; v * LANES < pitch; v++)
        for (int64_t r = 0; r < rows; r += LANES)
            transpose_from_lanes(sums + r * pitch + v * LANES, pitch, TD_MIN(rows - r, LANES),
                                 TD_MIN(lanes - v * LANES, LANES), gw + v * LANES * p->depth + r,
                                 p->depth);
}

static void add_partials(int64_t t, void *ctx)
{
    const weight_plan *p = ctx;
    const int64_t slice = t % SUM_SLICES, b = t / SUM_SLICES, block = b % p->blocks;
    const int64_t pitch = p->s->out_channels - block * WIDE > LANES ? WIDE : LANES;
    const int64_t from = share(p->depth, SUM_SLICES, slice);
    const int64_t to = share(p->depth, SUM_SLICES, slice + 1);
    const int64_t partial = p->s->groups * p->blocks * p->depth * WIDE;
    real total[LANES * WIDE];
    for (int64_t r = from, n; r < to; r += n) {
        n = TD_MIN(to - r, LANES);
        const real *sums = p->sums + b * p->depth * WIDE + r * pitch;
        for (int64_t i = 0; i < n * pitch; i += LANES) {
            vec v = vec_load(sums + i);
            for (int64_t q = 1; q < p->partials; q++) v += vec_load(sums + q * partial + i);
            vec_store(total + i, v);
        }
        put_rows(p, b / p->blocks, block, r, n, total);
    }
}

/* ---- a unit ---- */

typedef struct {
    int64_t group, partial;
    int64_t block0, blocks;
    real *padded, *g, *sums;
} weight_unit;

/* The gradient of the lines, pixels first: [pixel][lane]. */
static void transpose_gradient(const weight_plan *p, const weight_unit *u, int64_t block,
                               line_block l, real *to)
{
    const conv_shape *s = p->s;
    const int64_t width = s->out[1], pixels = s->out[0] * width, count = l.lines * width;
    const int64_t lanes = s->out_channels - block * WIDE, pitch = lanes > LANES ? WIDE : LANES;
    for (int64_t n = l.image; n < l.image + l.images; n++, to += count * pitch) {
        const int64_t channel = (n * s->groups + u->group) * s->out_channels + block * WIDE;
        const real *g = p->g + channel * pixels + l.line * width;
        for (int64_t v = 0; v * LANES < pitch; v++)
            transpose_into_lanes(g + v * LANES * pixels, pixels, TD_MIN(lanes - v * LANES, LANES),
                                 count, to + v * LANES, pitch);
    }
}

/* The padded input of `channels` channels and its pitches; makes it unless it was made for all
 * units. */
static const real *weight_input(const weight_plan *p, const weight_unit *u, line_block l,
                                int64_t first, int64_t channels, int64_t *image_pitch,
                                int64_t *plane)
{
    const conv_shape *s = p->s;
    const int64_t pixels = s->in[0] * s->in[1];
    if (p->padded) {
        *image_pitch = s->groups * s->in_channels * p->plane;
        *plane = p->plane;
        return p->padded + l.image * *image_pitch + (u->group * s->in_channels + first) * p->plane
               + l.line * p->layout.rows.step * p->layout.pitch;
    }
    *plane = padded_plane(&p->layout, l.lines);
    *image_pitch = channels * *plane;
    real *to = u->padded;
    for (int64_t n = l.image; n < l.image + l.images; n++) {
        const real *x = p->x + ((n * s->groups + u->group) * s->in_channels + first) * pixels;
        for (int64_t i = 0; i < channels; i++, to += *plane)
            pad_plane(&p->layout, x + i * pixels, l.line, l.lines, to);
    }
    return u->padded;
}

/* The products of one block of output channels with `rows` rows of input. */
static void add_rows(const weight_plan *p, const pixel_block *block, int64_t vectors, const real *g,
                     const real *x, int64_t plane, int64_t rows, real *sums, int fresh)
{
    const int64_t tiles = ceil_div(rows, WEIGHT_ROWS);
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = share(rows, tiles, t), n = share(rows, tiles, t + 1) - from;
        const real *row[WEIGHT_ROWS];
        for (int64_t r = 0; r < n; r++) {
            const int64_t channel = (from + r) / p->taps, tap = (from + r) % p->taps;
            row[r] = x + channel * plane + p->layout.offset[tap];
        }
        weight_tiles[vectors - 1][n - 1](block, g, row, sums + from * vectors * LANES, fresh);
    }
}

static void add_lines(const weight_plan *p, const weight_unit *u, line_block l, int fresh)
{
    const conv_shape *s = p->s;
    const int64_t count = l.images * l.lines * s->out[1];
    for (int64_t b = 0; b < u->blocks; b++)
        transpose_gradient(p, u, u->block0 + b, l, u->g + b * count * WIDE);
    for (int64_t first = 0, channels; first < s->in_channels; first += channels) {
        channels = TD_MIN(p->part, s->in_channels - first);
        const int64_t row = first * p->taps, rows = channels * p->taps;
        const int64_t line_pitch = p->layout.rows.step * p->layout.pitch;
        pixel_block pixels = {l.images, l.lines, s->out[1], 0, line_pitch};
        int64_t plane;
        const real *x = weight_input(p, u, l, first, channels, &pixels.image_pitch, &plane);
        for (int64_t b = 0; b < u->blocks; b++) {
            const int64_t vectors = s->out_channels - (u->block0 + b) * WIDE > LANES ? 2 : 1;
            const real *g = u->g + b * count * WIDE;
            real *sums = u->sums;
            if (p->sums) sums += b * p->depth * WIDE + row * vectors * LANES;
            add_rows(p, &pixels, vectors, g, x, plane, rows, sums, fresh);
            if (!p->sums) put_rows(p, u->group, u->block0 + b, row, rows, sums);
        }
    }
}

/* Scratch of a unit, in elements; the most that any block of lines needs. */
static int64_t weight_scratch(const weight_plan *p, weight_unit *u, real *base)
{
    const conv_shape *s = p->s;
    const int64_t line = 64 / REAL_SIZE, images = TD_MAX(p->most_lines / s->out[0], 1);
    const int64_t lines = TD_MIN(p->most_lines, s->out[0]);
    const int64_t planes = p->padded ? 0 : images * p->part;
    const int64_t padded = ceil_div(planes * padded_plane(&p->layout, lines), line) * line;
    const int64_t g = u->blocks * TD_MAX(p->most_lines, 1) * s->out[1] * WIDE;
    if (base) {
        u->padded = base;
        u->g = base + padded;
        if (!p->sums) u->sums = u->g + g;
    }
    return padded + g + (p->sums ? 0 : p->part * p->taps * WIDE);
}

static void run_weight_unit(int64_t t, void *ctx)
{
    weight_plan *p = ctx;
    const conv_shape *s = p->s;
    const int64_t chunk = t % p->chunks, height = s->out[0];
    weight_unit u = {.partial = t / p->chunks % p->partials, .group = t / p->chunks / p->partials};
    u.block0 = share(p->blocks, p->chunks, chunk);
    u.blocks = share(p->blocks, p->chunks, chunk + 1) - u.block0;
    const int64_t block = (u.partial * s->groups + u.group) * p->blocks + u.block0;
    if (p->sums) u.sums = p->sums + block * p->depth * WIDE;
    int64_t from, to;
    if (s->batch >= p->partials) {
        from = share(s->batch, p->partials, u.partial) * height;
        to = share(s->batch, p->partials, u.partial + 1) * height;
    } else {
        from = share(s->batch * height, p->partials, u.partial);
        to = share(s->batch * height, p->partials, u.partial + 1);
    }
    real *scratch = td_scratch((size_t)weight_scratch(p, &u, NULL) * sizeof(real));
    if (!scratch) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    weight_scratch(p, &u, scratch);
    for (int64_t at = from; at < to;) {
        line_block l = next_lines(p, at, to);
        add_lines(p, &u, l, at == from);
        at += l.images * l.lines;
    }
    td_scratch_free(scratch);
}

/* ---- the plan ---- */

static void cut_weight(weight_plan *p)
{
    const conv_shape *s = p->s;
    const int64_t width = s->out[1], lines = s->batch * s->out[0], pixels = lines * width;
    const int64_t bytes = s->groups * p->blocks * WIDE * p->depth * REAL_SIZE;
    int64_t partials = TD_MIN(pixels / BLOCK_PIXELS, PARTIAL_BYTES / bytes);
    p->partials = TD_MAX(1, TD_MIN(TD_MIN(partials, PARTIALS), lines));
    p->chunks = TD_MIN(p->blocks, ceil_div(WEIGHT_UNITS, p->partials * s->groups));
    p->most_lines = TD_MAX(1, BLOCK_PIXELS / width);
    p->part = ceil_div(s->in_channels, ceil_div(s->in_channels, TD_MAX(DEPTH / p->taps, 1)));
    if (pixels <= 2 * BLOCK_PIXELS) p->most_lines = lines; /* then sums need not be kept */
}

static int allocate_weight(weight_plan *p)
{
    const conv_shape *s = p->s;
    if (p->partials > 1 || p->most_lines < s->batch * s->out[0]) {
        const int64_t blocks = p->partials * s->groups * p->blocks;
        p->sums = td_scratch((size_t)(blocks * p->depth * WIDE) * sizeof(real));
        if (!p->sums) return TD_ERR_MEMORY;
    }
    if (needs_no_padding(&p->layout)) {
        p->plane = s->in[0] * s->in[1];
        p->padded = p->x;
        return TD_OK;
    }
    const int64_t planes = s->batch * s->groups * s->in_channels;
    if (p->chunks > 1 && planes * p->plane * REAL_SIZE <= PADDED_BYTES) {
        p->padded = p->own_padded = pad_planes(&p->layout, p->x, planes, p->plane);
        if (!p->padded) return TD_ERR_MEMORY;
    }
    return TD_OK;
}

/* rows, cols: the forward axes. */
typedef int weight_pass(const conv_shape *s, const conv_axis *rows, const conv_axis *cols,
                        const real *g, const real *x, real *gw);

static int weight_wide(const conv_shape *s, const conv_axis *rows, const conv_axis *cols,
                       const real *g, const real *x, real *gw)
{
    weight_plan p = {.s = s, .g = g, .x = x, .gw = gw, .taps = rows->taps * cols->taps};
    p.depth = p.taps * s->in_channels;
    p.blocks = ceil_div(s->out_channels, WIDE);
    int64_t *tables = td_scratch((size_t)layout_numbers(rows, cols) * sizeof(int64_t));
    if (!tables) return TD_ERR_MEMORY;
    lay_out(&p.layout, rows, cols, 0, tables);
    p.plane = padded_plane(&p.layout, s->out[0]);
    cut_weight(&p);
    p.failed = allocate_weight(&p) != TD_OK;
    if (!p.failed) td_parallel(s->groups * p.partials * p.chunks, run_weight_unit, &p);
    if (!p.failed && p.sums) td_parallel(s->groups * p.blocks * SUM_SLICES, add_partials, &p);
    td_scratch_free(p.own_padded);
    td_scratch_free(p.sums);
    td_scratch_free(tables);
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}
#endif
