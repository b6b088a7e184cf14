/* Random numbers that are equal bit by bit on every machine: Threefry-2x32-20 (Salmon et al., SC
 * 2011) and exact steps.
 *
 * The state is four words: seed and call number. key = threefry(seed, call number); pair p of words
 * is threefry(key, p), giving words 2p and 2p + 1 of the result in row-major order. A float64 takes
 * a whole pair, everything else one word.
 *
 *   uniform   f32: bitcast(word >> 9 | bits of 1.0f) - 1;
 *             f64: bitcast((w0 << 32 | w1) >> 12 | bits of 1.0) - 1;
 *             f16, bf16: the f32 uniform with the mantissa bits cleared that the type lacks, so
 *             that it stays below 1
 *   normal    x = (2u - 1) + 2^-24 (f64: 2^-53), odd multiples of that, symmetric, never 0 or 1;
 *             w = -log((1 - x) * (1 + x)); z = sqrt(2) * (P(w) * x), which is sqrt(2) * erfinv(x)
 *             by Giles, "Approximating the erfinv function" (2010)
 *   log(t)    b = bits(t) + (bits of 1 - bits of sqrt(1/2)); k = (b >> mantissa) - bias;
 *             m = bitcast((b & mantissa mask) + bits of sqrt(1/2)), so that t = 2^k m with m in
 *             [sqrt(1/2), sqrt(2)); f = m - 1; s = f / (2 + f); z = s * s;
 *             R = z * horner(LOG, z); h = (0.5 * f) * f;
 *             (((s * (h + R) + k * LN2_LO) - h) + f) + k * LN2_HI
 *   dropout   u < p ? 0 : x * (1 / (1 - p)) with the f32 uniform of the element, p rounded to
 *             float32, the factor computed in double and rounded to the compute type (float32 for
 *             half types)
 *
 * Every +, -, *, / and square root is rounded on its own, hence the pragma; polynomials start at
 * the highest power. Where a formula has branches, the coefficients are selected instead: leading
 * zeros leave a polynomial as it is. */
#pragma GCC optimize("fp-contract=off")
#include "scalar.h"

enum { PAIRS = 128, WORDS = 2 * PAIRS, GRAIN = 128 * WORDS };

typedef struct { uint32_t k0, k1; } td_key;

#define ROTATE(x, d) ((x) << (d) | (x) >> (32 - (d)))
#define ROUND(d) x0 += x1, x1 = ROTATE(x1, d) ^ x0;
#define INJECT(a, b, n) x0 += (a), x1 += (b) + (n);
#define THREEFRY(k0, k1, k2)                                  \
    x0 += (k0), x1 += (k1);                                   \
    ROUND(13) ROUND(15) ROUND(26) ROUND(6) INJECT(k1, k2, 1)  \
    ROUND(17) ROUND(29) ROUND(16) ROUND(24) INJECT(k2, k0, 2) \
    ROUND(13) ROUND(15) ROUND(26) ROUND(6) INJECT(k0, k1, 3)  \
    ROUND(17) ROUND(29) ROUND(16) ROUND(24) INJECT(k1, k2, 4) \
    ROUND(13) ROUND(15) ROUND(26) ROUND(6) INJECT(k2, k0, 5)

static td_key call_key(const char *state) {
    uint32_t s[4];
    memcpy(s, state, sizeof s);
    const uint32_t k2 = s[0] ^ s[1] ^ 0x1bd11bda;
    uint32_t x0 = s[2], x1 = s[3];
    THREEFRY(s[0], s[1], k2)
    return (td_key){x0, x1};
}

/* The words of pairs p..p+PAIRS-1; p is a multiple of PAIRS, so the low half of the counter does
 * not overflow. */
static void pairs(td_key key, uint64_t p, uint32_t *TD_RESTRICT w0, uint32_t *TD_RESTRICT w1) {
    const uint32_t k0 = key.k0, k1 = key.k1, k2 = k0 ^ k1 ^ 0x1bd11bda;
    const uint32_t low = (uint32_t)p, high = (uint32_t)(p >> 32);
    for (uint32_t j = 0; j < PAIRS; j++) {
        uint32_t x0 = low + j, x1 = high;
        THREEFRY(k0, k1, k2)
        w0[j] = x0, w1[j] = x1;
    }
}

