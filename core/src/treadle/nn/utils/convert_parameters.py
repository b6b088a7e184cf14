"""All parameters as one vector, and back."""

from collections.abc import Iterable

from treadle._tensor import Tensor
from treadle.api.shape import cat
from treadle.autograd.grad_mode import no_grad
from treadle.errors import ShapeError


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return all elements of the parameters, one after the other, as (n,).

    >>> import treadle as td
    >>> td.nn.utils.parameters_to_vector([td.ones(2), td.zeros(1, 1)]).tolist()
    [1.0, 1.0, 0.0]
    """
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of a vector (n,) into the parameters; their sizes must add up to n.

    >>> import treadle as td
    >>> p = td.zeros(2)
    >>> td.nn.utils.vector_to_parameters(td.tensor([3.0, 4.0]), [p])
    >>> p.tolist()
    [3.0, 4.0]
    """
    targets = list(parameters)
    total = sum(p.numel() for p in targets)
    if vec.dim() != 1 or vec.shape[0] != total:
        raise ShapeError(f"vector_to_parameters: needs a vector of {total} elements: {tuple(vec.shape)}")
    start = 0
    with no_grad():
        for p in targets:
            stop = start + p.numel()
            p.copy_(vec[start:stop].reshape(p.shape))
            start = stop
