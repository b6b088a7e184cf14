"""Random numbers whose bits are the same on every device: Threefry-2x32-20 (Salmon et al., SC 2011) and exact
arithmetic.

The state is four uint32: seed and call number. The key of a call is threefry(seed, call number); pair p of words is
threefry(key, p). Normals are sqrt(2) * erfinv(2u - 1) (Giles, "Approximating the erfinv function", 2010) with a
logarithm made of individually rounded operations only, so that no device may differ in a bit.
"""

from typing import Any

import numpy as np

from treadle.dtypes import DType, bfloat16, float16, float32, float64, int32, int64, uint32, uint64
from treadle.errors import ArgumentError, ShapeError
from treadle.op import EXACT, Op, composite
from treadle.ops.elementwise import bit_and, bit_or, bit_xor, bitcast, cast, lt, neg, shl, shr, sqrt, where
from treadle.ops.manipulation import narrow, reshape, subscript
from treadle.ops.samples import Arg, raises, s, state
from treadle.shapes import Shape, numel
from treadle.spec import Spec

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA

# log(t) on (0, 1]: t = 2**k * m with m in [sqrt(1/2), sqrt(2)); f = m - 1, s = f / (2 + f), R = s*s * P(s*s)
LOG_F32 = (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693)
LOG_F64 = (1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01,
    2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01)
LN2_F32 = (6.9313812256e-01, 9.0580006145e-06)
LN2_F64 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)

CENTRAL_F32 = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
    -0.00417768164, 0.246640727, 1.50140941)
TAIL_F32 = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682)
CENTRAL_F64 = (
    -3.6444120640178196996e-21, -1.685059138182016589e-19, 1.2858480715256400167e-18, 1.115787767802518096e-17,
    -1.333171662854620906e-16,
    2.0972767875968561637e-17, 6.6376381343583238325e-15, -4.0545662729752068639e-14, -8.1519341976054721522e-14,
    2.6335093153082322977e-12,
    -1.2975133253453532498e-11, -5.4154120542946279317e-11, 1.051212273321532285e-09, -4.1126339803469836976e-09,
    -2.9070369957882005086e-08,
    4.2347877827932403518e-07, -1.3654692000834678645e-06, -1.3882523362786468719e-05, 0.0001867342080340571352,
    -0.00074070253416626697512,
    -0.0060336708714301490533, 0.24015818242558961693, 1.6536545626831027356)
MIDDLE_F64 = (
    2.2137376921775787049e-09, 9.0756561938885390979e-08, -2.7517406297064545428e-07, 1.8239629214389227755e-08,
    1.5027403968909827627e-06,
    -4.013867526981545969e-06, 2.9234449089955446044e-06, 1.2475304481671778723e-05, -4.7318229009055733981e-05,
    6.8284851459573175448e-05,
    2.4031110387097893999e-05, -0.0003550375203628474796, 0.00095328937973738049703, -0.0016882755560235047313,
    0.0024914420961078508066,
    -0.0037512085075692412107, 0.005370914553590063617, 1.0052589676941592334, 3.0838856104922207635)
TAIL_F64 = (
    -2.7109920616438573243e-11, -2.5556418169965252055e-10, 1.5076572693500548083e-09, -3.7894654401267369937e-09,
    7.6157012080783393804e-09,
    -1.4960026627149240478e-08, 2.9147953450901080826e-08, -6.7711997758452339498e-08, 2.2900482228026654717e-07,
    -9.9298272942317002539e-07,
    4.5260625972231537039e-06, -1.9681778105531670567e-05, 7.5995277030017761139e-05, -0.00021503011930044477347,
    -0.00013871931833623122026,
    1.0103004648645343977, 4.8499064014085844221)  # fmt: skip


