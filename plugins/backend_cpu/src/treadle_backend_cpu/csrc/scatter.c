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

/* For each of n updates: w columns of row row[j] of y are combined with those of row j of u;
 * rows of both have ld elements. */
typedef void (*td_apply)(void *y, const void *u, const int64_t *row, int64_t n, int64_t ld,
                         int64_t w, td_order o);

#define APPLY(name, T, U, OP)                                                               \
    static void name(void *y_, const void *u_, const int64_t *row, int64_t n, int64_t ld,   \
                     int64_t w, td_order o) {                                               \
        const U *u = u_;                                                                    \
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
#define SUM_F16(a, b) ((a) + td_f16_to_f32(b))
#define SUM_BF16(a, b) ((a) + td_bf16_to_f32(b))
#define PRODUCT_F16(a, b) ((a) * td_f16_to_f32(b))
#define PRODUCT_BF16(a, b) ((a) * td_bf16_to_f32(b))
APPLY(add_8, uint8_t, uint8_t, SUM)
APPLY(add_16, uint16_t, uint16_t, SUM)
APPLY(add_32, uint32_t, uint32_t, SUM)
APPLY(add_64, uint64_t, uint64_t, SUM)
APPLY(add_f16, float, uint16_t, SUM_F16)
APPLY(add_bf16, float, uint16_t, SUM_BF16)
APPLY(add_f32, float, float, SUM)
APPLY(add_f64, double, double, SUM)
APPLY(mul_8, uint8_t, uint8_t, PRODUCT)
APPLY(mul_16, uint16_t, uint16_t, PRODUCT16)
APPLY(mul_32, uint32_t, uint32_t, PRODUCT)
APPLY(mul_64, uint64_t, uint64_t, PRODUCT)
APPLY(mul_f16, float, uint16_t, PRODUCT_F16)
APPLY(mul_bf16, float, uint16_t, PRODUCT_BF16)
APPLY(mul_f32, float, float, PRODUCT)
APPLY(mul_f64, double, double, PRODUCT)

/* The element with the larger key: integers with `flip` bits inverted (unsigned, or for a
 * minimum), floats mirrored below zero so that -0 < +0 and with every NaN on top. */
#define LARGER(a, b) (((b) ^ flip) > ((a) ^ flip) ? (b) : (a))
#define KEY16(v) td_key16((int16_t)((v) ^ flip), inf)
#define LARGER_F16(a, b) (KEY16(b) > KEY16(a) ? (b) : (a))
#define LARGER_F32(a, b) (td_key32((b) ^ flip, inf) > td_key32((a) ^ flip, inf) ? (b) : (a))
#define LARGER_F64(a, b) (td_key64((b) ^ flip, inf) > td_key64((a) ^ flip, inf) ? (b) : (a))
APPLY(max_8, int8_t, int8_t, LARGER)
APPLY(max_16, int16_t, int16_t, LARGER)
APPLY(max_32, int32_t, int32_t, LARGER)
APPLY(max_64, int64_t, int64_t, LARGER)
APPLY(max_f16, int16_t, int16_t, LARGER_F16)
APPLY(max_f32, int32_t, int32_t, LARGER_F32)
APPLY(max_f64, int64_t, int64_t, LARGER_F64)

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

/* Half types are added and multiplied in float32 and rounded once: every row that is touched has a
 * slot in acc. */
typedef struct {
    uint32_t *slot;         /* of each row, plus 1 */
    int64_t *rows, count;   /* the row of each slot */
    int64_t *at;            /* the slot of each update */
    float *acc;             /* (count, ld) */
} td_slots;

typedef struct {
    td_index_list list;
    td_apply apply;         /* NULL: set */
    td_order order;
    int64_t ld, columns;    /* elements of a row; of a task */
    int size, dtype;
    int64_t bytes;          /* of all of x */
    const char *x, *u;
    char *y;
    td_slots slots;
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
        char *y = b->y + first * b->size;
        td_index_rows(&b->list, i, n, row);
        if (b->apply) b->apply(y, u, row, n, b->ld, w, b->order);
        else set_rows(b, y, u, row, n, w);
    }
}

