/* The driver of fused regions: cuts the elements into tasks, finds or makes the operands and runs
 * the code on them. Dense operands are used where they lie, from end to end; others come in tiles.
 * Tasks and tiles depend on sizes only. */
#include "fused.h"
#include "copy.h"

typedef struct {
    const td_machine *machine;
    const int64_t *shape, *inputs, *forms, *bits, *code, *end;
    char *const *io;
    int64_t n, chunk, row, tile; /* elements */
    int64_t unit;                /* bytes that operands are padded to */
    int n_in, n_out, n_const, n_slots, ndim;
    int flat;    /* all operands are used from end to end */
    int staged;  /* the code is stages only: slots and constants are one block */
    int mixed;   /* a result lies where an input does that is read after it is written */
    int stream;
    int ahead; /* operands that are prefetched: all inputs or none */
} job;

typedef struct {
    int64_t form, mode, period;
    const int64_t *strides;
} input;

TD_INLINE input input_of(const job *j, int k) {
    const int64_t *p = j->inputs + k * (3 + j->ndim);
    return (input){p[0], p[1], p[2], p + 3};
}

TD_INLINE char *result(const job *j, int o) { return j->io[j->n_in + o]; }

/* One element all over some bytes, up to whole vectors. */
TD_INLINE void spread(char *to, const char *from, int size, int64_t bytes) {
    typedef uint64_t words __attribute__((vector_size(TD_VEC)));
    uint32_t half;
    uint64_t word;
    memcpy(&half, from, 4);
    if (size == 8) memcpy(&word, from, 8);
    else word = (uint64_t)half << 32 | half;
    for (int64_t b = 0; b < bytes; b += TD_VEC) *(words *)(to + b) = (words){} + word;
}

/* ---- flat regions ---- */

/* Bytes after which an input repeats, in whole blocks. */
TD_INLINE int64_t repeat_of(const job *j, const input *x) {
    const int64_t bytes = x->period * j->machine->size, step = TD_MIN(bytes & -bytes, FUSED_BLOCK);
    return bytes * (FUSED_BLOCK / step);
}

/* Whether all operands can be used from end to end: dense ones, and such as repeat after blocks. */
static int is_flat(const job *j) {
    for (int k = 0; k < j->n_in; k++) {
        const input x = input_of(j, k);
        if (x.mode == EW_DENSE) continue;
        if (!x.period) return 0;
        const int64_t bytes = x.period * j->machine->size;
        if (bytes % FUSED_BLOCK && repeat_of(j, &x) > FUSED_PERIOD) return 0;
    }
    return !j->mixed;
}

typedef struct {
    char *at[FUSED_OPERANDS];
    td_repeat repeats[FUSED_OPERANDS];
    int n;
    char block[FUSED_OPERANDS][FUSED_BLOCK] __attribute__((aligned(64)));
    char copy[FUSED_INPUTS][FUSED_PERIOD];
} flat_memory;

/* An input from element lo on that repeats: where it lies, or copied up to whole blocks. */
static void open_repeated(const job *j, int k, int64_t lo, int64_t n, flat_memory *m) {
    const input x = input_of(j, k);
    const int size = j->machine->size;
    const int64_t bytes = x.period * size, whole = repeat_of(j, &x), from = lo * size % whole;
    char *base = j->io[k];
    if (whole != bytes) {
        const int64_t most = TD_MIN(whole, from + n * size + TD_VEC);
        base = m->copy[k];
        if (x.period == 1) spread(base, j->io[k], size, TD_MIN(most, whole));
        else memcpy(base, j->io[k], (size_t)bytes);
        for (int64_t have = x.period == 1 ? most : bytes; have < most; have += have)
            memcpy(base + have, base, (size_t)TD_MIN(have, whole - have));
    }
    m->at[k] = base + from;
    m->repeats[m->n++] = (td_repeat){k, whole, whole - from};
}

static void open_flat(const job *j, int64_t lo, int64_t n, flat_memory *m) {
    const int size = j->machine->size, rest = j->n_in + j->n_out;
    m->n = 0;
    for (int k = 0; k < j->n_in; k++) {
        if (input_of(j, k).mode == EW_DENSE) m->at[k] = j->io[k] + lo * size;
        else open_repeated(j, k, lo, n, m);
    }
    for (int o = 0; o < j->n_out; o++) m->at[j->n_in + o] = result(j, o) + lo * size;
    for (int k = 0; k < j->n_const + j->n_slots; k++) {
        m->at[rest + k] = m->block[k];
        m->repeats[m->n++] = (td_repeat){rest + k, FUSED_BLOCK, FUSED_BLOCK};
        if (k < j->n_const) spread(m->block[k], (const char *)&j->bits[k], size, FUSED_BLOCK);
    }
}

