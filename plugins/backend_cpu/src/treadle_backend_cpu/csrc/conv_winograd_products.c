/* The products between Winograd's transforms, by the tiles of the matrix product. */
#include "conv_winograd.h"
#define T float
#pragma GCC diagnostic ignored "-Wunused-function" /* the tiles for one or two rows alone */
#include "gemm_tile.h"

void KERNEL(winograd_multiply)(const td_winograd_products *m)
{
    const int64_t groups = ceil_div(m->rows, MR), width = m->vectors * VL;
    tile t = {.k = m->depth, .a_row = m->a_row, .a_col = m->a_col, .b_row = width, .c_row = width};
    t.accumulate = m->accumulate;
    for (int64_t i = 0; i < WINOGRAD_VALUES; i++) {
        t.b = m->b + i * m->b_value;
        t.ahead = (const char *)t.b;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t from = share(m->rows, groups, g);
            t.a = m->a + i * m->a_value + from * m->a_row;
            t.c = m->sums + i * m->sums_value + from * width;
            tiles[m->vectors - 1][share(m->rows, groups, g + 1) - from](&t);
        }
    }
}