/* The words of elements e..e+WORDS-1, e a multiple of WORDS. */
static void words(td_key key, int64_t e, uint32_t *TD_RESTRICT out) {
    uint32_t w0[PAIRS], w1[PAIRS];
    pairs(key, (uint64_t)e / 2, w0, w1);
    for (int j = 0; j < PAIRS; j++) out[2 * j] = w0[j], out[2 * j + 1] = w1[j];
}

static void uniforms_f32(td_key key, int64_t e, float *TD_RESTRICT u) {
    uint32_t w[WORDS];
    words(key, e, w);
    for (int j = 0; j < WORDS; j++) u[j] = td_from_bits_f32(w[j] >> 9 | 0x3f800000) - 1.0f;
}

static void uniforms_f64(td_key key, int64_t e, double *TD_RESTRICT u) {
    uint32_t w0[PAIRS], w1[PAIRS];
    pairs(key, (uint64_t)e, w0, w1);
    for (int j = 0; j < PAIRS; j++) {
        const uint64_t bits = (uint64_t)w0[j] << 32 | w1[j];
        u[j] = td_from_bits_f64(bits >> 12 | 0x3ff0000000000000) - 1.0;
    }
}

TD_INLINE float log_f32(float t) {
    const uint32_t b = td_bits_f32(t) + (0x3f800000 - 0x3f3504f3);
    const float k = (float)((int32_t)(b >> 23) - 127);
    const float f = td_from_bits_f32((b & 0x007fffff) + 0x3f3504f3) - 1.0f;
    const float s = f / (2.0f + f), z = s * s, h = (0.5f * f) * f;
    float r = (float)0.24279078841;
    r = r * z + (float)0.28498786688;
    r = r * z + (float)0.40000972152;
    r = r * z + (float)0.66666662693;
    r = z * r;
    const float high = (float)6.9313812256e-01, low = (float)9.0580006145e-06;
    return (((s * (h + r) + k * low) - h) + f) + k * high;
}

TD_INLINE double log_f64(double t) {
    const uint64_t b = td_bits_f64(t) + (0x3ff0000000000000 - 0x3fe6a09e667f3bcd);
    const double k = (double)((int32_t)(b >> 52) - 1023);
    const double f = td_from_bits_f64((b & 0x000fffffffffffff) + 0x3fe6a09e667f3bcd) - 1.0;
    const double s = f / (2.0 + f), z = s * s, h = (0.5 * f) * f;
    double r = 1.479819860511658591e-01;
    r = r * z + 1.531383769920937332e-01;
    r = r * z + 1.818357216161805012e-01;
    r = r * z + 2.222219843214978396e-01;
    r = r * z + 2.857142874366239149e-01;
    r = r * z + 3.999999999940941908e-01;
    r = r * z + 6.666666666666735130e-01;
    r = z * r;
    const double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10;
    return (((s * (h + r) + k * low) - h) + f) + k * high;
}

/* Coefficients of P(w): w < 5 in w - 2.5, else in sqrt(w) - 3. */
static const float erfinv_f32[9][2] = {
    {2.81022636e-08, -0.000200214257}, {3.43273939e-07, 0.000100950558},
    {-3.5233877e-06, 0.00134934322},   {-4.39150654e-06, -0.00367342844},
    {0.00021858087, 0.00573950773},    {-0.00125372503, -0.0076224613},
    {-0.00417768164, 0.00943887047},   {0.246640727, 1.00167406},
    {1.50140941, 2.83297682}};

TD_INLINE float normal_f32(float u) {
    const float x = (2.0f * u - 1.0f) + 0x1p-24f;
    const float w = -log_f32((1.0f - x) * (1.0f + x));
    const float root = __builtin_sqrtf(w) - 3.0f, near = w - 2.5f;
    const int central = w < 5.0f;
    const float v = central ? near : root;
    float p = central ? erfinv_f32[0][0] : erfinv_f32[0][1];
#pragma GCC unroll 9
    for (int i = 1; i < 9; i++) p = p * v + (central ? erfinv_f32[i][0] : erfinv_f32[i][1]);
    return (float)1.41421356237309504880 * (p * x);
}

