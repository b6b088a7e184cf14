/* Copies of operand blocks in the order the micro-kernel reads them. Included after gemm_tile.h,
 * with the same T.
 *
 * B goes into panels of NR columns, [columns / NR][k][NR], the last vector filled up with zeros. A
 * is copied only when reading it in place would be slow; a row block keeps rows or columns
 * contiguous, whichever the source has. A source of another type, or with no unit stride, is first
 * fetched row by row. */
#ifndef TREADLE_GEMM_PACK_H
#define TREADLE_GEMM_PACK_H
#include <string.h>
#include "gemm_tile.h"

/* Reads n elements `stride` apart, the first at index `at` of src, into dst. */
typedef void (*fetch_fn)(T *dst, const void *src, int64_t at, int64_t stride, int64_t n);

typedef struct {
    const void *data;
    int64_t major, minor;       /* strides of the two axes: of (k, n) for B, of (m, k) for A */
    int64_t size;               /* bytes of an element */
    fetch_fn fetch;             /* NULL: elements of type T with one stride 1 */
} operand;

static const void *address(const operand *o, int64_t at)
{
    return (const char *)o->data + at * o->size;
}

static void fetch_strided(T *dst, const void *src, int64_t at, int64_t stride, int64_t n)
{
    const T *s = (const T *)src + at;
    for (int64_t i = 0; i < n; i++) dst[i] = s[i * stride];
}

/* In-register transpose of VL vectors: exchanges blocks of VL/2, then VL/4, ... 1. */
TD_INLINE void exchange(const lane step, vec *r)
{
    const lanes upper = (numbered() & step) / step, low = numbered() + upper * (VL - step);
    UNROLL(16)
    for (int i = 0; i < VL; i++) {
        if (i & step) continue;
        const vec a = r[i], b = r[i + step];
        r[i] = __builtin_shuffle(a, b, low);
        r[i + step] = __builtin_shuffle(a, b, low + step);
    }
}
TD_INLINE void transpose(vec *r)
{
    if (VL >= 16) exchange(8, r);
    if (VL >= 8) exchange(4, r);
    if (VL >= 4) exchange(2, r);
    exchange(1, r);
}

/* dst[k][NR] from `columns` <= VL vectors that are contiguous along k and `stride` apart. */
static void pack_columns(T *dst, const T *src, int64_t stride, int64_t columns, int64_t k)
{
    int64_t i = 0;
    for (; i + VL <= k; i += VL) {
        vec r[VL];
        UNROLL(16)
        for (int j = 0; j < VL; j++) r[j] = j < columns ? load(src + j * stride + i) : (vec){0};
        transpose(r);
        UNROLL(16)
        for (int j = 0; j < VL; j++) *(vec_u *)(dst + (i + j) * NR) = r[j];
    }
    for (; i < k; i++)
        for (int j = 0; j < VL; j++) dst[i * NR + j] = j < columns ? src[j * stride + i] : 0;
}

/* dst[n][dst_row] from src[m][src_row]. */
static void copy_transposed(T *dst, int64_t dst_row, const T *src, int64_t src_row, int64_t m,
                            int64_t n)
{
    const int64_t m0 = m / VL * VL, n0 = n / VL * VL;
    for (int64_t i = 0; i < m0; i += VL)
        for (int64_t j = 0; j < n0; j += VL) {
            vec r[VL];
            UNROLL(16)
            for (int x = 0; x < VL; x++) r[x] = load(src + (i + x) * src_row + j);
            transpose(r);
            UNROLL(16)
            for (int x = 0; x < VL; x++) *(vec_u *)(dst + (j + x) * dst_row + i) = r[x];
        }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = i < m0 ? n0 : 0; j < n; j++) dst[j * dst_row + i] = src[i * src_row + j];
}

/* From one panel to the next: one row more than it holds, or rows written side by side could all
 * share one set of the L1 cache. */
TD_INLINE int64_t panel_pitch(int64_t k) { return (k + 1) * NR; }

