/* The weight gradient of 3 x 3 convolutions of stride 1 by Winograd's method: 6 x 6 inputs and 4 x
 * 4 gradients of outputs are transformed, multiplied and summed up over tiles, and the sums are
 * transformed back. Tiles are taken in rounds, so that what is transformed stays in the caches; how
 * many there are depends on the sizes only, and so does the result. */
#include "conv_winograd_tiles.h"

#define ROUND_BYTES (4 << 20)   /* transformed input and gradient of a round */
#define TASK_BYTES (192 << 10)  /* likewise, of a task that transforms */
#define SUM_BYTES (256 << 10)   /* sums of a task, which should stay in L2 */
#define FEW_CHANNELS 8          /* input channels of a task at least */

typedef struct {
    td_winograd_weight *c;
    tiling t;
    images x, g;
    int64_t panels;     /* of output channels */
    int64_t pitch;      /* of the transformed input */
    int64_t span;       /* lines of a task */
    int64_t first, end; /* lines of a round */
    int64_t chunks;     /* of input channels */
    float *input;       /* transformed: [value][tile][channel] */
    float *gradient;    /* transformed: [panel][value][tile][lane] */
    int failed, bad;
} weight_plan;

static float *scratch(weight_plan *p, int64_t elements)
{
    float *made = td_scratch((size_t)elements * sizeof *made);
    if (!made) __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
    return made;
}

static int64_t panel_width(const weight_plan *p, int64_t panel)
{
    return p->c->out_channels - panel * WIDE > LANES ? WIDE : LANES;
}
static int64_t tile_of(const weight_plan *p, int64_t line)
{
    return count_tiles(&p->t, p->first, line);
}
static int64_t panel_size(int64_t tiles) { return VALUES * value_pitch(tiles, WIDE); }

static void transform_task(int64_t t, void *ctx)
{
    weight_plan *p = ctx;
    const int64_t first = p->first + t * p->span, end = TD_MIN(first + p->span, p->end);
    const int64_t tiles = tile_of(p, p->end), tile = tile_of(p, first);
    float *strip = scratch(p, image_strip(&p->t, &p->x, p->span));
    if (!strip) return;
    transform_lines(&p->t, &p->x, first, end, 0, p->x.channels, strip, p->input + tile * p->pitch,
                    p->pitch, value_pitch(tiles, p->pitch));
    for (int64_t panel = 0; panel < p->panels; panel++) {
        const int64_t width = panel_width(p, panel), channel = panel * WIDE;
        transform_lines(&p->t, &p->g, first, end, channel, TD_MIN(WIDE, p->g.channels - channel),
                        strip, p->gradient + panel * panel_size(tiles) + tile * width, width,
                        value_pitch(tiles, width));
    }
    td_scratch_free(strip);
}

/* Writes or adds `rows` numbers of up to a vector of output channels, which are `pitch` apart;
 * from: [row][lane]. Returns the results times zero, summed up. */
static vec put_rows(const float *from, int64_t rows, int64_t lanes, float *to, int64_t pitch,
                    int add)
{
    vec check = {0};
    for (int64_t r = 0; r < rows; r += LANES) {
        const int64_t n = TD_MIN(rows - r, LANES);
        vec row[LANES];
        EACH(i, LANES) row[i] = i < n ? vec_load(from + (r + i) * LANES) : (vec){0};
        vec_transpose(row);
        EACH(l, LANES) {
            if (l >= lanes) continue;
            if (add) row[l] += vec_load_n(to + l * pitch + r, n);
            vec_store_n(to + l * pitch + r, row[l], n);
            check += 0.0f * row[l];
        }
    }
    return check;
}

static void multiply_task(int64_t t, void *ctx)
{
    weight_plan *p = ctx;
    const int64_t panel = t / p->chunks, chunk = t % p->chunks, all = p->c->in_channels;
    const int64_t first = share(all, p->chunks, chunk), end = share(all, p->chunks, chunk + 1);
    const int64_t tiles = tile_of(p, p->end), width = panel_width(p, panel), n = end - first;
    const int64_t sums = value_pitch(n, width);
    float *made = scratch(p, VALUES * sums + 9 * n * LANES);
    if (!made) return;
    td_winograd_products m = {
        .a = p->input + first,
        .b = p->gradient + panel * panel_size(tiles),
        .sums = made,
        .a_value = value_pitch(tiles, p->pitch),
        .b_value = value_pitch(tiles, width),
        .sums_value = sums,
        .rows = n,
        .depth = tiles,
        .vectors = width / LANES,
        .a_row = 1,
        .a_col = p->pitch,
    };
    KERNEL(winograd_multiply)(&m);
    float *rows = made + VALUES * sums;
    vec check = {0};
    for (int64_t lane = 0; lane < width; lane += LANES) {
        const int64_t channel = panel * WIDE + lane;
        for (int64_t i = 0; i < n; i++) {
            vec w[9];
            transform_weight_sums(made + i * width + lane, sums, w);
            EACH(k, 9) vec_store(rows + (9 * i + k) * LANES, w[k]);
        }
        check += put_rows(rows, 9 * n, TD_MIN(p->c->out_channels - channel, LANES),
                          p->c->gw + 9 * (channel * all + first), 9 * all, p->first > 0);
    }
    const lane_index bad = check != check;
    for (int l = 0; l < LANES; l++)
        if (bad[l]) __atomic_store_n(&p->bad, 1, __ATOMIC_RELAXED);
    td_scratch_free(made);
}

static void run_rounds(weight_plan *p, int64_t rounds)
{
    for (int64_t r = 0; r < rounds && !p->failed; r++) {
        p->first = share(p->t.lines, rounds, r);
        p->end = share(p->t.lines, rounds, r + 1);
        td_parallel(ceil_div(p->end - p->first, p->span), transform_task, p);
        if (!p->failed) td_parallel(p->panels * p->chunks, multiply_task, p);
    }
}

int KERNEL(winograd_weight_f32)(td_winograd_weight *c)
{
    weight_plan p = {.c = c, .t = cut_into_tiles(c->out, c->batch)};
    p.x = (images){c->x, c->in_channels, {c->in[0], c->in[1]}, {c->first[0], c->first[1]}, 6};
    p.g = (images){c->g, c->out_channels, {c->out[0], c->out[1]}, {0, 0}, 4};
    p.panels = ceil_div(c->out_channels, WIDE);
    p.pitch = tile_pitch(c->in_channels);
    const int64_t value_bytes = VALUES * (int64_t)sizeof(float);
    const int64_t line_bytes = value_bytes * p.t.line_tiles * (p.pitch + p.panels * WIDE);
    const int64_t rounds = ceil_div(p.t.lines, TD_MAX(ROUND_BYTES / line_bytes, 1));
    const int64_t most = ceil_div(p.t.lines, rounds) * p.t.line_tiles;
    const int64_t sum_chunks = ceil_div(value_bytes * c->in_channels * WIDE, SUM_BYTES);
    p.span = TD_MAX(1, TD_MIN(p.t.lines, TASK_BYTES / line_bytes));
    p.chunks = TD_MAX(sum_chunks, ceil_div(2 * td_threads(), p.panels));
    p.chunks = TD_MIN(p.chunks, ceil_div(c->in_channels, FEW_CHANNELS));
    p.input = scratch(&p, VALUES * value_pitch(most, p.pitch));
    p.gradient = scratch(&p, p.panels * panel_size(most));
    if (!p.failed) run_rounds(&p, rounds);
    td_scratch_free(p.gradient);
    td_scratch_free(p.input);
    c->bad = p.bad;
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}
