/* Copies between layouts. The Python side has ordered the dimensions so that the destination's
 * smallest stride comes last and the source's smallest one of the others before it: whatever the
 * layouts are, work comes down to matrices, and a transposed matrix is moved in square blocks whose
 * rows are whole cache lines on both sides. */
#include "copy.h"
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { GRAIN = 1 << 16 }; /* bytes that make a task, about */

typedef struct {
    char *dst;
    const char *src;
    int64_t rows, cols, dst_row, dst_col, src_row, src_col; /* strides in elements */
    int size, stream;
} matrix;

void KERNEL(stream)(char *dst, const char *src, int64_t bytes) {
#if defined(__SSE2__)
    int64_t head = TD_MIN((int64_t)(-(uintptr_t)dst & (TD_VEC - 1)), bytes), at = head;
    memcpy(dst, src, (size_t)head);
    for (; at + TD_VEC <= bytes; at += TD_VEC) {
#if TD_VEC == 64
        _mm512_stream_si512((void *)(dst + at), _mm512_loadu_si512(src + at));
#elif TD_VEC == 32
        _mm256_stream_si256((__m256i *)(dst + at), _mm256_loadu_si256((const __m256i *)(src + at)));
#else
        _mm_stream_si128((__m128i *)(dst + at), _mm_loadu_si128((const __m128i *)(src + at)));
#endif
    }
    memcpy(dst + at, src + at, (size_t)(bytes - at));
#else
    memcpy(dst, src, (size_t)bytes);
#endif
}

void KERNEL(stream_end)(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* ---- one row ---- */

enum { SHORT = 1024 }; /* bytes up to which calling memcpy costs more than it gains */
typedef uint8_t piece1;
typedef uint16_t piece2 __attribute__((aligned(1), may_alias));
typedef uint32_t piece4 __attribute__((aligned(1), may_alias));
typedef uint64_t piece8 __attribute__((aligned(1), may_alias));
typedef uint8_t piece16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint8_t piece64 __attribute__((vector_size(64), aligned(1), may_alias));

/* `rows` rows of at least a piece; the last piece of a row overlaps the one before. */
#define SHORT_ROWS(P)                                                                              \
    do {                                                                                           \
        for (int64_t r = 0; r < rows; r++, dst += dst_step, src += src_step) {                     \
            for (int64_t at = 0; at < last; at += (int64_t)sizeof(P))                              \
                *(P *)(dst + at) = *(const P *)(src + at);                                         \
            *(P *)(dst + last) = *(const P *)(src + last);                                         \
        }                                                                                          \
        return;                                                                                    \
    } while (0)
#define SHORT_CASE(P)                                                                              \
    const int64_t last = bytes - (int64_t)sizeof(P);                                               \
    SHORT_ROWS(P)

static void copy_short(char *dst, int64_t dst_step, const char *src, int64_t src_step, int64_t rows,
                       int64_t bytes) {
    if (bytes >= 64) { SHORT_CASE(piece64); }
    if (bytes >= 16) { SHORT_CASE(piece16); }
    if (bytes >= 8) { SHORT_CASE(piece8); }
    if (bytes >= 4) { SHORT_CASE(piece4); }
    if (bytes >= 2) { SHORT_CASE(piece2); }
    if (bytes >= 1) { SHORT_CASE(piece1); }
}

#define RUN(T)                                                                                     \
    do {                                                                                           \
        T *to = (T *)dst;                                                                          \
        const T *from = (const T *)src;                                                            \
        if (stride == 0) {                                                                         \
            const T x = *from;                                                                     \
            for (int64_t i = 0; i < n; i++) to[i] = x;                                             \
        } else                                                                                     \
            for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];                              \
    } while (0)

void KERNEL(copy_run)(char *dst, const char *src, int64_t n, int64_t stride, int size) {
    if (stride == 1) {
        if (n * size <= SHORT) copy_short(dst, 0, src, 0, 1, n * size);
        else memcpy(dst, src, (size_t)(n * size));
        return;
    }
    switch (size) {
    case 1: RUN(uint8_t); break;
    case 2: RUN(uint16_t); break;
    case 4: RUN(uint32_t); break;
    default: RUN(uint64_t);
    }
}

