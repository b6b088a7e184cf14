/* float32 mathematics without branches, tables or calls: gcc makes vector code of a loop over it.
 *
 * Errors stay below 2 ulp for exp and log and below 4 ulp elsewhere, over all numbers; subnormals,
 * infinities, NaN and -0 give what C99 annex F says. Coefficients are minimax fits (Remez), their
 * errors noted beside them; nothing depends on contraction to FMA.
 *
 * Three functions cannot treat every argument this way: td_<name>_near_f32 sets *far where its
 * result does not hold, and td_<name>_any_f32 is slow and always right. td_<name>_f32 chooses by
 * itself, for code that is not a loop. */
#ifndef TREADLE_MATHF_H
#define TREADLE_MATHF_H
#include <math.h>
#include "scalar.h"

TD_INLINE float td_abs_f32(float x) { return __builtin_fabsf(x); }
/* By bits: behind a comparison, a call of copysign would keep gcc from making a mask of it. */
TD_INLINE float td_copysign_f32(float x, float s) {
    return td_from_bits_f32((td_bits_f32(x) & 0x7fffffffu) | (td_bits_f32(s) & 0x80000000u));
}
TD_INLINE float td_sqrt_f32(float x) { return __builtin_sqrtf(x); }
TD_INLINE int td_isnan_f32(float x) { return x != x; }

/* Half to even. Below 2^23 adding 2^23 leaves no room for a fraction. */
TD_INLINE float td_round_f32(float x) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
    return __builtin_rintf(x);
#else
    float a = td_abs_f32(x), r = (a + 0x1p23f) - 0x1p23f;
    return a < 0x1p23f ? td_copysign_f32(r, x) : x;
#endif
}

TD_INLINE float td_floor_f32(float x) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
    return __builtin_floorf(x);
#else
    float r = td_round_f32(x);
    return td_copysign_f32(r > x ? r - 1.0f : r, x);
#endif
}

TD_INLINE float td_sign_f32(float x) {
    float r = (float)(x > 0) - (float)(x < 0);
    return x != x ? x : r;
}

/* A NaN wins; equal numbers can only differ as -0 and 0 do, and there the bits decide. */
TD_INLINE float td_max_f32(float a, float b) {
    float same = td_from_bits_f32(td_bits_f32(a) & td_bits_f32(b)), r = a > b ? a : b;
    r = a == b ? same : r;
    return a != a ? a : r;
}

TD_INLINE float td_min_f32(float a, float b) {
    float same = td_from_bits_f32(td_bits_f32(a) | td_bits_f32(b)), r = a < b ? a : b;
    r = a == b ? same : r;
    return a != a ? a : r;
}

/* ---- exponentials ---- */

/* x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits. */
typedef struct {
    uint32_t n;
    float r;
} td_exp_parts_f32;

TD_INLINE td_exp_parts_f32 td_exp_split_f32(float x) {
    const float shift = 0x1.8p23f;
    float t = x * 0x1.715476p+0f + shift, n = t - shift;
    float r = x - n * 0x1.62e400p-1f; /* 15 bits: exact product */
    r = r - n * 0x1.7f7d1cp-20f;
    return (td_exp_parts_f32){td_bits_f32(t) - td_bits_f32(shift), r};
}

/* x between two limits of either sign, which are given by their bits; a NaN becomes one of them.
 * Of choices between constants gcc would make a copy each of what follows, divisions and all. */
TD_INLINE float td_limit_f32(float x, uint32_t low, int32_t high) {
    uint32_t u = TD_MIN(td_bits_f32(x), low); /* as unsigned, only negative numbers are above it */
    int32_t i = TD_MIN((int32_t)u, high);     /* as signed, only positive ones */
    return td_from_bits_f32((uint32_t)i);
}

TD_INLINE float td_exp_f32(float x) {
    float c = td_limit_f32(x, 0xc2d20000u, 0x42b20000); /* -105, 89 */
    td_exp_parts_f32 e = td_exp_split_f32(c);
    float r = e.r, p = 0x1.6dbc4ep-10f; /* 3.4e-9 */
    p = p * r + 0x1.124138p-7f;
    p = p * r + 0x1.555454p-5f;
    p = p * r + 0x1.555488p-3f;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    p = p + 1.0f;
    /* 2^n in two factors: n reaches 128 and -151; the second product alone can round */
    uint32_t half = ((e.n + 512u) >> 1) - 256u, rest = e.n - half;
    float y = p * td_from_bits_f32((half + 127u) << 23) * td_from_bits_f32((rest + 127u) << 23);
    return x != x ? x : y;
}

