/* Vectors of one real type and loops over rows of it: the base of softmax, the norms, cross
 * entropy and attention. A file that serves float32 and float64 keeps its body in a .inc that
 * includes this header, and includes that body twice, with REAL_BITS 32 and 64. `real`, `vec`
 * and NAME() then mean the current type; every helper is written without its suffix. float16 and
 * bfloat16 are stored forms only: row_in and row_out convert whole rows, so that all sums are
 * float32 ones. */
#ifndef TREADLE_ROWS_H
#define TREADLE_ROWS_H
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "scalar.h"
#include "treadle_cpu.h"

/* What vector extensions cannot say, by gcc's own names: reading immintrin.h would be a third of
 * these files' compile time. max(a, b) is b where either is NaN; the masks of part loads and stores
 * are bits (AVX-512) or lanes. */
#if TD_VEC == 64
#define max_f32(a, b) __builtin_ia32_maxps512_mask(a, b, a, -1, 4)
#define max_f64(a, b) __builtin_ia32_maxpd512_mask(a, b, a, -1, 4)
#define scale_f32(a, n) __builtin_ia32_scalefps512_mask(a, n, a, -1, 4)
#define scale_f64(a, n) __builtin_ia32_scalefpd512_mask(a, n, a, -1, 4)
#define load_part_f32(p, fill, mask) __builtin_ia32_loadups512_mask(p, fill, mask)
#define load_part_f64(p, fill, mask) __builtin_ia32_loadupd512_mask(p, fill, mask)
#define store_part_f32(p, v, mask) __builtin_ia32_storeups512_mask(p, v, mask)
#define store_part_f64(p, v, mask) __builtin_ia32_storeupd512_mask(p, v, mask)
#define stream_f32 __builtin_ia32_movntps512
#define from_half(h) __builtin_ia32_vcvtph2ps512_mask(h, (vec_f32){0}, -1, 4)
#define to_half(v) __builtin_ia32_vcvtps2ph512_mask(v, 0, (halves){0}, -1)
#define stream_f64 __builtin_ia32_movntpd512
#elif TD_VEC == 32
#define max_f32 __builtin_ia32_maxps256
#define max_f64 __builtin_ia32_maxpd256
#define load_part_f32(p, mask) __builtin_ia32_maskloadps256((const void *)(p), mask)
#define load_part_f64(p, mask) __builtin_ia32_maskloadpd256((const void *)(p), mask)
#define store_part_f32(p, mask, v) __builtin_ia32_maskstoreps256((void *)(p), mask, v)
#define store_part_f64(p, mask, v) __builtin_ia32_maskstorepd256((void *)(p), mask, v)
#define stream_f32 __builtin_ia32_movntps256
#define from_half __builtin_ia32_vcvtph2ps256
#define to_half(v) __builtin_ia32_vcvtps2ph256(v, 0)
#define stream_f64 __builtin_ia32_movntpd256
#elif defined(__SSE2__)
#define max_f32 __builtin_ia32_maxps
#define max_f64 __builtin_ia32_maxpd
#define stream_f32 __builtin_ia32_movntps
#define stream_f64 __builtin_ia32_movntpd
#endif

#define ROW_FUNCTION static __attribute__((unused))   /* not inlined everywhere: compile time */
#define ROWS_GRAIN 8192            /* elements that are worth a task of their own */
#define ROWS_MAX_TASKS 64          /* enough to share out evenly, on any number of threads */
#define ROWS_STREAM_BYTES (32 << 20)   /* larger outputs bypass the caches */
#define ROWS_PREFETCH_MAX 4096     /* elements to look ahead at most */

/* Asks for memory into the second cache level: hardware does not follow a stream of rows from page
 * to page everywhere. Into the first level it costs more than it gives on Zen 4. */
#define fetch_ahead(p) __builtin_prefetch(p, 0, 2)

