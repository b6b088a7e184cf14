"""Optimizer steps over whole lists of parameters, so that a backend can do all of them in one call.

Functional: new values come out; `aliases` says which results may reuse an operand's memory (the eager in-place form
does). Formulas as PyTorch's single-tensor implementations (Kingma and Ba 2015; Loshchilov and Hutter 2019; Sutskever et
al. 2013).
"""

from typing import Any

from treadle.dtypes import FLOATS
from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import MIXED, Op
from treadle.ops.elementwise import minimum, sqrt
from treadle.ops.reduction import sum_
from treadle.ops.samples import raises, s, t

SHAPES = [(3, 4), (5,), ()]
POSITIVE = [t(*shape, kind="positive") for shape in SHAPES]


def _sgd(params: Any, grads: Any, bufs: Any, lr: float, momentum: float, dampening: float = 0.0,
        nesterov: bool = False,
         weight_decay: float = 0.0, maximize: bool = False, first: bool = False) -> Any:
    new, states = [], []
    for k, (p, g) in enumerate(zip(params, grads, strict=True)):
        g = -g if maximize else g
        g = g + p * weight_decay if weight_decay else g
        if bufs:
            buf = g * 1 if first else bufs[k] * momentum + g * (1.0 - dampening)
            states.append(buf)
            g = g + buf * momentum if nesterov else buf
        new.append(p - g * lr)
    return new, states


def _adam(params: Any, grads: Any, ms: Any, vs: Any, lr: float, step: float, beta1: float, beta2: float = 0.999,
        eps: float = 1e-8,
          weight_decay: float = 0.0, decoupled: bool = False, maximize: bool = False) -> Any:
    new, new_m, new_v = [], [], []
    size, root = lr / (1.0 - beta1**step), (1.0 - beta2**step) ** 0.5
    for p, g, m, v in zip(params, grads, ms, vs, strict=True):
        g = -g if maximize else g
        if weight_decay:
            p, g = (p * (1.0 - lr * weight_decay), g) if decoupled else (p, g + p * weight_decay)
        m = m + (g - m) * (1.0 - beta1)
        v = v * beta2 + g * g * (1.0 - beta2)
        new.append(p - (m / (sqrt(v) / root + eps)) * size)
        new_m.append(m)
        new_v.append(v)
    return new, new_m, new_v


def _clip(xs: Any, max_norm: float) -> Any:
    total = None
    for x in xs:
        part = sum_(x * x, tuple(range(x.ndim)))
        total = part if total is None else total + part
    norm = sqrt(total)
    scale = minimum(max_norm / (norm + 1e-6), 1.0)
    return [x * scale for x in xs], norm


def lists(name: str, signature: str, decompose: Any, **fields: Any) -> Op:
    return Op(name, signature, tier="composite", category="lists", decompose=decompose, vjp={}, num=MIXED,
        dtypes=FLOATS, **fields)


sgd_step: Op = lists("sgd_step", "params* grads* bufs* lr# momentum# -> params* bufs*", _sgd,
    samples=[s(SHAPES, SHAPES, [], 0.1, 0.0), s(SHAPES, SHAPES, SHAPES, 0.1, 0.9, nesterov=True, weight_decay=0.01),
        s(SHAPES, SHAPES, SHAPES, 0.1, 0.9, first=True, maximize=True)],
    doc="One step of stochastic gradient descent over lists of parameters; with momentum, if there are buffers for it.",
    errors=[raises(ArgumentError, "differ in length", [(3,)], [(3,), (4,)], [], 0.1, 0.0)])
adam_step: Op = lists("adam_step", "params* grads* ms* vs* lr# step# beta1# -> params* ms* vs*", _adam,
    samples=[s(SHAPES, SHAPES, SHAPES, POSITIVE, 0.1, 3, 0.9),
        s(SHAPES, SHAPES, SHAPES, POSITIVE, 0.1, 1, 0.9, weight_decay=0.01, decoupled=True),
        s(SHAPES, SHAPES, SHAPES, POSITIVE, 0.1, 2, 0.8, weight_decay=0.1, maximize=True)],
    doc="One step of Adam (or, decoupled, AdamW) over lists of parameters.",
    errors=[raises(ShapeError, "list 1 has shape", [(3,)], [(4,)], [(3,)], [(3,)], 0.1, 1, 0.9)])
clip_by_global_norm: Op = lists("clip_by_global_norm", "xs* max_norm# -> ys* norm", _clip,
    samples=[s(SHAPES, 1.0), s(SHAPES, 1000.0), s([(4, 0), (2,)], 0.5)],
    doc="Scale tensors so that their common norm is at most max_norm; also that norm.",
    errors=[raises(DTypeError, "tensors", [3.0], 1.0)])
