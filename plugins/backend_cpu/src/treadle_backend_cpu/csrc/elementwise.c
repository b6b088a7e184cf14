/* The driver of all elementwise kernels: cuts the elements into tasks, a task into tiles, and hands
 * each tile's operands to the kernel's loop as contiguous arrays of the compute type. Tasks and
 * tiles depend on sizes only. */
#include "copy.h"
#include "elementwise.h"

typedef struct {
    const td_ew *op;
    const int64_t *plan;
    char *const *io;
    int64_t n, chunk, tile;
    int plain, stream;
    int failed; /* an error code, set by any task */
} job;

/* Repeated operands, loaded ones, results; odd lines keep the arrays out of step in the cache. */
typedef struct {
    char fixed[EW_INPUTS][EW_BUFFER + EW_PERIOD * 8 + 64];
    char loaded[EW_INPUTS][EW_BUFFER + 64];
    char result[EW_BUFFER + 64], packed[EW_BUFFER + 64];
    char *into; /* where a tile is loaded to if that is already its result, else NULL */
} buffers __attribute__((aligned(64)));

TD_INLINE int64_t shape_of(const int64_t *plan, int d) { return plan[4 + d]; }
TD_INLINE const int64_t *input_of(const int64_t *plan, int k) {
    return plan + 4 + plan[3] + k * (2 + plan[3]);
}

/* The last elements, less than a block: through padded copies, whose end the loop may run over. */
static __attribute__((noinline)) void run_tail(const td_ew *op, int64_t at, int64_t n,
                                               char *const *v) {
    char pad[EW_INPUTS + 1][64 * 8] __attribute__((aligned(64)));
    char *w[EW_INPUTS + 1];
    for (int k = 0; k <= op->n_in; k++) {
        w[k] = pad[k];
        if (k == op->n_in) break;
        memset(pad[k], 0, (size_t)(op->block * op->wide[k]));
        memcpy(pad[k], v[k] + at * op->wide[k], (size_t)(n * op->wide[k]));
    }
    op->loop(op->block, w);
    memcpy(v[op->n_in] + at * op->wide[op->n_in], pad[op->n_in], (size_t)(n * op->wide[op->n_in]));
}

TD_INLINE void run_loop(const td_ew *op, int64_t n, char *const *v) {
    int64_t whole = n & -(int64_t)op->block;
    if (whole) op->loop(whole, v);
    if (n != whole) run_tail(op, whole, n - whole, v);
}

/* Repeats the first `period` elements of a buffer up to `count`. */
static void repeat(char *buffer, int64_t period, int64_t count, int size) {
    if (period == 1) {
        KERNEL(copy_run)(buffer, buffer, count, 0, size);
        return;
    }
    for (int64_t have = period; have < count; have += have)
        memcpy(buffer + have * size, buffer, (size_t)(TD_MIN(have, count - have) * size));
}

/* A repeated operand in the compute type, long enough for a tile from anywhere in a period. */
static char *prepare_fixed(const job *j, int k, int64_t n, buffers *b) {
    const td_ew *op = j->op;
    const int64_t period = input_of(j->plan, k)[1];
    if (op->convert[k]) op->convert[k](period, b->fixed[k], j->io[k]);
    else memcpy(b->fixed[k], j->io[k], (size_t)(period * op->size[k]));
    repeat(b->fixed[k], period, TD_MIN(n, j->tile) + period, op->wide[k]);
    return b->fixed[k];
}

/* Where element `at` of a strided input lies if m elements from there are contiguous, else NULL. */
static char *find_run(const job *j, int k, int64_t at, int64_t m) {
    const int nd = (int)j->plan[3];
    const int64_t *strides = input_of(j->plan, k) + 2, inner = shape_of(j->plan, nd - 1);
    if (strides[nd - 1] != 1 || at % inner + m > inner) return NULL;
    int64_t offset = 0;
    for (int d = nd - 1; d >= 0; d--) {
        offset += at % shape_of(j->plan, d) * strides[d];
        at /= shape_of(j->plan, d);
    }
    return j->io[k] + offset * j->op->size[k];
}

static void gather(const job *j, int k, char *dst, int64_t at, int64_t n) {
    KERNEL(copy_range)(dst, j->io[k], (int)j->plan[3], j->plan + 4, input_of(j->plan, k) + 2, at,
                       at + n, j->op->size[k]);
}

/* In bytes. Longer bursts of streamed stores leave the loads waiting. */
enum { STREAM_TILE = 1024, AHEAD = 2048 };

/* Asks for what the tile after next will read. */
static void prefetch(const char *p, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(p + AHEAD + at);
}

