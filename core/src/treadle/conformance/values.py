"""Values that break kernels: infinities, NaN, signed zeros, subnormals, limits of integers, and sweeps over a type's
whole range."""

import itertools
from typing import Any

import numpy as np

from treadle.dtypes import DType, finfo


def wild(dtype: DType) -> Any:
    """Every kind of value a type can hold.

    For integers their limits and the widths where shifts change their meaning.
    """
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        info = finfo(dtype)
        least = float(np.nextafter(dtype.np.type(0), dtype.np.type(1)))
        edges = [
            0.0,
            np.inf,
            info.max,
            info.tiny,
            least,
            info.tiny - least,
            1.0,
            1 + info.eps,
            0.5,
            1.5,
            2.5,
            3.0,
            7.0,
            88.0,
        ]
        return np.array([np.nan, *edges, *[-e for e in edges]]).astype(dtype.np)
    least, most = int(np.iinfo(dtype.np).min), int(np.iinfo(dtype.np).max)
    width = dtype.itemsize * 8
    near = [0, 1, 2, 3, 7, width - 1, width, width + 1, most - 1, most, most // 2 + 1]
    below = [-1, -2, -7, -width, least + 1, least] if least else []
    return np.array([n for n in dict.fromkeys(near + below) if least <= n <= most], dtype.np)


def tame(dtype: DType) -> Any:
    """Values whose squares and exponentials the type holds: for formulas whose inner terms would overflow before the
    result does."""
    if dtype.kind != "f":
        return wild(dtype)
    tiny = finfo(dtype).tiny
    return np.array(
        [np.nan, 0.0, -0.0, tiny, -tiny, 1e-3, -1e-3, 0.5, -0.5, 1.0, -1.0, 2.5, -3.0, 6.0, -6.0, 9.0, -9.0]
    ).astype(dtype.np)


def normal(values: Any, dtype: DType) -> Any:
    """Those values that are not subnormal, for backends that declare `ftz`."""
    if dtype.kind != "f":
        return values
    wide = np.abs(values.astype(np.float64))
    return values[~((wide > 0) & (wide < finfo(dtype).tiny))]


def crossed(*columns: Any) -> list[Any]:
    """All combinations, one array per column."""
    rows = list(itertools.product(*(range(len(c)) for c in columns)))
    return [c[[r[k] for r in rows]] for k, c in enumerate(columns)]


def sweep(rng: np.random.Generator, dtype: DType, count: int) -> Any:
    """Numbers of every magnitude, half of them where exponentials neither vanish nor overflow."""
    info = finfo(dtype)
    reach = np.log(info.max) * 1.02
    low, high = np.log2(info.tiny) - 4, np.log2(info.max)
    flat = rng.uniform(-reach, reach, count // 2)
    scaled = np.exp2(rng.uniform(low, high, count - count // 2)) * rng.choice([-1.0, 1.0], count - count // 2)
    return np.concatenate([flat, scaled]).astype(dtype.np)


def planted(rng: np.random.Generator, shape: tuple[int, ...], values: Any) -> Any:
    """An array of values drawn with repetition, so that ties and NaN meet in every row."""
    return rng.choice(values, shape)
