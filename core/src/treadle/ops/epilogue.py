"""Products and convolutions with what is done to each of their results right away: a scale per channel, an activation.

Passes make these nodes; eager code writes the ops one by one. Backends without a kernel run the decomposition.
"""

from typing import Any

from treadle.errors import ArgumentError, ShapeError
from treadle.op import Op, composite
from treadle.ops.contraction import linear, linear_spec
from treadle.ops.conv import CONV, NIL, ONE, Pair, conv2d, conv_spec
from treadle.ops.elementwise import relu
from treadle.ops.manipulation import reshape
from treadle.ops.samples import raises, s
from treadle.shapes import numel
from treadle.spec import Spec

ACTIVATIONS: dict[str, Any] = {"none": lambda y: y, "relu": relu}


def _known(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ArgumentError(f"{op}: activation {activation!r} is none of {', '.join(ACTIVATIONS)}")


def _linear_spec(x: Spec, w: Spec, b: Spec | None = None, activation: str = "none") -> Spec:
    _known("fused_linear", activation)
    return linear_spec(x, w, b)


def _fused_linear(x: Any, w: Any, b: Any = None, activation: str = "none") -> Any:
    return ACTIVATIONS[activation](linear(x, w, b))


def _conv_spec(
    x: Spec,
    w: Spec,
    b: Spec | None = None,
    scale: Spec | None = None,
    stride: Pair = ONE,
    padding: Pair = NIL,
    dilation: Pair = ONE,
    groups: int = 1,
    activation: str = "none",
) -> Spec:
    _known("fused_conv2d", activation)
    if scale is not None and scale.shape != w.shape[:1]:
        raise ShapeError(f"fused_conv2d: scale {scale.shape} must be (out_channels,) = {w.shape[:1]}")
    return conv_spec(x, w, b, stride, padding, dilation, groups)


def _fused_conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    scale: Any = None,
    stride: Pair = ONE,
    padding: Pair = NIL,
    dilation: Pair = ONE,
    groups: int = 1,
    activation: str = "none",
) -> Any:
    y = conv2d(x, w, b if scale is None else None, stride, padding, dilation, groups)
    if scale is not None:
        y = y * reshape(scale, (1, scale.shape[0], 1, 1))
        y = y if b is None else y + reshape(b, (1, b.shape[0], 1, 1))
    return ACTIVATIONS[activation](y)


CHANNELS = [tuple(a.shape if a is not None else None for a in x.args) for x in CONV]
fused_linear: Op = composite("fused_linear", "x w b? -> y", _fused_linear, spec=_linear_spec, promote="dtype",
    batch="x:* -> *", cost=lambda y, x, w, b=None, **attrs: 2 * y.size * x.shape[-1],
    samples=[s((3, 4), (5, 4), (5,), activation="relu"), s((2, 3, 4), (5, 4), None, activation="relu"),
        s((4,), (5, 4), (5,)), s((0, 4), (5, 4), (5,), activation="relu"),
        s((64, 33), (65, 33), (65,), activation="relu")],
    doc="Return activation(x @ w.T + b): none or relu.",
    errors=[raises(ArgumentError, "none of", (3, 4), (5, 4), None, activation="swish"),
        raises(ShapeError, "in_features", (3, 4), (5, 3), None)])
fused_conv2d: Op = composite("fused_conv2d", "x w b? scale? -> y", _fused_conv2d, spec=_conv_spec, promote="dtype",
    batch="x:0 -> 0", cost=lambda y, x, w, b=None, scale=None, **attrs: 2 * y.size * numel(w.shape[1:]),
    samples=[s(x, w, b, b, activation="relu", **of.attrs) for (x, w, b), of in zip(CHANNELS, CONV, strict=True)],
    doc="Return activation(conv2d(x, w) * scale + b), scale and b per output channel.",
    errors=[raises(ArgumentError, "none of", (1, 3, 4, 4), (2, 3, 3, 3), None, None, activation="swish"),
        raises(ShapeError, "scale", (1, 3, 4, 4), (2, 3, 3, 3), None, (3,))])
