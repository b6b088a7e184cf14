/* A correlation by wide tiles (lanes = output channels). The work is cut into units: images x range of tiles x chunk of
 * channel blocks. A unit takes one part of the input channels at a time, so that what it reads again and again stays in the
 * second-level cache, and keeps sums between parts. How the work is cut never changes the order of any sum. */
#ifndef TREADLE_CONV_WIDE_H
#define TREADLE_CONV_WIDE_H
#include "conv_source.h"
#include "conv_tile.h"

/* y[image, group, channel, j, i] = bias + sum of x[...] * w[...] over input channels and taps. Strides of y and w are free. */
typedef struct {
    conv_axis rows, cols;
    int64_t batch, groups, in_channels, out_channels;       /* channels per group */
    const real *x;                                          /* dense */
    const real *w;
    int64_t w_group, w_out, w_in, w_row;                    /* w_row: elements per kernel row */
    const real *bias;                                       /* NULL for none */
    real *y;
    int64_t y_image, y_channel, y_row, y_col;
} correlation;

#define AHEAD 4                 /* input channels ahead of packing that weights are fetched */
#define DEPTH 1152              /* input channels x taps of one part: its weights (32 channels: 147 KB) stay in L2 */
#define SOURCE_BYTES (384 << 10)    /* prepared input of a unit at most */
#define SUMS_BYTES (256 << 10)  /* sums kept between parts by a unit at most */
#define WEIGHT_BYTES (512 << 10)    /* more weights than this are worth reading for several images at once */
#define UNIT_PIXELS 256         /* then units should have that many pixels */
#define GATHERED_TILES 12       /* tiles of a unit whose pixels are gathered at most */
#define UNIT_WORK 200000        /* multiply-adds that are worth handing to a thread */

enum wide_source { IN_PLACE, PADDED, GATHERED };

typedef struct {
    const correlation *c;
    enum wide_source source;
    padded_layout layout;
    int64_t taps, depth;        /* depth: taps x input channels */
    int64_t line, lines;        /* pixels that tiles are cut from, and how many such lines an image has */
    int64_t line_tiles, tile_pixels;    /* tiles of a line; pixels of the largest */
    int64_t blocks;             /* of WIDE output channels */
    int64_t part;               /* input channels per part */
    int64_t batches, ranges, chunks;    /* of images, of tiles, of blocks: every combination is a unit */
    real *weights;              /* packed [group][block][input channel][tap][lane], or NULL: each unit packs its own */
    const real *padded;         /* [image][group][input channel][plane], or NULL: each unit pads its own */
    real *own_padded;           /* the same, where it is not the input itself */
    int64_t plane;
    int64_t *tables;            /* the memory of those below */
    int64_t *edge_offset[4];    /* per tap, for tiles with bit 0: the first pixel of a row, bit 1: the last one */
    int64_t *gathered_offset;
    int failed;
} wide_plan;

TD_INLINE int64_t share(int64_t total, int64_t parts, int64_t i) { return total * i / parts; }
TD_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- weights ---- */

TD_INLINE int64_t block_vectors(const correlation *c, int64_t block) { return c->out_channels - block * WIDE > LANES ? 2 : 1; }

/* Packs `lanes` channels: to[(i * taps + t) * pitch + lane]; unused lanes are zero. */
static void pack_lanes(const wide_plan *p, const real *w, int64_t channels, int64_t lanes, real *to, int64_t pitch)
{
    const correlation *c = p->c;
    const int64_t all = p->taps, kernel = c->cols.taps;
    int64_t whole_kernel = c->rows.taps && c->rows.index[c->rows.taps - 1] == c->rows.taps - 1
        && kernel && c->cols.index[kernel - 1] == kernel - 1 && c->w_row == kernel;
    if (whole_kernel && c->w_in == all) {
        transpose_into_lanes(w, c->w_out, lanes, channels * all, to, pitch);
        return;
    }
    for (int64_t i = 0; i < channels; i++, w += c->w_in) {
        for (int64_t l = 0; l < lanes * c->w_out; l += 64 / REAL_SIZE) __builtin_prefetch(w + c->w_in * AHEAD + l);
        if (whole_kernel && c->w_out == 1) {
            vec_store(to, vec_load_n(w, lanes));
            to += pitch;
            continue;
        }
        if (whole_kernel) {
            transpose_into_lanes(w, c->w_out, lanes, all, to, pitch);
            to += all * pitch;
            continue;
        }
        for (int64_t r = 0; r < c->rows.taps; r++) {
            for (int64_t k = 0; k < kernel; k++, to += pitch) {
                const real *from = w + c->rows.index[r] * c->w_row + c->cols.index[k];
                for (int64_t l = 0; l < LANES; l++) to[l] = l < lanes ? from[l * c->w_out] : 0;
            }
        }
    }
}