#define RUN_ANY(T)                                                                                 \
    do {                                                                                           \
        for (int64_t i = 0; i < n; i++)                                                            \
            ((T *)dst)[i * dst_stride] = ((const T *)src)[i * src_stride];                         \
    } while (0)

static void run_any(char *dst, int64_t dst_stride, const char *src, int64_t src_stride, int64_t n,
                    int size) {
    switch (size) {
    case 1: RUN_ANY(uint8_t); break;
    case 2: RUN_ANY(uint16_t); break;
    case 4: RUN_ANY(uint32_t); break;
    default: RUN_ANY(uint64_t);
    }
}

/* ---- a transposed matrix ---- */

typedef uint8_t v1 __attribute__((vector_size(16)));
typedef uint16_t v2 __attribute__((vector_size(16)));
typedef uint32_t v4 __attribute__((vector_size(16)));
typedef uint64_t v8 __attribute__((vector_size(16)));

/* A round interleaves rows k and k + L/2; after log2(L) of them L x L elements are transposed. */
#define ROUND(L, from, to)                                                                         \
    _Pragma("GCC unroll 8")                                                                        \
    for (int k = 0; k < L / 2; k++) {                                                              \
        to[2 * k] = __builtin_shuffle(from[k], from[k + L / 2], low);                              \
        to[2 * k + 1] = __builtin_shuffle(from[k], from[k + L / 2], high);                         \
    }
#define TRANSPOSE(name, V, L, LOW, HIGH)                                                           \
    TD_INLINE void name(char *dst, int64_t dst_row, const char *src, int64_t src_row) {            \
        const V low = LOW, high = HIGH;                                                            \
        V a[L], b[L];                                                                              \
        _Pragma("GCC unroll 16")                                                                   \
        for (int k = 0; k < L; k++) a[k] = (V)*(const piece16 *)(src + k * src_row);               \
        ROUND(L, a, b)                                                                             \
        if (L > 2) { ROUND(L, b, a) }                                                              \
        if (L > 4) { ROUND(L, a, b) }                                                              \
        if (L > 8) { ROUND(L, b, a) }                                                              \
        const V *made = L == 4 || L == 16 ? a : b;                                                 \
        _Pragma("GCC unroll 16")                                                                   \
        for (int k = 0; k < L; k++) *(piece16 *)(dst + k * dst_row) = (piece16)made[k];            \
    }
#define BRACED(...) {__VA_ARGS__}
TRANSPOSE(transpose_1, v1, 16, BRACED(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
          BRACED(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))
TRANSPOSE(transpose_2, v2, 8, BRACED(0, 8, 1, 9, 2, 10, 3, 11), BRACED(4, 12, 5, 13, 6, 14, 7, 15))
TRANSPOSE(transpose_4, v4, 4, BRACED(0, 4, 1, 5), BRACED(2, 6, 3, 7))
TRANSPOSE(transpose_8, v8, 2, BRACED(0, 2), BRACED(1, 3))

/* A line from a block, in the pieces in which it was written: a wider load would wait for them. */
TD_INLINE void put_line(char *to, const char *from, int stream) {
#if defined(__SSE2__)
    if (stream && ((uintptr_t)to & 15) == 0) {
        for (int k = 0; k < 64; k += 16)
            _mm_stream_si128((__m128i *)(to + k), _mm_load_si128((const __m128i *)(from + k)));
        return;
    }
#endif
    (void)stream;
    for (int k = 0; k < 64; k += 16) *(piece16 *)(to + k) = *(const piece16 *)(from + k);
}

/* A block: `side` rows of 64 bytes of the source become rows of the destination. */
#define BLOCK(name, SIZE)                                                                          \
    static void name(const matrix *m, char *dst, const char *src) {                                \
        enum { side = 64 / SIZE, step = 16 / SIZE };                                               \
        char block[side][64] __attribute__((aligned(64)));                                         \
        for (int c = 0; c < side; c += step)                                                       \
            for (int r = 0; r < side; r += step)                                                   \
                transpose_##SIZE(&block[r][c * SIZE], 64, src + (c * m->src_col + r) * SIZE,       \
                                 m->src_col * SIZE);                                               \
        for (int r = 0; r < side; r++) put_line(dst + r * m->dst_row * SIZE, block[r], m->stream); \
    }