/* w < 6.25 in w - 3.125; w < 16 in sqrt(w) - 3.25; else in sqrt(w) - 5. */
static const double erfinv_f64[23][3] = {
    {-3.6444120640178196996e-21, 0, 0},
    {-1.685059138182016589e-19, 0, 0},
    {1.2858480715256400167e-18, 0, 0},
    {1.115787767802518096e-17, 0, 0},
    {-1.333171662854620906e-16, 2.2137376921775787049e-09, 0},
    {2.0972767875968561637e-17, 9.0756561938885390979e-08, 0},
    {6.6376381343583238325e-15, -2.7517406297064545428e-07, -2.7109920616438573243e-11},
    {-4.0545662729752068639e-14, 1.8239629214389227755e-08, -2.5556418169965252055e-10},
    {-8.1519341976054721522e-14, 1.5027403968909827627e-06, 1.5076572693500548083e-09},
    {2.6335093153082322977e-12, -4.013867526981545969e-06, -3.7894654401267369937e-09},
    {-1.2975133253453532498e-11, 2.9234449089955446044e-06, 7.6157012080783393804e-09},
    {-5.4154120542946279317e-11, 1.2475304481671778723e-05, -1.4960026627149240478e-08},
    {1.051212273321532285e-09, -4.7318229009055733981e-05, 2.9147953450901080826e-08},
    {-4.1126339803469836976e-09, 6.8284851459573175448e-05, -6.7711997758452339498e-08},
    {-2.9070369957882005086e-08, 2.4031110387097893999e-05, 2.2900482228026654717e-07},
    {4.2347877827932403518e-07, -0.0003550375203628474796, -9.9298272942317002539e-07},
    {-1.3654692000834678645e-06, 0.00095328937973738049703, 4.5260625972231537039e-06},
    {-1.3882523362786468719e-05, -0.0016882755560235047313, -1.9681778105531670567e-05},
    {0.0001867342080340571352, 0.0024914420961078508066, 7.5995277030017761139e-05},
    {-0.00074070253416626697512, -0.0037512085075692412107, -0.00021503011930044477347},
    {-0.0060336708714301490533, 0.005370914553590063617, -0.00013871931833623122026},
    {0.24015818242558961693, 1.0052589676941592334, 1.0103004648645343977},
    {1.6536545626831027356, 3.0838856104922207635, 4.8499064014085844221}};

TD_INLINE double normal_f64(double u) {
    const double x = (2.0 * u - 1.0) + 0x1p-53;
    const double w = -log_f64((1.0 - x) * (1.0 + x));
    const double root = __builtin_sqrt(w);
    const int64_t central = w < 6.25, middle = w < 16.0;
    const double v = central ? w - 3.125 : middle ? root - 3.25 : root - 5.0;
    double p = 0;
#pragma GCC unroll 23
    for (int i = 0; i < 23; i++) {
        const double tail = middle ? erfinv_f64[i][1] : erfinv_f64[i][2];
        p = p * v + (central ? erfinv_f64[i][0] : tail);
    }
    return 1.41421356237309504880 * (p * x);
}

static void normals_f32(td_key key, int64_t e, float *TD_RESTRICT z) {
    float u[WORDS];
    uniforms_f32(key, e, u);
    for (int j = 0; j < WORDS; j++) z[j] = normal_f32(u[j]);
}

static void normals_f64(td_key key, int64_t e, double *TD_RESTRICT z) {
    double u[PAIRS];
    uniforms_f64(key, e, u);
    for (int j = 0; j < PAIRS; j++) z[j] = normal_f64(u[j]);
}

/* Each fills one tile of the result: WORDS elements (float64: PAIRS). */
typedef void (*td_tile)(td_key key, int64_t e, void *y);

static void bits_tile(td_key key, int64_t e, void *y) { words(key, e, y); }
static void uniform_tile_f32(td_key key, int64_t e, void *y) { uniforms_f32(key, e, y); }
static void uniform_tile_f64(td_key key, int64_t e, void *y) { uniforms_f64(key, e, y); }
static void normal_tile_f32(td_key key, int64_t e, void *y) { normals_f32(key, e, y); }
static void normal_tile_f64(td_key key, int64_t e, void *y) { normals_f64(key, e, y); }

#define HALF_TILE(name, FILL, WRITE)                                      \
    static void name(td_key key, int64_t e, void *y) {                    \
        float u[WORDS];                                                   \
        FILL(key, e, u);                                                  \
        for (int j = 0; j < WORDS; j++) ((uint16_t *)y)[j] = WRITE(u[j]); \
    }
#define TOWARD_ZERO_F16(u) td_f32_to_f16(td_from_bits_f32(td_bits_f32(u) & 0xffffe000))
#define TOWARD_ZERO_BF16(u) ((uint16_t)(td_bits_f32(u) >> 16))
HALF_TILE(uniform_tile_f16, uniforms_f32, TOWARD_ZERO_F16)
HALF_TILE(uniform_tile_bf16, uniforms_f32, TOWARD_ZERO_BF16)
HALF_TILE(normal_tile_f16, normals_f32, td_f32_to_f16)
HALF_TILE(normal_tile_bf16, normals_f32, td_f32_to_bf16)