/* 1 + 2^x, infinite from 127.5 on. What is next to nothing beside 1 needs no second factor. */
TD_INLINE float td_exp2_plus_1_f32(float x) {
    const float shift = 0x1.8p23f + 127.0f;                /* with the exponent's bias */
    float c = td_limit_f32(x, 0xc2fc0000u, 0x43000000);    /* -126, 128 */
    float t = c + shift, r = c - (t - shift), p = 0x1.416b50p-13f; /* 3.0e-9 */
    p = p * r + 0x1.5f082ep-10f;
    p = p * r + 0x1.3b2de0p-7f;
    p = p * r + 0x1.c6af7cp-5f;
    p = p * r + 0x1.ebfbdcp-3f;
    p = p * r + 0x1.62e430p-1f;
    p = p * r + 1.0f;
    float y = p * td_from_bits_f32(td_bits_f32(t) << 23) + 1.0f;
    return x != x ? x : y;
}

TD_INLINE float td_expm1_f32(float x) {
    float c = x > 89.0f ? 89.0f : x;
    c = c < -40.0f ? -40.0f : c;
    td_exp_parts_f32 e = td_exp_split_f32(c);
    float r = e.r, p = 0x1.6da126p-10f; /* 1.4e-8 of r */
    p = p * r + 0x1.122d86p-7f;
    p = p * r + 0x1.55547ep-5f;
    p = p * r + 0x1.5554a8p-3f;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    float half = td_from_bits_f32((e.n + 126u) << 23); /* 2^(n-1): n may be 128 */
    float y = (half * p + (half - 0.5f)) * 2.0f;
    return td_abs_f32(x) < 0x1p-26f ? x : y; /* keeps -0 */
}

/* m / (m + 2) for m = exp(2x) - 1: one formula for all x; m's error fades as the result nears 1. */
TD_INLINE float td_tanh_f32(float x) {
    float c = x > 9.02f ? 9.02f : x;
    c = c < -9.02f ? -9.02f : c;
    td_exp_parts_f32 e = td_exp_split_f32(c + c);
    float r = e.r, p = 0x1.6da126p-10f; /* as in expm1 */
    p = p * r + 0x1.122d86p-7f;
    p = p * r + 0x1.55547ep-5f;
    p = p * r + 0x1.5554a8p-3f;
    p = p * r + 0.5f;
    p = (p * r) * r + r;
    float scale = td_from_bits_f32((e.n + 127u) << 23), m = scale * p + (scale - 1.0f);
    float y = m / (m + 2.0f);
    return td_abs_f32(x) < 0x1p-13f ? x : y;
}

/* x + x P(x^2) near 0, 1 - 2^R(x) beyond: both cost less than one quotient as accurate. */
TD_INLINE float td_erf_f32(float x) {
    float a = td_abs_f32(x), s = x * x;
    float p = -0x1.453aa2p-11f; /* 8.5e-9 below 0.875 */
    p = p * s + 0x1.49ca0cp-8f;
    p = p * s - 0x1.b6f390p-6f;
    p = p * s + 0x1.ce2120p-4f;
    p = p * s - 0x1.81270cp-2f;
    p = p * s + 0x1.06eba6p-3f;
    float near = p * x + x;
    float c = a > 4.0f ? 4.0f : a; /* erf(4) rounds to 1 */
    float q = 0x1.300ff6p-12f;     /* log2(erfc), 1.9e-9 of the result */
    q = q * c - 0x1.245f20p-8f;
    q = q * c + 0x1.08f986p-5f;
    q = q * c - 0x1.34400cp-3f;
    q = q * c - 0x1.d6550cp-1f;
    q = q * c - 0x1.a094a0p+0f;
    q = q * c - 0x1.94229ep-13f;
    float t = q + 0x1.8p23f, r = q - (t - 0x1.8p23f);
    float w = 0x1.5f8d1ep-10f; /* 2^r, 7.7e-8, of which 0.22 counts */
    w = w * r + 0x1.3d146ep-7f;
    w = w * r + 0x1.c6ae22p-5f;
    w = w * r + 0x1.ebf8fap-3f;
    w = w * r + 0x1.62e432p-1f;
    w = w * r + 0x1.000002p+0f;
    w = 1.0f - w * td_from_bits_f32((td_bits_f32(t) + (127u - 0x4b400000u)) << 23);
    return a < 0.875f ? near : td_copysign_f32(w, x); /* a NaN has passed through w */
}

/* ---- logarithms ---- */

/* log(2^k (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1] */
TD_INLINE float td_log_sum_f32(float k, float f) {
    float p = -0x1.428180p-4f; /* 6.1e-9 */
    p = p * f + 0x1.083108p-3f;
    p = p * f - 0x1.0cf0aap-3f;
    p = p * f + 0x1.2261e8p-3f;
    p = p * f - 0x1.5475dcp-3f;
    p = p * f + 0x1.99a60ep-3f;
    p = p * f - 0x1.00022ap-2f;
    p = p * f + 0x1.55554ap-2f;
    float s = f * f, y = p * f * s;
    y = y + k * 0x1.7f7d1cp-20f;
    y = y - 0.5f * s;
    return (f + y) + k * 0x1.62e400p-1f;
}