def _threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> Any:
    keys = (k0, k1, bit_xor(bit_xor(k0, k1), PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for r in range(20):
        d = ROTATIONS[r % 8]
        x0 = x0 + x1
        x1 = bit_xor(bit_or(shl(x1, d), shr(x1, 32 - d)), x0)
        if r % 4 == 3:
            x0, x1 = x0 + keys[(r // 4 + 1) % 3], x1 + keys[(r // 4 + 2) % 3] + (r // 4 + 1)
    return x0, x1


def _pairs(state: Any, count: int) -> Any:
    """The two words (count,) of pairs 0 ... count - 1."""
    seed0, seed1, call0, call1 = (narrow(state, 0, d, 1) for d in range(4))
    k0, k1 = _threefry(seed0, seed1, call0, call1)
    if count < 1 << 32:
        place = state.new_arange(count, dtype=uint32)
        return _threefry(k0, k1, place, bit_xor(place, place))
    place = state.new_arange(count, dtype=uint64)
    return _threefry(k0, k1, cast(bit_and(place, 0xFFFFFFFF), uint32), cast(shr(place, 32), uint32))


def _bits(state: Any, shape: Shape) -> Any:
    n = numel(shape)
    w0, w1 = _pairs(state, (n + 1) // 2)
    return reshape(subscript(reshape(state.stack((w0, w1), 1), (2 * w0.shape[0],)), ((0, n, 1),)), shape)


def _bits_reference(state: Any, shape: Shape) -> Any:
    n = numel(shape)
    k0, k1 = _np_threefry(*[np.uint32(v) for v in state])  # type: ignore[call-arg]
    place = np.arange((n + 1) // 2, dtype=np.uint64)
    words = _np_threefry(k0, k1, place.astype(np.uint32), (place >> np.uint64(32)).astype(np.uint32))
    return np.stack(words, 1).reshape(-1)[:n].reshape(shape)


def _np_threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(PARITY))
    with np.errstate(over="ignore"):
        x0, x1 = x0 + keys[0], x1 + keys[1]
        for r in range(20):
            d = np.uint32(ROTATIONS[r % 8])
            x0 = x0 + x1
            x1 = ((x1 << d) | (x1 >> (np.uint32(32) - d))) ^ x0
            if r % 4 == 3:
                x0, x1 = x0 + keys[(r // 4 + 1) % 3], x1 + keys[(r // 4 + 2) % 3] + np.uint32(r // 4 + 1)
    return x0, x1


def _uniform_f64(state: Any, shape: Shape) -> Any:
    w0, w1 = _pairs(state, numel(shape))
    bits = bit_or(shl(cast(w0, uint64), 32), cast(w1, uint64))
    return reshape(bitcast(bit_or(shr(bits, 12), 0x3FF0000000000000), float64) - 1.0, shape)


def _uniform(state: Any, shape: Shape, dtype: DType = float32) -> Any:
    if dtype is float64:
        return _uniform_f64(state, shape)
    u = bitcast(bit_or(shr(random_bits(state, shape), 9), 0x3F800000), float32) - 1.0
    if dtype is float32:
        return u
    # clearing bits rounds toward zero, so that 1 is never reached
    mask = 0xFFFFE000 if dtype is float16 else 0xFFFF0000
    return cast(bitcast(bit_and(bitcast(u, uint32), mask), float32), dtype)


def _horner(coefficients: Any, x: Any) -> Any:
    r = coefficients[0]
    for c in coefficients[1:]:
        r = x * r + c
    return r


def _log(t: Any, wide: bool) -> Any:
    """log(t) for t in (0, 1], every step rounded on its own."""
    if wide:
        word, signed, root, one, width, bias, mask = (
            uint64,
            int64,
            0x3FE6A09E667F3BCD,
            0x3FF0000000000000,
            52,
            1023,
            0x000FFFFFFFFFFFFF,
        )
    else:
        word, signed, root, one, width, bias, mask = uint32, int32, 0x3F3504F3, 0x3F800000, 23, 127, 0x007FFFFF
    b = bitcast(t, word) + (one - root)
    k = cast(cast(shr(b, width), signed) - bias, t.dtype)
    f = bitcast(bit_and(b, mask) + root, t.dtype) - 1.0
    q = f / (f + 2.0)
    z = q * q
    r = z * _horner(LOG_F64 if wide else LOG_F32, z)
    h = (f * 0.5) * f
    high, low = LN2_F64 if wide else LN2_F32
    return (((q * (h + r) + k * low) - h) + f) + k * high


def _normal(state: Any, shape: Shape, dtype: DType = float32) -> Any:
    wide = dtype is float64
    u = _uniform(state, shape, float64 if wide else float32)
    x = (u * 2.0 - 1.0) + (2.0**-53 if wide else 2.0**-24)  # odd multiples of the last bit: symmetric, never 0 or 1
    w = neg(_log((1.0 - x) * (x + 1.0), wide))
    if wide:
        tail = where(lt(w, 16.0), _horner(MIDDLE_F64, sqrt(w) - 3.25), _horner(TAIL_F64, sqrt(w) - 5.0))
        p = where(lt(w, 6.25), _horner(CENTRAL_F64, w - 3.125), tail)
    else:
        p = where(lt(w, 5.0), _horner(CENTRAL_F32, w - 2.5), _horner(TAIL_F32, sqrt(w) - 3.0))
    z = (p * x) * 1.41421356237309504880
    return cast(z, dtype) if dtype in (float16, bfloat16) else z


def _dropout(x: Any, state: Any, p: float) -> Any:
    drop = lt(random_uniform(state, x.shape, float32), p)
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0  # nothing is kept then
    if x.dtype in (float16, bfloat16):
        return cast(where(drop, 0.0, cast(x, float32) * scale), x.dtype)
    return where(drop, 0.0, x * scale)


def _state_check(state: Spec) -> None:
    if state.shape != (4,) or state.dtype is not uint32:
        raise ShapeError(f"random: the state must be four uint32: {state}")


def _shaped(state: Spec, shape: Shape, dtype: DType = float32) -> Spec:
    _state_check(state)
    return Spec(tuple(shape), dtype)


def _dropout_spec(x: Spec, state: Spec, p: float) -> Spec:
    _state_check(state)
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(f"dropout: the probability p must lie in [0, 1]: {p}")
    return x


NO_STATE = raises(ShapeError, "four uint32", Arg((3,), "uint32"), shape=(2,))
RANDOM: dict[str, Any] = {"num": EXACT, "dtypes": frozenset({uint32})}
FLOAT_SAMPLES = [s(state(), shape=(4, 5), dtype=d) for d in (float32, float64, float16, bfloat16)] + [s(state(),
        shape=(), dtype=float32),
    s(state(), shape=(0, 3), dtype=float32), s(state(), shape=(333,), dtype=float32)]
random_bits: Op = composite("random_bits", "state -> y", _bits, {},
    spec=lambda state, shape: _shaped(state, shape, uint32), reference=_bits_reference,
    samples=[s(state(), shape=(4, 5)), s(state(), shape=()), s(state(), shape=(0, 3)), s(state(), shape=(333,))],
    **RANDOM,
    doc="Draw uniform uint32 words from a state of four uint32: seed and call number.",
    errors=[NO_STATE])
random_uniform: Op = composite("random_uniform", "state -> y", _uniform, {}, spec=_shaped, samples=FLOAT_SAMPLES,
    **RANDOM,
    doc="Draw uniform numbers in [0, 1).",
    errors=[NO_STATE])
random_normal: Op = composite("random_normal", "state -> y", _normal, {}, spec=_shaped, samples=FLOAT_SAMPLES, **RANDOM,
    doc="Draw standard normal numbers.",
    errors=[NO_STATE])
dropout: Op = composite("dropout", "x state -> y", _dropout, {"x": lambda g, state, p: dropout(g, state, p)},
    spec=_dropout_spec, num=EXACT,
    samples=[s((4, 5), state(), p=0.5), s((333,), state(), p=0.1), s((), state(), p=0.0), s((0, 3), state(), p=0.5),
        s((7,), state(), p=1.0)],
    doc="Set elements to zero with probability p and scale the others by 1/(1-p); the mask is drawn again "
    "in the gradient.",
    errors=[raises(ArgumentError, "probability", (3,), state(), p=1.5)])
iota: Op = Op("iota", "start# step# -> y", tier="kernel", category="create",
    spec=lambda size, dtype: Spec((size,), dtype), num=EXACT, vjp={},
    reference=lambda start, step, size, dtype: (start + np.arange(size,
            dtype=np.float64 if dtype.kind == "f" else np.int64) * step).astype(dtype.np),
    samples=[s(0, 1, size=7, dtype=float32), s(3, -2, size=5, dtype=int64), s(0.5, 0.25, size=9, dtype=float64),
        s(0, 1, size=0, dtype=int32)],
    doc="Return start, start + step, ... (size of them).",
    errors=[raises(ShapeError, "negative", 0, 1, size=-1, dtype=float32)])