static void pack_weights(const wide_plan *p, int64_t group, int64_t block, int64_t first, int64_t channels, real *to)
{
    const correlation *c = p->c;
    int64_t vectors = block_vectors(c, block);
    for (int64_t v = 0; v < vectors; v++) {
        int64_t lane = block * WIDE + v * LANES;
        const real *w = c->w + group * c->w_group + lane * c->w_out + first * c->w_in;
        pack_lanes(p, w, channels, TD_MIN(c->out_channels - lane, LANES), to + v * LANES, vectors * LANES);
    }
}

static void pack_all_weights(int64_t t, void *ctx)
{
    const wide_plan *p = ctx;
    int64_t group = t / p->blocks, block = t % p->blocks;
    pack_weights(p, group, block, 0, p->c->in_channels, p->weights + t * WIDE * p->depth);
}

/* ---- the input ---- */

typedef struct {
    int64_t group;
    int64_t image0, images;
    int64_t tile0, tiles;       /* of each image; GATHERED: counted over all images */
    int64_t block0, blocks;
    int64_t line0, lines;       /* rows of output that its own padded input serves */
    int64_t plane;              /* elements from plane to plane of it */
    int kept;                   /* whether sums are kept from part to part */
    real *padded, *gathered, *sums, *weights;
} wide_unit;

TD_INLINE int64_t tile_start(const wide_plan *p, int64_t tile)
{
    return share(p->line, p->line_tiles, tile % p->line_tiles);
}
TD_INLINE int64_t tile_end(const wide_plan *p, int64_t tile)
{
    return share(p->line, p->line_tiles, tile % p->line_tiles + 1);
}

/* The planes of one image that were padded, from input channel `first` on. */
static const real *padded_planes(const wide_plan *p, const wide_unit *u, int64_t image, int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    if (p->padded) return p->padded + ((image * c->groups + u->group) * c->in_channels + first) * p->plane;
    return u->padded + (image - u->image0) * channels * u->plane;
}

static void pad_input(const wide_plan *p, const wide_unit *u, int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    const int64_t pixels = c->rows.in * c->cols.in;
    for (int64_t n = u->image0; n < u->image0 + u->images; n++) {
        const real *x = c->x + ((n * c->groups + u->group) * c->in_channels + first) * pixels;
        real *to = u->padded + (n - u->image0) * channels * u->plane;
        for (int64_t i = 0; i < channels; i++, to += u->plane) pad_plane(&p->layout, x + i * pixels, u->line0, u->lines, to);
    }
}

static void pad_all_input(int64_t t, void *ctx)
{
    const wide_plan *p = ctx;
    const correlation *c = p->c;
    const int64_t pixels = c->rows.in * c->cols.in;
    for (int64_t i = t * c->in_channels; i < (t + 1) * c->in_channels; i++)
        pad_plane(&p->layout, c->x + i * pixels, 0, c->rows.out, p->own_padded + i * p->plane);
}

/* Gathers one tile: to[(channel * taps + tap) * PIXELS + i]. Pixels that are neighbours are copied as a whole vector; what that
 * writes too much is overwritten by the next run, the next tap, or lies in the slack behind the last tile. */
static void gather_tile(const wide_plan *p, const wide_unit *u, int64_t tile, int64_t first, int64_t channels, real *to)
{
    const correlation *c = p->c;
    const int64_t width = c->cols.out, height = c->rows.out, count = tile_end(p, tile) - tile_start(p, tile);
    int64_t at[PIXELS], runs = 0;
    const real *from[PIXELS];
    for (int64_t done = 0; done < count; runs++) {
        int64_t q = tile_start(p, tile) + done, row = q / width, col = q % width;
        at[runs] = done;
        from[runs] = padded_planes(p, u, row / height, first, channels) + row % height * c->rows.step * p->layout.pitch + col;
        done += TD_MIN(TD_MIN(count - done, width - col), LANES);
    }
    for (int64_t i = 0; i < channels; i++) {
        for (int64_t t = 0; t < p->taps; t++, to += PIXELS) {
            const int64_t distance = i * u->plane + p->layout.offset[t];
            for (int64_t r = 0; r < runs; r++) vec_store(to + at[r], vec_load(from[r] + distance));
        }
    }
}

