"""What docs/kernels.md says about subnormal numbers, on every instruction set level of the machine."""

import json
import math
import os
import subprocess
import sys

import pytest

FLUSHING = ("base", "avx2")  # AVX-512 scales by a power of two in one instruction, which rounds into subnormals
SMALLEST = {"bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}  # normal number

PROBE = """
import json, sys
import treadle as td
name, smallest, below, above = sys.argv[1], *map(float, sys.argv[2:])
functional = td.nn.functional


def tensor(*values, **given):
    return td.tensor(values, dtype=getattr(td, name), **given)


logits = tensor([0.0] + [below] * 40, requires_grad=True)
functional.cross_entropy(logits, td.tensor([0])).backward()
query, keys, values = tensor([[[1.0]]]), tensor([[[0.0], [below]]]), tensor([[[0.0], [2.0**20]]])
row = logits.detach()
results = {
    "softmax of rows": row.softmax(1)[:, 1:],
    "softmax of columns": row.reshape(-1, 1).softmax(0)[1:],
    "gradient of cross_entropy": logits.grad[:, 1:],
    "attention": functional.scaled_dot_product_attention(query, keys, values, scale=1.0),
    "quotient": tensor([0.0] * 64 + [above]).softmax(1)[:, 64:],
    "exp": row[:, 1:].exp(),
    "sigmoid": tensor(*[below] * 40).sigmoid(),
    "sigmoid of less": tensor(*[below - 3] * 40).sigmoid(),
    "sum": (tensor(*[smallest / 4] * 40).reshape(1, 40) * 0.5).sum(1),
    "product of matrices": tensor(*[smallest / 4] * 40).reshape(20, 2) @ tensor([0.5], [0.5]),
}
print(json.dumps({k: y.to(td.float64).flatten().tolist() for k, y in results.items()}))
"""


def results(level, name):
    """Return the results of PROBE; `below` has a subnormal exponential, that of `above` is normal."""
    edge = math.log(SMALLEST[name])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, name, *map(str, (SMALLEST[name], edge - 1, edge + 1))],
        env={**os.environ, "TREADLE_CPU_ISA": level},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "ImportError: TREADLE_CPU_ISA" in done.stderr:
        pytest.skip(f"{level} is not on this machine")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("level", ["base", "avx2", "avx512"])
def test_where_subnormal_numbers_become_zero(level, name):
    made, smallest = results(level, name), SMALLEST[name]
    for what in ("softmax of rows", "softmax of columns", "gradient of cross_entropy"):
        if level in FLUSHING:
            assert not any(made[what]), what
        else:
            assert all(0.3 * smallest < y < 0.4 * smallest for y in made[what]), what
    (y,) = made["attention"]
    assert y == 0 if level in FLUSHING else 0.3 * smallest < y / 2**20 < 0.4 * smallest
    for what in ("exp", "sigmoid"):
        assert all(0.3 * smallest < y < 0.4 * smallest for y in made[what]), what
    assert not any(made["sigmoid of less"])  # exp(-x) overflows
    assert 0 < made["quotient"][0] < smallest / 16
    assert made["sum"] == [5 * smallest]
    assert made["product of matrices"] == [smallest / 4] * 20
