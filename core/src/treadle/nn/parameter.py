"""Parameter: a Tensor that a Module registers when it is assigned as an attribute."""

from typing import Any

from treadle._tensor import Tensor


class Parameter(Tensor):
    """Mark a tensor as a parameter of the Module it is assigned to; shares data's storage.

    >>> import treadle as td
    >>> p = td.nn.Parameter(td.zeros(2, 3))
    >>> p.requires_grad, tuple(p.shape)
    (True, (2, 3))
    """

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__(data.storage, data.sig)
        if requires_grad:
            self.requires_grad = True

    def __repr__(self) -> str:
        return "Parameter containing:\n" + Tensor.__repr__(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameter":
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]
