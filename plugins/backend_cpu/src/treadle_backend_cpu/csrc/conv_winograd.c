/* 3 x 3 convolutions of stride 1 by Winograd's method. There are two orders of work, chosen by the
 * sizes. With few weights, they are transformed once, and then each task takes some tiles from the
 * input to the output. With many, the input is transformed first, and then each task takes a panel
 * of output channels, whose weights it transforms a part at a time, so that they never leave its
 * second-level cache. Neither changes the order of any sum. */
#include "conv_winograd_tiles.h"

#define PART 128                    /* input channels: their weights for a panel fill half of L2 */
#define INPUT_BYTES (288 << 10)     /* transformed input of a task, which should stay in L2 */
#define SUM_BYTES (288 << 10)       /* products of a block, likewise */
#define FEW_WEIGHT_BYTES (16 << 20) /* transformed weights that may be read again for every task */
#define ROUND_BYTES (8 << 20)       /* transformed input of all tasks of a round */
#define WEIGHT_CHANNELS 16          /* input channels whose weights are turned at once */

typedef struct {
    const td_winograd *c;
    tiling t;
    images x;
    int64_t panels;     /* of output channels */
    int64_t part;       /* input channels multiplied at a time */
    int64_t span;       /* lines that are transformed at a time */
    int64_t tasks;      /* that all lines are shared out to */
    int64_t block;      /* lines whose products are kept at a time */
    int64_t first, end; /* lines of a round */
    int64_t cuts;       /* of them, in tasks of output channels */
    int64_t pitch;      /* of the transformed input */
    float *input;       /* transformed: [value][tile][channel] */
    float *weights;     /* transformed: [panel][part][value][channel][lane] */
    int failed;
} winograd;

TD_INLINE int64_t panel_vectors(const winograd *p, int64_t panel)
{
    return p->c->out_channels - panel * WIDE > LANES ? 2 : 1;
}

/* ---- weights ---- */

/* Some input channels of one vector of a panel; turned: [channel][tap][lane]. */
static void turn_weights(const td_winograd *c, int64_t lane, int64_t channel, int64_t channels,
                         float *turned)
{
    const float *w = c->w + lane * c->w_out + channel * c->w_in;
    const int64_t lanes = TD_MIN(c->out_channels - lane, LANES);
    if (c->w_in == 9) {
        transpose_into_lanes(w, c->w_out, lanes, 9 * channels, turned, LANES);
        return;
    }
    for (int64_t k = 0; k < channels; k++, w += c->w_in, turned += 9 * LANES)
        transpose_into_lanes(w, c->w_out, lanes, 9, turned, LANES);
}

/* Fetches row i of the weights that turn_weights() will read, each row being contiguous. */
static void fetch_weights(const td_winograd *c, int64_t lane, int64_t channel, int64_t i)
{
    const int lanes_apart = c->w_in == 9;
    const float *w = c->w + lane * c->w_out + channel * c->w_in;
    if (lanes_apart && i >= LANES) return;
    w += i * (lanes_apart ? c->w_out : c->w_in);
    for (int64_t k = 0; k < 9 * (lanes_apart ? WEIGHT_CHANNELS : LANES); k += CACHE_LINE)
        __builtin_prefetch(w + k);
}

/* to: [value][channel][lane of the panel]. */
static void transform_weights(const winograd *p, int64_t panel, int64_t first, int64_t channels,
                              float *to)
{
    float turned[WEIGHT_CHANNELS * 9 * LANES] __attribute__((aligned(64)));
    const int64_t vectors = panel_vectors(p, panel), pitch = vectors * LANES;
    for (int64_t k = 0, n; k < channels; k += n) {
        n = TD_MIN(channels - k, WEIGHT_CHANNELS);
        for (int64_t v = 0; v < vectors; v++) {
            const int64_t lane = panel * WIDE + v * LANES, last = v + 1 == vectors;
            const int64_t next = last ? lane - v * LANES : lane + LANES;
            turn_weights(p->c, lane, first + k, n, turned);
            for (int64_t i = 0; i < n; i++) {
                fetch_weights(p->c, next, first + k + (last ? n : 0), i);
                transform_weight_tile(turned + i * 9 * LANES, p->c->tap,
                                      to + (k + i) * pitch + v * LANES,
                                      value_pitch(channels, pitch));
            }
        }
    }
}

