/* A correlation by wide tiles (lanes = output channels). The work is cut into units: images x range
 * of tiles x chunk of channel blocks. A unit takes one part of the input channels at a time, so
 * that what it reads again and again stays in the second-level cache, and keeps sums between parts.
 * How the work is cut never changes the order of any sum. */
#ifndef TREADLE_CONV_WIDE_H
#define TREADLE_CONV_WIDE_H
#include "conv_pack.h"

#define DEPTH 1152 /* input channels x taps of a part: its weights (147 KB) stay in L2 */
#define SOURCE_BYTES (384 << 10) /* prepared input of a unit at most */
#define SUMS_BYTES (4 << 20)     /* sums kept between parts by a unit at most */
#define PADDED_BYTES (32 << 20)  /* input that is padded for all units at once at most */
#define WEIGHT_BYTES (512 << 10) /* more than this should be read for several images at once */
#define UNIT_PIXELS 256          /* then units should have that many pixels */
#define GATHERED_TILES 12        /* tiles of a unit whose pixels are gathered at most */
#define UNIT_WORK 200000         /* multiply-adds that are worth handing to a thread */

enum wide_source { IN_PLACE, PADDED, GATHERED };

typedef struct {
    correlation *c;
    enum wide_source source;
    padded_layout layout;
    int64_t taps, kernel;            /* taps that are used, weights per pair of channels */
    int64_t line, lines;             /* pixels that tiles are cut from; such lines of an image */
    int64_t line_tiles, tile_pixels; /* tiles of a line; pixels of the largest */
    int64_t part;                    /* input channels per part */
    int64_t batches, ranges, chunks; /* of images, tiles, blocks: together the units */
    const real *padded; /* [image][group][channel][plane], or NULL: units pad their own */
    real *own_padded;   /* the same, where it is not the input itself */
    int64_t plane;
    void *tables;      /* the memory of those below */
    tap *edge_taps[4]; /* for tiles with bit 0: the first pixel of a row, bit 1: the last one */
    tap *gathered_taps;
    int failed;
} wide_plan;

/* ---- the input ---- */

typedef struct {
    int64_t group;
    int64_t image0, images;
    int64_t tile0, tiles; /* of each image; GATHERED: counted over all images */
    int64_t block0, blocks;
    int64_t line0, lines; /* rows of output that its own padded input serves */
    int64_t plane;        /* elements from plane to plane of it */
    int kept;             /* whether sums are kept from part to part */
    real *padded, *gathered, *sums, *weights;
} wide_unit;

/* Where a tile lies: `start` and `count` pixels of line `line`. */
typedef struct {
    int64_t line, start, count;
} tile_place;

TD_INLINE tile_place place_of(const wide_plan *p, int64_t tile)
{
    const int64_t line = tile / p->line_tiles, k = tile - line * p->line_tiles;
    const int64_t start = share(p->line, p->line_tiles, k);
    return (tile_place){line, start, share(p->line, p->line_tiles, k + 1) - start};
}

/* The planes of one image that were padded, from input channel `first` on. */
static const real *padded_planes(const wide_plan *p, const wide_unit *u, int64_t image,
                                 int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    if (p->padded)
        return p->padded + ((image * c->groups + u->group) * c->in_channels + first) * p->plane;
    return u->padded + (image - u->image0) * channels * u->plane;
}

static void pad_input(const wide_plan *p, const wide_unit *u, int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    const int64_t pixels = c->rows.in * c->cols.in;
    for (int64_t n = u->image0; n < u->image0 + u->images; n++) {
        const real *x = c->x + ((n * c->groups + u->group) * c->in_channels + first) * pixels;
        real *to = u->padded + (n - u->image0) * channels * u->plane;
        for (int64_t i = 0; i < channels; i++, to += u->plane)
            pad_plane(&p->layout, x + i * pixels, u->line0, u->lines, to);
    }
}

/* Gathers one tile: to[(channel * taps + tap) * PIXELS + i]. Pixels that are neighbours are copied
 * as a whole vector; what that writes too much is overwritten by the next run, the next tap, or
 * lies in the slack behind the last tile. */