/* How many tasks to cut `rows` rows into when each costs about `cost` elements. */
TD_INLINE int64_t row_tasks(int64_t rows, int64_t cost) {
    int64_t wanted = TD_MIN((double)rows * (double)cost / ROWS_GRAIN, (double)ROWS_MAX_TASKS);
    return TD_MAX(1, TD_MIN(wanted, rows));
}

/* The operands of a call by their position in the op: of n_in inputs only those are passed that the
 * bits of the last integer parameter name, and trailing results may be missing. What is not there
 * is NULL in all[]. */
TD_INLINE void all_operands(const td_plan *p, char **io, int n_in, int n_out, char **all) {
    int next = 0;
    for (int i = 0; i < n_in; i++) all[i] = p->i[p->n_i - 1] >> i & 1 ? io[next++] : NULL;
    for (int o = 0; o < n_out; o++) all[n_in + o] = o < p->n_out ? io[p->n_in + o] : NULL;
}

TD_INLINE void row_fence(void) {   /* streamed stores are visible before the task is done */
#if defined(__SSE2__)
    __builtin_ia32_sfence();
#endif
}

#define LANES ((int)(TD_VEC / sizeof(real)))
#define REAL_CODE (sizeof(real) == 8 ? TD_F64 : TD_F32)

#define vec NAME(vec)
#define uvec NAME(uvec)
#define vmask NAME(vmask)
#define vint NAME(vint)
#define v_set NAME(v_set)
#define v_load NAME(v_load)
#define v_store NAME(v_store)
#define v_get NAME(v_get)
#define v_put NAME(v_put)
#define v_first NAME(v_first)
#define v_stream NAME(v_stream)
#define v_select NAME(v_select)
#define v_max NAME(v_max)
#define v_sum NAME(v_sum)
#define v_largest NAME(v_largest)
#define v_exp NAME(v_exp)
#define v_exp_any NAME(v_exp_any)
#define v_lanes NAME(v_lanes)
#define row_in NAME(row_in)
#define row_dst NAME(row_dst)
#define row_out NAME(row_out)
#define row_streams NAME(row_streams)
#define row_max NAME(row_max)
#define row_sum NAME(row_sum)
#define row_dot NAME(row_dot)
#define row_moments NAME(row_moments)
#define row_exp NAME(row_exp)
#define row_param NAME(row_param)
#define row_scale NAME(row_scale)
#define r_sqrt NAME(r_sqrt)
#define r_log NAME(r_log)

/* Runs a body for every vector of a row: `at` is its first element, `k` its number of valid lanes,
 * `u` which of four sums to use. k is a constant LANES except in the last, partial vector, so v_get
 * and v_put cost nothing extra before it. */
#define FOR_VECTORS(n, ...) do { \
        const int64_t end_ = (n); \
        int64_t i_ = 0; \
        for (; i_ + 4 * LANES <= end_; i_ += 4 * LANES) \
            _Pragma("GCC unroll 4") for (int u = 0; u < 4; u++) { \
                const int64_t at = i_ + u * LANES; \
                enum { k = LANES }; \
                (void)at; \
                __VA_ARGS__ \
            } \
        for (; i_ + LANES <= end_; i_ += LANES) { \
            const int64_t at = i_; \
            enum { k = LANES, u = 0 }; \
            (void)at; \
            __VA_ARGS__ \
        } \
        if (i_ < end_) { \
            const int64_t at = i_; \
            const int k = (int)(end_ - i_); \
            enum { u = 1 }; \
            (void)at; \
            __VA_ARGS__ \
        } \
    } while (0)
#endif

#undef real
#undef NAME
#undef real_bits
#undef real_int
#if REAL_BITS == 32
#define real float
#define real_bits uint32_t
#define real_int int
#define NAME(x) x##_f32
#else
#define real double
#define real_bits uint64_t
#define real_int long long
#define NAME(x) x##_f64
#endif

