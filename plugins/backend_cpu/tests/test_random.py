"""Random bits, uniforms, normals and dropout against an exact NumPy definition, bit by bit.

The functions of the first part are the definition that every backend must reproduce. They use only
individually rounded + - * / and square roots, integer operations, bitcasts, casts, comparisons and
selects; nothing may be fused.
"""

from functools import partial

import numpy as np
import pytest
from calls import FLOATS, bind, numpy_dtype, on_threads, run, spec

from treadle_backend_cpu.kernels import random as module

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def threefry(k0, k1, c0, c1):
    """Return both words of Threefry-2x32-20 (uint32 arrays; additions wrap)."""
    k0, k1, x0, x1 = (np.asarray(v, np.uint32) for v in (k0, k1, c0, c1))
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + keys[0], x1 + keys[1]
        for r in range(20):
            d = np.uint32(ROTATIONS[r % 8])
            x0 = x0 + x1
            x1 = ((x1 << d) | (x1 >> (np.uint32(32) - d))) ^ x0
            if r % 4 == 3:
                s = r // 4 + 1
                x0 = x0 + keys[s % 3]
                x1 = x1 + keys[(s + 1) % 3] + np.uint32(s)
    return x0, x1


def pairs(state, count):
    """Return the two words of pairs 0..count-1 for state = (seed_lo, seed_hi, call_lo, call_hi)."""
    k0, k1 = threefry(state[0], state[1], state[2], state[3])
    p = np.arange(count, dtype=np.uint64)
    return threefry(
        k0,
        k1,
        (p & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (p >> np.uint64(32)).astype(np.uint32),
    )


def random_bits(state, n):
    """Return n uint32 words in logical order: words 2p and 2p+1 come from pair p."""
    w0, w1 = pairs(state, (n + 1) // 2)
    return np.stack([w0, w1], -1).reshape(-1)[:n]


def uniform_f32(state, n):
    """Return n float32 in [0, 1), multiples of 2**-23."""
    bits = random_bits(state, n)
    return ((bits >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)


def uniform_f64(state, n):
    """Return n float64 in [0, 1), multiples of 2**-52; element i uses pair i."""
    w0, w1 = pairs(state, n)
    bits = (w0.astype(np.uint64) << np.uint64(32)) | w1.astype(np.uint64)
    return ((bits >> np.uint64(12)) | np.uint64(0x3FF0000000000000)).view(np.float64) - 1.0


def uniform_half(state, n, dtype):
    """Return the float32 uniform rounded toward zero to float16 or bfloat16.

    Clearing the mantissa bits that the type lacks is that rounding, and the cast is then exact:
    below 2**-14, where float16 is subnormal, a multiple of 2**-23 has at most 9 significant bits.
    """
    mask = np.uint32(0xFFFFE000 if np.dtype(dtype) == np.float16 else 0xFFFF0000)
    return (uniform_f32(state, n).view(np.uint32) & mask).view(np.float32).astype(dtype)


# log(t) for t in [2**-23, 1] (float32) or [2**-52, 1] (float64), always a positive normal number:
#   b = bitcast(t) + (ONE - ROOT)           ROOT = bits of sqrt(1/2), ONE = bits of 1.0
#   k = (b >> MANTISSA) - BIAS              t = 2**k * m,  m in [sqrt(1/2), sqrt(2))
#   m = bitcast((b & MASK) + ROOT)
#   f = m - 1 ; s = f / (2 + f) ; z = s * s
#   R = z * Horner(L, z)                    (highest coefficient first: r = L[0]; r = r * z + L[i])
#   h = (0.5 * f) * f
#   log = (((s * (h + R) + k * LN2_LO) - h) + f) + k * LN2_HI
LOG_F32 = tuple(np.float32(c) for c in (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693))
LN2_HI_F32, LN2_LO_F32 = np.float32(6.9313812256e-01), np.float32(9.0580006145e-06)
LOG_F64 = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
LN2_HI_F64, LN2_LO_F64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10


def horner(coefficients, x):
    """Evaluate a polynomial, highest coefficient first, each product and sum rounded."""
    r = coefficients[0]
    for c in coefficients[1:]:
        r = r * x + c
    return r


def _log_tail(f, k, coefficients, hi, lo, half, two):
    s = f / (two + f)
    z = s * s
    R = z * horner(coefficients, z)
    h = (half * f) * f
    return (((s * (h + R) + k * lo) - h) + f) + k * hi


def log_f32(t):
    b = t.view(np.uint32) + np.uint32(0x3F800000 - 0x3F3504F3)
    k = ((b >> np.uint32(23)).astype(np.int32) - np.int32(127)).astype(np.float32)
    m = ((b & np.uint32(0x007FFFFF)) + np.uint32(0x3F3504F3)).view(np.float32)
    return _log_tail(m - np.float32(1), k, LOG_F32, LN2_HI_F32, LN2_LO_F32, np.float32(0.5), np.float32(2))


def log_f64(t):
    root = 0x3FE6A09E667F3BCD
    b = t.view(np.uint64) + np.uint64(0x3FF0000000000000 - root)
    k = ((b >> np.uint64(52)).astype(np.int64) - np.int64(1023)).astype(np.float64)
    m = ((b & np.uint64(0x000FFFFFFFFFFFFF)) + np.uint64(root)).view(np.float64)
    return _log_tail(m - 1.0, k, LOG_F64, LN2_HI_F64, LN2_LO_F64, 0.5, 2.0)


# erfinv(x) = x * P(w), w = -log((1 - x) * (1 + x)): Giles (2010).
ERFINV_F32_CENTRAL = tuple(
    np.float32(c)
    for c in (  # w < 5, in w - 2.5
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    )
)
ERFINV_F32_TAIL = tuple(
    np.float32(c)
    for c in (  # else, in sqrt(w) - 3
        -0.000200214257,
        0.000100950558,
        0.00134934322,
        -0.00367342844,
        0.00573950773,
        -0.0076224613,
        0.00943887047,
        1.00167406,
        2.83297682,
    )
)
ERFINV_F64_CENTRAL = (  # w < 6.25, in w - 3.125
    -3.6444120640178196996e-21,
    -1.685059138182016589e-19,
    1.2858480715256400167e-18,
    1.115787767802518096e-17,
    -1.333171662854620906e-16,
    2.0972767875968561637e-17,
    6.6376381343583238325e-15,
    -4.0545662729752068639e-14,
    -8.1519341976054721522e-14,
    2.6335093153082322977e-12,
    -1.2975133253453532498e-11,
    -5.4154120542946279317e-11,
    1.051212273321532285e-09,
    -4.1126339803469836976e-09,
    -2.9070369957882005086e-08,
    4.2347877827932403518e-07,
    -1.3654692000834678645e-06,
    -1.3882523362786468719e-05,
    0.0001867342080340571352,
    -0.00074070253416626697512,
    -0.0060336708714301490533,
    0.24015818242558961693,
    1.6536545626831027356,
)
ERFINV_F64_MIDDLE = (  # w < 16, in sqrt(w) - 3.25
    2.2137376921775787049e-09,
    9.0756561938885390979e-08,
    -2.7517406297064545428e-07,
    1.8239629214389227755e-08,
    1.5027403968909827627e-06,
    -4.013867526981545969e-06,
    2.9234449089955446044e-06,
    1.2475304481671778723e-05,
    -4.7318229009055733981e-05,
    6.8284851459573175448e-05,
    2.4031110387097893999e-05,
    -0.0003550375203628474796,
    0.00095328937973738049703,
    -0.0016882755560235047313,
    0.0024914420961078508066,
    -0.0037512085075692412107,
    0.005370914553590063617,
    1.0052589676941592334,
    3.0838856104922207635,
)
ERFINV_F64_TAIL = (  # else, in sqrt(w) - 5
    -2.7109920616438573243e-11,
    -2.5556418169965252055e-10,
    1.5076572693500548083e-09,
    -3.7894654401267369937e-09,
    7.6157012080783393804e-09,
    -1.4960026627149240478e-08,
    2.9147953450901080826e-08,
    -6.7711997758452339498e-08,
    2.2900482228026654717e-07,
    -9.9298272942317002539e-07,
    4.5260625972231537039e-06,
    -1.9681778105531670567e-05,
    7.5995277030017761139e-05,
    -0.00021503011930044477347,
    -0.00013871931833623122026,
    1.0103004648645343977,
    4.8499064014085844221,
)


def normal_f32(state, n):
    """Return n standard normal float32: z = sqrt(2) * (P(w) * x)."""
    one = np.float32(1)
    x = (np.float32(2) * uniform_f32(state, n) - one) + np.float32(2.0**-24)
    w = -log_f32((one - x) * (one + x))
    central = horner(ERFINV_F32_CENTRAL, w - np.float32(2.5))
    tail = horner(ERFINV_F32_TAIL, np.sqrt(w) - np.float32(3))
    p = np.where(w < np.float32(5), central, tail)
    return np.float32(1.41421356237309504880) * (p * x)


def normal_f64(state, n):
    """Return n standard normal float64, by the same steps in float64."""
    x = (2.0 * uniform_f64(state, n) - 1.0) + 2.0**-53
    w = -log_f64((1.0 - x) * (1.0 + x))
    root = np.sqrt(w)
    p = np.where(
        w < 6.25,
        horner(ERFINV_F64_CENTRAL, w - 3.125),
        np.where(w < 16.0, horner(ERFINV_F64_MIDDLE, root - 3.25), horner(ERFINV_F64_TAIL, root - 5.0)),
    )
    return 1.41421356237309504880 * (p * x)


def normal_half(state, n, dtype):
    """Return the float32 normal rounded to nearest even to float16 or bfloat16."""
    return normal_f32(state, n).astype(dtype)


def dropout(x, state, p):
    """Return x with elements set to zero where uniform_f32 < float32(p), the others times 1/(1-p).

    The factor is computed in float64 and rounded once to the compute type (float32 for half types,
    whose product is rounded once more); the uniform is the float32 one of the element's row-major
    index for every dtype of x.
    """
    compute = np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(divide="ignore"):
        scale = compute(np.float64(1) / (np.float64(1) - np.float64(p)))
    u = uniform_f32(state, x.size).reshape(x.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(u < np.float32(p), compute(0), x.astype(compute) * scale).astype(x.dtype)


# ---- the kernels ---------------------------------------------------------------------------------------------------

STATE = np.array([123, 4567, 89, 3], np.uint32)
SIZES = [(), (0, 3), (1,), (2,), (255,), (256,), (257,), (7, 143), (100_003,)]
HALVES = {"float16": numpy_dtype("float16"), "bfloat16": numpy_dtype("bfloat16")}
UNIFORM = {"float32": uniform_f32, "float64": uniform_f64}
UNIFORM |= {name: partial(uniform_half, dtype=kind) for name, kind in HALVES.items()}
NORMAL = {"float32": normal_f32, "float64": normal_f64}
NORMAL |= {name: partial(normal_half, dtype=kind) for name, kind in HALVES.items()}


def same(got, expected):
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()


def draw(op, shape, name, state=STATE):
    out = spec(shape, name)
    return on_threads(lambda: run(module, op, [state], [out], shape=shape))[0].reshape(-1)


@pytest.mark.parametrize(("key", "counter", "expected"), [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
])  # fmt: skip
def test_threefry_known_answers(key, counter, expected):
    assert tuple(int(w) for w in threefry(*key, *counter)) == expected


@pytest.mark.parametrize("shape", SIZES)
def test_bits(shape):
    same(draw("random_bits", shape, "uint32"), random_bits(STATE, int(np.prod(shape))))


@pytest.mark.parametrize("state", [(0,) * 4, (0xFFFFFFFF,) * 4, (1, 0, 0, 0), (0, 0, 0, 1)])
def test_bits_of_other_states(state):
    state = np.array(state, np.uint32)
    same(draw("random_bits", (999,), "uint32", state), random_bits(state, 999))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SIZES)
def test_uniform(shape, name):
    n = int(np.prod(shape))
    got = draw("random_uniform", shape, name)
    same(got, UNIFORM[name](STATE, n))
    assert np.all((got >= 0) & (got < 1))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SIZES)
def test_normal(shape, name):
    same(draw("random_normal", shape, name), NORMAL[name](STATE, int(np.prod(shape))))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_normal_has_the_moments_of_a_normal(name):
    z = draw("random_normal", (1 << 18,), name).astype(np.float64)
    moments = [np.mean(z**k) for k in (1, 2, 3, 4)]
    assert np.allclose(moments, [0, 1, 0, 3], atol=0.05) and np.isfinite(z).all()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_the_logarithm_is_accurate_where_it_is_used(name):
    kind = numpy_dtype(name).type
    bits = 23 if name == "float32" else 52
    t = np.exp2(-np.random.default_rng(0).random(20_000) * bits).astype(kind)
    expected = np.log(t.astype(np.longdouble))
    got = (log_f32 if name == "float32" else log_f64)(t)
    assert np.all(np.abs(got - expected) <= 1.01 * np.spacing(np.abs(expected).astype(kind)))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SIZES)
def test_dropout(shape, name, p):
    x = np.random.default_rng(0).standard_normal(shape).astype(numpy_dtype(name))
    (got,) = on_threads(lambda: run(module, "dropout", [x, STATE], [spec(shape, name)], p=p))
    same(got, dropout(x, STATE, p))


def test_dropped_elements_are_zero_whatever_they_were():
    x = np.array([np.nan, np.inf, -np.inf] * 50, np.float32)
    got = run(module, "dropout", [x, STATE], [spec(x.shape, "float32")], p=0.5)
    kept = uniform_f32(STATE, x.size) >= 0.5
    assert np.array_equal(got, np.where(kept, x, 0), equal_nan=True) and not kept.all()


def test_a_double_mask_is_the_single_one():
    x = np.ones(1000)
    wide = run(module, "dropout", [x, STATE], [spec(x.shape, "float64")], p=0.3)
    x = x.astype(np.float32)
    single = run(module, "dropout", [x, STATE], [spec(x.shape, "float32")], p=0.3)
    assert np.array_equal(wide == 0, single == 0)


def test_other_dtypes_are_declined():
    assert bind(module, "random_normal", [STATE], [spec((3,), "int32")], shape=(3,)) is None
