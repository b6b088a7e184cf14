"""Embedding: a table of vectors looked up by index."""

from typing import Any

from treadle import creation
from treadle._tensor import Tensor
from treadle.autograd.grad_mode import no_grad
from treadle.errors import ArgumentError, ShapeError
from treadle.nn import functional as F
from treadle.nn import init
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter


class Embedding(Module):
    """Look up rows of a (num_embeddings, embedding_dim) table by int indices of any shape.

    The row padding_idx starts at zero and gets no gradient. IndexError outside the table.

    >>> import treadle as td
    >>> tuple(td.nn.Embedding(10, 4)(td.tensor([[1, 2, 3]])).shape)
    (1, 3, 4)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ArgumentError(
                    f"Embedding: padding_idx must be within num_embeddings: {padding_idx}, {num_embeddings}"
                )
            padding_idx %= num_embeddings
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        if _weight is None:
            table = creation.empty((num_embeddings, embedding_dim), device=device, dtype=dtype)
            self.weight = Parameter(table, requires_grad=not _freeze)
            self.reset_parameters()
        elif tuple(_weight.shape) != (num_embeddings, embedding_dim):
            raise ShapeError(
                "Embedding: the weight's shape does not match num_embeddings and embedding_dim: "
                f"{tuple(_weight.shape)}, {(num_embeddings, embedding_dim)}"
            )
        else:
            self.weight = Parameter(_weight, requires_grad=not _freeze)

    def reset_parameters(self) -> None:
        """Draw the table anew from the standard normal distribution; the padding row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        **kwargs: Any,
    ) -> "Embedding":
        """Make an Embedding of a given table, by default one that is not trained.

        >>> import treadle as td
        >>> td.nn.Embedding.from_pretrained(td.eye(2))(td.tensor([1])).tolist()
        [[0.0, 1.0]]
        """
        rows, size = embeddings.shape
        return cls(rows, size, padding_idx, _weight=embeddings, _freeze=freeze, **kwargs)
