/* float64 mathematics: as mathf.h, for double, below 4 ulp. pow and rem call libm, one by one. */
#ifndef TREADLE_MATHD_H
#define TREADLE_MATHD_H
#include <math.h>
#include "scalar.h"

TD_INLINE double td_abs_f64(double x) { return __builtin_fabs(x); }
TD_INLINE double td_sqrt_f64(double x) { return __builtin_sqrt(x); }
TD_INLINE int td_isnan_f64(double x) { return x != x; }
TD_INLINE double td_pow_f64(double x, double y) { return pow(x, y); }
TD_INLINE double td_rem_f64(double a, double b) { return fmod(a, b); }

TD_INLINE double td_copysign_f64(double x, double s) {
    return td_from_bits_f64((td_bits_f64(x) & 0x7fffffffffffffffu) |
                            (td_bits_f64(s) & 0x8000000000000000u));
}

TD_INLINE double td_round_f64(double x) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
    return __builtin_rint(x);
#else
    double a = td_abs_f64(x), r = (a + 0x1p52) - 0x1p52;
    return a < 0x1p52 ? td_copysign_f64(r, x) : x;
#endif
}

TD_INLINE double td_floor_f64(double x) {
#if defined(__SSE4_1__) || !defined(__x86_64__)
    return __builtin_floor(x);
#else
    double r = td_round_f64(x);
    return td_copysign_f64(r > x ? r - 1.0 : r, x);
#endif
}

TD_INLINE double td_sign_f64(double x) {
    double r = (x > 0 ? 1.0 : 0.0) - (x < 0 ? 1.0 : 0.0);
    return x != x ? x : r;
}

TD_INLINE double td_max_f64(double a, double b) {
    double same = td_from_bits_f64(td_bits_f64(a) & td_bits_f64(b)), r = a > b ? a : b;
    r = a == b ? same : r;
    return a != a ? a : r;
}

TD_INLINE double td_min_f64(double a, double b) {
    double same = td_from_bits_f64(td_bits_f64(a) | td_bits_f64(b)), r = a < b ? a : b;
    r = a == b ? same : r;
    return a != a ? a : r;
}

/* ---- exponentials ---- */

typedef struct {
    uint64_t n;
    double r;
} td_exp_parts_f64;

TD_INLINE td_exp_parts_f64 td_exp_split_f64(double x) {
    const double shift = 0x1.8p52;
    double t = x * 0x1.71547652b82fep+0 + shift, n = t - shift;
    double r = x - n * 0x1.62e42fef00000p-1; /* 33 bits: exact product */
    r = r - n * 0x1.473de6af278edp-34;
    return (td_exp_parts_f64){td_bits_f64(t) - td_bits_f64(shift), r};
}

/* exp(r) - 1 for |r| <= ln(2) / 2 */
TD_INLINE double td_exp_tail_f64(double r) {
    double p = 0x1.1fa17134062acp-29; /* 6.1e-20 */
    p = p * r + 0x1.af71fa2f86ddfp-26;
    p = p * r + 0x1.27e4bcc3c0b88p-22;
    p = p * r + 0x1.71ddeca1ba575p-19;
    p = p * r + 0x1.a01a01b591eedp-16;
    p = p * r + 0x1.a01a01b4e5becp-13;
    p = p * r + 0x1.6c16c16c1310ap-10;
    p = p * r + 0x1.111111110e8bap-7;
    p = p * r + 0x1.555555555555ep-5;
    p = p * r + 0x1.555555555555cp-3;
    p = p * r + 0.5;
    return (p * r) * r + r;
}

TD_INLINE double td_limit_f64(double x, uint64_t low, int64_t high) { /* as td_limit_f32 */
    uint64_t u = TD_MIN(td_bits_f64(x), low);
    int64_t i = TD_MIN((int64_t)u, high);
    return td_from_bits_f64((uint64_t)i);
}