/* The last elements, which fill no vector: through padded copies. */
static __attribute__((noinline)) void finish(const td_machine *machine, const int64_t *code, char **at,
                                             int64_t done, int64_t bytes, int n_in, int n_all,
                                             int n_operands) {
    char pad[FUSED_OPERANDS][TD_VEC] __attribute__((aligned(64)));
    char *to[FUSED_OPERANDS];
    for (int k = 0; k < n_operands; k++) {
        to[k] = at[k] + done;
        at[k] = k < n_all ? pad[k] : to[k];
        if (k >= n_in) continue;
        memset(pad[k], 0, TD_VEC);
        memcpy(pad[k], to[k], (size_t)bytes);
    }
    machine->stages(code, at, TD_VEC, NULL, 0, 0);
    for (int k = n_in; k < n_all; k++) memcpy(to[k], pad[k], (size_t)bytes);
}

static void run_flat(const job *j, int64_t lo, int64_t n) {
    flat_memory m;
    const int64_t bytes = n * j->machine->size, whole = bytes & -(int64_t)TD_VEC;
    const int rest = j->n_in + j->n_out;
    open_flat(j, lo, n, &m);
    j->machine->stages(j->code + 2, m.at, whole, m.repeats, m.n, j->ahead);
    if (bytes != whole)
        finish(j->machine, j->code + 2, m.at, whole, bytes - whole, j->n_in, rest,
               rest + j->n_const + j->n_slots);
    if (j->stream) KERNEL(stream_end)();
}

/* One block or less of dense operands: the same with as little ceremony as possible. */
static int run_small(const int64_t *i, char **io, const td_machine *machine) {
    const int n_in = (int)i[3], n_all = n_in + (int)i[4];
    const int n_const = (int)i[5], n_more = n_const + (int)i[6];
    const int64_t *bits = i + 10 + i[9] + n_in * (3 + i[9]) + i[4], *code = bits + n_const + 2;
    const int64_t bytes = i[0] * machine->size, whole = bytes & -(int64_t)TD_VEC;
    char *at[FUSED_OPERANDS];
    char block[FUSED_OPERANDS][FUSED_BLOCK] __attribute__((aligned(64)));
    for (int k = 0; k < n_all; k++) at[k] = io[k];
    for (int k = 0; k < n_more; k++) {
        at[n_all + k] = block[k];
        if (k < n_const) spread(block[k], (const char *)&bits[k], machine->size, FUSED_BLOCK);
    }
    machine->stages(code, at, whole, NULL, 0, 0);
    if (bytes != whole) finish(machine, code, at, whole, bytes - whole, n_in, n_all, n_all + n_more);
    return TD_OK;
}

/* ---- inputs of a tile ---- */

/* The operands of other regions than flat ones; odd lines keep the tiles out of step in the cache. */
typedef struct {
    char *at[FUSED_OPERANDS];
    td_repeat repeats[FUSED_OPERANDS];
    int n;
    char inputs[FUSED_INPUTS][FUSED_TILE + FUSED_PERIOD + FUSED_BLOCK + 64] __attribute__((aligned(64)));
    char others[FUSED_OPERANDS][FUSED_TILE + 64];
    char raw[FUSED_TILE + 64]; /* a tile as it is stored */
} memory;

TD_INLINE int stored_size(const job *j, int64_t form) {
    return form == FUSED_PLAIN ? j->machine->size : form == FUSED_BOOL ? 1 : 2;
}

/* Bytes of elements in the computed type, up to whole vectors, or to what loops take. */
TD_INLINE int64_t padded(const job *j, int64_t elements) {
    return (elements * j->machine->size + j->unit - 1) & -j->unit;
}

/* Elements of a repeated input, enough for a tile from anywhere in a period. */
static void prepare_repeated(const job *j, int k, int64_t n, memory *m) {
    const input x = input_of(j, k);
    const int size = j->machine->size;
    char *to = m->inputs[k];
    if (x.form) j->machine->load[x.form](x.period, to, j->io[k]);
    else memcpy(to, j->io[k], (size_t)(x.period * size));
    if (x.period == 1) {
        spread(to, to, size, j->staged ? FUSED_BLOCK : padded(j, TD_MIN(n, j->tile)));
        return;
    }
    const int64_t count = padded(j, TD_MIN(n, j->tile)) / size + x.period;
    for (int64_t have = x.period; have < count; have += have)
        memcpy(to + have * size, to, (size_t)(TD_MIN(have, count - have) * size));
}