/* What a tile reads: where from, and which taps. Returns how many taps come before the first that it needs. */
static int64_t tile_input(const wide_plan *p, const wide_unit *u, int64_t image, int64_t tile, int64_t first, tile_sum *s,
                          const real **x)
{
    const correlation *c = p->c;
    s->skip = 0;
    if (p->source == IN_PLACE) {
        const int64_t pixels = c->rows.in * c->cols.in;
        *x = c->x + ((image * c->groups + u->group) * c->in_channels + first) * pixels + tile_start(p, tile);
        return 0;
    }
    if (p->source == GATHERED) {
        *x = u->gathered + (tile - u->tile0) * s->channels * p->taps * PIXELS;
        return 0;
    }
    const int64_t line = tile / p->line_tiles;
    int64_t low, high;
    inner_taps(&c->rows, line, &low, &high);
    s->taps = (high - low) * c->cols.taps;
    s->offset = p->edge_offset[(tile_start(p, tile) == 0) + 2 * (tile_end(p, tile) == p->line)] + low * c->cols.taps;
    s->skip = p->taps - s->taps;
    *x = padded_planes(p, u, image, first, s->channels) + (line - u->line0) * c->rows.step * p->layout.pitch
        + tile_start(p, tile);
    return low * c->cols.taps;
}

/* ---- the output ---- */

/* Writes `count` pixels of `lanes` channels, pixels `step` apart. */
static void put_pixels(const real *sums, int64_t pitch, int64_t count, int64_t lanes, real *y, int64_t y_channel, int64_t step)
{
    if (step == 1) {
        for (int64_t i = 0; i < count; i += LANES)
            transpose_from_lanes(sums + i * pitch, pitch, TD_MIN(count - i, LANES), lanes, y + i, y_channel);
        return;
    }
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t i = 0; i < count; i++) y[l * y_channel + i * step] = sums[i * pitch + l];
}

/* Adds the bias to the sums of a tile and writes them; a tile may run over rows and, when gathered, over images. */
static void put_tile(const wide_plan *p, const wide_unit *u, int64_t image, int64_t tile, int64_t block, real *sums)
{
    const correlation *c = p->c;
    const int64_t width = c->cols.out, height = c->rows.out, vectors = block_vectors(c, block), pitch = vectors * LANES;
    const int64_t channel = u->group * c->out_channels + block * WIDE, lanes = c->out_channels - block * WIDE;
    const int dense = c->y_col == 1 && c->y_row == width;
    const int64_t count = tile_end(p, tile) - tile_start(p, tile);
    int64_t row = (p->source == GATHERED ? 0 : image * height) + (p->source == PADDED ? tile / p->line_tiles : 0);
    int64_t pixel = row * width + tile_start(p, tile);
    for (int64_t v = 0; v < vectors && c->bias; v++) {
        vec b = vec_load_n(c->bias + channel + v * LANES, TD_MIN(lanes - v * LANES, LANES));
        for (int64_t i = 0; i < count; i++) vec_store(sums + i * pitch + v * LANES, vec_load(sums + i * pitch + v * LANES) + b);
    }
    for (int64_t done = 0, n; done < count; done += n, pixel += n) {
        int64_t col = pixel % width;
        row = pixel / width;
        image = row / height;
        row -= image * height;
        n = TD_MIN(count - done, dense ? (height - row) * width - col : width - col);
        real *y = c->y + image * c->y_image + channel * c->y_channel + row * c->y_row + col * c->y_col;
        for (int64_t v = 0; v < vectors; v++)
            put_pixels(sums + done * pitch + v * LANES, pitch, n, TD_MIN(lanes - v * LANES, LANES),
                       y + v * LANES * c->y_channel, c->y_channel, c->y_col);
    }
}