TD_INLINE double td_exp_f64(double x) {
    double c = td_limit_f64(x, 0xc087700000000000u, 0x4086300000000000); /* -750, 710 */
    td_exp_parts_f64 e = td_exp_split_f64(c);
    double p = td_exp_tail_f64(e.r) + 1.0;
    uint64_t half = ((e.n + 4096u) >> 1) - 2048u, rest = e.n - half;
    double y = p * td_from_bits_f64((half + 1023u) << 52) * td_from_bits_f64((rest + 1023u) << 52);
    return x != x ? x : y;
}

/* 1 + 2^x, infinite from 1023.5 on */
TD_INLINE double td_exp2_plus_1_f64(double x) {
    const double shift = 0x1.8p52 + 1023.0;
    double c = td_limit_f64(x, 0xc08ff00000000000u, 0x4090000000000000); /* -1022, 1024 */
    double t = c + shift, r = (c - (t - shift)) * 0x1.62e42fefa39efp-1;
    double y = (td_exp_tail_f64(r) + 1.0) * td_from_bits_f64(td_bits_f64(t) << 52) + 1.0;
    return x != x ? x : y;
}

TD_INLINE double td_expm1_f64(double x) {
    double c = x > 710.0 ? 710.0 : x;
    c = c < -60.0 ? -60.0 : c;
    td_exp_parts_f64 e = td_exp_split_f64(c);
    double half = td_from_bits_f64((e.n + 1022u) << 52); /* 2^(n-1): n may be 1024 */
    double y = (half * td_exp_tail_f64(e.r) + (half - 0.5)) * 2.0;
    return td_abs_f64(x) < 0x1p-55 ? x : y;
}

TD_INLINE double td_tanh_f64(double x) {
    double c = x > 19.1 ? 19.1 : x;
    c = c < -19.1 ? -19.1 : c;
    td_exp_parts_f64 e = td_exp_split_f64(c + c);
    double scale = td_from_bits_f64((e.n + 1023u) << 52);
    double m = scale * td_exp_tail_f64(e.r) + (scale - 1.0);
    double y = m / (m + 2.0);
    return td_abs_f64(x) < 0x1p-28 ? x : y;
}

/* log(erfc(x)) for x in [1, 6]; the error is 3.1e-17 of erf(x) */
TD_INLINE double td_log_erfc_f64(double x) {
    double q = 0x1.377aa8199ceddp-36;
    q = q * x - 0x1.665d30baab310p-31;
    q = q * x + 0x1.76a95e31b4c12p-27;
    q = q * x - 0x1.d0d679a760616p-24;
    q = q * x + 0x1.714365754ececp-21;
    q = q * x - 0x1.66cd869e5638dp-19;
    q = q * x + 0x1.e4d80527d7c3ep-19;
    q = q * x + 0x1.d5a2f4954e31fp-16;
    q = q * x - 0x1.e3ab540e46b0ep-13;
    q = q * x + 0x1.e24bfc97910f4p-11;
    q = q * x - 0x1.131567930fadfp-9;
    q = q * x + 0x1.322fc1c002cc7p-11;
    q = q * x + 0x1.35175b8edfc81p-6;
    q = q * x - 0x1.a46767b15cddep-4;
    q = q * x - 0x1.45f94a9e72210p-1;
    q = q * x - 0x1.20dcc5a7bbf30p+0;
    return q * x - 0x1.1d6e0d1d935a9p-20;
}

