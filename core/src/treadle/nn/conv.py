"""Convolution layers."""

import math
from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.errors import ArgumentError
from treadle.nn import functional as F
from treadle.nn import init
from treadle.nn.functional.conv import same_padding
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter


def _repeat(value: Any, n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What the convolutions share; ndim is the number of spatial dimensions."""

    ndim: int
    weight: Parameter  # (out_channels, in_channels / groups, *kernel_size)
    bias: Parameter | None  # (out_channels,)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        n = self.ndim
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in PADDING_MODES:
            raise ArgumentError(f"padding_mode must be one of {PADDING_MODES}, but got padding_mode={padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _repeat(kernel_size, n), _repeat(stride, n)
        self.dilation, self.padding_mode = _repeat(dilation, n), padding_mode
        self.padding = self._check_padding(padding)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(creation.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(creation.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _check_padding(self, padding: Any) -> Any:
        if not isinstance(padding, str):
            return _repeat(padding, self.ndim)
        if padding not in ("same", "valid"):
            raise ValueError(f"Invalid padding string '{padding}', should be one of {{'valid', 'same'}}")
        if padding == "same":
            same_padding(self.kernel_size, self.stride, self.dilation)
        return padding

    def _pad(self, input: Tensor) -> Tensor:
        """Pad the spatial dimensions by the padding mode, which the convolution then leaves alone."""
        if self.padding == "valid":
            return input
        if self.padding == "same":
            sides = same_padding(self.kernel_size, self.stride, self.dilation)
        else:
            sides = [(p, p) for p in self.padding]
        return F.pad(input, [n for side in reversed(sides) for n in side], mode=self.padding_mode)

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in ±1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self.ndim:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.ndim:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else text + f", padding_mode={self.padding_mode}"


class Conv1d(_Conv):
    """Convolve (N, C, L) or (C, L) along its last dimension.

    >>> import treadle as td
    >>> tuple(td.nn.Conv1d(2, 3, kernel_size=3)(td.zeros(1, 2, 8)).shape)
    (1, 3, 6)
    """

    ndim = 1

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = self._pad(input), 0
        return F.conv1d(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
        )


class Conv2d(_Conv):
    """Convolve images (N, C, H, W) or (C, H, W).

    >>> import treadle as td
    >>> layer = td.nn.Conv2d(3, 8, 3, padding=1)
    >>> layer, tuple(layer(td.zeros(1, 3, 6, 6)).shape)
    (Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)), (1, 8, 6, 6))
    """

    ndim = 2

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = self._pad(input), (0, 0)
        if input.dim() != 4 or padding.__class__ is str:
            return F.conv2d(
                input,
                self.weight,
                self.bias,
                self.stride,
                padding,
                self.dilation,
                self.groups,
            )
        return ops.conv2d(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
