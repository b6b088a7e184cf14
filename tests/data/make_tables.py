"""Writes tables.json: functions at points all over their domains, computed with 60 digits and rounded once to float64.

    python tests/data/make_tables.py

Arguments and values are hexadecimal floats, so that no digit is lost. The tables are committed; tests compare the
references of the ops with them, and need neither this script nor mpmath.
"""

import json
import random
from pathlib import Path

import mpmath as mp

mp.mp.dps = 60
POINTS = 96
TARGET = Path(__file__).with_name("tables.json")


def around(low, high, tiny=-40):
    """Points spread evenly over an interval, and as many near zero on both sides of it where they belong to it."""
    rng = random.Random(1)
    points = [rng.uniform(low, high) for _ in range(POINTS // 2)]
    near = [2.0 ** rng.uniform(tiny, 0) * rng.choice((-1, 1)) for _ in range(POINTS // 2)]
    return points + [x for x in near if low <= x <= high]


def pairs(left, right):
    """Pairs of points from two intervals."""
    rng = random.Random(2)
    return [(rng.uniform(*left), rng.uniform(*right)) for _ in range(POINTS)]


def rows(count=24, width=7, scale=6.0):
    """Vectors of normal numbers, some of them far apart."""
    rng = random.Random(3)
    return [[rng.gauss(0, scale if k % 2 else 1.0) for _ in range(width)] for k in range(count)]


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def logsumexp(xs):
    return mp.log(mp.fsum(mp.exp(x) for x in xs))


UNARY = {
    "exp": (mp.exp, around(-740, 700)),
    "expm1": (mp.expm1, around(-40, 700)),
    "log": (mp.log, [abs(x) for x in around(-1e6, 1e6, -1000)]),
    "log1p": (mp.log1p, around(-0.999, 1e6)),
    "sin": (mp.sin, around(-1e5, 1e5)),
    "cos": (mp.cos, around(-1e5, 1e5)),
    "tanh": (mp.tanh, around(-20, 20)),
    "erf": (mp.erf, around(-6, 6)),
    "sqrt": (mp.sqrt, [abs(x) for x in around(-1e6, 1e6, -1000)]),
    "rsqrt": (lambda x: 1 / mp.sqrt(x), [abs(x) for x in around(-1e6, 1e6, -1000)]),
    "reciprocal": (lambda x: 1 / x, around(-1e6, 1e6)),
    "square": (lambda x: x * x, around(-1e6, 1e6)),
    "sigmoid": (sigmoid, around(-700, 40)),
    "silu": (lambda x: x * sigmoid(x), around(-700, 40)),
    "gelu": (lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2, around(-12, 12)),
    "gelu_tanh": (gelu_tanh, around(-8, 12)),
    "softplus": (lambda x: x if x > 20 else mp.log1p(mp.exp(x)), around(-700, 40)),
}
BINARY = {
    "pow": (mp.power, pairs((0.01, 50), (-30, 30))),
    "atan2": (mp.atan2, pairs((-50, 50), (-50, 50))),
    "div": (lambda a, b: a / b, pairs((-50, 50), (1e-6, 50))),
    "rem": (
        lambda a, b: a - b * mp.floor(a / b) if a >= 0 else -(-a - b * mp.floor(-a / b)),
        pairs((-1e6, 1e6), (0.5, 50)),
    ),
}
ROWS = {
    "softmax": lambda xs: [mp.exp(x - logsumexp(xs)) for x in xs],
    "log_softmax": lambda xs: [x - logsumexp(xs) for x in xs],
    "logsumexp": lambda xs: [logsumexp(xs)],
    "sum": lambda xs: [mp.fsum(xs)],
    "mean": lambda xs: [mp.fsum(xs) / len(xs)],
    "prod": lambda xs: [mp.fprod(xs)],
}


def hexed(values):
    return [float(v).hex() for v in values]


def main():
    tables = {}
    for name, (f, points) in UNARY.items():
        tables[name] = {"args": [hexed(points)], "value": hexed(f(mp.mpf(x)) for x in points)}
    for name, (f, points) in BINARY.items():
        tables[name] = {
            "args": [hexed(side) for side in zip(*points)],
            "value": hexed(f(mp.mpf(a), mp.mpf(b)) for a, b in points),
        }
    for name, f in ROWS.items():
        vectors = rows()
        tables[name] = {
            "args": [[hexed(xs) for xs in vectors]],
            "value": [hexed(f([mp.mpf(x) for x in xs])) for xs in vectors],
        }
    lines = [
        f"{json.dumps(name)}: {json.dumps(table, separators=(',', ':'))}" for name, table in sorted(tables.items())
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