TD_INLINE double td_erf_f64(double x) {
    double a = td_abs_f64(x), s = x * x;
    double p = -0x1.adbc148bea0bbp-31; /* 7.5e-18 below 1 */
    p = p * s + 0x1.d7d373b898563p-27;
    p = p * s - 0x1.5c232bb734419p-23;
    p = p * s + 0x1.b984a910d626bp-20;
    p = p * s - 0x1.f4cad2b663d0ep-17;
    p = p * s + 0x1.f9a2c3f4ce7cep-14;
    p = p * s - 0x1.c02db0a9a8121p-11;
    p = p * s + 0x1.565bccfc443fep-8;
    p = p * s - 0x1.b82ce31215ecfp-6;
    p = p * s + 0x1.ce2f21a04153dp-4;
    p = p * s - 0x1.812746b0379cep-2;
    p = p * s + 0x1.06eba8214db68p-3;
    double near = p * x + x;
    td_exp_parts_f64 e = td_exp_split_f64(td_log_erfc_f64(a > 5.95 ? 5.95 : a));
    double scale = td_from_bits_f64((e.n + 1023u) << 52);
    double far = td_copysign_f64((1.0 - scale) - scale * td_exp_tail_f64(e.r), x);
    return a < 1.0 ? near : far;
}

/* ---- logarithms ---- */

/* log(2^k (1 + f)): with s = f / (2 + f) it is k ln 2 + f - f^2/2 + s (f^2/2 + R(s^2)) */
TD_INLINE double td_log_sum_f64(double k, double f) {
    double s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
    double q = 0x1.2f25e5437d2aap-3; /* 2.6e-18 */
    q = q * z + 0x1.399ea769633d0p-3;
    q = q * z + 0x1.74665bda7da99p-3;
    q = q * z + 0x1.c71c518453812p-3;
    q = q * z + 0x1.249249428a575p-2;
    q = q * z + 0x1.999999997f3b1p-2;
    q = q * z + 0x1.5555555555594p-1;
    double y = s * (h + q * z) + k * 0x1.473de6af278edp-34;
    return k * 0x1.62e42fef00000p-1 - ((h - y) - f);
}