/* Where element `at` of a strided input lies if n elements follow in its row; else NULL. */
static const char *find_row(const job *j, int k, int64_t at, int64_t n) {
    const input x = input_of(j, k);
    int64_t offset = 0;
    if (at % j->shape[j->ndim - 1] + n > j->shape[j->ndim - 1]) return NULL;
    for (int d = j->ndim - 1; d >= 0; d--) {
        offset += at % j->shape[d] * x.strides[d];
        at /= j->shape[d];
    }
    return j->io[k] + offset * stored_size(j, x.form);
}

/* n elements of an input as they are stored, one after the other: where they lie, or at `to`. */
static const char *gather(const job *j, int k, int64_t at, int64_t n, char *to) {
    const input x = input_of(j, k);
    const int size = stored_size(j, x.form);
    if (x.mode == EW_DENSE) return j->io[k] + at * size;
    const char *row = find_row(j, k, at, n);
    const int64_t stride = x.strides[j->ndim - 1];
    if (row && stride == 1) return row;
    if (row) KERNEL(copy_run)(to, row, n, stride, size);
    else KERNEL(copy_range)(to, j->io[k], j->ndim, j->shape, x.strides, at, at + n, size);
    return to;
}

/* n elements of an input in the computed type, padded. */
static char *fetch(const job *j, int k, int64_t at, int64_t n, memory *m) {
    const input x = input_of(j, k);
    const int64_t size = j->machine->size, bytes = n * size, whole = padded(j, n);
    char *to = m->inputs[k];
    if (x.mode == EW_PERIODIC && x.period > 1) return to + at % x.period * size;
    const char *row = NULL;
    if (j->row && x.mode == EW_STRIDED && !x.form && !x.strides[j->ndim - 1])
        row = find_row(j, k, at, n);
    if (row) spread(to, row, (int)size, j->staged ? FUSED_BLOCK : whole);
    if (row || x.mode == EW_PERIODIC) {
        if (j->staged) m->repeats[m->n++] = (td_repeat){k, FUSED_BLOCK, FUSED_BLOCK};
        return to;
    }
    const char *from = gather(j, k, at, n, x.form ? m->raw : to);
    if (x.form) j->machine->load[x.form](n, to, from);
    else if (bytes == whole) return (char *)from;
    else if (from != to) memcpy(to, from, (size_t)bytes);
    memset(to + bytes, 0, (size_t)(whole - bytes));
    return to;
}

/* ---- tiles ---- */

/* Whether a result is computed where it belongs, but for the last elements that fill no vector. */
TD_INLINE int in_place(const job *j, int o) {
    return result(j, o) && !j->forms[o] && !j->mixed;
}

static void put(const job *j, int o, int64_t at, int64_t n, memory *m) {
    const int64_t form = j->forms[o], size = stored_size(j, form);
    char *from = m->at[j->n_in + o];
    if (form) {
        j->machine->store[form](n, m->raw, from);
        from = m->raw;
    }
    memcpy(result(j, o) + at * size, from, (size_t)(n * size));
}

static void run_code(const job *j, int64_t n, memory *m) {
    const int64_t bytes = padded(j, n);
    for (const int64_t *step = j->code; step < j->end; step += 2 + step[1]) {
        if (step[0] == FUSED_STAGES) {
            j->machine->stages(step + 2, m->at, bytes, m->repeats, m->n, 0);
            continue;
        }
        char *v[EW_INPUTS + 1];
        for (int64_t k = 0; k < step[1]; k++) v[k] = m->at[step[2 + k]];
        j->machine->loops[step[0] - FUSED_LOOP](bytes / j->machine->size, v);
    }
}

static void run_tile(const job *j, int64_t at, int64_t n, memory *m) {
    const int filled = n * j->machine->size == padded(j, n), y = j->n_in, rest = y + j->n_out;
    m->n = 0;
    for (int k = 0; k < y; k++) m->at[k] = fetch(j, k, at, n, m);
    for (int o = 0; o < j->n_out; o++) {
        const int direct = filled && in_place(j, o);
        m->at[y + o] = direct ? result(j, o) + at * j->machine->size : m->others[o];
    }
    for (int k = 0; k < j->n_const + j->n_slots; k++) {
        m->at[rest + k] = m->others[j->n_out + k];
        if (j->staged) m->repeats[m->n++] = (td_repeat){rest + k, FUSED_BLOCK, FUSED_BLOCK};
    }
    run_code(j, n, m);
    for (int o = 0; o < j->n_out; o++)
        if (result(j, o) && !(filled && in_place(j, o))) put(j, o, at, n, m);
}