/* ---- outputs ---- */

/* Elements of a strip, which holds one vector of channels of `lines` lines. */
static int64_t output_strip(const winograd *p, int64_t lines)
{
    return 16 * TD_MIN(lines, p->t.down) * p->t.line_tiles * LANES;
}

/* Writes the part of a tile that lies in the strip; returns it times zero, summed up. */
TD_INLINE vec put_output_tile(const float *m, int64_t values, vec scale, vec bias, int relu,
                              int64_t rows, int64_t cols, float *to, int64_t pitch)
{
    vec y[4][4], check = {0};
    transform_output_tile(m, values, scale, bias, y);
    EACH(i, 4) EACH(j, 4) {
        if (i >= rows || j >= cols) continue;
        vec_store(to + i * pitch + j * LANES, relu ? vec_relu(y[i][j]) : y[i][j]);
        check += 0.0f * y[i][j];
    }
    return check;
}

/* One vector of output channels of a segment. */
static void put_segment(const winograd *p, const segment *s, const float *m, int64_t width,
                        int64_t value, int64_t lane, float *strip)
{
    const td_winograd *c = p->c;
    const int64_t lanes = TD_MIN(c->out_channels - lane, LANES), plane = c->out[0] * c->out[1];
    const int64_t top = 4 * s->row, left = 4 * s->col;
    const int64_t rows = TD_MIN(4 * s->rows, c->out[0] - top);
    const int64_t cols = TD_MIN(4 * s->cols, c->out[1] - left);
    const vec bias = c->bias ? vec_load_n(c->bias + lane, lanes) : (vec){0};
    const vec scale = c->scale ? vec_load_n(c->scale + lane, lanes) : vec_all(1);
    vec check = {0};
    for (int64_t i = 0; i < rows; i += 4)
        for (int64_t j = 0; j < cols; j += 4, m += width)
            check += put_output_tile(m, value, scale, bias, c->relu, rows - i, cols - j,
                                     strip + (i * cols + j) * LANES, cols * LANES);
    const lane_index bad = check != check;
    for (int l = 0; l < LANES; l++)
        if (bad[l]) __atomic_store_n(&c->redo[s->image], 1, __ATOMIC_RELAXED);
    float *y = c->y + (s->image * c->out_channels + lane) * plane + top * c->out[1] + left;
    const int whole = cols == c->out[1];
    const int64_t runs = whole ? 1 : rows, length = rows * cols / runs;
    for (int64_t r = 0; r < runs; r++, y += c->out[1]) {
        for (int64_t i = 0, n; i < length; i += n, strip += n * LANES) {
            n = TD_MIN(length - i, LANES);
            transpose_from_lanes(strip, LANES, n, lanes, y + i, plane);
        }
    }
}

/* All channels of a panel, some lines; m begins with the first tile of them. */
static void put_lines(const winograd *p, int64_t panel, int64_t line, int64_t end, const float *m,
                      int64_t values, float *strip)
{
    const int64_t vectors = panel_vectors(p, panel), width = vectors * LANES;
    while (line < end) {
        const segment s = segment_at(&p->t, line, end);
        for (int64_t v = 0; v < vectors; v++)
            put_segment(p, &s, m + v * LANES, width, values, panel * WIDE + v * LANES, strip);
        m += s.tiles * width;
        line += s.rows;
    }
}
static float *scratch(winograd *p, int64_t elements)
{
    float *made = td_scratch((size_t)elements * sizeof *made);
    if (!made) __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
    return made;
}

static int64_t parts(const winograd *p) { return ceil_div(p->c->in_channels, p->part); }
static int64_t part_size(const winograd *p, int64_t part)
{
    return TD_MIN(p->part, p->c->in_channels - part * p->part);
}