typedef real vec __attribute__((vector_size(TD_VEC)));
typedef real uvec __attribute__((vector_size(TD_VEC), aligned(sizeof(real)), may_alias));
typedef real_bits vmask __attribute__((vector_size(TD_VEC)));
typedef real_int vint __attribute__((vector_size(TD_VEC)));

TD_INLINE vec v_set(real a) { return a - (vec){0}; }
TD_INLINE vec v_load(const real *p) { return *(const uvec *)p; }
TD_INLINE void v_store(real *p, vec v) { *(uvec *)p = v; }
TD_INLINE vec v_select(vmask m, vec a, vec b) { return (vec)((m & (vmask)a) | (~m & (vmask)b)); }

/* a where a > b, else b: a NaN in a is passed over, one in b stays. */
TD_INLINE vec v_max(vec a, vec b) {
#if defined(__SSE2__)
    return NAME(max)(a, b);
#else
    return v_select((vmask)(a > b), a, b);
#endif
}

TD_INLINE vmask v_lanes(void) {    /* 0, 1, 2, ... */
    vmask m;
    for (int i = 0; i < LANES; i++) m[i] = i;
    return m;
}

/* v with all but the first k lanes zero. */
TD_INLINE vec v_first(vec v, int k) {
    return v_select((vmask)(v_lanes() < (real_bits)k), v, (vec){0});
}

/* The first k lanes from p; the others hold `fill`. Nothing past p + k is touched. */
TD_INLINE vec v_get(const real *p, int k, real fill) {
    if (__builtin_constant_p(k) && k == LANES) return v_load(p);
#if TD_VEC == 64
    return NAME(load_part)(p, v_set(fill), (1u << k) - 1);
#elif TD_VEC == 32
    const vint m = (vint)(v_lanes() < (real_bits)k);
    return v_select((vmask)m, NAME(load_part)(p, m), v_set(fill));
#else
    vec v = v_set(fill);
    for (int i = 0; i < LANES; i++) if (i < k) v[i] = p[i];
    return v;
#endif
}

/* The first k lanes to p. */
TD_INLINE void v_put(real *p, vec v, int k) {
    if (__builtin_constant_p(k) && k == LANES) { v_store(p, v); return; }
#if TD_VEC == 64
    NAME(store_part)(p, v, (1u << k) - 1);
#elif TD_VEC == 32
    NAME(store_part)(p, (vint)(v_lanes() < (real_bits)k), v);
#else
    for (int i = 0; i < LANES; i++) if (i < k) p[i] = v[i];
#endif
}

/* v_put past the caches when `stream`; p must then be aligned to a whole vector. */
TD_INLINE void v_stream(real *p, vec v, int k, bool stream) {
#if defined(__SSE2__)
    if (stream) { NAME(stream)(p, v); return; }
#endif
    (void)stream;
    v_put(p, v, k);
}

TD_INLINE real v_sum(vec v) {
    for (int half = LANES / 2; half; half /= 2)
        v += __builtin_shuffle(v, v_lanes() ^ (real_bits)half);
    return v[0];
}

TD_INLINE real v_largest(vec v) {
    for (int half = LANES / 2; half; half /= 2)
        v = v_max(v, __builtin_shuffle(v, v_lanes() ^ (real_bits)half));
    return v[0];
}

/* exp(x) for x < 88 (float64: 709) or NaN, to about 1 ulp; exp(-inf) is 0. Results under the
 * smallest normal number are zero too, but where one instruction scales by a power of two they are
 * right. */