static void run_tiles(const job *j, int64_t lo, int64_t n) {
    memory m;
    const int64_t hi = lo + n, unit = j->unit / j->machine->size;
    const int64_t fill = j->staged ? FUSED_BLOCK : padded(j, TD_MIN(n, j->tile));
    for (int k = 0; k < j->n_in; k++)
        if (input_of(j, k).mode == EW_PERIODIC) prepare_repeated(j, k, n, &m);
    for (int k = 0; k < j->n_const; k++)
        spread(m.others[j->n_out + k], (const char *)&j->bits[k], j->machine->size, fill);
    for (int64_t at = lo; at < hi; at += n) {
        n = TD_MIN(j->tile, hi - at);
        if (j->row) n = TD_MIN(n, j->row - at % j->row);
        if (n > unit) n -= n % unit;
        run_tile(j, at, n, &m);
    }
}

/* ---- regions ---- */

static void run_task(int64_t t, void *context) {
    const job *j = context;
    const int64_t lo = t * j->chunk, n = TD_MIN(j->chunk, j->n - lo);
    if (j->flat) run_flat(j, lo, n);
    else run_tiles(j, lo, n);
}

/* Whether tiles may be as long as rows: nothing but single numbers is copied or converted. */
static int whole_rows(const job *j) {
    if (!j->row || !j->staged) return 0;
    for (int o = 0; o < j->n_out; o++)
        if (!in_place(j, o)) return 0;
    for (int k = 0; k < j->n_in; k++) {
        const input x = input_of(j, k);
        const int one = x.mode == EW_PERIODIC && x.period == 1;
        const int64_t last = x.strides[j->ndim - 1];
        const int row = x.mode == EW_DENSE || (x.mode == EW_STRIDED && (last == 0 || last == 1));
        if (!one && (x.form || !row)) return 0;
    }
    return 1;
}

/* Results too large for the caches go past them: other code, if whole vectors can be written. */
static void choose_stores(job *j, int64_t *words) {
    const int64_t count = j->end - j->code;
    for (int o = 0; o < j->n_out; o++)
        if ((uintptr_t)result(j, o) % TD_VEC) return;
    memcpy(words, j->code, (size_t)count * sizeof *words);
    for (int64_t w = 2; w < count; w += 2)
        if (words[w] == FUSED_STORE && words[w + 1] < j->n_in + j->n_out) words[w] = FUSED_STREAM;
    j->code = words;
    j->end = words + count;
    j->stream = 1;
}

static __attribute__((noinline)) void run_large(job *j) {
    int64_t words[FUSED_WORDS];
    const int64_t bytes = j->n * j->machine->size;
    if (j->flat && bytes >= TD_STREAM_BYTES) choose_stores(j, words);
    if (j->flat && bytes * (j->n_in + j->n_out) >= TD_STREAM_BYTES) j->ahead = j->n_in;
    td_parallel((j->n + j->chunk - 1) / j->chunk, run_task, j);
}

int KERNEL(fused_run)(const td_plan *p, char **io, const td_machine *machine) {
    const int64_t *i = p->i;
    int unwanted = 0, known = (int)i[8];
    for (int64_t o = 0; o < i[4]; o++) unwanted |= !io[i[3] + o];
    if (unwanted) known &= FUSED_LATE;
    if (known & FUSED_DENSE && known & FUSED_LATE && i[0] * machine->size <= FUSED_BLOCK)
        return run_small(i, io, machine);
    job j = {.machine = machine, .io = io, .n = i[0], .chunk = i[1], .row = i[2]};
    j.n_in = (int)i[3], j.n_out = (int)i[4], j.n_const = (int)i[5], j.n_slots = (int)i[6];
    j.ndim = (int)i[9];
    j.shape = i + 10;
    j.inputs = j.shape + j.ndim;
    j.forms = j.inputs + j.n_in * (3 + j.ndim);
    j.bits = j.forms + j.n_out;
    j.code = j.bits + j.n_const;
    j.end = j.code + i[7];
    for (int o = 0; o < j.n_out && !(known & FUSED_LATE); o++)
        for (int k = 0; k < j.n_in; k++) j.mixed |= io[k] == result(&j, o);
    if (j.n == 0) return TD_OK;
    j.flat = known & FUSED_STAGED && is_flat(&j);
    if (!j.flat) {
        j.staged = j.code[0] == FUSED_STAGES && j.code + 2 + j.code[1] == j.end;
        j.unit = j.staged ? TD_VEC : 64;
        j.tile = whole_rows(&j) ? INT64_MAX : FUSED_TILE / machine->size;
    }
    if (j.n > j.chunk) run_large(&j);
    else run_task(0, &j);
    return TD_OK;
}
