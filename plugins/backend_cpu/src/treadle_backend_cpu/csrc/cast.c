/* Casts between all dtypes, without a loop per pair: stored numbers become float, double or int64
 * in a tile (whichever holds them exactly), and these are stored as the new dtype. The two steps
 * round once: what does not fit a double is rounded to odd first. */
#include "elementwise.h"
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define STEP(name, A, R, x, ...)                                                                   \
    static void name(int64_t n, char *dst, const char *src) {                                      \
        EW_VECTORISED                                                                              \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const A x = ((const A *)src)[i];                                                       \
            ((R *)dst)[i] = (R)(__VA_ARGS__);                                                      \
        }                                                                                          \
    }

/* ---- stored -> float, double, int64 ---- */

STEP(f32_of_u8, uint8_t, float, x, x)
STEP(f32_of_i8, int8_t, float, x, x)
STEP(f32_of_u16, uint16_t, float, x, x)
STEP(f32_of_i16, int16_t, float, x, x)
STEP(f64_of_u8, uint8_t, double, x, x)
STEP(f64_of_i8, int8_t, double, x, x)
STEP(f64_of_u16, uint16_t, double, x, x)
STEP(f64_of_i16, int16_t, double, x, x)
STEP(f64_of_u32, uint32_t, double, x, x)
STEP(f64_of_i32, int32_t, double, x, x)
STEP(f64_of_u64, uint64_t, double, x, x)
STEP(f64_of_i64, int64_t, double, x, x)
STEP(f32_of_u32, uint32_t, float, x, x)
STEP(f32_of_i32, int32_t, float, x, x)
STEP(f32_of_u64, uint64_t, float, x, x)
STEP(f32_of_i64, int64_t, float, x, x)
STEP(odd_of_u64, uint64_t, double, x, td_u64_to_f64_odd(x))
STEP(odd_of_i64, int64_t, double, x, td_i64_to_f64_odd(x))
STEP(f64_of_f16, uint16_t, double, x, td_f16_to_f32(x))
STEP(f64_of_bf16, uint16_t, double, x, td_bf16_to_f32(x))
STEP(f64_of_f32, float, double, x, x)
STEP(i64_of_u8, uint8_t, int64_t, x, x)
STEP(i64_of_i8, int8_t, int64_t, x, x)
STEP(i64_of_u16, uint16_t, int64_t, x, x)
STEP(i64_of_i16, int16_t, int64_t, x, x)
STEP(i64_of_u32, uint32_t, int64_t, x, x)
STEP(i64_of_i32, int32_t, int64_t, x, x)

/* ---- float, double, int64 -> stored ---- */