/* Elements of the transformed weights of a panel, all parts. */
static int64_t panel_size(const winograd *p)
{
    return VALUES * (p->c->in_channels * WIDE + parts(p) * CACHE_LINE);
}
/* Where a part of a panel begins. */
static int64_t part_start(const winograd *p, int64_t part)
{
    return VALUES * (part * p->part * WIDE + part * CACHE_LINE);
}

/* ---- few weights ---- */

static void run_panel(int64_t t, void *ctx)
{
    const winograd *p = ctx;
    for (int64_t q = 0; q < parts(p); q++)
        transform_weights(p, t, q * p->part, part_size(p, q),
                          p->weights + t * panel_size(p) + part_start(p, q));
}

static void run_tiles(int64_t t, void *ctx)
{
    winograd *p = ctx;
    const int64_t first = share(p->t.lines, p->tasks, t), end = share(p->t.lines, p->tasks, t + 1);
    const int64_t tiles = count_tiles(&p->t, first, end), value = value_pitch(tiles, p->pitch);
    const int64_t strip = TD_MAX(image_strip(&p->t, &p->x, p->span), output_strip(p, p->span));
    td_winograd_products m = {.a_value = value, .rows = tiles, .a_row = p->pitch, .a_col = 1};
    float *input = scratch(p, VALUES * (value + value_pitch(tiles, WIDE)) + strip);
    if (!input) return;
    m.sums = input + VALUES * value;
    float *turned = m.sums + VALUES * value_pitch(tiles, WIDE);
    transform_lines(&p->t, &p->x, first, end, 0, p->x.channels, turned, input, p->pitch, value);
    for (int64_t panel = 0; panel < p->panels; panel++) {
        const int64_t width = panel_vectors(p, panel) * LANES;
        m.vectors = panel_vectors(p, panel);
        m.sums_value = value_pitch(tiles, width);
        for (int64_t q = 0; q < parts(p); q++) {
            m.accumulate = q > 0;
            m.depth = part_size(p, q);
            m.a = input + q * p->part;
            m.b = p->weights + panel * panel_size(p) + part_start(p, q);
            m.b_value = value_pitch(m.depth, width);
            KERNEL(winograd_multiply)(&m);
        }
        put_lines(p, panel, first, end, m.sums, m.sums_value, turned);
    }
    td_scratch_free(input);
}

static void run_few_weights(winograd *p)
{
    const int64_t tasks = ceil_div(p->t.lines, p->span), threads = td_threads();
    p->weights = scratch(p, p->panels * panel_size(p));
    if (!p->weights) return;
    td_parallel(p->panels, run_panel, p);
    p->tasks = TD_MIN(p->t.lines, ceil_div(tasks, threads) * threads);
    td_parallel(p->tasks, run_tiles, p);
    td_scratch_free(p->weights);
}

/* ---- many weights ---- */

/* Tiles of this round before a line, and from value to value of the transformed input. */
static int64_t tile_of(const winograd *p, int64_t line)
{
    return count_tiles(&p->t, p->first, line);
}
static int64_t input_value(const winograd *p) { return value_pitch(tile_of(p, p->end), p->pitch); }

static void run_input(int64_t t, void *ctx)
{
    winograd *p = ctx;
    const int64_t first = p->first + t * p->span, end = TD_MIN(first + p->span, p->end);
    float *strip = scratch(p, image_strip(&p->t, &p->x, p->span));
    if (!strip) return;
    transform_lines(&p->t, &p->x, first, end, 0, p->x.channels, strip,
                    p->input + tile_of(p, first) * p->pitch, p->pitch, input_value(p));
    td_scratch_free(strip);
}