BLOCK(block_1, 1)
BLOCK(block_2, 2)
BLOCK(block_4, 4)
BLOCK(block_8, 8)

static void move_block(const matrix *m, int64_t r, int64_t c) {
    char *dst = m->dst + (r * m->dst_row + c) * m->size;
    const char *src = m->src + (r + c * m->src_col) * m->size;
    switch (m->size) {
    case 1: block_1(m, dst, src); break;
    case 2: block_2(m, dst, src); break;
    case 4: block_4(m, dst, src); break;
    default: block_8(m, dst, src);
    }
}

/* dst_col = src_row = 1. Columns outside, so that the source is read along its lines. */
static void move_transposed(const matrix *m) {
    const int64_t side = 64 / m->size, rows = m->rows - m->rows % side,
                  cols = m->cols - m->cols % side;
    for (int64_t c = 0; c < cols; c += side)
        for (int64_t r = 0; r < rows; r += side) move_block(m, r, c);
    for (int64_t r = 0; r < m->rows; r++) {
        const int64_t c = r < rows ? cols : 0;
        KERNEL(copy_run)(m->dst + (r * m->dst_row + c) * m->size,
                         m->src + (r + c * m->src_col) * m->size, m->cols - c, m->src_col, m->size);
    }
}

static void move_rows(const matrix *m) {
    const int64_t bytes = m->cols * m->size;
    if (m->dst_col == 1 && m->src_col == 1 && bytes <= SHORT) {
        copy_short(m->dst, m->dst_row * m->size, m->src, m->src_row * m->size, m->rows, bytes);
        return;
    }
    for (int64_t r = 0; r < m->rows; r++) {
        char *dst = m->dst + r * m->dst_row * m->size;
        const char *src = m->src + r * m->src_row * m->size;
        if (m->dst_col != 1) run_any(dst, m->dst_col, src, m->src_col, m->cols, m->size);
        else if (m->stream && m->src_col == 1) KERNEL(stream)(dst, src, bytes);
        else KERNEL(copy_run)(dst, src, m->cols, m->src_col, m->size);
    }
}

/* Rows of few elements that are not contiguous: better along the columns. */
static void move_columns(const matrix *m) {
    matrix turned = *m;
    turned.rows = m->cols, turned.dst_row = m->dst_col, turned.src_row = m->src_col;
    turned.cols = m->rows, turned.dst_col = m->dst_row, turned.src_col = m->src_row;
    move_rows(&turned);
}

static void move(const matrix *m) {
    const int64_t side = 64 / m->size;
    const int contiguous = m->dst_col == 1 && m->src_col == 1;
    const int transposed = m->dst_col == 1 && m->src_row == 1 && !contiguous;
    if (transposed && m->rows >= side && m->cols >= side) move_transposed(m);
    else if (!contiguous && m->cols < 8 && m->cols < m->rows) move_columns(m);
    else move_rows(m);
}

/* ---- parts of a region, for kernels that take strided operands ---- */

static int64_t offset_of(int64_t row, int ndim, const int64_t *shape, const int64_t *strides) {
    int64_t offset = 0;
    for (int d = ndim - 2; d >= 0; d--) {
        offset += row % shape[d] * strides[d];
        row /= shape[d];
    }
    return offset;
}

void KERNEL(copy_range)(char *dst, const char *src, int ndim, const int64_t *shape,
                        const int64_t *strides, int64_t lo, int64_t hi, int size) {
    const int64_t cols = shape[ndim - 1], step = strides[ndim - 1],
                  depth = ndim > 1 ? shape[ndim - 2] : 1;
    while (lo < hi) {
        const int64_t row = lo / cols, col = lo - row * cols;
        const char *from = src + (offset_of(row, ndim, shape, strides) + col * step) * size;
        int64_t n = TD_MIN(cols - col, hi - lo);
        if (col == 0 && ndim > 1 && hi - lo >= 2 * cols) { /* whole rows that lie evenly */
            const int64_t rows = TD_MIN((hi - lo) / cols, depth - row % depth);
            move(&(matrix){dst, from, rows, cols, cols, 1, strides[ndim - 2], step, size, 0});
            n = rows * cols;
        } else {
            KERNEL(copy_run)(dst, from, n, step, size);
        }
        dst += n * size;
        lo += n;
    }
}