static void gather_tile(const wide_plan *p, const wide_unit *u, tile_place at, int64_t first,
                        int64_t channels, real *to)
{
    const correlation *c = p->c;
    const int64_t width = c->cols.out, height = c->rows.out;
    int64_t place[PIXELS], runs = 0;
    const real *from[PIXELS];
    for (int64_t done = 0; done < at.count; runs++) {
        const int64_t q = at.start + done, row = q / width, col = q % width;
        place[runs] = done;
        from[runs] = padded_planes(p, u, row / height, first, channels)
                     + row % height * c->rows.step * p->layout.pitch + col;
        done += TD_MIN(TD_MIN(at.count - done, width - col), LANES);
    }
    for (int64_t i = 0; i < channels; i++) {
        for (int64_t t = 0; t < p->taps; t++, to += PIXELS) {
            const int64_t distance = i * u->plane + p->layout.offset[t];
            for (int64_t r = 0; r < runs; r++)
                vec_store(to + place[r], vec_load(from[r] + distance));
        }
    }
}

/* Where a tile reads its input; chooses the taps that it needs. */
static const real *tile_input(const wide_plan *p, const wide_unit *u, int64_t image, int64_t tile,
                              tile_place at, int64_t first, tile_sum *s)
{
    const correlation *c = p->c;
    if (p->source == IN_PLACE) {
        const int64_t pixels = c->rows.in * c->cols.in;
        return c->x + ((image * c->groups + u->group) * c->in_channels + first) * pixels + at.start;
    }
    if (p->source == GATHERED)
        return u->gathered + (tile - u->tile0) * s->channels * p->taps * PIXELS;
    int64_t low, high;
    inner_taps(&c->rows, at.line, &low, &high);
    const tap *taps = p->edge_taps[(at.start == 0) + 2 * (at.start + at.count == p->line)];
    s->first = taps + low * c->cols.taps;
    s->end = taps + high * c->cols.taps;
    return padded_planes(p, u, image, first, s->channels)
           + (at.line - u->line0) * c->rows.step * p->layout.pitch + at.start;
}

/* ---- the output ---- */

/* Writes `count` pixels of `lanes` channels, pixels `step` apart. */
static void put_pixels(const real *sums, int64_t pitch, int64_t count, int64_t lanes, real *y,
                       int64_t y_channel, int64_t step)
{
    if (step == 1) {
        for (int64_t i = 0; i < count; i += LANES)
            transpose_from_lanes(sums + i * pitch, pitch, TD_MIN(count - i, LANES), lanes, y + i,
                                 y_channel);
        return;
    }
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t i = 0; i < count; i++) y[l * y_channel + i * step] = sums[i * pitch + l];
}

/* Finishes the `count` sums of every channel of a tile: scale, bias, act. */
static void finish_tile(const correlation *c, int64_t channel, int64_t lanes, int64_t vectors,
                        int64_t count, real *sums)
{
    for (int64_t v = 0; v < vectors; v++, channel += LANES, lanes -= LANES, sums += LANES) {
        const int64_t n = TD_MIN(lanes, LANES);
        const vec scale = c->scale ? vec_load_n(c->scale + channel, n) : vec_all(1);
        const vec bias = c->bias ? vec_load_n(c->bias + channel, n) : (vec){0};
        for (int64_t i = 0; i < count; i++) {
            const vec y = vec_load(sums + i * vectors * LANES) * scale + bias;
            vec_store(sums + i * vectors * LANES, c->relu ? vec_relu(y) : y);
        }
    }
}

/* Finishes the sums of a tile and writes them; a tile may run over rows and, when gathered, over
 * images. */