/* One row of k: n columns spread over panels that are `panel` elements apart. */
TD_INLINE void pack_row(T *dst, const T *src, int64_t n, int64_t panel)
{
    int64_t j = 0;
    for (; j + NR <= n; j += NR, dst += panel) {
        *(vec_u *)dst = load(src + j);
        *(vec_u *)(dst + VL) = load(src + j + VL);
    }
    if (j < n)
        for (int x = 0; x < NR; x++) dst[x] = x < n - j ? src[j + x] : 0;
}

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

/* Whether the axis of stride `one` is the one to walk along in memory, rather than that of stride
 * `other`. */
static int along(int64_t one, int64_t other)
{
    return one == 1 || (other != 1 && magnitude(one) < magnitude(other));
}

static operand operand_of(const T *data, int64_t major, int64_t minor)
{
    const fetch_fn fetch = major == 1 || minor == 1 ? NULL : fetch_strided;
    return (operand){data, major, minor, sizeof(T), fetch};
}

/* Rows k0.. and columns j0.. of B into panels; `fetched` holds max(n, VL * k) elements and is used
 * only when B must be fetched. */
static void pack_b(const operand *b, int64_t k0, int64_t k, int64_t j0, int64_t n, T *dst,
                   T *fetched)
{
    int64_t at = k0 * b->major + j0 * b->minor;
    if (along(b->minor, b->major)) {
        for (int64_t i = 0; i < k; i++, at += b->major) {
            if (b->fetch) b->fetch(fetched, b->data, at, b->minor, n);
            pack_row(dst + i * NR, b->fetch ? fetched : address(b, at), n, panel_pitch(k));
        }
        return;
    }
    for (int64_t j = 0; j < n; j += VL, at += VL * b->minor) {
        const int64_t columns = TD_MIN(n - j, VL);
        T *half = dst + j / NR * panel_pitch(k) + j % NR;
        for (int64_t x = 0; b->fetch && x < columns; x++)
            b->fetch(fetched + x * k, b->data, at + x * b->minor, b->major, k);
        if (b->fetch) pack_columns(half, fetched, k, columns, k);
        else pack_columns(half, address(b, at), b->minor, columns, k);
    }
}

/* Copies at most MR elements without a call and without touching the element behind them. */
TD_INLINE void copy_few(T *dst, const T *src, int64_t n)
{
    enum { HALF = MR >= 8 ? 8 : 4 };
    if (n >= HALF) {
        memcpy(dst, src, HALF * sizeof(T));
        memcpy(dst + n - HALF, src + n - HALF, HALF * sizeof(T));
    } else {
        for (int64_t i = 0; i < n; i++) dst[i] = src[i];
    }
}

/* Rows i0.. and columns k0.. of A, row by row, `pitch` apart. */
static void copy_rows(const operand *a, int64_t i0, int64_t rows, int64_t k0, int64_t k, T *dst,
                      int64_t pitch)
{
    int64_t at = i0 * a->major + k0 * a->minor;
    for (int64_t i = 0; i < rows; i++, at += a->major, dst += pitch) {
        if (a->fetch) a->fetch(dst, a->data, at, a->minor, k);
        else if (a->minor == 1) memcpy(dst, address(a, at), (size_t)k * sizeof(T));
        else fetch_strided(dst, a->data, at, a->minor, k);
    }
}

/* A row block of A; returns through row and column the strides of the copy. Rows k + VL apart never
 * all fall into one set of the L1 cache, as rows 4 KiB apart do. */
enum { PACKED_A_PAD = VL };
static void pack_a(const operand *a, int64_t i0, int64_t rows, int64_t k0, int64_t k, T *dst,
                   int64_t *row, int64_t *column)
{
    if (!along(a->major, a->minor)) {
        *row = k + PACKED_A_PAD;
        *column = 1;
        copy_rows(a, i0, rows, k0, k, dst, *row);
        return;
    }
    *row = 1;
    *column = MR;
    int64_t at = i0 * a->major + k0 * a->minor;
    for (int64_t i = 0; i < k; i++, at += a->minor, dst += MR) {
        if (a->fetch) a->fetch(dst, a->data, at, a->major, rows);
        else copy_few(dst, address(a, at), rows);
    }
}
#endif