TD_INLINE vec v_exp(vec x) {
#if REAL_BITS == 32
    const real shift = 0x1.8p23f + 127, lowest = -0x1.5d589ep6f;
    const real ln2_hi = 0x1.63p-1f, ln2_lo = -0x1.bd0106p-13f;
    static const real c[] = {0.00138145986f, 0.00836871688f, 0.0416683880f, 0.166665206f,
                             0.499999934f, 1, 1};   /* minimax, 3e-9 */
    enum { mantissa = 23, nothing = -110 };
#else
    const real shift = 0x1.8p52 + 1023, lowest = -708.39641853226408;
    const real ln2_hi = 0x1.62e42fee00000p-1, ln2_lo = 0x1.a39ef35793c76p-33;
    static const real c[] = {1 / 6227020800., 1 / 479001600., 1 / 39916800., 1 / 3628800.,
                             1 / 362880., 1 / 40320., 1 / 5040., 1 / 720., 1 / 120., 1 / 24.,
                             1 / 6., .5, 1, 1};     /* the Taylor series: next term 4e-18 */
    enum { mantissa = 52, nothing = -750 };
#endif
#if TD_VEC == 64
    x = v_max(v_set(nothing), x);
#endif
    const vec biased = x * (real)1.4426950408889634 + shift;   /* low bits: result's exponent */
    const vec n = biased - shift;
    const vec r = (x - n * ln2_hi) - n * ln2_lo;
    vec p = v_set(c[0]);
    _Pragma("GCC unroll 16") for (size_t i = 1; i < sizeof c / sizeof *c; i++) p = p * r + c[i];
#if TD_VEC == 64
    (void)lowest;
    return NAME(scale)(p, n);
#else
    const vec scaled = p * (vec)((vmask)biased << mantissa);
    return (vec)((vmask)scaled & ~(vmask)(x < lowest));
#endif
}

/* exp(x) for any x; inf from half a unit of ln 2 below the largest finite result on. */
TD_INLINE vec v_exp_any(vec x) {
    const real top = REAL_BITS == 32 ? 88.9 : 710;
    return v_exp(v_select((vmask)(x > top), v_set(top), x));
}

#if REAL_BITS == 32
#ifdef from_half                   /* float16 by instruction, but for what is left of a vector */
typedef short halves __attribute__((vector_size(TD_VEC / 2)));
typedef short loose_halves __attribute__((vector_size(TD_VEC / 2), aligned(2), may_alias));
#endif

static __attribute__((noipa, unused))
void half_to_rows(int code, const uint16_t *h, int64_t n, float *buf) {
    int64_t i = 0;
    if (code == TD_BF16) {
        for (; i < n; i++) buf[i] = td_bf16_to_f32(h[i]);
        return;
    }
#ifdef from_half
    for (; i + LANES <= n; i += LANES) v_store(buf + i, from_half(*(const loose_halves *)(h + i)));
#endif
    for (; i < n; i++) buf[i] = td_f16_to_f32(h[i]);
}

static __attribute__((noipa, unused))
void rows_to_half(int code, uint16_t *h, int64_t n, const float *buf) {
    int64_t i = 0;
    if (code == TD_BF16) {
        for (; i < n; i++) h[i] = td_f32_to_bf16(buf[i]);
        return;
    }
#ifdef to_half
    for (; i + LANES <= n; i += LANES) *(loose_halves *)(h + i) = to_half(v_load(buf + i));
#endif
    for (; i < n; i++) h[i] = td_f32_to_f16(buf[i]);
}
#endif

/* Row `at` of `n` elements stored as `code`, as reals: in place where the types agree, else
 * converted into buf. */
TD_INLINE const real *row_in(int code, const char *base, int64_t at, int64_t n, real *buf) {
#if REAL_BITS == 32
    if (code != TD_F32) {
        half_to_rows(code, (const uint16_t *)base + at, n, buf);
        return buf;
    }
#endif
    (void)code, (void)n, (void)buf;
    return (const real *)base + at;
}

/* Where to compute a row that row_out will store: its place, or buf. */
TD_INLINE real *row_dst(int code, char *base, int64_t at, real *buf) {
    return code == REAL_CODE ? (real *)base + at : buf;
}