TD_INLINE double td_log_f64(double x) {
    double n = x < 0x1p-1022 ? x * 0x1p54 : x;
    uint64_t u = td_bits_f64(n) - 0x3fe6a09e667f3bcdu; /* sqrt(1/2) */
    double k = (double)((int32_t)(u >> 32) >> 20) - (x < 0x1p-1022 ? 54.0 : 0.0);
    double m = td_from_bits_f64((u & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu);
    double r = td_log_sum_f64(k, m - 1.0);
    r = x > 0 ? r : x == 0 ? -(double)INFINITY : (double)NAN;
    return x > 0x1.fffffffffffffp1023 ? x : r;
}

TD_INLINE double td_log1p_f64(double x) {
    /* 1 + x = w + c exactly */
    double w = 1.0 + x, b = w - 1.0, c = (1.0 - (w - b)) + (x - b);
    uint64_t u = td_bits_f64(w) - 0x3fe6a09e667f3bcdu;
    int32_t k = (int32_t)(u >> 32) >> 20;
    double scale = td_from_bits_f64((uint64_t)(uint32_t)(1023 - TD_MIN(k, 1022)) << 52);
    double f = (td_from_bits_f64((u & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu) - 1.0) + c * scale;
    double r = td_log_sum_f64((double)k, f);
    r = x > -1.0 ? r : x == -1.0 ? -(double)INFINITY : (double)NAN;
    r = x > 0x1.fffffffffffffp1023 ? x : r;
    return td_abs_f64(x) < 0x1p-54 ? x : r;
}

/* ---- trigonometry ---- */

/* x less n quarter turns, as r + low. pi/2 in four parts, three of 33 bits, so that below 2^20
 * turns every product but the last is exact and what subtraction loses is caught; FMA changes
 * nothing. */
typedef struct {
    uint64_t turns;
    double r, low;
} td_turn_parts_f64;

TD_INLINE td_turn_parts_f64 td_turn_split_f64(double x, uint32_t *far) {
    const double shift = 0x1.8p52;
    double t = x * 0x1.45f306dc9c883p-1 + shift, n = t - shift;
    double a = x - n * 0x1.921fb54400000p+0;
    double b = n * 0x1.0b4611a600000p-34, r1 = a - b, e1 = (a - r1) - b;
    double c = n * 0x1.3198a2e000000p-69, r2 = r1 - c, e2 = (r1 - r2) - c;
    double tail = (e1 + e2) - n * 0x1.b839a252049c1p-104, r = r2 + tail;
    double size = td_abs_f64(x);
    *far |= (uint32_t)((size > 0x1p20) & (size < (double)INFINITY));
    return (td_turn_parts_f64){td_bits_f64(t), r, (r2 - r) + tail};
}

TD_INLINE double td_sin_or_cos_f64(td_turn_parts_f64 a) {
    double r = a.r, s = r * r, h = 0.5 * s, w = 1.0 - h;
    double p = 0x1.5d80ee8f201c7p-33; /* 4.0e-18 */
    p = p * s - 0x1.ae5e2961175c6p-26;
    p = p * s + 0x1.71de352c20750p-19;
    p = p * s - 0x1.a01a019bbd36ep-13;
    p = p * s + 0x1.111111110f5f1p-7;
    p = p * s - 0x1.5555555555547p-3;
    double sine = r + (p * (s * r) + a.low * w);
    double q = -0x1.8f9ad020ba9e7p-37; /* 5.5e-20 */
    q = q * s + 0x1.1ee9c6a8e0375p-29;
    q = q * s - 0x1.27e4f7d4bcdf1p-22;
    q = q * s + 0x1.a01a019c6a8eep-16;
    q = q * s - 0x1.6c16c16c14ec1p-10;
    q = q * s + 0x1.555555555554ap-5;
    double cosine = w + (((1.0 - w) - h) + (q * (s * s) - r * a.low));
    double y = a.turns & 1u ? cosine : sine;
    return td_from_bits_f64(td_bits_f64(y) ^ ((a.turns & 2u) << 62));
}

TD_INLINE double td_sin_near_f64(double x, uint32_t *far) {
    double y = td_sin_or_cos_f64(td_turn_split_f64(x, far));
    return x == 0 ? x : y;
}

TD_INLINE double td_cos_near_f64(double x, uint32_t *far) {
    td_turn_parts_f64 a = td_turn_split_f64(x, far);
    a.turns += 1u;
    return td_sin_or_cos_f64(a);
}

/* 2 / pi in words of 64 bits, a zero one before them. */
static const uint64_t td_two_over_pi[20] = {
    0,
    0xa2f9836e4e441529u,
    0xfc2757d1f534ddc0u,
    0xdb6295993c439041u,
    0xfe5163abdebbc561u,
    0xb7246e3a424dd2e0u,
    0x06492eea09d1921cu,
    0xfe1deb1cb129a73eu,
    0xe88235f52ebb4484u,
    0xe99c7026b45f7e41u,
    0x3991d639835339f4u,
    0x9c845f8bbdf9283bu,
    0x1ff897ffde05980fu,
    0xef2f118b5a0a6d1fu,
    0x6d367ecf27cb09b7u,
    0x4f463f669e5fea2du,
    0x7527bac7ebe5f17bu,
    0x3d0739f78a5292eau,
    0x6bfb5fb11f8d5d08u,
    0x56033046fc7b6babu,
};

__extension__ typedef unsigned __int128 td_u128;

/* The same for any finite |x| > 2^20 (Payne and Hanek): x = m 2^e times only those 192 bits of 2/pi
 * that decide the quadrant and the fraction. No double comes nearer than 2^-62 to a multiple, so
 * 128 bits of the fraction are left. */
TD_INLINE td_turn_parts_f64 td_turn_split_any_f64(double x) {
    uint64_t u = td_bits_f64(x), m = (u & 0xfffffffffffffu) | 0x10000000000000u, f[3];
    int at = (int)(u >> 52 & 0x7ff) - 1075 + 62, word = at >> 6, shift = at & 63;
    for (int k = 0; k < 3; k++)
        f[k] =
            td_two_over_pi[word + k] << shift | td_two_over_pi[word + k + 1] >> 1 >> (63 - shift);
    td_u128 low = (td_u128)m * f[2], middle = (td_u128)m * f[1] + (uint64_t)(low >> 64);
    uint64_t p0 = (uint64_t)low, p1 = (uint64_t)middle, p2 = m * f[0] + (uint64_t)(middle >> 64);
    uint64_t turns = p2 >> 62, high = p2 << 2 | p1 >> 62, next = p1 << 2 | p0 >> 62;
    int below = (int)(high >> 63); /* the nearest multiple is the next one */
    turns += (uint64_t)below;
    high = below ? ~high : high;
    next = below ? ~next : next; /* one unit in bit 128 does not matter */
    int zeros = high ? __builtin_clzll(high) : 63;
    high = zeros ? high << zeros | next >> (64 - zeros) : high;
    td_u128 product = (td_u128)high * 0xc90fdaa22168c235u; /* pi/2 2^63 */
    double scale = td_from_bits_f64((uint64_t)(1023 - 127 - zeros) << 52);
    double sign = below ^ (int)(u >> 63) ? -1.0 : 1.0;
    double r = (double)(uint64_t)(product >> 75) * 0x1p75; /* 53 bits at most */
    double rest = (double)(uint64_t)(product >> 11) * 0x1p11;
    return (td_turn_parts_f64){u >> 63 ? 0u - turns : turns, sign * scale * r, sign * scale * rest};
}

TD_INLINE double td_sin_any_f64(double x) {
    uint32_t far = 0;
    double y = td_sin_near_f64(x, &far);
    return far ? td_sin_or_cos_f64(td_turn_split_any_f64(x)) : y;
}

TD_INLINE double td_cos_any_f64(double x) {
    uint32_t far = 0;
    double y = td_cos_near_f64(x, &far);
    td_turn_parts_f64 a = td_turn_split_any_f64(far ? x : 0x1p30);
    a.turns += 1u;
    return far ? td_sin_or_cos_f64(a) : y;
}

TD_INLINE double td_sin_f64(double x) { return td_sin_any_f64(x); }
TD_INLINE double td_cos_f64(double x) { return td_cos_any_f64(x); }

TD_INLINE double td_atan2_f64(double y, double x) {
    double ax = td_abs_f64(x), ay = td_abs_f64(y);
    double low = ax < ay ? ax : ay, high = ax < ay ? ay : ax;
    double unit = low == high ? 1.0 : 0.0;
    int endless = high > 0x1.fffffffffffffp1023;
    low = endless ? unit : low * (high > 0x1p1020 ? 0.25 : 1.0);
    high = endless ? 1.0 : high * (high > 0x1p1020 ? 0.25 : 1.0);
    int turned = low > 0x1.a827999fcef32p-2 * high;
    double up = turned ? low - high : low, down = turned ? low + high : high;
    double t = up / (down == 0 ? 1.0 : down), s = t * t;
    double p = -0x1.255024ca3a92ep-6; /* 1.3e-18 */
    p = p * s + 0x1.37cadb81dd160p-5;
    p = p * s - 0x1.9ccef72822cfdp-5;
    p = p * s + 0x1.df0e8fec22bbep-5;
    p = p * s - 0x1.10ebad3f611bcp-4;
    p = p * s + 0x1.3b11184bb64c8p-4;
    p = p * s - 0x1.745cf8d2b4918p-4;
    p = p * s + 0x1.c71c70e5c667bp-4;
    p = p * s - 0x1.24924922acadcp-3;
    p = p * s + 0x1.9999999995846p-3;
    p = p * s - 0x1.555555555553dp-2;
    p = p * s * t + t;
    double a = turned ? 0x1.921fb54442d18p-1 + p : p;
    a = ay > ax ? (0x1.921fb54442d18p+0 - a) + 0x1.1a62633145c07p-54 : a;
    a = td_bits_f64(x) >> 63 ? (0x1.921fb54442d18p+1 - a) + 0x1.1a62633145c07p-53 : a;
    a = td_copysign_f64(a, y);
    return (x != x) | (y != y) ? x + y : a;
}
#endif