static const td_tile uniform_tiles[] = {
    uniform_tile_f16, uniform_tile_bf16, uniform_tile_f32, uniform_tile_f64};
static const td_tile normal_tiles[] = {
    normal_tile_f16, normal_tile_bf16, normal_tile_f32, normal_tile_f64};

typedef void (*td_drop)(const float *u, const void *x, void *y, int64_t n, float p, double scale);

#define DROP(name, T, A, READ, WRITE)                                                             \
    static void name(const float *u, const void *x, void *y, int64_t n, float p, double scale_) { \
        const A scale = (A)scale_;                                                                \
        _Pragma("GCC ivdep") for (int64_t j = 0; j < n; j++) {                                    \
            const A kept = READ(((const T *)x)[j]) * scale;                                       \
            ((T *)y)[j] = WRITE(u[j] < p ? (A)0 : kept);                                          \
        }                                                                                         \
    }
#define SAME(v) (v)
DROP(drop_f16, uint16_t, float, td_f16_to_f32, td_f32_to_f16)
DROP(drop_bf16, uint16_t, float, td_bf16_to_f32, td_f32_to_bf16)
DROP(drop_f32, float, float, SAME, SAME)
DROP(drop_f64, double, double, SAME, SAME)
static const td_drop drops[] = {drop_f16, drop_bf16, drop_f32, drop_f64};

typedef struct {
    td_key key;
    td_tile tile;
    td_drop drop;
    int64_t n, step;    /* elements; of a tile */
    int size;
    float p;
    double scale;
    const char *x;
    char *y;
} td_job;

static void fill_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const int64_t end = TD_MIN(b->n, (t + 1) * GRAIN);
    for (int64_t e = t * GRAIN; e < end; e += b->step) {
        _Alignas(64) char rest[WORDS * 4];
        const int64_t n = TD_MIN(b->step, end - e);
        b->tile(b->key, e, n == b->step ? b->y + e * b->size : rest);
        if (n < b->step) memcpy(b->y + e * b->size, rest, (size_t)(n * b->size));
    }
}

static void drop_task(int64_t t, void *ctx) {
    const td_job *b = ctx;
    const int64_t end = TD_MIN(b->n, (t + 1) * GRAIN);
    for (int64_t e = t * GRAIN; e < end; e += WORDS) {
        float u[WORDS];
        uniforms_f32(b->key, e, u);
        b->drop(u, b->x + e * b->size, b->y + e * b->size, TD_MIN(WORDS, end - e), b->p, b->scale);
    }
}

static int fill(const td_plan *p, char **io, td_tile tile, int dtype) {
    td_job b = {.key = call_key(io[0]), .tile = tile, .n = p->i[0], .size = td_dtype_size[dtype],
                .step = dtype == TD_F64 ? PAIRS : WORDS, .y = io[1]};
    td_parallel((b.n + GRAIN - 1) / GRAIN, fill_task, &b);
    return TD_OK;
}

/* i: elements */
static int KERNEL(random_bits)(const td_plan *p, char **io) {
    return fill(p, io, bits_tile, TD_U32);
}

/* i: elements, dtype */
static int KERNEL(random_uniform)(const td_plan *p, char **io) {
    return fill(p, io, uniform_tiles[p->i[1] - TD_F16], (int)p->i[1]);
}

static int KERNEL(random_normal)(const td_plan *p, char **io) {
    return fill(p, io, normal_tiles[p->i[1] - TD_F16], (int)p->i[1]);
}

/* i: elements, dtype; f: p. y may be x. */
static int KERNEL(dropout)(const td_plan *p, char **io) {
    td_job b = {.key = call_key(io[1]), .drop = drops[p->i[1] - TD_F16], .n = p->i[0],
                .size = td_dtype_size[p->i[1]], .p = (float)p->f[0], .scale = 1.0 / (1.0 - p->f[0]),
                .x = io[0], .y = io[2]};
    td_parallel((b.n + GRAIN - 1) / GRAIN, drop_task, &b);
    return TD_OK;
}

const td_entry KERNEL(random_table)[] = {
    {"random_bits", KERNEL(random_bits)}, {"random_uniform", KERNEL(random_uniform)},
    {"random_normal", KERNEL(random_normal)}, {"dropout", KERNEL(dropout)}, {0, 0}};