/* Starts fetching the lines of the output that the tile will write: computing it takes as long as that. */
static void fetch_output(const wide_plan *p, const wide_unit *u, int64_t image, int64_t tile, int64_t block)
{
    const correlation *c = p->c;
    const int64_t channel = u->group * c->out_channels + block * WIDE, lanes = TD_MIN(c->out_channels - block * WIDE, WIDE);
    const real *y = c->y + image * c->y_image + channel * c->y_channel + tile / p->line_tiles * c->y_row;
    const int64_t first = tile_start(p, tile) * c->y_col, last = (tile_end(p, tile) - 1) * c->y_col;
    for (int64_t l = 0; l < lanes; l++, y += c->y_channel) {
        __builtin_prefetch(y + first, 1);
        __builtin_prefetch(y + last, 1);
    }
}

/* ---- a unit ---- */

static void sum_block(const wide_plan *p, const wide_unit *u, int64_t block, int64_t first, tile_sum s, real *sums)
{
    const correlation *c = p->c;
    const int64_t vectors = block_vectors(c, block), images = p->source == GATHERED ? 1 : u->images;
    const int last = first + s.channels == c->in_channels;
    const real *w = u->weights;
    if (p->weights) w = p->weights + (u->group * p->blocks + block) * WIDE * p->depth + first * p->taps * vectors * LANES;
    else pack_weights(p, u->group, block, first, s.channels, u->weights);
    for (int64_t n = u->image0; n < u->image0 + images; n++) {
        for (int64_t t = u->tile0; t < u->tile0 + u->tiles; t++) {
            const real *x;
            const int64_t before = tile_input(p, u, n, t, first, &s, &x), pixels = tile_end(p, t) - tile_start(p, t);
            s.skip *= vectors * LANES;
            if (last && p->source == PADDED) fetch_output(p, u, n, t, block);
            wide_tiles[vectors - 1][pixels - 1](&s, x, w + before * vectors * LANES, sums, first == 0);
            if (last) put_tile(p, u, n, t, block, sums);
            if (u->kept) sums += p->tile_pixels * WIDE;
        }
    }
}

static void sum_part(const wide_plan *p, const wide_unit *u, int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    tile_sum s = {channels, u->plane, p->taps, p->edge_offset[0], 0};
    if (p->source != IN_PLACE && !p->padded) pad_input(p, u, first, channels);
    if (p->source == GATHERED) {
        for (int64_t t = 0; t < u->tiles; t++)
            gather_tile(p, u, u->tile0 + t, first, channels, u->gathered + t * channels * p->taps * PIXELS);
        s.plane = p->taps * PIXELS;
        s.offset = p->gathered_offset;
    }
    if (p->source == IN_PLACE) s.plane = c->rows.in * c->cols.in;
    const int64_t kept = u->kept ? u->tiles * (p->source == GATHERED ? 1 : u->images) * p->tile_pixels * WIDE : 0;
    for (int64_t b = 0; b < u->blocks; b++) sum_block(p, u, u->block0 + b, first, s, u->sums + b * kept);
}

/* Where the unit's scratch lies: sizes in elements, each a multiple of a cache line. */
static int64_t unit_scratch(const wide_plan *p, wide_unit *u, real *base)
{
    const int64_t line = 64 / REAL_SIZE, images = p->source == GATHERED ? 1 : u->images;
    int64_t sizes[4];
    sizes[0] = p->source == IN_PLACE || p->padded ? 0 : u->images * p->part * u->plane + LANES;
    sizes[1] = p->source == GATHERED ? u->tiles * p->part * p->taps * PIXELS + LANES : 0;
    sizes[2] = (u->kept ? images * u->tiles * u->blocks : 1) * p->tile_pixels * WIDE;
    sizes[3] = p->weights ? 0 : p->part * p->taps * WIDE;
    int64_t at[5] = {0};
    for (int i = 0; i < 4; i++) at[i + 1] = at[i] + ceil_div(sizes[i], line) * line;
    if (base) {
        u->padded = base + at[0];
        u->gathered = base + at[1];
        u->sums = base + at[2];
        u->weights = base + at[3];
    }
    return at[4];
}

