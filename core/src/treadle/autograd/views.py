"""Gradients of views and of writes through views, from their layouts alone.

A view's gradient is put back into a tensor of the base's layout: as a view again where the layout is a bijection
(permute, reshape), else into zeros, adding where windows overlap. Written with ops, so every order works.
"""

from typing import Any

from treadle import _tensor
from treadle._tensor import Tensor, make_view
from treadle.op import FN
from treadle.runtime import dispatch
from treadle.shapes import dense_strides, extent, overlaps
from treadle.sig import Sig, dense_sig, sig_of
from treadle.tape import Rule

_INVERSE: dict[Any, Any] = {}  # (base sig, view sig) -> axes that restore the base's order, or None
NOT_KNOWN: Any = object()


def _view_grad(node: list[Any], g: Any) -> Any:
    base, sig, offset = node[3], node[4], node[5]
    key = (base, sig)
    axes = _INVERSE.get(key, NOT_KNOWN)
    if axes is NOT_KNOWN:
        if len(_INVERSE) > 4096:
            _INVERSE.clear()
        axes = _INVERSE[key] = _inverse(base, sig)
    if axes is not None and offset == 0:
        if axes:
            g = FN["permute"](g, axes)
        return (g if g.shape == base.shape else FN["reshape"](g, base.shape),)
    return (transpose(g, base, sig, offset),)


def _inverse(base: Sig, sig: Sig) -> Any:
    """Axes of the view in the base's memory order if it is a bijection onto a dense base; () when already in order."""
    if base.layout != "dense" or base.size != sig.size or base.size == 0 or any(s < 0 for s in sig.strides):
        return None
    order = sorted((d for d in range(sig.ndim)), key=lambda d: (-sig.strides[d], sig.shape[d] == 1))
    shape = tuple(sig.shape[d] for d in order)
    strides = tuple(sig.strides[d] for d in order)
    if any(n != 1 and s != t for n, s, t in zip(shape, strides, dense_strides(shape), strict=True)):
        return None
    return () if order == sorted(order) else tuple(order)


def zeros_like_base(g: Any, base: Sig) -> Tensor:
    """Zeros in the layout of a base (which may be strided), in g's dtype."""
    device = g.device
    sig = sig_of(g.dtype, base.shape, base.strides, device)
    low, high = extent(base.shape, base.strides)
    flat = dense_sig(g.dtype, (high - low,), device)
    storage = dispatch.allocate(device, flat.nbytes, "gradient of a view")
    dispatch.fill(device, storage, 0, flat)
    if low < 0:  # the first element of a base that runs backwards is not the first in memory
        storage = device.backend.view(storage, -low * g.dtype.itemsize)
    return Tensor(storage, sig)


def transpose(g: Any, base: Sig, sig: Sig, offset: int) -> Tensor:
    """The transpose of reading (sig, offset) out of a base: zeros, plus g at its places."""
    z = zeros_like_base(g, base)
    _scatter(z, sig, offset, g)
    return z


def _scatter(z: Tensor, sig: Sig, offset: int, g: Any) -> None:
    repeated = tuple(d for d, (n, s) in enumerate(zip(sig.shape, sig.strides, strict=True)) if s == 0 and n != 1)
    if repeated:
        g = FN["sum"](g, repeated)
        sig = _without(sig, repeated)
    if not overlaps(sig.shape, sig.strides):
        region = make_view(z, sig_of(z.dtype, sig.shape, sig.strides, z.device), offset)
        WRITE_INTO[0](region, g)
        return
    axis = min((d for d in range(sig.ndim) if sig.shape[d] > 1), key=lambda d: sig.shape[d])
    part = _without(sig, (axis,))
    for i in range(sig.shape[axis]):  # windows overlap: one axis at a time until they no longer do
        items = tuple(i if d == axis else (0, n, 1) for d, n in enumerate(sig.shape))
        _add(z, part, offset + i * sig.strides[axis], FN["subscript"](g, items))


def _add(z: Tensor, sig: Sig, offset: int, g: Any) -> None:
    if overlaps(sig.shape, sig.strides):
        axis = min((d for d in range(sig.ndim) if sig.shape[d] > 1), key=lambda d: sig.shape[d])
        part = _without(sig, (axis,))
        for i in range(sig.shape[axis]):
            items = tuple(i if d == axis else (0, n, 1) for d, n in enumerate(sig.shape))
            _add(z, part, offset + i * sig.strides[axis], FN["subscript"](g, items))
        return
    region = make_view(z, sig_of(z.dtype, sig.shape, sig.strides, z.device), offset)
    WRITE_INTO[0](region, FN["add"](region, g))


def _without(sig: Sig, axes: Any) -> Sig:
    keep = [d for d in range(sig.ndim) if d not in axes]
    return sig_of(sig.dtype, tuple(sig.shape[d] for d in keep), tuple(sig.strides[d] for d in keep), sig.device)


def _write_grad(node: list[Any], g: Any) -> Any:
    """Node [id, rule, old, new, base sig, view sig, offset]: what was overwritten gets no gradient, the new values get
    theirs."""
    base, sig, offset = node[4], node[5], node[6]
    laid = in_layout(g, base)
    new = make_view(laid, sig_of(g.dtype, sig.shape, sig.strides, g.device), offset) if node[3] is not None else None
    old = None
    if node[2] is not None:
        old = in_layout(FN["copy"](g), base)
        region = make_view(old, sig_of(g.dtype, sig.shape, sig.strides, g.device), offset)
        WRITE_INTO[0](region, region.new_zeros(()))
    return old, new


def in_layout(g: Any, base: Sig) -> Any:
    """g with the strides of a base, so that the base's views apply to it."""
    if g.sig.strides == base.strides:
        return g
    if base.layout == "dense":
        return FN["copy"](g)
    z = zeros_like_base(g, base)
    WRITE_INTO[0](make_view(z, z.sig, 0), g)
    return z


WRITE_INTO: list[Any] = []  # eager.inplace.copy_, put here at composition
_tensor.VIEW_RULE.run = _view_grad
WRITE_RULE = Rule("write", 2, _write_grad, False)
