"""Treadle: a deep-learning framework with a small core and hardware in plugins. `import treadle as td`.

This module is the list of public names, and the one place where the engine is put together.
"""

import math

from treadle import errors as errors
from treadle import ops as ops
from treadle.errors import TreadleError as TreadleError
from treadle._tensor import Tensor as Tensor
from treadle import eager as _eager
from treadle.creation import (
    arange as arange, as_tensor as as_tensor, asarray as asarray, empty as empty, empty_like as empty_like, eye as eye,
    from_dlpack as from_dlpack, from_numpy as from_numpy, full as full, full_like as full_like, linspace as linspace,
    ones as ones,
    ones_like as ones_like, tensor as tensor, zeros as zeros, zeros_like as zeros_like,
)  # fmt: skip
from treadle.api import methods as _methods
from treadle.api.convert import clone as clone, detach as detach
from treadle.api.methods import is_floating_point as is_floating_point, is_tensor as is_tensor, numel as numel
from treadle.api.linalg import *
from treadle.api.math import *
from treadle.api.reduce import *
from treadle.api.select import *
from treadle.api.shape import *
from treadle.api.text import set_printoptions as set_printoptions
from treadle.autograd.grad_mode import (
    enable_grad as enable_grad, inference_mode as inference_mode, is_grad_enabled as is_grad_enabled,
    is_inference_mode_enabled as is_inference_mode_enabled, no_grad as no_grad, set_grad_enabled as set_grad_enabled,
)  # fmt: skip
from treadle.dtypes import (
    DType as DType, bfloat16 as bfloat16, bool_ as bool, dtype as dtype, finfo as finfo, float16 as float16,
    float32 as float32,
    float64 as float64, get_default_dtype as get_default_dtype, iinfo as iinfo, int8 as int8, int16 as int16,
    int32 as int32,
    int64 as int64, promote as promote_types, set_default_dtype as set_default_dtype, uint8 as uint8, uint16 as uint16,
    uint32 as uint32, uint64 as uint64,
)  # fmt: skip
from treadle.random import (
    Generator as Generator, bernoulli as bernoulli, get_rng_state as get_rng_state, initial_seed as initial_seed,
    manual_seed as manual_seed, multinomial as multinomial, normal as normal, rand as rand, rand_like as rand_like,
    randint as randint, randn as randn, randn_like as randn_like, randperm as randperm, seed as seed,
    set_rng_state as set_rng_state,
)  # fmt: skip
from treadle.runtime.device import (
    device as device, get_default_device as get_default_device, set_default_device as set_default_device,
)  # fmt: skip
from treadle.runtime.dispatch import fallback as fallback
from treadle.runtime.plugins import plugins as plugins, register_backend as register_backend
from treadle.shapes import Size as Size
from treadle.spec import Spec as TensorSpec

from treadle import autodiff as autograd
from treadle import func as func
from treadle import profiler as profiler
from treadle import tree as tree
from treadle.autograd.function import custom_vjp as custom_vjp
from treadle.autograd.recompute import checkpoint as checkpoint
from treadle.autograd.transforms import grad as grad, value_and_grad as value_and_grad, vjp as vjp
from treadle.autograd.forward import jvp as jvp
from treadle.batching.jacobian import hessian as hessian, jacobian as jacobian
from treadle.batching.vmap import vmap as vmap
from treadle.compiler.compiled import compile as compile
from treadle.compiler.control import cond as cond, scan as scan, while_loop as while_loop
from treadle.compiler.function import graph as graph
from treadle.ir.dim import Dim as Dim
from treadle.explain import explain as explain
from treadle.threads import get_num_threads as get_num_threads, set_num_threads as set_num_threads

double, float, half, int, long, short = float64, float32, float16, int32, int64, int16
inf, nan, pi, e, newaxis = math.inf, math.nan, math.pi, math.e, None
__version__ = "0.1.0"

# The outer layers: the engine works without these lines and folders.
from treadle import data as data, utils as utils
from treadle import nn as nn
from treadle import optim as optim
from treadle.weights import load as load, save as save