/* A tile of an input in the compute type. `whole` is where the task's elements begin, if they are
 * contiguous or gathered. */
static char *fetch(const job *j, int k, char *whole, int64_t lo, int64_t at, int64_t m,
                   buffers *b) {
    const td_ew *op = j->op;
    const int64_t *input = input_of(j->plan, k);
    if (input[0] == EW_PERIODIC)
        return whole + (input[1] == 1 ? 0 : (lo + at) % input[1]) * op->wide[k];
    char *src = whole ? whole + at * op->size[k] : find_run(j, k, lo + at, m);
    if (!src) {
        src = op->convert[k] ? b->fixed[k] : b->loaded[k];
        gather(j, k, src, lo + at, m);
    } else if (j->stream) {
        prefetch(src, m * op->size[k]);
    }
    if (!op->convert[k]) return src;
    char *to = b->into ? b->into : b->loaded[k];
    op->convert[k](m, to, src);
    return to;
}

/* One tile: v has its inputs, `to` is where the result belongs. */
static void compute(const job *j, char **v, char *to, int64_t m, buffers *b) {
    const td_ew *op = j->op;
    const int y = op->n_in;
    const td_convert store = op->convert[y];
    char *result = v[0], *packed = j->stream ? b->packed : to;
    if (op->loop) {
        result = v[y] = store || j->stream ? b->result : to;
        run_loop(op, m, v);
    }
    if (store) {
        store(m, packed, result);
        result = packed;
    }
    if (j->stream) KERNEL(stream)(to, result, m * op->size[y]);
    else if (result != to) memcpy(to, result, (size_t)(m * op->size[y]));
}

static void run_tiles(const job *j, int64_t lo, int64_t n, char *const *whole) {
    buffers b;
    const td_ew *op = j->op;
    const int64_t row = j->plan[2] ? shape_of(j->plan, (int)j->plan[3] - 1) : INT64_MAX;
    char *base[EW_INPUTS], *v[EW_INPUTS + 1];
    for (int k = 0; k < op->n_in; k++)
        base[k] = input_of(j->plan, k)[0] == EW_PERIODIC ? prepare_fixed(j, k, n, &b) : whole[k];
    const int y = op->n_in, load_only = !op->loop && !op->convert[y] && !j->stream;
    for (int64_t at = 0, m; at < n; at += m) {
        char *to = j->io[y] + (lo + at) * op->size[y];
        m = TD_MIN(TD_MIN(j->tile, n - at), row - (lo + at) % row);
        b.into = load_only ? to : NULL;
        for (int k = 0; k < y; k++) v[k] = fetch(j, k, base[k], lo, at, m, &b);
        compute(j, v, to, m, &b);
    }
    if (j->stream) KERNEL(stream_end)();
}

/* Finds or gathers what is contiguous over a whole task; 0 if there is no memory. */
static int open_task(const job *j, int64_t lo, int64_t n, char **whole, char **scratch) {
    for (int k = 0; k < j->op->n_in; k++) {
        const int64_t mode = input_of(j->plan, k)[0];
        scratch[k] = NULL;
        whole[k] = mode == EW_DENSE ? j->io[k] + lo * j->op->size[k] : NULL;
        if (mode != EW_TRANSPOSED) continue;
        whole[k] = scratch[k] = td_scratch((size_t)(n * j->op->size[k]));
        if (!whole[k]) return 0;
        gather(j, k, whole[k], lo, n);
    }
    return 1;
}

static void run_task(int64_t t, void *context) {
    job *j = context;
    const int n_in = j->op->n_in;
    const int64_t lo = t * j->chunk, n = TD_MIN(j->chunk, j->n - lo);
    char *v[EW_INPUTS + 1], *scratch[EW_INPUTS] = {0};
    if (!open_task(j, lo, n, v, scratch)) {
        __atomic_store_n(&j->failed, TD_ERR_MEMORY, __ATOMIC_RELAXED);
    } else if (j->plain) {
        v[n_in] = j->io[n_in] + lo * j->op->size[n_in];
        run_loop(j->op, n, v);
    } else {
        run_tiles(j, lo, n, v);
    }
    for (int k = 0; k < n_in; k++)
        if (scratch[k]) td_scratch_free(scratch[k]);
}

#define HAS_ZERO(T)                                                                                \
    do {                                                                                           \
        uint32_t zero = 0;                                                                         \
        for (int64_t i = 0; i < n; i++) zero |= ((const T *)p)[i] == 0;                            \
        return zero != 0;                                                                          \
    } while (0)