static void put_tile(const wide_plan *p, const wide_unit *u, int64_t image, tile_place at,
                     int64_t block, real *sums)
{
    const correlation *c = p->c;
    const int64_t width = c->cols.out, height = c->rows.out, lanes = c->out_channels - block * WIDE;
    const int64_t channel = u->group * c->out_channels + block * WIDE;
    const int64_t vectors = block_vectors(c, block), pitch = vectors * LANES;
    const int dense = c->y_col == 1 && c->y_row == width;
    if (c->bias || c->scale || c->relu) finish_tile(c, channel, lanes, vectors, at.count, sums);
    int64_t row = at.line, col = at.start; /* of the first pixel that is not yet written */
    for (int64_t done = 0, n; done < at.count; done += n, col += n) {
        if (col >= width) row += col / width, col %= width;
        if (row >= height) image += row / height, row %= height;
        n = TD_MIN(at.count - done, dense ? (height - row) * width - col : width - col);
        real *y = c->y + image * c->y_image + row * c->y_row + col * c->y_col;
        for (int64_t v = 0; v < vectors; v++)
            put_pixels(sums + done * pitch + v * LANES, pitch, n, TD_MIN(lanes - v * LANES, LANES),
                       y + (channel + v * LANES) * c->y_channel, c->y_channel, c->y_col);
    }
}

/* ---- a unit ---- */

static void sum_block(const wide_plan *p, const wide_unit *u, int64_t block, int64_t first,
                      tile_sum s, real *sums)
{
    const correlation *c = p->c;
    const int64_t vectors = block_vectors(c, block), images = p->source == GATHERED ? 1 : u->images;
    const int last = first + s.channels == c->in_channels;
    const real *w = u->weights;
    if (c->packed)
        w = c->packed + (u->group * count_blocks(c) + block) * packed_block(c)
            + first * p->kernel * vectors * LANES;
    else pack_weights(c, u->group, block, first, s.channels, u->weights);
    for (int64_t n = u->image0; n < u->image0 + images; n++) {
        for (int64_t t = u->tile0; t < u->tile0 + u->tiles; t++) {
            const tile_place at = place_of(p, t);
            const real *x = tile_input(p, u, n, t, at, first, &s);
            wide_tiles[vectors - 1][at.count - 1](&s, x, w, sums, first == 0);
            if (last) put_tile(p, u, p->source == GATHERED ? 0 : n, at, block, sums);
            if (u->kept) sums += p->tile_pixels * WIDE;
        }
    }
}

static void sum_part(const wide_plan *p, const wide_unit *u, int64_t first, int64_t channels)
{
    const correlation *c = p->c;
    tile_sum s = {channels, u->plane, p->kernel, p->edge_taps[0], p->edge_taps[0] + p->taps};
    if (p->source != IN_PLACE && !p->padded) pad_input(p, u, first, channels);
    if (p->source == GATHERED) {
        for (int64_t t = 0; t < u->tiles; t++)
            gather_tile(p, u, place_of(p, u->tile0 + t), first, channels,
                        u->gathered + t * channels * p->taps * PIXELS);
        s.plane = p->taps * PIXELS;
        s.first = p->gathered_taps;
        s.end = s.first + p->taps;
    }
    if (p->source == IN_PLACE) s.plane = c->rows.in * c->cols.in;
    const int64_t tiles = u->kept ? u->tiles * (p->source == GATHERED ? 1 : u->images) : 0;
    for (int64_t b = 0; b < u->blocks; b++)
        sum_block(p, u, u->block0 + b, first, s, u->sums + b * tiles * p->tile_pixels * WIDE);
}