#define STORES(f, F)                                                                               \
    STEP(f##_to_b1, F, uint8_t, x, x != 0)                                                         \
    STEP(f##_to_i8, F, int8_t, x, td_##f##_to_i8(x))                                               \
    STEP(f##_to_u8, F, uint8_t, x, td_##f##_to_u8(x))                                              \
    STEP(f##_to_i16, F, int16_t, x, td_##f##_to_i16(x))                                            \
    STEP(f##_to_u16, F, uint16_t, x, td_##f##_to_u16(x))                                           \
    STEP(f##_to_i32, F, int32_t, x, td_##f##_to_i32(x))                                            \
    STEP(f##_to_u32, F, uint32_t, x, td_##f##_to_u32(x))                                           \
    STEP(f##_to_i64, F, int64_t, x, td_##f##_to_i64(x))                                            \
    STEP(f##_to_u64, F, uint64_t, x, td_##f##_to_u64(x))
STORES(f32, float)
STORES(f64, double)
STEP(f64_to_f16, double, uint16_t, x, td_f64_to_f16(x))
STEP(f64_to_bf16, double, uint16_t, x, td_f64_to_bf16(x))
STEP(f64_to_f32, double, float, x, x)
STEP(i64_to_b1, int64_t, uint8_t, x, x != 0)
STEP(i64_to_8, int64_t, uint8_t, x, x)
STEP(i64_to_16, int64_t, uint16_t, x, x)
STEP(i64_to_32, int64_t, uint32_t, x, x)

/* ---- the half-width floats, which all float kernels load and store ---- */

#if defined(__AVX512F__)
enum { HALVES = 16 };
TD_INLINE void widen_halves(char *dst, const char *src) {
    _mm512_storeu_ps(dst, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)src)));
}
TD_INLINE void narrow_halves(char *dst, const char *src) {
    _mm256_storeu_si256((__m256i *)dst,
                        _mm512_cvtps_ph(_mm512_loadu_ps(src), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
enum { HALVES = 8 };
TD_INLINE void widen_halves(char *dst, const char *src) {
    _mm256_storeu_ps((float *)dst, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)src)));
}
TD_INLINE void narrow_halves(char *dst, const char *src) {
    _mm_storeu_si128((__m128i *)dst, _mm256_cvtps_ph(_mm256_loadu_ps((const float *)src),
                                                     _MM_FROUND_TO_NEAREST_INT));
}
#else
enum { HALVES = 8 };
TD_INLINE void widen_halves(char *dst, const char *src) {
    for (int i = 0; i < HALVES; i++) ((float *)dst)[i] = td_f16_to_f32(((const uint16_t *)src)[i]);
}
TD_INLINE void narrow_halves(char *dst, const char *src) {
    for (int i = 0; i < HALVES; i++) ((uint16_t *)dst)[i] = td_f32_to_f16(((const float *)src)[i]);
}
#endif

void KERNEL(load_f16)(int64_t n, char *dst, const char *src) {
    int64_t i = 0;
    for (; i + HALVES <= n; i += HALVES) widen_halves(dst + 4 * i, src + 2 * i);
    for (; i < n; i++) ((float *)dst)[i] = td_f16_to_f32(((const uint16_t *)src)[i]);
}

void KERNEL(store_f16)(int64_t n, char *dst, const char *src) {
    int64_t i = 0;
    for (; i + HALVES <= n; i += HALVES) narrow_halves(dst + 2 * i, src + 4 * i);
    for (; i < n; i++) ((uint16_t *)dst)[i] = td_f32_to_f16(((const float *)src)[i]);
}

void KERNEL(load_bf16)(int64_t n, char *dst, const char *src) {
    EW_VECTORISED
    for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = td_bf16_to_f32(((const uint16_t *)src)[i]);
}

void KERNEL(store_bf16)(int64_t n, char *dst, const char *src) {
    EW_VECTORISED
    for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = td_f32_to_bf16(((const float *)src)[i]);
}

/* ---- the way from one dtype to another ---- */

#define LOAD_F16 KERNEL(load_f16)
#define LOAD_BF16 KERNEL(load_bf16)
/* in the order of enum td_dtype: b1, i8 i16 i32 i64, u8 u16 u32 u64, f16 bf16 f32 f64 */
static const td_convert f32_of[TD_DTYPES] = {
    f32_of_u8, f32_of_i8, f32_of_i16, 0, 0, f32_of_u8, f32_of_u16, 0, 0, LOAD_F16, LOAD_BF16, 0, 0};
static const td_convert f64_of[TD_DTYPES] = {
    f64_of_u8,  f64_of_i8,  f64_of_i16, f64_of_i32,  f64_of_i64, f64_of_u8, f64_of_u16,
    f64_of_u32, f64_of_u64, f64_of_f16, f64_of_bf16, f64_of_f32, 0};
static const td_convert i64_of[TD_DTYPES] = {i64_of_u8, i64_of_i8, i64_of_i16, i64_of_i32,
                                             0,         i64_of_u8, i64_of_u16, i64_of_u32};
static const td_convert f32_to[TD_DTYPES] = {
    f32_to_b1,          f32_to_i8,  f32_to_i16, f32_to_i32, f32_to_i64,
    f32_to_u8,          f32_to_u16, f32_to_u32, f32_to_u64, KERNEL(store_f16),
    KERNEL(store_bf16), 0,          0};
static const td_convert f64_to[TD_DTYPES] = {
    f64_to_b1,  f64_to_i8,  f64_to_i16, f64_to_i32,  f64_to_i64, f64_to_u8, f64_to_u16,
    f64_to_u32, f64_to_u64, f64_to_f16, f64_to_bf16, f64_to_f32, 0};
static const td_convert i64_to[TD_DTYPES] = {i64_to_b1, i64_to_8,  i64_to_16, i64_to_32, 0,
                                             i64_to_8,  i64_to_16, i64_to_32, 0};

/* in one step: what a float does not hold exactly is rounded to one */
static const td_convert f32_near[TD_DTYPES] = {
    [TD_I32] = f32_of_i32, [TD_I64] = f32_of_i64, [TD_U32] = f32_of_u32, [TD_U64] = f32_of_u64};

TD_INLINE int fits_f32(int t) { return f32_of[t] || t == TD_F32; }

static void find_way(int from, int to, td_convert *load, td_convert *store, uint8_t *wide) {
    const int integral = from < TD_F16 && to < TD_F16;
    *wide = 8;
    if (integral && to != TD_B1 && td_dtype_size[from] == td_dtype_size[to]) { /* the same bits */
        *load = *store = NULL;
        *wide = td_dtype_size[to];
    } else if (integral) {
        *load = i64_of[from];
        *store = i64_to[to];
    } else if (to == TD_F32 && f32_near[from]) {
        *load = f32_near[from];
        *store = NULL;
        *wide = 4;
    } else if (fits_f32(from) && to != TD_F64) {
        *load = f32_of[from];
        *store = f32_to[to];
        *wide = 4;
    } else {
        *load = f64_of[from];
        if (to != TD_F64 && from == TD_I64) *load = odd_of_i64;
        if (to != TD_F64 && from == TD_U64) *load = odd_of_u64;
        *store = f64_to[to];
    }
}

static int run_cast(const td_plan *p, char **io, int from, int to) {
    td_ew op = {.size = {td_dtype_size[from], td_dtype_size[to]},
                .n_in = 1,
                .divisor = -1,
                .block = 1,
                .grain = 32768};
    find_way(from, to, &op.convert[0], &op.convert[1], &op.wide[0]);
    op.wide[1] = op.wide[0];
    return KERNEL(ew_run)(p, io, &op);
}

#define FOR_DTYPES(M, ...)                                                                         \
    M(b1, B1, __VA_ARGS__)                                                                         \
    M(i8, I8, __VA_ARGS__) M(i16, I16, __VA_ARGS__) M(i32, I32, __VA_ARGS__)                       \
    M(i64, I64, __VA_ARGS__)                                                                       \
    M(u8, U8, __VA_ARGS__) M(u16, U16, __VA_ARGS__) M(u32, U32, __VA_ARGS__)                       \
    M(u64, U64, __VA_ARGS__)                                                                       \
    M(f16, F16, __VA_ARGS__) M(bf16, BF16, __VA_ARGS__) M(f32, F32, __VA_ARGS__)                   \
    M(f64, F64, __VA_ARGS__)
#define FOR_PAIRS(M)                                                                               \
    FOR_DTYPES(M, b1, B1)                                                                          \
    FOR_DTYPES(M, i8, I8) FOR_DTYPES(M, i16, I16) FOR_DTYPES(M, i32, I32) FOR_DTYPES(M, i64, I64)  \
    FOR_DTYPES(M, u8, U8) FOR_DTYPES(M, u16, U16) FOR_DTYPES(M, u32, U32) FOR_DTYPES(M, u64, U64)  \
    FOR_DTYPES(M, f16, F16) FOR_DTYPES(M, bf16, BF16) FOR_DTYPES(M, f32, F32)                      \
    FOR_DTYPES(M, f64, F64)
#define CAST(to, TO, from, FROM)                                                                   \
    static int KERNEL(cast_##from##_##to)(const td_plan *p, char **io) {                           \
        return run_cast(p, io, TD_##FROM, TD_##TO);                                                \
    }
#define ENTRY(to, TO, from, FROM) {"cast_" #from "_" #to, KERNEL(cast_##from##_##to)},

FOR_PAIRS(CAST)

const td_entry KERNEL(cast_table)[] = {FOR_PAIRS(ENTRY) {0, 0}};