static void find_unit(const wide_plan *p, int64_t t, wide_unit *u)
{
    const correlation *c = p->c;
    int64_t chunk = t % p->chunks, range = t / p->chunks % p->ranges, rest = t / p->chunks / p->ranges;
    int64_t batch = rest % p->batches;
    u->group = rest / p->batches;
    u->block0 = share(p->blocks, p->chunks, chunk);
    u->blocks = share(p->blocks, p->chunks, chunk + 1) - u->block0;
    u->image0 = share(c->batch, p->batches, batch);
    u->images = share(c->batch, p->batches, batch + 1) - u->image0;
    if (p->source == PADDED) {                              /* cut between lines */
        u->line0 = share(p->lines, p->ranges, range);
        u->lines = share(p->lines, p->ranges, range + 1) - u->line0;
        u->tile0 = u->line0 * p->line_tiles;
        u->tiles = u->lines * p->line_tiles;
    } else {                                                /* one line, cut between tiles */
        u->tile0 = share(p->line_tiles, p->ranges, range);
        u->tiles = share(p->line_tiles, p->ranges, range + 1) - u->tile0;
    }
    if (p->source == GATHERED) {
        const int64_t pixels = c->rows.out * c->cols.out;
        u->image0 = tile_start(p, u->tile0) / pixels;
        u->images = (tile_end(p, u->tile0 + u->tiles - 1) - 1) / pixels + 1 - u->image0;
    }
    if (p->source == GATHERED || p->padded) {
        u->line0 = 0;
        u->lines = c->rows.out;
    }
    u->plane = p->padded ? p->plane : padded_plane(&p->layout, u->lines);
    u->kept = p->part < c->in_channels;
}

static void run_wide_unit(int64_t t, void *ctx)
{
    wide_plan *p = ctx;
    wide_unit u = {0};
    find_unit(p, t, &u);
    if (!u.tiles || !u.blocks || !u.images) return;
    real *scratch = td_scratch((size_t)unit_scratch(p, &u, NULL) * sizeof(real));
    if (!scratch) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    unit_scratch(p, &u, scratch);
    for (int64_t first = 0; first < p->c->in_channels; first += p->part)
        sum_part(p, &u, first, TD_MIN(p->part, p->c->in_channels - first));
    td_scratch_free(scratch);
}

/* ---- the plan ---- */

/* Tiles of few pixels waste registers: then pixels are gathered over rows and images, which pays off when the gathered ones are
 * used for many output channels. */
static enum wide_source choose_source(const wide_plan *p)
{
    const correlation *c = p->c;
    if (p->taps == 1 && needs_no_padding(&p->layout)) return IN_PLACE;
    if (c->cols.out < FEW_PIXELS && c->out_channels >= 2 * WIDE) return GATHERED;
    return PADDED;
}

static int64_t units_for_threads(const correlation *c, int64_t depth)
{
    double work = (double)c->batch * (double)c->groups * (double)c->out_channels * (double)depth
        * (double)(c->rows.out * c->cols.out);
    int threads = td_threads();
    if (threads == 1 || work < UNIT_WORK) return 1;
    return TD_MIN(4 * (int64_t)threads, (int64_t)(work / UNIT_WORK));
}

/* Cuts into enough units for the threads: along the larger of input and weights first, since each unit reads all of the other. */
static void cut_into_units(wide_plan *p)
{
    const correlation *c = p->c;
    const int64_t pixels = c->rows.out * c->cols.out, cuts = p->source == PADDED ? p->lines : p->line_tiles;
    const int64_t image_bytes = p->part * p->plane * REAL_SIZE, weight_bytes = c->out_channels * p->depth * REAL_SIZE;
    int64_t together = 1;                                   /* images per unit */
    if (weight_bytes > WEIGHT_BYTES) together = TD_MAX(1, TD_MIN(ceil_div(UNIT_PIXELS, pixels), SOURCE_BYTES / image_bytes));
    p->batches = p->source == GATHERED ? 1 : ceil_div(c->batch, together);
    int64_t ranges = 1;
    if (p->source == PADDED) ranges = ceil_div(image_bytes, SOURCE_BYTES);
    if (p->source == GATHERED) ranges = ceil_div(p->line_tiles, GATHERED_TILES);
    ranges = TD_MIN(ranges, cuts);
    int64_t wanted = ceil_div(units_for_threads(c, p->depth), p->batches * c->groups * ranges);
    int64_t more = TD_MIN(cuts / ranges, wanted);
    if (c->out_channels * p->taps > c->rows.in * c->cols.in * together) more = ceil_div(wanted, TD_MIN(p->blocks, wanted));
    p->ranges = TD_MIN(cuts, ranges * more);
    p->chunks = TD_MIN(p->blocks, ceil_div(wanted, more));
    if (p->part == c->in_channels) return;
    int64_t sums = together * ceil_div(cuts, p->ranges) * (p->source == PADDED ? p->line_tiles : 1) * p->tile_pixels * WIDE;
    p->chunks = TD_MAX(p->chunks, TD_MIN(p->blocks, ceil_div(p->blocks * sums * REAL_SIZE, SUMS_BYTES)));
}

