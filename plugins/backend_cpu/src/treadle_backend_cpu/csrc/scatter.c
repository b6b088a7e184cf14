/* scatter_nd: y = a copy of x whose rows, picked by index tuples, are set to or combined with rows
 * of updates.
 *
 * Updates of one row are applied in their order in the list, whatever the number of threads:
 * threads share the work by columns of the rows, never by updates. Rows too narrow to share are
 * done by one thread. */
#include "index_list.h"
#include "order_keys.h"
#include "scalar.h"
#include <string.h>

enum { SET, ADD, MUL, MIN, MAX };
enum { LINE = 64, SMALL = 32768, COPY_BYTES = 1 << 18 };

typedef struct { int64_t flip, inf; } td_order;

/* For each of n updates: columns of row row[j] of y take those of row j of u; both have ld
 * elements a row. */
typedef void (*td_apply)(void *y, const void *u, const int64_t *row, int64_t n, int64_t ld,
                         int64_t w, td_order o);

#define APPLY(name, T, OP)                                                                  \
    static void name(void *y_, const void *u_, const int64_t *row, int64_t n, int64_t ld,   \
                     int64_t w, td_order o) {                                               \
        const T *u = u_;                                                                    \
        const T flip = (T)o.flip, inf = (T)o.inf;                                           \
        (void)flip, (void)inf;                                                              \
        if (w == 1)                                                                         \
            for (int64_t j = 0; j < n; j++) {                                               \
                T *y = (T *)y_ + row[j] * ld;                                               \
                *y = OP(*y, u[j * ld]);                                                     \
            }                                                                               \
        else                                                                                \
            for (int64_t j = 0; j < n; j++, u += ld) {                                      \
                T *y = (T *)y_ + row[j] * ld;                                               \
                _Pragma("GCC ivdep") for (int64_t c = 0; c < w; c++) y[c] = OP(y[c], u[c]); \
            }                                                                               \
    }
#define SUM(a, b) ((a) + (b))
#define PRODUCT(a, b) ((a) * (b))
#define PRODUCT16(a, b) ((uint16_t)((uint32_t)(a) * (b)))
#define F16(op, a, b) td_f32_to_f16(op(td_f16_to_f32(a), td_f16_to_f32(b)))
#define BF16(op, a, b) td_f32_to_bf16(op(td_bf16_to_f32(a), td_bf16_to_f32(b)))
#define SUM_F16(a, b) F16(SUM, a, b)
#define SUM_BF16(a, b) BF16(SUM, a, b)
#define PRODUCT_F16(a, b) F16(PRODUCT, a, b)
#define PRODUCT_BF16(a, b) BF16(PRODUCT, a, b)
APPLY(add_8, uint8_t, SUM)
APPLY(add_16, uint16_t, SUM)
APPLY(add_32, uint32_t, SUM)
APPLY(add_64, uint64_t, SUM)
APPLY(add_f16, uint16_t, SUM_F16)
APPLY(add_bf16, uint16_t, SUM_BF16)
APPLY(add_f32, float, SUM)
APPLY(add_f64, double, SUM)
APPLY(mul_8, uint8_t, PRODUCT)
APPLY(mul_16, uint16_t, PRODUCT16)
APPLY(mul_32, uint32_t, PRODUCT)
APPLY(mul_64, uint64_t, PRODUCT)
APPLY(mul_f16, uint16_t, PRODUCT_F16)
APPLY(mul_bf16, uint16_t, PRODUCT_BF16)
APPLY(mul_f32, float, PRODUCT)
APPLY(mul_f64, double, PRODUCT)

/* The element with the larger key: integers with `flip` bits inverted (unsigned, or for a
 * minimum), floats mirrored below zero so that -0 < +0 and with every NaN on top. */
#define LARGER(a, b) (((b) ^ flip) > ((a) ^ flip) ? (b) : (a))
#define KEY16(v) td_key16((int16_t)((v) ^ flip), inf)
#define LARGER_F16(a, b) (KEY16(b) > KEY16(a) ? (b) : (a))
#define LARGER_F32(a, b) (td_key32((b) ^ flip, inf) > td_key32((a) ^ flip, inf) ? (b) : (a))
#define LARGER_F64(a, b) (td_key64((b) ^ flip, inf) > td_key64((a) ^ flip, inf) ? (b) : (a))
APPLY(max_8, int8_t, LARGER)
APPLY(max_16, int16_t, LARGER)
APPLY(max_32, int32_t, LARGER)
APPLY(max_64, int64_t, LARGER)
APPLY(max_f16, int16_t, LARGER_F16)
APPLY(max_f32, int32_t, LARGER_F32)
APPLY(max_f64, int64_t, LARGER_F64)

