"""The catalogue: every op under its internal name. `treadle.ops.layer_norm(x, w, b, eps=1e-5)` runs it."""

from treadle.op import CATALOGUE as CATALOGUE
from treadle.op import Op as Op
from treadle.ops.attention import attention, attention_grad, attention_lse
from treadle.ops.contraction import dot_general, linear, matmul
from treadle.ops.conv import (
    avg_pool2d, avg_pool2d_grad, conv2d, conv2d_input_grad, conv2d_weight_grad, max_pool2d, max_pool2d_grad,
    max_pool2d_indices,
)  # fmt: skip
from treadle.ops.elementwise import (
    add, atan2, bit_and, bit_not, bit_or, bit_xor, bitcast, cast, clamp, cos, div, eq, erf, exp, expm1, floor, ge, gelu,
    gelu_grad,
    gelu_tanh, gelu_tanh_grad, gt, le, log, log1p, lt, maximum, minimum, mul, ne, neg, reciprocal, relu, relu_grad, rem,
    rsqrt, shl,
    shr, sigmoid, sigmoid_grad, sign, silu, silu_grad, sin, softplus, sqrt, square, sub, tanh, tanh_grad, true_div,
    where,
)  # fmt: skip
from treadle.ops.elementwise import abs_ as abs
from treadle.ops.elementwise import pow_ as pow
from treadle.ops.elementwise import round_ as round
from treadle.ops.epilogue import fused_conv2d, fused_linear
from treadle.ops.fused import fused
from treadle.ops.indexing import embedding, embedding_grad, gather_nd, nonzero, put_along, scatter_nd, sort, take_along
from treadle.ops.loss import cross_entropy, cross_entropy_grad, cross_entropy_lse
from treadle.ops.manipulation import (
    as_strided, as_strided_scatter, barrier, concat, copy, expand, flip, narrow, pad, permute, reshape,
    subscript, transpose_last, windows, write,
)  # fmt: skip
from treadle.ops.norm import (
    batch_norm, batch_norm_grad, batch_norm_inference,
    layer_norm, layer_norm_grad, layer_norm_stats,
)  # fmt: skip
from treadle.ops.optim import adam_step, clip_by_global_norm, sgd_step
from treadle.ops.random import dropout, iota, random_bits, random_normal, random_uniform
from treadle.ops.reduction import argmax, argmin, cumsum, mean, prod, sum_to, var
from treadle.ops.reduction import max_ as max
from treadle.ops.reduction import min_ as min
from treadle.ops.reduction import sum_ as sum
from treadle.ops.softmax import log_softmax, log_softmax_grad, logsumexp, softmax, softmax_grad

__all__ = ["CATALOGUE", "Op", "narrow", "sum_to", "transpose_last", *(name for name in CATALOGUE)]  # noqa: PLE0604