TD_INLINE void row_out(int code, char *base, int64_t at, int64_t n, const real *buf) {
#if REAL_BITS == 32
    if (code != TD_F32) rows_to_half(code, (uint16_t *)base + at, n, buf);
#endif
    (void)code, (void)base, (void)at, (void)n, (void)buf;
}

/* A parameter vector as reals: NULL where there is none, else in place or converted into *buf,
 * which then moves on. */
TD_INLINE const real *row_param(int code, const char *base, int64_t n, real **buf) {
    if (!base) return NULL;
    const real *row = row_in(code, base, 0, n, *buf);
    if (row == *buf) *buf += n;
    return row;
}

/* Whether rows of a result are to be written past the caches. */
TD_INLINE bool row_streams(int64_t rows, int64_t n, const char *y) {
    const bool aligned = n % LANES == 0 && (uintptr_t)y % TD_VEC == 0;
    return aligned && rows * n > ROWS_STREAM_BYTES / (int64_t)sizeof(real);
}

/* The largest element, NaN passed over; -inf for none. */
ROW_FUNCTION real row_max(const real *x, int64_t n) {
    vec m[4];
    for (int u = 0; u < 4; u++) m[u] = v_set(-INFINITY);
    FOR_VECTORS(n, m[u] = v_max(v_get(x + at, k, -INFINITY), m[u]););
    return v_largest(v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
}

ROW_FUNCTION real row_sum(const real *x, int64_t n) {
    vec s[4] = {{0}};
    FOR_VECTORS(n, s[u] += v_get(x + at, k, 0););
    return v_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* The sum of a * b, or of a alone where b is NULL. */
ROW_FUNCTION real row_dot(const real *a, const real *b, int64_t n) {
    const int64_t ahead = TD_MIN(n, ROWS_PREFETCH_MAX);
    vec s[4] = {{0}};
    FOR_VECTORS(n,
        vec v = v_get(a + at, k, 0);
        fetch_ahead(a + at + ahead);
        if (b) { fetch_ahead(b + at + ahead); v *= v_get(b + at, k, 0); }
        s[u] += v;);
    return v_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* The sums of x - about and of its square: for `about` near the mean they keep all digits, however
 * many standard deviations lie between it and zero. */
ROW_FUNCTION void row_moments(const real *x, real about, int64_t n, real *first, real *second) {
    vec s[4] = {{0}}, q[4] = {{0}};
    FOR_VECTORS(n,
        const vec d = v_get(x + at, k, about) - about;
        s[u] += d;
        q[u] += d * d;);
    *first = v_sum((s[0] + s[1]) + (s[2] + s[3]));
    *second = v_sum((q[0] + q[1]) + (q[2] + q[3]));
}

/* y = exp(x - shift), and the sum of that; y may be NULL. Fetches what follows the row: it is most
 * likely the next one. */
ROW_FUNCTION real row_exp(real *y, const real *x, real shift, int64_t n) {
    const int64_t ahead = TD_MIN(n, ROWS_PREFETCH_MAX);
    vec s[4] = {{0}};
    FOR_VECTORS(n,
        fetch_ahead(x + at + ahead);
        vec e = v_exp(v_get(x + at, k, -INFINITY) - shift);
        if (k < LANES) e = v_first(e, k);   /* the idle lanes may hold -inf - -inf */
        s[u] += e;
        if (y) v_put(y + at, e, k););
    return v_sum((s[0] + s[1]) + (s[2] + s[3]));
}

ROW_FUNCTION void row_scale(real *y, const real *x, real by, int64_t n, bool stream) {
    FOR_VECTORS(n, v_stream(y + at, v_get(x + at, k, 0) * by, k, stream););
}

TD_INLINE real r_sqrt(real x) { return REAL_BITS == 32 ? sqrtf((float)x) : sqrt((double)x); }
TD_INLINE real r_log(real x) { return REAL_BITS == 32 ? logf((float)x) : log((double)x); }
