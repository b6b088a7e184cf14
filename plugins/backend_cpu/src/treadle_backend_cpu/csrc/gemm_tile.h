/* The micro-kernel of every floating-point product: a tile of C held in registers over the whole of
 * k.
 *
 * Included by one C file per element type, which defines T first. A tile is `rows` x `width`
 * vectors; per step of k it broadcasts one element of A per row and multiplies it with the same
 * `width` vectors of B, so A may have any two strides and only B must be contiguous along n. Every
 * element of C sees the same chain of multiply-adds in any tile, hence equal bits however C is cut
 * up. */
#ifndef TREADLE_GEMM_TILE_H
#define TREADLE_GEMM_TILE_H
#include "gemm.h"

typedef T vec __attribute__((vector_size(TD_VEC)));
typedef T vec_u __attribute__((vector_size(TD_VEC), aligned(sizeof(T)), may_alias));
typedef __typeof__(__builtin_choose_expr(sizeof(T) == 4, (int32_t)0, (int64_t)0)) lane;
typedef lane lanes __attribute__((vector_size(TD_VEC)));    /* for masks and lane numbers */
enum { VL = TD_VEC / sizeof(T) };

/* The number of each lane. The compiler folds arithmetic on it into constants, which it does not
 * where lanes are set one by one. */
static const lane lane_numbers[16] __attribute__((aligned(64))) = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
};
TD_INLINE lanes numbered(void) { return *(const lanes *)lane_numbers; }

TD_INLINE vec load(const T *p) { return *(const vec_u *)p; }

/* Rows of a full tile, two vectors wide: 28, 12 or 8 accumulators, what 32 or 16 vector registers
 * leave room for. */
enum { MR = TD_VEC == 64 ? 14 : TD_VEC == 32 ? 6 : 4, NR = 2 * VL };
enum { TILE_MAX = MR * NR > 8 * VL ? MR * NR : 8 * VL };

typedef struct {
    int64_t k;
    const T *a;
    int64_t a_row, a_col;
    const T *b;                 /* (k, width * VL), rows b_row apart */
    int64_t b_row;
    T *c;
    int64_t c_row;
    int accumulate;
    const T *bias;              /* one value per column, added last but for act; NULL for none */
    int act;                    /* enum td_act */
    const char *ahead;          /* memory to bring into L2 meanwhile: */
    int64_t ahead_step;         /* a line per four steps of k, so many bytes apart */
} tile;
typedef void (*tile_fn)(const tile *t);

#define UNROLL(n) _Pragma(UNROLL_TEXT(GCC unroll n))
#define UNROLL_TEXT(n) #n

/* Keeps the compiler from treating the zeroed accumulators as one constant and from letting an
 * accumulator change its register in the loop: both would cost registers and moves. */
#if defined(__AVX512F__)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__x86_64__)
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define IN_REGISTER(x) (void)0
#endif

/* Where A is read in one step of k: every fifth row has a pointer, so that the rows between are one
 * index register away. */
enum { POINTERS = (MR + 4) / 5 };
typedef struct {
    const char *row[POINTERS];
    int64_t one, three;         /* bytes from row to row, and from row to third row */
} rows_of_a;

TD_INLINE T element_of_a(const rows_of_a *a, int i)
{
    const char *row = a->row[i / 5];
    const int64_t away[5] = {0, a->one, 2 * a->one, a->three, 4 * a->one};
    return *(const T *)(row + away[i % 5]);
}

TD_INLINE void tile_step(const int rows, const int width, vec *acc, const rows_of_a *a, const T *b)
{
    vec bv[8];
    UNROLL(8)
    for (int j = 0; j < width; j++) bv[j] = load(b + j * VL);
    UNROLL(14)
    for (int i = 0; i < rows; i++) {
        const T ai = element_of_a(a, i);
        UNROLL(8)
        for (int j = 0; j < width; j++) acc[i * width + j] += ai * bv[j];
        IN_REGISTER(acc[i * width]);
    }
}