static void half_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const td_slots *s = &b->slots;
    const int64_t first = t * b->columns, w = TD_MIN(b->columns, b->ld - first);
    for (int64_t k = 0; k < s->count; k++) {
        const uint16_t *x = (const uint16_t *)b->y + s->rows[k] * b->ld + first;
        float *acc = s->acc + k * b->ld + first;
        if (b->dtype == TD_F16) for (int64_t c = 0; c < w; c++) acc[c] = td_f16_to_f32(x[c]);
        else for (int64_t c = 0; c < w; c++) acc[c] = td_bf16_to_f32(x[c]);
    }
    b->apply(s->acc + first, b->u + first * b->size, s->at, b->list.count, b->ld, w, b->order);
    for (int64_t k = 0; k < s->count; k++) {
        uint16_t *y = (uint16_t *)b->y + s->rows[k] * b->ld + first;
        const float *acc = s->acc + k * b->ld + first;
        if (b->dtype == TD_F16) for (int64_t c = 0; c < w; c++) y[c] = td_f32_to_f16(acc[c]);
        else for (int64_t c = 0; c < w; c++) y[c] = td_f32_to_bf16(acc[c]);
    }
}

static void give_slots(const td_job *b, td_slots *s, int64_t rows) {
    int64_t row[TD_INDEX_BLOCK];
    memset(s->slot, 0, sizeof *s->slot * (size_t)rows);
    for (int64_t i = 0; i < b->list.count; i += TD_INDEX_BLOCK) {
        const int64_t n = TD_MIN(TD_INDEX_BLOCK, b->list.count - i);
        td_index_rows(&b->list, i, n, row);
        for (int64_t j = 0; j < n; j++) {
            uint32_t *slot = &s->slot[row[j]];
            if (!*slot) s->rows[s->count] = row[j], *slot = (uint32_t)++s->count;
            s->at[i + j] = *slot - 1;
        }
    }
}

static int combine_halves(td_job *b, int64_t tasks) {
    td_slots *s = &b->slots;
    const size_t rows = (size_t)(b->bytes / b->size / b->ld), count = (size_t)b->list.count;
    if (count > UINT32_MAX) return td_fail(TD_ERR_VALUE, "scatter_nd: more than 2^32 updates");
    s->slot = td_scratch(sizeof *s->slot * rows);
    s->rows = td_scratch(sizeof *s->rows * count);
    s->at = td_scratch(sizeof *s->at * count);
    if (s->slot && s->rows && s->at) give_slots(b, s, (int64_t)rows);
    s->acc = s->count ? td_scratch(sizeof *s->acc * (size_t)(s->count * b->ld)) : 0;
    if (s->acc) td_parallel(tasks, half_task, b);
    const int done = s->acc != 0;
    td_scratch_free(s->slot), td_scratch_free(s->rows);
    td_scratch_free(s->at), td_scratch_free(s->acc);
    return done ? TD_OK : td_fail(TD_ERR_MEMORY, "scatter_nd: no memory for sums in float32");
}

/* Columns of one task: an equal share of the threads in whole cache lines, everything where sharing
 * does not pay. */
static int64_t share(const td_job *b) {
    const int64_t line = LINE / b->size, threads = td_threads();
    if (b->list.count * b->ld < SMALL) return b->ld;
    return TD_MIN(b->ld, ((b->ld + threads - 1) / threads + line - 1) / line * line);
}

/* i: mode, dtype, elements of a row, elements of x, whether indices are int64, count, k, k sizes */
static int KERNEL(scatter_nd)(const td_plan *p, char **io) {
    const int64_t *i = p->i, mode = i[0];
    const int dtype = (int)i[1];
    td_job b = {.list = {.index = io[1], .sizes = i + 7, .count = i[5], .k = (int)i[6],
                         .wide = (int)i[4]},
                .order = order_of(mode, dtype), .ld = i[2], .size = td_dtype_size[dtype],
                .dtype = dtype, .x = io[0], .u = io[2], .y = io[3]};
    const int status = td_index_check(&b.list, "scatter_nd");
    if (status) return status;
    b.apply = mode == SET ? 0 : (mode == ADD ? adds : mode == MUL ? muls : maxima)[dtype];
    b.bytes = i[3] * b.size;
    if (b.x != b.y) td_parallel((b.bytes + COPY_BYTES - 1) / COPY_BYTES, copy_task, &b);
    if (!b.ld || !b.list.count) return TD_OK;
    b.columns = share(&b);
    const int64_t tasks = (b.ld + b.columns - 1) / b.columns;
    const int halves = dtype == TD_F16 || dtype == TD_BF16;
    if (halves && (mode == ADD || mode == MUL)) return combine_halves(&b, tasks);
    td_parallel(tasks, task, &b);
    return TD_OK;
}

const td_entry KERNEL(scatter_table)[] = {{"scatter_nd", KERNEL(scatter_nd)}, {0, 0}};
