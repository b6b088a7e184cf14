/* A correlation, which both the forward pass and the input gradient come down to, and the packing
 * of its weights for wide tiles. */
#ifndef TREADLE_CONV_PACK_H
#define TREADLE_CONV_PACK_H
#include "conv_source.h"
#include "conv_tile.h"

/* y[image, group, channel, j, i] = act(bias + scale * sum of x[...] * w[...] over input channels and
 * taps). Strides of y and w are free, but the kernel of two channels is dense. */
typedef struct {
    conv_axis rows, cols;
    int64_t batch, groups, in_channels, out_channels; /* channels per group */
    const real *x;                                    /* dense */
    const real *w;
    int64_t w_group, w_out, w_in;
    int64_t kernel[2];
    const real *bias, *scale; /* per output channel, NULL for none */
    int relu;                 /* act: relu or nothing */
    real *y;
    int64_t y_image, y_channel, y_row, y_col;
    int share_weights; /* other correlations use the same weights: then the caller frees `packed` */
    real *packed;      /* all weights packed, or NULL */
} correlation;

#define AHEAD 4 /* input channels ahead of packing that weights are fetched */

TD_INLINE int64_t kernel_size(const correlation *c) { return c->kernel[0] * c->kernel[1]; }
TD_INLINE int64_t count_blocks(const correlation *c) { return ceil_div(c->out_channels, WIDE); }
TD_INLINE int64_t block_vectors(const correlation *c, int64_t block)
{
    return c->out_channels - block * WIDE > LANES ? 2 : 1;
}

/* Which weight of the kernel tap t takes. */
static inline int64_t tap_weight(const correlation *c, int64_t t)
{
    return c->rows.index[t / c->cols.taps] * c->kernel[1] + c->cols.index[t % c->cols.taps];
}

/* Packs `lanes` output channels: to[(i * kernel + k) * pitch + lane]; unused lanes are zero. */
static void pack_lanes(const correlation *c, const real *w, int64_t channels, int64_t lanes,
                       real *to, int64_t pitch)
{
    const int64_t kernel = kernel_size(c);
    if (c->w_in == kernel) {
        transpose_into_lanes(w, c->w_out, lanes, channels * kernel, to, pitch);
        return;
    }
    for (int64_t i = 0; i < channels; i++, w += c->w_in, to += kernel * pitch) {
        for (int64_t l = 0; l < lanes * c->w_out; l += 64 / REAL_SIZE)
            __builtin_prefetch(w + c->w_in * AHEAD + l);
        if (c->w_out == 1) vec_store(to, vec_load_n(w, lanes));
        else transpose_into_lanes(w, c->w_out, lanes, kernel, to, pitch);
    }
}

/* Packs one block of WIDE output channels for some input channels. */
static void pack_weights(const correlation *c, int64_t group, int64_t block, int64_t first,
                         int64_t channels, real *to)
{
    const int64_t vectors = block_vectors(c, block);
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t lane = block * WIDE + v * LANES;
        const real *w = c->w + group * c->w_group + lane * c->w_out + first * c->w_in;
        pack_lanes(c, w, channels, TD_MIN(c->out_channels - lane, LANES), to + v * LANES,
                   vectors * LANES);
    }
}

/* Elements of a block of packed weights: [group][block][input channel][kernel][lane]. */
TD_INLINE int64_t packed_block(const correlation *c)
{
    return kernel_size(c) * c->in_channels * WIDE;
}

static void pack_block(int64_t t, void *ctx)
{
    const correlation *c = ctx;
    pack_weights(c, t / count_blocks(c), t % count_blocks(c), 0, c->in_channels,
                 c->packed + t * packed_block(c));
}

static int pack_all_weights(correlation *c)
{
    if (c->packed) return TD_OK;
    const int64_t blocks = c->groups * count_blocks(c);
    c->packed = td_scratch((size_t)(blocks * packed_block(c)) * sizeof(real));
    if (!c->packed) return TD_ERR_MEMORY;
    td_parallel(blocks, pack_block, c);
    return TD_OK;
}
#endif
