"""Run a kernel factory on NumPy arrays as the core would: signatures in, storages through, arrays out."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np

from treadle_backend_cpu import _native as native

NAMES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
]
HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
TOLERANCE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-14}


def numpy_dtype(name):
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def dtype(name):
    kind = "f" if "float" in name else "b" if name == "bool" else "u" if name[0] == "u" else "i"
    return SimpleNamespace(name=name, code=NAMES.index(name), itemsize=numpy_dtype(name).itemsize, kind=kind)


def statistic(name):
    """Return the dtype of a statistic that is kept for the gradient."""
    return "float32" if name in HALVES else name


def spec(shape, name):
    return SimpleNamespace(shape=tuple(shape), dtype=dtype(name))


def sig(array):
    strides = tuple(s // array.itemsize for s in array.strides)
    return SimpleNamespace(shape=array.shape, dtype=dtype(array.dtype.name), strides=strides)


def storage(array):
    """Return a Storage that points at the array's first element."""
    if not array.size:
        return native.alloc(0)
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return native.wrap(owner.reshape(-1).view(np.uint8)).view(offset)


def factory(module, op):
    """Return the factory in a kernel module that claims an op."""
    for value in vars(module).values():
        if any(claim.op == op for claim in getattr(value, "claims", ())):
            return value
    raise LookupError(op)


def bind(module, op, ins, outs, want=None, **attrs):
    """Return the bound kernel for arrays (None: absent) and result specs; None where the factory declines."""
    want = tuple(want) if want is not None else (True,) * len(outs)
    sigs = tuple(None if x is None else sig(x) for x in ins)
    call = SimpleNamespace(op=SimpleNamespace(name=op), ins=sigs, outs=tuple(outs), attrs=attrs, want=want)
    return factory(module, op)(None, call)


def array(made, out):
    """Return a Storage's contents as an array; float16 and bfloat16 as they are."""
    count = int(np.prod(out.shape))
    return np.frombuffer(bytearray(made), numpy_dtype(out.dtype.name), count).reshape(out.shape)


def run(module, op, ins, outs, want=None, **attrs):
    """Bind and run; returns an array per result, None for what is not wanted, without a tuple around a single one."""
    kernel = bind(module, op, ins, outs, want, **attrs)
    made = kernel(*(storage(x) for x in ins if x is not None))
    made = made if isinstance(made, tuple) else (made,)
    results = tuple(None if m is None else array(m, o) for m, o in zip(made, outs, strict=True))
    return results if len(results) > 1 else results[0]


def normal(shape, name="float64", seed=0, scale=1.0, mean=0.0):
    """Return normal numbers rounded to a dtype."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale + mean).astype(numpy_dtype(name))


def wide(*arrays):
    """Return float64 copies."""
    return tuple(None if a is None else a.astype(np.float64) for a in arrays)


def close(got, expected, name, factor=1.0, floor=0.0):
    """Check against float64 with the tolerance of the dtype, relative to each element and to the largest one.

    floor: what the largest one counts as at least, for results that cancel to nothing."""
    got, expected = got.astype(np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    finite = np.abs(expected[np.isfinite(expected)])
    tolerance = TOLERANCE[name] * factor
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * finite.max(initial=floor))


def on_threads(function):
    """Return function()'s arrays, after checking that 1, 2 and 4 threads give the same bits."""
    before, results = native.get_num_threads(), []
    try:
        for n in (1, 2, 4):
            native.set_num_threads(n)
            made = function()
            results.append(made if isinstance(made, tuple) else (made,))
    finally:
        native.set_num_threads(before)
    for other in results[1:]:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in results[0]]
    return results[0]