/* The offsets in the form that wide tiles take. */
static void encode_offsets(wide_plan *p)
{
    const correlation *c = p->c;
    const conv_axis *k = &c->cols;
    for (int64_t t = 0; t < p->taps; t++) {
        const int64_t at = k->first + k->delta[t % k->taps];
        const int left = at < 0, right = (k->out - 1) * k->step + at >= k->in;
        const int64_t offset = p->source == IN_PLACE ? 0 : 4 * p->layout.offset[t];
        p->edge_offset[0][t] = offset;
        p->edge_offset[1][t] = offset + (left ? EDGE_FIRST : EDGE_NONE);
        p->edge_offset[2][t] = offset + (right ? EDGE_LAST : EDGE_NONE);
        p->edge_offset[3][t] = offset + (left ? EDGE_FIRST : right ? EDGE_LAST : EDGE_NONE);
        p->gathered_offset[t] = 4 * t * PIXELS;
    }
}

static int plan_wide(wide_plan *p, const correlation *c)
{
    p->c = c;
    p->taps = c->rows.taps * c->cols.taps;
    p->depth = p->taps * c->in_channels;
    int64_t *tables = td_scratch((size_t)(5 * p->taps + layout_numbers(&c->rows, &c->cols)) * sizeof(int64_t));
    if (!tables) return TD_ERR_MEMORY;
    p->tables = tables;
    for (int i = 0; i < 4; i++, tables += p->taps) p->edge_offset[i] = tables;
    p->gathered_offset = tables;
    lay_out(&p->layout, &c->rows, &c->cols, 0, tables + p->taps);
    p->source = choose_source(p);
    encode_offsets(p);
    p->plane = padded_plane(&p->layout, c->rows.out);
    p->lines = p->source == PADDED ? c->rows.out : 1;
    p->line = c->cols.out * (p->source == PADDED ? 1 : c->rows.out) * (p->source == GATHERED ? c->batch : 1);
    p->line_tiles = ceil_div(p->line, PIXELS);
    p->tile_pixels = ceil_div(p->line, p->line_tiles);
    p->blocks = ceil_div(c->out_channels, WIDE);
    p->part = ceil_div(c->in_channels, ceil_div(c->in_channels, TD_MAX(DEPTH / p->taps, 1)));
    cut_into_units(p);
    return TD_OK;
}

/* What several units read is prepared once, before them. */
static void prepare_wide(wide_plan *p)
{
    const correlation *c = p->c;
    if (p->batches * p->ranges > 1) {
        p->weights = td_scratch((size_t)(c->groups * p->blocks * WIDE * p->depth) * sizeof(real));
        if (p->weights) td_parallel(c->groups * p->blocks, pack_all_weights, p);
        else p->failed = 1;
    }
    if (p->source == PADDED && needs_no_padding(&p->layout)) {
        p->plane = c->rows.in * c->cols.in;
        p->padded = c->x;
    } else if (p->chunks > 1 && p->source != IN_PLACE) {
        p->padded = p->own_padded = td_scratch((size_t)(c->batch * c->groups * c->in_channels * p->plane + LANES) * sizeof(real));
        if (p->own_padded) td_parallel(c->batch * c->groups, pad_all_input, p);
        else p->failed = 1;
    }
}

static int correlate_wide(const correlation *c)
{
    wide_plan p = {0};
    int status = plan_wide(&p, c);
    if (status) return status;
    prepare_wide(&p);
    if (!p.failed) td_parallel(c->groups * p.batches * p.ranges * p.chunks, run_wide_unit, &p);
    td_scratch_free(p.own_padded);
    td_scratch_free(p.weights);
    td_scratch_free(p.tables);
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}
#endif