/* ---- the kernels ---- */

/* Plan: i[0] bytes of an element, i[1] ndim >= 2, i[2] 1 for streaming, i[3] rows and i[4] columns
 * of a task, shape[ndim], dst_strides[ndim], src_strides[ndim]. A task is part of one matrix. */
typedef struct {
    const int64_t *i;
    char *dst;
    const char *src;
    int64_t tasks, batch;  /* all of them, and how many are run at once */
    int64_t down, across;  /* tasks of one matrix, both ways */
} copy_job;

static void copy_task(int64_t t, const copy_job *j) {
    const int nd = (int)j->i[1], size = (int)j->i[0];
    const int64_t *shape = j->i + 5, *to = shape + nd, *from = to + nd;
    const int64_t col = t % j->across * j->i[4], row = t / j->across % j->down * j->i[3];
    int64_t outer = t / j->across / j->down;
    int64_t d_at = row * to[nd - 2] + col * to[nd - 1];
    int64_t s_at = row * from[nd - 2] + col * from[nd - 1];
    for (int d = nd - 3; d >= 0; d--) {
        d_at += outer % shape[d] * to[d];
        s_at += outer % shape[d] * from[d];
        outer /= shape[d];
    }
    const int64_t rows = TD_MIN(j->i[3], shape[nd - 2] - row);
    const int64_t cols = TD_MIN(j->i[4], shape[nd - 1] - col);
    move(&(matrix){j->dst + d_at * size, j->src + s_at * size, rows, cols, to[nd - 2], to[nd - 1],
                   from[nd - 2], from[nd - 1], size, (int)j->i[2]});
}

static void copy_batch(int64_t t, void *context) {
    const copy_job *j = context;
    const int64_t end = TD_MIN((t + 1) * j->batch, j->tasks);
    for (int64_t k = t * j->batch; k < end; k++) copy_task(k, j);
    if (j->i[2]) KERNEL(stream_end)();
}

static int copy_strided(const td_plan *p, char **io) {
    const int64_t *i = p->i, *shape = i + 5;
    const int nd = (int)i[1];
    copy_job j = {.i = i, .dst = io[1], .src = io[0]};
    j.down = (shape[nd - 2] + i[3] - 1) / i[3];
    j.across = (shape[nd - 1] + i[4] - 1) / i[4];
    j.tasks = j.down * j.across;
    for (int d = 0; d < nd - 2; d++) j.tasks *= shape[d];
    const int64_t bytes = TD_MIN(i[3], shape[nd - 2]) * TD_MIN(i[4], shape[nd - 1]) * i[0];
    j.batch = TD_MAX(1, GRAIN / bytes);
    td_parallel((j.tasks + j.batch - 1) / j.batch, copy_batch, &j);
    return TD_OK;
}

/* Plan: i[0] bytes. */
typedef struct {
    char *dst;
    const char *src;
    int64_t bytes;
    int stream;
} block_job;

static void copy_block(int64_t t, void *context) {
    const block_job *j = context;
    const int64_t lo = t * GRAIN, n = TD_MIN((int64_t)GRAIN, j->bytes - lo);
    if (!j->stream) {
        memcpy(j->dst + lo, j->src + lo, (size_t)n);
        return;
    }
    KERNEL(stream)(j->dst + lo, j->src + lo, n);
    KERNEL(stream_end)();
}

static int copy_dense(const td_plan *p, char **io) {
    const int64_t bytes = p->i[0];
    if (io[0] == io[1] || bytes == 0) return TD_OK;
    block_job j = {io[1], io[0], bytes, bytes >= TD_STREAM_BYTES};
    if (bytes <= 2 * GRAIN) memcpy(io[1], io[0], (size_t)bytes);
    else td_parallel((bytes + GRAIN - 1) / GRAIN, copy_block, &j);
    return TD_OK;
}

const td_entry KERNEL(copy_table)[] = {
    {"copy_strided", copy_strided},
    {"copy_dense", copy_dense},
    {0, 0},
};
