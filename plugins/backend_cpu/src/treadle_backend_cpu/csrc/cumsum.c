/* Running sums along one axis of a dense array seen as (outer, n, inner).
 *
 * Integers wrap. float32 and the half types are summed in double, so that every prefix is right
 * to the last bit or nearly; float64 in double. Each line is one chain of additions, whatever
 * the number of threads. */
#include "scalar.h"

enum { TILE = 256, GRAIN = 32768 };

typedef void (*td_scan)(const void *x, void *y, int64_t n, int64_t inner, int64_t w);

/* w neighbouring lines at once: acc[j] runs down column j. */
#define SCAN(name, T, A, READ, WRITE)                                                         \
    static void name(const void *x_, void *y_, int64_t n, int64_t inner, int64_t w) {         \
        const T *x = x_;                                                                      \
        T *y = y_;                                                                            \
        A acc[TILE];                                                                          \
        if (w == 1) {                                                                         \
            A a = 0;                                                                          \
            for (int64_t i = 0; i < n; i++) a += READ(x[i * inner]), y[i * inner] = WRITE(a); \
            return;                                                                           \
        }                                                                                     \
        for (int64_t j = 0; j < w; j++) acc[j] = 0;                                           \
        for (int64_t i = 0; i < n; i++, x += inner, y += inner)                               \
            _Pragma("GCC ivdep") for (int64_t j = 0; j < w; j++) {                            \
                acc[j] += READ(x[j]);                                                         \
                y[j] = WRITE(acc[j]);                                                         \
            }                                                                                 \
    }
#define SAME(v) (v)
#define TO_F32(v) ((float)(v))
SCAN(scan_8, uint8_t, uint8_t, SAME, SAME)
SCAN(scan_16, uint16_t, uint16_t, SAME, SAME)
SCAN(scan_32, uint32_t, uint32_t, SAME, SAME)
SCAN(scan_64, uint64_t, uint64_t, SAME, SAME)
SCAN(scan_f16, uint16_t, double, td_f16_to_f32, td_f64_to_f16)
SCAN(scan_bf16, uint16_t, double, td_bf16_to_f32, td_f64_to_bf16)
SCAN(scan_f32, float, double, SAME, TO_F32)
SCAN(scan_f64, double, double, SAME, SAME)

static const struct { int size; td_scan scan; } kinds[TD_DTYPES] = {
    {1, scan_8},   {1, scan_8},    {2, scan_16},  {4, scan_32}, {8, scan_64},
    {1, scan_8},   {2, scan_16},   {4, scan_32},  {8, scan_64},
    {2, scan_f16}, {2, scan_bf16}, {4, scan_f32}, {8, scan_f64}};

typedef struct {
    td_scan scan;
    int size;
    int64_t n, inner, tiles, units, span;
    const char *x;
    char *y;
} td_job;

static void task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    for (int64_t u = t * b->span; u < TD_MIN(b->units, (t + 1) * b->span); u++) {
        const int64_t k = u / b->tiles, first = (u - k * b->tiles) * TILE;
        const int64_t at = (k * b->n * b->inner + first) * b->size;
        b->scan(b->x + at, b->y + at, b->n, b->inner, TD_MIN(TILE, b->inner - first));
    }
}

/* i: dtype, outer, n, inner */
static int KERNEL(cumsum)(const td_plan *p, char **io) {
    const int64_t *i = p->i;
    td_job b = {.scan = kinds[i[0]].scan, .size = kinds[i[0]].size, .n = i[2], .inner = i[3],
                .x = io[0], .y = io[1]};
    if (i[1] * i[2] * i[3] == 0) return TD_OK;
    b.tiles = (b.inner + TILE - 1) / TILE;
    b.units = i[1] * b.tiles;
    b.span = TD_MAX(1, GRAIN / (b.n * TD_MIN(TILE, b.inner)));
    td_parallel((b.units + b.span - 1) / b.span, task, &b);
    return TD_OK;
}

const td_entry KERNEL(cumsum_table)[] = {{"cumsum", KERNEL(cumsum)}, {0, 0}};