static void run_outputs(int64_t t, void *ctx)
{
    winograd *p = ctx;
    const int64_t panel = t / p->cuts, cut = t % p->cuts, width = panel_vectors(p, panel) * LANES;
    const int64_t from = p->first + share(p->end - p->first, p->cuts, cut);
    const int64_t to = p->first + share(p->end - p->first, p->cuts, cut + 1);
    const int64_t tiles = tile_of(p, to) - tile_of(p, from), kept = parts(p) > 1;
    const int64_t block = kept ? to - from : p->block;
    const int64_t most = TD_MIN(tiles, block * p->t.line_tiles);
    const int64_t weight_values = VALUES * value_pitch(p->part, width);
    td_winograd_products m = {.a_value = input_value(p), .a_row = p->pitch, .a_col = 1};
    m.vectors = panel_vectors(p, panel);
    m.sums_value = value_pitch(most, width);
    float *weights = scratch(p, weight_values + VALUES * m.sums_value + output_strip(p, block));
    if (!weights) return;
    float *sums = weights + weight_values, *strip = sums + VALUES * m.sums_value;
    m.b = weights;
    for (int64_t q = 0; q < parts(p); q++) {
        m.accumulate = q > 0;
        m.depth = part_size(p, q);
        m.b_value = value_pitch(m.depth, width);
        transform_weights(p, panel, q * p->part, m.depth, weights);
        for (int64_t line = from, end; line < to; line = end) {
            end = TD_MIN(line + block, to);
            m.rows = tile_of(p, end) - tile_of(p, line);
            m.a = p->input + tile_of(p, line) * p->pitch + q * p->part;
            m.sums = sums + (kept ? tile_of(p, line) - tile_of(p, from) : 0) * width;
            KERNEL(winograd_multiply)(&m);
            if (q + 1 == parts(p)) put_lines(p, panel, line, end, m.sums, m.sums_value, strip);
        }
    }
    td_scratch_free(weights);
}

static void run_many_weights(winograd *p, int64_t line_bytes)
{
    const int64_t rounds = ceil_div(p->t.lines, TD_MAX(ROUND_BYTES / line_bytes, 1));
    const int64_t most = ceil_div(p->t.lines, rounds) * p->t.line_tiles;
    p->input = scratch(p, VALUES * value_pitch(most, p->pitch));
    if (!p->input) return;
    for (int64_t r = 0; r < rounds && !p->failed; r++) {
        p->first = share(p->t.lines, rounds, r);
        p->end = share(p->t.lines, rounds, r + 1);
        p->cuts = TD_MIN(ceil_div(td_threads(), p->panels), p->end - p->first);
        td_parallel(ceil_div(p->end - p->first, p->span), run_input, p);
        if (!p->failed) td_parallel(p->panels * p->cuts, run_outputs, p);
    }
    td_scratch_free(p->input);
}

/* ---- the plan ---- */

int KERNEL(winograd_f32)(const td_winograd *c)
{
    winograd p = {.c = c, .t = cut_into_tiles(c->out, c->batch)};
    p.pitch = tile_pitch(c->in_channels);
    p.x = (images){c->x, c->in_channels, {c->in[0], c->in[1]}, {c->first[0], c->first[1]}, 6};
    p.panels = ceil_div(c->out_channels, WIDE);
    p.part = ceil_div(c->in_channels, ceil_div(c->in_channels, PART));
    const int64_t value_bytes = VALUES * (int64_t)sizeof(float);
    const int64_t weight_bytes = value_bytes * c->in_channels * c->out_channels;
    const int64_t line_bytes = value_bytes * p.t.line_tiles * p.pitch;
    const int64_t sum_bytes = value_bytes * p.t.line_tiles * WIDE;
    p.span = TD_MAX(1, TD_MIN(p.t.lines, INPUT_BYTES / line_bytes));
    p.block = TD_MAX(1, TD_MIN(p.t.lines, SUM_BYTES / sum_bytes));
    if (weight_bytes <= TD_MIN(FEW_WEIGHT_BYTES, p.t.lines * line_bytes)) run_few_weights(&p);
    else run_many_weights(&p, line_bytes);
    return p.failed ? TD_ERR_MEMORY : TD_OK;
}