static int has_zero(const char *p, int64_t n, int size) {
    switch (size) {
    case 1: HAS_ZERO(uint8_t);
    case 2: HAS_ZERO(uint16_t);
    case 4: HAS_ZERO(uint32_t);
    default: HAS_ZERO(uint64_t);
    }
}

static void check_task(int64_t t, void *context) {
    job *j = context;
    const int k = j->op->divisor, size = j->op->size[k];
    const int64_t lo = t * j->chunk, n = TD_MIN(j->chunk, j->n - lo);
    char tile[EW_BUFFER];
    const int64_t step = EW_BUFFER / size;
    int zero = 0;
    if (input_of(j->plan, k)[0] == EW_DENSE) zero = has_zero(j->io[k] + lo * size, n, size);
    else
        for (int64_t at = 0; at < n && !zero; at += step) {
            gather(j, k, tile, lo + at, TD_MIN(step, n - at));
            zero = has_zero(tile, TD_MIN(step, n - at), size);
        }
    if (zero) __atomic_store_n(&j->failed, TD_ERR_ZERO, __ATOMIC_RELAXED);
}

/* A divisor of 0 anywhere is an error before anything is written. */
static int check_divisor(job *j, int64_t tasks) {
    const int k = j->op->divisor;
    const int64_t *input = input_of(j->plan, k);
    if (input[0] != EW_PERIODIC) td_parallel(tasks, check_task, j);
    else if (has_zero(j->io[k], input[1], j->op->size[k])) j->failed = TD_ERR_ZERO;
    return j->failed ? td_fail(TD_ERR_ZERO, "integer division by zero") : TD_OK;
}

/* Tasks of `grain` elements. With a transposed input they span some rows, so that whole cache lines
 * of it are used. */
static void cut(job *j) {
    const td_ew *op = j->op;
    const int y = op->n_in, nd = (int)j->plan[3];
    int widest = 1, aliased = 0;
    j->plain = op->loop && !op->convert[y];
    j->chunk = op->grain;
    for (int k = 0; k <= y; k++) {
        widest = TD_MAX(widest, TD_MAX(op->wide[k], op->size[k]));
        if (k == y) break;
        aliased |= j->io[k] == j->io[y];
        const int64_t mode = input_of(j->plan, k)[0];
        if (op->convert[k] || mode == EW_PERIODIC || mode == EW_STRIDED) j->plain = 0;
        if (mode != EW_TRANSPOSED) continue;
        const int64_t band = 32 * shape_of(j->plan, nd - 1);
        j->chunk = TD_MIN(TD_MAX(j->chunk, band), 1 << 18);
    }
    j->stream = !aliased && j->n * op->size[y] >= TD_STREAM_BYTES;
    j->tile = (j->stream ? STREAM_TILE : EW_BUFFER) / widest;
    if (j->stream) j->plain = 0;
    if (j->n <= 2 * j->chunk) j->chunk = j->n;
}

static __attribute__((noinline)) int run_general(const td_plan *p, char **io, const td_ew *op) {
    job j = {.op = op, .plan = p->i, .io = io, .n = p->i[0]};
    cut(&j);
    const int64_t tasks = (j.n + j.chunk - 1) / j.chunk;
    if (op->divisor >= 0 && check_divisor(&j, tasks)) return TD_ERR_ZERO;
    td_parallel(tasks, run_task, &j);
    return j.failed ? td_fail(j.failed, "no memory to gather an operand") : TD_OK;
}

/* Few elements, with numbers among dense operands: one tile, without the machinery of tasks. */
static __attribute__((noinline)) void run_small(const td_plan *p, char **io, const td_ew *op) {
    char fixed[EW_INPUTS][EW_BUFFER] __attribute__((aligned(64)));
    char *v[EW_INPUTS + 1];
    const int64_t n = p->i[0];
    for (int k = 0; k <= op->n_in; k++) {
        v[k] = io[k];
        if (k == op->n_in || input_of(p->i, k)[0] == EW_DENSE) continue;
        v[k] = fixed[k];
        KERNEL(copy_run)(fixed[k], io[k], n, 0, op->wide[k]);
    }
    run_loop(op, n, v);
}

int KERNEL(ew_run)(const td_plan *p, char **io, const td_ew *op) {
    const int64_t n = p->i[0];
    const int direct = op->loop && !op->convert[0] && !op->convert[op->n_in] && op->divisor < 0;
    if (n == 0) return TD_OK;
    if (!direct || !p->i[1]) return run_general(p, io, op);
    if (p->i[1] == EW_ALL_DENSE && n <= 2 * op->grain) run_loop(op, n, io);
    else if (n <= EW_BUFFER / 8) run_small(p, io, op);
    else return run_general(p, io, op);
    return TD_OK;
}
