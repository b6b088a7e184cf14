/* What the stages of fused regions compute, of one vector or two. REAL is the type, BITS and SIGNED
 * are integers of its size. Includes the stages, eight vectors wide, four and one. */
typedef REAL vf __attribute__((vector_size(TD_VEC)));
typedef SIGNED vi __attribute__((vector_size(TD_VEC))); /* bits, and what comparisons give */
typedef REAL vf_any __attribute__((vector_size(TD_VEC), aligned(sizeof(REAL)), may_alias));
enum { LANES = TD_VEC / sizeof(REAL) };

TD_INLINE vf repeated(int64_t bits) {
    REAL x;
    memcpy(&x, &bits, sizeof x);
    return x - (vf){}; /* minus 0: that keeps -0 */
}

/* Past the caches, to where whole vectors lie. */
TD_INLINE void stream(vf_any *to, vf x) {
#if TD_VEC == 64
    _mm512_stream_ps((float *)to, (__m512)x);
#elif TD_VEC == 32
    _mm256_stream_ps((float *)to, (__m256)x);
#elif defined(__SSE2__)
    _mm_stream_ps((float *)to, (__m128)x);
#else
    *to = x;
#endif
}

/* ---- the expressions of the single kernels, lane by lane: gcc makes the same vector code ---- */

#define LANE(v) (((REAL *)&v)[i_])
#define FUSED_UNARY(name, x, ...)                                                                  \
    TD_INLINE vf do_##name(vf x##_) {                                                              \
        vf r_;                                                                                     \
        for (int i_ = 0; i_ < LANES; i_++) {                                                       \
            const REAL x = LANE(x##_);                                                             \
            LANE(r_) = (__VA_ARGS__);                                                              \
        }                                                                                          \
        return r_;                                                                                 \
    }
#define FUSED_BINARY(name, a, b, ...)                                                              \
    TD_INLINE vf do_##name(vf a##_, vf b##_) {                                                     \
        vf r_;                                                                                     \
        for (int i_ = 0; i_ < LANES; i_++) {                                                       \
            const REAL a = LANE(a##_), b = LANE(b##_);                                             \
            LANE(r_) = (__VA_ARGS__);                                                              \
        }                                                                                          \
        return r_;                                                                                 \
    }
#define FUSED_WITH(name)
#define FUSED_FROM(name)
#define FUSED_NUMBER(name)
#define FUSED_FROM_NUMBER(name)
#define FUSED_STAGE(name)
#include FUSED_INC

/* ---- truth is all bits of a lane ---- */

#define TRUTH1(name, ...)                                                                          \
    TD_INLINE vf do_##name(vf x) { return (vf)(__VA_ARGS__); }
#define TRUTH2(name, ...)                                                                          \
    TD_INLINE vf do_##name(vf a, vf b) { return (vf)(__VA_ARGS__); }
TRUTH1(not, ~(vi)x)
TRUTH1(truth, x != 0)
TRUTH1(number, (vi)x & (vi)((vf){} + 1))
TRUTH2(and, (vi)a & (vi)b)
TRUTH2(or, (vi)a | (vi)b)
TRUTH2(xor, (vi)a ^ (vi)b)
TRUTH2(eq, a == b)
TRUTH2(ne, a != b)
TRUTH2(lt, a < b)
TRUTH2(le, a <= b)
TRUTH2(gt, a > b)
TRUTH2(ge, a >= b)
TD_INLINE vf choose(vf c, vf a, vf b) { return (vf)(((vi)c & (vi)a) | (~(vi)c & (vi)b)); }

/* ---- stages ---- */

#undef FUSED_UNARY
#undef FUSED_BINARY
#undef FUSED_WITH
#undef FUSED_FROM
#undef FUSED_NUMBER
#undef FUSED_FROM_NUMBER
#undef FUSED_STAGE

#define IN_STAGE(name) wide_##name
#define VECTORS(M) M(0), M(1), M(2), M(3), M(4), M(5), M(6), M(7)
#define EACH(DO, f) DO(0, f) DO(1, f) DO(2, f) DO(3, f) DO(4, f) DO(5, f) DO(6, f) DO(7, f)
#include "fused_stages.h"
#undef IN_STAGE
#undef VECTORS
#undef EACH
#define IN_STAGE(name) half_##name
#define VECTORS(M) M(0), M(1), M(2), M(3)
#define EACH(DO, f) DO(0, f) DO(1, f) DO(2, f) DO(3, f)
#include "fused_stages.h"
#undef IN_STAGE
#undef VECTORS
#undef EACH
#define IN_STAGE(name) narrow_##name
#define VECTORS(M) M(0)
#define EACH(DO, f) DO(0, f)
#include "fused_stages.h"

/* The bytes are whole vectors; the first `ahead` operands are asked for a block before. */
static void run_stages(const int64_t *code, char **at, int64_t bytes, td_repeat *repeats, int n,
                       int ahead) {
    int64_t pos = 0;
    for (; pos + FUSED_BLOCK <= bytes; pos += FUSED_BLOCK) {
        for (int k = 0; k < ahead; k++)
            for (int b = 0; b < FUSED_BLOCK; b += 64) __builtin_prefetch(at[k] + pos + FUSED_AHEAD + b);
        wide_run(code, at, pos);
        for (td_repeat *r = repeats; r < repeats + n; r++) {
            r->left -= FUSED_BLOCK;
            if (r->left) continue;
            r->left = r->bytes;
            at[r->operand] -= r->bytes;
        }
    }
    if (pos + FUSED_BLOCK / 2 <= bytes) {
        half_run(code, at, pos);
        pos += FUSED_BLOCK / 2;
    }
    for (; pos < bytes; pos += TD_VEC) narrow_run(code, at, pos);
}

/* Truth between bytes and all bits of an element. */
static void load_truth(int64_t n, char *dst, const char *src) {
    BITS *to = (BITS *)dst;
    const uint8_t *from = (const uint8_t *)src;
    for (int64_t i = 0; i < n; i++) to[i] = from[i] ? ~(BITS)0 : 0;
}
static void store_truth(int64_t n, char *dst, const char *src) {
    uint8_t *to = (uint8_t *)dst;
    const BITS *from = (const BITS *)src;
    for (int64_t i = 0; i < n; i++) to[i] = from[i] != 0;
}