TD_INLINE float td_log_f32(float x) {
    int tiny = x < 0x1p-126f;
    float n = tiny ? x * 0x1p23f : x;
    uint32_t u = td_bits_f32(n) - 0x3f3504f3u; /* sqrt(1/2) */
    float k = (float)((int32_t)u >> 23) - (tiny ? 23.0f : 0.0f);
    float r = td_log_sum_f32(k, td_from_bits_f32((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f);
    r = x > 0 ? r : x == 0 ? -INFINITY : NAN;
    return x > 0x1.fffffep127f ? x : r;
}

TD_INLINE float td_log1p_f32(float x) {
    /* 1 + x = w + c exactly */
    float w = 1.0f + x, b = w - 1.0f, c = (1.0f - (w - b)) + (x - b);
    uint32_t u = td_bits_f32(w) - 0x3f3504f3u;
    int32_t k = (int32_t)u >> 23;
    float scale = td_from_bits_f32((uint32_t)(127 - TD_MIN(k, 126)) << 23);
    float f = (td_from_bits_f32((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f) + c * scale;
    float r = td_log_sum_f32((float)k, f);
    r = x > -1.0f ? r : x == -1.0f ? -INFINITY : NAN;
    r = x > 0x1.fffffep127f ? x : r;
    return td_abs_f32(x) < 0x1p-25f ? x : r;
}

/* ---- trigonometry ---- */

/* Quarter turns and what is left, in double: below 2^20 turns the first product is exact. */
typedef struct {
    uint32_t turns;
    float r;
} td_turn_parts_f32;

TD_INLINE td_turn_parts_f32 td_turn_split_f32(float x, uint32_t *far) {
    const double shift = 0x1.8p52;
    double d = (double)x, t = d * 0x1.45f306dc9c883p-1 + shift, n = t - shift;
    double r = d - n * 0x1.921fb544p+0;
    r = r - n * 0x1.0b4611a626331p-34;
    float a = td_abs_f32(x);
    *far |= (uint32_t)((a > 0x1p20f) & (a < INFINITY));
    return (td_turn_parts_f32){(uint32_t)td_bits_f64(t), (float)r};
}

TD_INLINE float td_sin_or_cos_f32(td_turn_parts_f32 a) {
    float r = a.r, s = r * r;
    float p = (-0x1.992c02p-13f * s + 0x1.1106fcp-7f) * s - 0x1.555544p-3f; /* 3.9e-9 */
    float q = (0x1.99e368p-16f * s - 0x1.6c0c24p-10f) * s + 0x1.55554ap-5f; /* 1.1e-10 */
    float sine = p * (s * r) + r, cosine = q * (s * s) - 0.5f * s + 1.0f;
    float y = a.turns & 1u ? cosine : sine;
    return td_from_bits_f32(td_bits_f32(y) ^ ((a.turns & 2u) << 30));
}

TD_INLINE float td_sin_near_f32(float x, uint32_t *far) {
    float y = td_sin_or_cos_f32(td_turn_split_f32(x, far));
    return x == 0 ? x : y; /* keeps -0 */
}

TD_INLINE float td_cos_near_f32(float x, uint32_t *far) {
    td_turn_parts_f32 a = td_turn_split_f32(x, far);
    a.turns += 1u;
    return td_sin_or_cos_f32(a);
}

TD_INLINE float td_sin_any_f32(float x) { return (float)sin((double)x); }
TD_INLINE float td_cos_any_f32(float x) { return (float)cos((double)x); }

TD_INLINE float td_sin_f32(float x) {
    uint32_t far = 0;
    float y = td_sin_near_f32(x, &far);
    return far ? td_sin_any_f32(x) : y;
}

TD_INLINE float td_cos_f32(float x) {
    uint32_t far = 0;
    float y = td_cos_near_f32(x, &far);
    return far ? td_cos_any_f32(x) : y;
}

/* The smaller over the larger side, turned by 45 degrees if that is smaller: |t| <= tan(pi/8). */
TD_INLINE float td_atan2_f32(float y, float x) {
    float ax = td_abs_f32(x), ay = td_abs_f32(y);
    float low = ax < ay ? ax : ay, high = ax < ay ? ay : ax;
    float unit = low == high ? 1.0f : 0.0f;
    int endless = high > 0x1.fffffep127f;
    low = endless ? unit : low * (high > 0x1p126f ? 0.25f : 1.0f);
    high = endless ? 1.0f : high * (high > 0x1p126f ? 0.25f : 1.0f);
    int turned = low > 0x1.a8279ap-2f * high;
    float up = turned ? low - high : low, down = turned ? low + high : high;
    float t = up / (down == 0 ? 1.0f : down), s = t * t;
    float p = -0x1.f21d1cp-5f; /* 6.6e-10 */
    p = p * s + 0x1.b1f7e6p-4f;
    p = p * s - 0x1.23b61cp-3f;
    p = p * s + 0x1.9991a6p-3f;
    p = p * s - 0x1.55554ap-2f;
    p = p * s * t + t;
    float a = turned ? 0x1.921fb6p-1f + p : p;
    a = ay > ax ? (0x1.921fb6p+0f - a) - 0x1.777a5cp-25f : a;
    a = td_bits_f32(x) >> 31 ? (0x1.921fb6p+1f - a) - 0x1.777a5cp-24f : a;
    a = td_copysign_f32(a, y);
    return (x != x) | (y != y) ? x + y : a;
}

/* ---- powers and remainders ---- */

/* log2 of a positive number, relative error 1e-11 */
TD_INLINE double td_log2_wide(float x) {
    uint64_t u = td_bits_f64((double)x) - 0x3fe6a09e667f3bcdu; /* sqrt(1/2) */
    double m = td_from_bits_f64((u & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu);
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 0x1.e313e7fb6a30ep-3;
    p = p * z + 0x1.24381da66aa3bp-2;
    p = p * z + 0x1.999a7d3bad6fdp-2;
    p = p * z + 0x1.555554fc3f424p-1;
    double ln = p * (z * s) + 2.0 * s;
    return ln * 0x1.71547652b82fep+0 + (double)((int32_t)(u >> 32) >> 20);
}

TD_INLINE double td_exp2_wide(double t) {
    const double shift = 0x1.8p52;
    double w = t + shift, r = t - (w - shift);
    double p = 0x1.44a109bcd748dp-13; /* 2.0e-9 */
    p = p * r + 0x1.5f51d89b9a605p-10;
    p = p * r + 0x1.3b298a39159b0p-7;
    p = p * r + 0x1.c6aeba00258e7p-5;
    p = p * r + 0x1.ebfbe11f423c0p-3;
    p = p * r + 0x1.62e430de2dd40p-1;
    p = p * r + 0x1.ffffffff3f56cp-1;
    return p * td_from_bits_f64((td_bits_f64(w) - td_bits_f64(shift) + 1023u) << 52);
}

TD_INLINE float td_pow_f32(float x, float y) {
    float ax = td_abs_f32(x), half = y * 0.5f;
    double l = td_log2_wide(ax);
    l = ax == 0 ? -(double)INFINITY : l;
    l = ax > 0x1.fffffep127f ? (double)INFINITY : l;
    double t = (double)y * l;
    t = l == 0 ? 0.0 : t; /* 1 to any power, infinite ones too */
    t = t > 130.0 ? 130.0 : t;
    t = t < -160.0 ? -160.0 : t;
    float r = (float)td_exp2_wide(t);
    int whole = td_round_f32(y) == y;
    int odd = whole & (td_round_f32(half) != half);
    r = (td_bits_f32(x) >> 31) & (uint32_t)odd ? -r : r;
    r = (x < 0) & (ax <= 0x1.fffffep127f) & !whole ? NAN : r;
    r = (x != x) | (y != y) ? x + y : r;
    return (x == 1.0f) | (y == 0) ? 1.0f : r;
}

TD_INLINE double td_whole_part(double q) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
    return __builtin_trunc(q);
#else
    return (double)(int32_t)(q < 0x1p28 ? q : 0.0); /* enough for the remainder below */
#endif
}

/* The sign of a, magnitude below |b|. A quotient below 2^28 times b is exact in double, and so is
 * what is left. */
TD_INLINE float td_rem_near_f32(float a, float b, uint32_t *far) {
    double x = (double)td_abs_f32(a), y = (double)td_abs_f32(b), q = x / y;
    double r = x - td_whole_part(q) * y;
    r = r < 0 ? r + y : r; /* the quotient was rounded up to an integer */
    r = r >= y ? r - y : r;
    *far |= (uint32_t)((q >= 0x1p28) & (q <= 0x1p278)); /* not for 1/0 and inf/1 */
    r = y > 0x1.fffffep127 ? x : r;
    float s = td_copysign_f32((float)r, a);
    return (y > 0) & (x <= 0x1.fffffep127) ? s : NAN; /* also where a or b is a NaN */
}

TD_INLINE float td_rem_any_f32(float a, float b) { return fmodf(a, b); }

TD_INLINE float td_rem_f32(float a, float b) {
    uint32_t far = 0;
    float r = td_rem_near_f32(a, b, &far);
    return far ? td_rem_any_f32(a, b) : r;
}
#endif