TD_INLINE void next_column(const int rows, rows_of_a *a, int64_t column)
{
    UNROLL(3)
    for (int i = 0; i * 5 < rows; i++) {
        a->row[i] += column;
        /* or the compiler would keep a pointer per row, on the stack */
        __asm__ volatile("" : "+r"(a->row[i]) :: "memory");
    }
}

TD_INLINE void tile_store(const int rows, const int width, vec *acc, const tile *t)
{
    T *c = t->c;
    const int64_t c_row = t->c_row;
    if (t->accumulate) {
        UNROLL(14)
        for (int i = 0; i < rows; i++) {
            UNROLL(8)
            for (int j = 0; j < width; j++) acc[i * width + j] += load(c + i * c_row + j * VL);
        }
    }
    if (t->bias) {
        UNROLL(14)
        for (int i = 0; i < rows; i++) {
            UNROLL(8)
            for (int j = 0; j < width; j++) acc[i * width + j] += load(t->bias + j * VL);
        }
    }
    if (t->act == TD_ACT_RELU) {
        UNROLL(28)
        for (int i = 0; i < rows * width; i++) acc[i] = (vec)((lanes)acc[i] & ~(acc[i] <= 0));
    }
    UNROLL(14)
    for (int i = 0; i < rows; i++) {
        UNROLL(8)
        for (int j = 0; j < width; j++) *(vec_u *)(c + i * c_row + j * VL) = acc[i * width + j];
    }
}

TD_INLINE void tile_body(const int rows, const int width, const tile *t)
{
    vec acc[2 * MR > 8 ? 2 * MR : 8];
    UNROLL(28)
    for (int i = 0; i < rows * width; i++) {
        acc[i] = (vec){0};
        IN_REGISTER(acc[i]);
    }
    const int64_t size = sizeof(T), a_col = t->a_col * size, b_row = t->b_row;
    rows_of_a a = {.one = t->a_row * size, .three = 3 * t->a_row * size};
    for (int i = 0; i * 5 < rows; i++) a.row[i] = (const char *)t->a + 5 * i * a.one;
    const T *b = t->b, *c = t->c;
    const char *ahead = t->ahead;
    int64_t k = t->k;
    for (int row = 1; k >= 4; k -= 4, row++) {
        __builtin_prefetch(ahead, 0, 2);
        ahead += t->ahead_step;
        for (int j = 0; j < width; j++) __builtin_prefetch(c + j * VL, 1, 3);
        if (row < rows) c += t->c_row;
        UNROLL(4)
        for (int u = 0; u < 4; u++, b += b_row) {
            tile_step(rows, width, acc, &a, b);
            next_column(rows, &a, a_col);
        }
    }
    for (; k > 0; k--, b += b_row) {
        tile_step(rows, width, acc, &a, b);
        next_column(rows, &a, a_col);
    }
    tile_store(rows, width, acc, t);
}
#define TILE(rows, width) \
    static void tile_##rows##x##width(const tile *t) { tile_body(rows, width, t); }
#define TILES(rows) TILE(rows, 1) TILE(rows, 2)
TILES(1) TILES(2) TILES(3) TILES(4) TILE(1, 4) TILE(1, 8) TILE(2, 4)
#if TD_VEC >= 32
TILES(5) TILES(6)
#endif
#if TD_VEC == 64
TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12) TILES(13) TILES(14)
#endif

/* tiles[width - 1][rows]; one or two rows have wider tiles too, or too few multiply-adds would be
 * in flight. */
static const tile_fn tiles[2][MR + 1] = {
#define TILE_ROW(w) \
    {0, tile_1x##w, tile_2x##w, tile_3x##w, tile_4x##w, TILE_ROW_6(w) TILE_ROW_14(w)}
#if TD_VEC >= 32
#define TILE_ROW_6(w) tile_5x##w, tile_6x##w,
#else
#define TILE_ROW_6(w)
#endif
#if TD_VEC == 64
#define TILE_ROW_14(w)                                                  \
    tile_7x##w, tile_8x##w, tile_9x##w, tile_10x##w, tile_11x##w,       \
    tile_12x##w, tile_13x##w, tile_14x##w
#else
#define TILE_ROW_14(w)
#endif
    TILE_ROW(1), TILE_ROW(2)
};
#endif