/* Where the unit's scratch lies: sizes in elements, each a multiple of a cache line. */
static int64_t unit_scratch(const wide_plan *p, wide_unit *u, real *base)
{
    const correlation *c = p->c;
    const int64_t line = 64 / REAL_SIZE, images = p->source == GATHERED ? 1 : u->images;
    int64_t sizes[4];
    sizes[0] = p->source == IN_PLACE || p->padded ? 0 : u->images * p->part * u->plane + LANES;
    sizes[1] = p->source == GATHERED ? u->tiles * p->part * p->taps * PIXELS + LANES : 0;
    sizes[2] = (u->kept ? images * u->tiles * u->blocks : 1) * p->tile_pixels * WIDE;
    sizes[3] = c->packed ? 0 : p->part * p->kernel * WIDE;
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
    const int64_t chunk = t % p->chunks, range = t / p->chunks % p->ranges;
    const int64_t rest = t / p->chunks / p->ranges, batch = rest % p->batches;
    u->group = rest / p->batches;
    u->block0 = share(count_blocks(c), p->chunks, chunk);
    u->blocks = share(count_blocks(c), p->chunks, chunk + 1) - u->block0;
    u->image0 = share(c->batch, p->batches, batch);
    u->images = share(c->batch, p->batches, batch + 1) - u->image0;
    if (p->source == PADDED) { /* cut between lines */
        u->line0 = share(p->lines, p->ranges, range);
        u->lines = share(p->lines, p->ranges, range + 1) - u->line0;
        u->tile0 = u->line0 * p->line_tiles;
        u->tiles = u->lines * p->line_tiles;
    } else { /* one line, cut between tiles */
        u->tile0 = share(p->line_tiles, p->ranges, range);
        u->tiles = share(p->line_tiles, p->ranges, range + 1) - u->tile0;
    }
    if (p->source == GATHERED) {
        const int64_t pixels = c->rows.out * c->cols.out;
        const tile_place from = place_of(p, u->tile0), to = place_of(p, u->tile0 + u->tiles - 1);
        u->image0 = from.start / pixels;
        u->images = (to.start + to.count - 1) / pixels + 1 - u->image0;
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
    if (!u.tiles || !u.blocks) return;
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

/* Tiles of few pixels waste registers: then pixels are gathered over rows and images, which pays
 * off when the gathered ones are used for many output channels. */
static enum wide_source choose_source(const wide_plan *p)
{
    const correlation *c = p->c;
    const int flat = p->taps == 1 && needs_no_padding(&p->layout);
    const int64_t line = flat ? c->rows.out * c->cols.out : c->cols.out;
    const int64_t pixels = c->batch * c->rows.out * c->cols.out;
    if (line < FEW_PIXELS && line < pixels && c->out_channels >= 2 * WIDE) return GATHERED;
    if (flat) return IN_PLACE;
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

/* Cuts into enough units for the threads: along the larger of input and weights first, since each
 * unit reads all of the other. */
static void cut_into_units(wide_plan *p)
{
    const correlation *c = p->c;
    const int64_t pixels = c->rows.out * c->cols.out;
    const int64_t cuts = p->source == PADDED ? p->lines : p->line_tiles;
    const int64_t blocks = count_blocks(c), depth = p->taps * c->in_channels;
    const int64_t image_bytes = p->part * p->plane * REAL_SIZE;
    const int64_t weight_bytes = c->out_channels * depth * REAL_SIZE;
    int64_t together = 1; /* images per unit */
    if (weight_bytes > WEIGHT_BYTES)
        together = TD_MAX(1, TD_MIN(ceil_div(UNIT_PIXELS, pixels), SOURCE_BYTES / image_bytes));
    p->batches = p->source == GATHERED ? 1 : ceil_div(c->batch, together);
    int64_t ranges = 1;
    if (p->source == PADDED) ranges = ceil_div(image_bytes, SOURCE_BYTES);
    if (p->source == GATHERED) ranges = ceil_div(p->line_tiles, GATHERED_TILES);
    ranges = TD_MIN(ranges, cuts);
    int64_t wanted = ceil_div(units_for_threads(c, depth), p->batches * c->groups * ranges);
    int64_t more = TD_MIN(cuts / ranges, wanted);
    if (c->out_channels * p->taps > c->rows.in * c->cols.in * together)
        more = ceil_div(wanted, TD_MIN(blocks, wanted));
    p->ranges = TD_MIN(cuts, ranges * more);
    p->chunks = TD_MIN(blocks, ceil_div(wanted, more));
    if (p->part == c->in_channels) return;
    int64_t sums = together * ceil_div(cuts, p->ranges) * (p->source == PADDED ? p->line_tiles : 1)
                   * p->tile_pixels * WIDE;
    p->chunks = TD_MAX(p->chunks, TD_MIN(blocks, ceil_div(blocks * sums * REAL_SIZE, SUMS_BYTES)));
}

/* The taps in the form that wide tiles take. */
static void encode_taps(wide_plan *p)
{
    const correlation *c = p->c;
    const conv_axis *k = &c->cols;
    for (int64_t t = 0; t < p->taps; t++) {
        const int64_t at = k->first + k->delta[t % k->taps], weight = tap_weight(c, t);
        const int left = at < 0 ? EDGE_FIRST : EDGE_NONE;
        const int right = (k->out - 1) * k->step + at >= k->in ? EDGE_LAST : EDGE_NONE;
        const int64_t offset = p->source == IN_PLACE ? 0 : 4 * p->layout.offset[t];
        p->edge_taps[0][t] = (tap){offset, weight};
        p->edge_taps[1][t] = (tap){offset + left, weight};
        p->edge_taps[2][t] = (tap){offset + right, weight};
        p->edge_taps[3][t] = (tap){offset + (left ? left : right), weight};
        p->gathered_taps[t] = (tap){4 * t * PIXELS, weight};
    }
}

static int plan_wide(wide_plan *p, correlation *c)
{
    p->c = c;
    p->taps = c->rows.taps * c->cols.taps;
    p->kernel = kernel_size(c);
    const int64_t numbers = layout_numbers(&c->rows, &c->cols);
    p->tables = td_scratch((size_t)(5 * p->taps) * sizeof(tap) + (size_t)numbers * sizeof(int64_t));
    if (!p->tables) return TD_ERR_MEMORY;
    tap *taps = p->tables;
    for (int i = 0; i < 4; i++, taps += p->taps) p->edge_taps[i] = taps;
    p->gathered_taps = taps;
    lay_out(&p->layout, &c->rows, &c->cols, 0, (int64_t *)(taps + p->taps));
    p->source = choose_source(p);
    encode_taps(p);
    p->plane = padded_plane(&p->layout, c->rows.out);
    p->lines = p->source == PADDED ? c->rows.out : 1;
    p->line = c->cols.out * (p->source == PADDED ? 1 : c->rows.out)
              * (p->source == GATHERED ? c->batch : 1);
    p->line_tiles = ceil_div(p->line, PIXELS);
    p->tile_pixels = ceil_div(p->line, p->line_tiles);
    p->part = ceil_div(c->in_channels, ceil_div(c->in_channels, TD_MAX(DEPTH / p->taps, 1)));
    cut_into_units(p);
    return TD_OK;
}

/* What several units read is prepared once, before them. */
static int prepare_wide(wide_plan *p)
{
    correlation *c = p->c;
    if ((p->batches * p->ranges > 1 || c->share_weights) && pack_all_weights(c))
        return TD_ERR_MEMORY;
    if (p->source == PADDED && needs_no_padding(&p->layout)) {
        p->plane = c->rows.in * c->cols.in;
        p->padded = c->x;
        return TD_OK;
    }
    const int64_t planes = c->batch * c->groups * c->in_channels;
    if (p->chunks > 1 && p->source != IN_PLACE && planes * p->plane * REAL_SIZE <= PADDED_BYTES) {
        p->padded = p->own_padded = pad_planes(&p->layout, c->x, planes, p->plane);
        if (!p->padded) return TD_ERR_MEMORY;
    }
    return TD_OK;
}

static int correlate_wide(correlation *c)
{
    wide_plan p = {0};
    int status = plan_wide(&p, c);
    if (!status) status = prepare_wide(&p);
    if (!status) td_parallel(c->groups * p.batches * p.ranges * p.chunks, run_wide_unit, &p);
    td_scratch_free(p.own_padded);
    td_scratch_free(p.tables);
    if (!c->share_weights) {
        td_scratch_free(c->packed);
        c->packed = NULL;
    }
    return p.failed ? TD_ERR_MEMORY : status;
}
#endif