/* bool adds as a maximum (or) and multiplies as a minimum (and). */
static const td_apply adds[TD_DTYPES] = {
    max_8, add_8, add_16, add_32, add_64, add_8, add_16, add_32, add_64,
    add_f16, add_bf16, add_f32, add_f64};
static const td_apply muls[TD_DTYPES] = {
    max_8, mul_8, mul_16, mul_32, mul_64, mul_8, mul_16, mul_32, mul_64,
    mul_f16, mul_bf16, mul_f32, mul_f64};
static const td_apply maxima[TD_DTYPES] = {
    max_8, max_8, max_16, max_32, max_64, max_8, max_16, max_32, max_64,
    max_f16, max_f16, max_f32, max_f64};

static td_order order_of(int64_t mode, int64_t dtype) {
    static const int64_t inf[] = {0x7c00, 0x7f80, 0x7f800000, 0x7ff0000000000000};
    const int64_t top = (int64_t)(1ull << (8 * td_dtype_size[dtype] - 1));
    const int least = mode == MIN || mode == MUL;
    if (dtype >= TD_F16) return (td_order){least ? top : 0, inf[dtype - TD_F16]};
    return (td_order){(dtype >= TD_U8 ? top : 0) ^ (least ? -1 : 0), 0};
}

typedef struct {
    td_index_list list;
    td_apply apply;         /* NULL: set */
    td_order order;
    int64_t ld, columns;    /* elements of a row; of a task */
    int size;
    int64_t bytes;          /* of all of x */
    const char *x, *u;
    char *y;
} td_job;

static void copy_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const int64_t at = t * COPY_BYTES;
    memcpy(b->y + at, b->x + at, (size_t)TD_MIN(COPY_BYTES, b->bytes - at));
}

/* As td_apply, for columns that start at y and u. */
static void set_rows(const td_job *b, char *y, const char *u, const int64_t *row, int64_t n,
                     int64_t w) {
    const int64_t pitch = b->ld * b->size;
    for (int64_t j = 0; j < n; j++)
        memcpy(y + row[j] * pitch, u + j * pitch, (size_t)(w * b->size));
}

static void task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    int64_t row[TD_INDEX_BLOCK];
    const int64_t first = t * b->columns, w = TD_MIN(b->columns, b->ld - first);
    for (int64_t i = 0; i < b->list.count; i += TD_INDEX_BLOCK) {
        const int64_t n = TD_MIN(TD_INDEX_BLOCK, b->list.count - i);
        const char *u = b->u + (i * b->ld + first) * b->size;
        td_index_rows(&b->list, i, n, row);
        char *y = b->y + first * b->size;
        if (b->apply) b->apply(y, u, row, n, b->ld, w, b->order);
        else set_rows(b, y, u, row, n, w);
    }
}

/* Columns of one task: an equal share of the threads in whole cache lines, everything where
 * sharing does not pay. */
static int64_t share(const td_job *b) {
    const int64_t line = LINE / b->size, threads = td_threads();
    if (b->list.count * b->ld < SMALL) return b->ld;
    return TD_MIN(b->ld, ((b->ld + threads - 1) / threads + line - 1) / line * line);
}

/* i: mode, dtype, elements of a row, elements of x, whether indices are int64, count, k, k sizes */
static int KERNEL(scatter_nd)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    td_job b = {.list = {.index = io[1], .sizes = i + 7, .count = i[5], .k = (int)i[6],
                         .wide = (int)i[4]},
                .order = order_of(i[0], i[1]), .ld = i[2], .size = td_dtype_size[i[1]],
                .x = io[0], .u = io[2], .y = io[3]};
    const int status = td_index_check(&b.list, "scatter_nd");
    if (status) return status;
    b.apply = i[0] == SET ? 0 : (i[0] == ADD ? adds : i[0] == MUL ? muls : maxima)[i[1]];
    b.bytes = i[3] * b.size;
    if (b.x != b.y) td_parallel((b.bytes + COPY_BYTES - 1) / COPY_BYTES, copy_task, &b);
    if (!b.ld || !b.list.count) return TD_OK;
    b.columns = share(&b);
    td_parallel((b.ld + b.columns - 1) / b.columns, task, &b);
    return TD_OK;
}

const td_entry KERNEL(scatter_table)[] = {{"scatter_nd", KERNEL(scatter_nd)}, {0, 0}};
