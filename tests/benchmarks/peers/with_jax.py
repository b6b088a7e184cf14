"""JAX under jit: channels-last images as Flax has them, the training state donated."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import programs
from jax import lax, nn
from programs import BATCH, BLOCKS, HEADS, LAYERS, SEQ, VOCAB, D


# ---- optimizers: (state of parameters, update of parameters by gradients and state) ----------------------------------
def adam(decay=0.0, lr=1e-3):
    tmap = jax.tree.map

    def init(p):
        return tmap(jnp.zeros_like, p), tmap(jnp.zeros_like, p), jnp.zeros(())

    def update(p, g, state):
        m, v, t = state
        t = t + 1
        m = tmap(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = tmap(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        p = tmap(lambda p, m, v: p - lr * (m / c1 / (jnp.sqrt(v / c2) + 1e-8) + decay * p), p, m, v)
        return p, (m, v, t)

    return init, update


def sgd(lr=0.01, momentum=0.9):
    def update(p, g, m):
        m = jax.tree.map(lambda m, g: momentum * m + g, m, g)
        return jax.tree.map(lambda p, m: p - lr * m, p, m), m

    return partial(jax.tree.map, jnp.zeros_like), update


# ---- layers --------------------------------------------------------------------------------------------------------
def weights(rng, *shape):
    return jnp.asarray((rng.standard_normal(shape) / math.sqrt(math.prod(shape[:-1]))).astype(np.float32))


def dense(rng, i, o):
    return {"w": weights(rng, i, o), "b": jnp.zeros(o)}


def norm(n):
    return {"g": jnp.ones(n), "b": jnp.zeros(n)}


def linear(x, p):
    return x @ p["w"] + p["b"]


def conv(x, w, stride=1):
    k = w.shape[0] // 2
    form = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride, stride), ((k, k), (k, k)), dimension_numbers=form)


def maxpool(x, k, stride, pad=0):
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, stride, stride, 1), edges)


def batchnorm(x, p, stats, train):
    """(result, running statistics)"""
    mean, var = stats["m"], stats["v"]
    if train:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        stats = {"m": 0.9 * stats["m"] + 0.1 * mean, "v": 0.9 * stats["v"] + 0.1 * var}
    return (x - mean) * (lax.rsqrt(var + 1e-5) * p["g"]) + p["b"], stats


def layernorm(x, p):
    return nn.standardize(x, epsilon=1e-5) * p["g"] + p["b"]


# ---- models: (model(params, stats, x) -> (logits, stats), params, stats) ---------------------------------------------
def mlp(rng):
    def model(p, stats, x):
        return linear(nn.relu(linear(x, p[0])), p[1]), stats

    return model, [dense(rng, 784, 256), dense(rng, 256, 10)], ()


def cnn(rng):
    convs = [{"w": weights(rng, 3, 3, i, o), "b": jnp.zeros(o)} for i, o in ((1, 32), (32, 64))]

    def model(p, stats, x):
        for layer in p[:2]:
            x = maxpool(nn.relu(conv(x, layer["w"]) + layer["b"]), 2, 2)
        return linear(x.reshape(x.shape[0], -1), p[2]), stats

    return model, [*convs, dense(rng, 64 * 49, 10)], ()


def resnet18(rng, small, train):
    shapes = [(3, 64, 3, 1) if small else (3, 64, 7, 2)]
    for i, o, stride in BLOCKS:
        shapes += [(i, o, 3, stride), (o, o, 3, 1)] + ([(i, o, 1, stride)] if i != o else [])
    convs = [{"w": weights(rng, k, k, i, o), **norm(o)} for i, o, k, _ in shapes]
    stats = [{"m": jnp.zeros(o), "v": jnp.ones(o)} for _, o, _, _ in shapes]

    def model(p, stats, x):
        layers, new = iter(zip(p["convs"], stats, shapes)), []

        def conv_bn(x):
            layer, before, (_, _, _, stride) = next(layers)
            y, after = batchnorm(conv(x, layer["w"], stride), layer, before, train)
            new.append(after)
            return y

        x = nn.relu(conv_bn(x))
        if not small:
            x = maxpool(x, 3, 2, 1)
        for i, o, _ in BLOCKS:
            y = conv_bn(nn.relu(conv_bn(x)))
            x = nn.relu(y + (conv_bn(x) if i != o else x))
        return linear(x.mean((1, 2)), p["head"]), new

    return model, {"convs": convs, "head": dense(rng, 512, 10 if small else 1000)}, stats


def gpt(rng):
    def block():
        attention = {"ln1": norm(D), "qkv": dense(rng, D, 3 * D), "proj": dense(rng, D, D)}
        return {**attention, "ln2": norm(D), "up": dense(rng, D, 4 * D), "down": dense(rng, 4 * D, D)}

    params = {
        "tok": weights(rng, VOCAB, D) * 20,
        "pos": weights(rng, SEQ, D),
        "blocks": [block() for _ in range(LAYERS)],
        "ln": norm(D),
        "head": weights(rng, D, VOCAB),
    }

    def model(p, stats, ids):
        x = p["tok"][ids] + p["pos"]
        for b in p["blocks"]:
            qkv = linear(layernorm(x, b["ln1"]), b["qkv"]).reshape(BATCH, SEQ, 3 * HEADS, D // HEADS)
            a = nn.dot_product_attention(*jnp.split(qkv, 3, axis=2), is_causal=True)
            x = x + linear(a.reshape(x.shape), b["proj"])
            x = x + linear(nn.gelu(linear(layernorm(x, b["ln2"]), b["up"])), b["down"])
        return (layernorm(x, p["ln"]) @ p["head"]).reshape(-1, VOCAB), stats

    return model, params, ()


# ---- programs ------------------------------------------------------------------------------------------------------
def inputs(workload):
    arrays = (a if a.dtype == np.float32 else a.astype(np.int32) for a in programs.arrays(workload))
    return [jnp.asarray(a.transpose(0, 2, 3, 1) if a.ndim == 4 else a) for a in arrays]


def train(workload, model, params, stats, optimizer):
    (x, y), (init, update) = inputs(workload), optimizer

    def loss(p, stats, x, y):
        logits, stats = model(p, stats, x)
        return -jnp.mean(jnp.take_along_axis(nn.log_softmax(logits), y[:, None], 1)), stats

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def train_step(p, stats, state, x, y):
        (value, stats), g = jax.value_and_grad(loss, has_aux=True)(p, stats, x, y)
        p, state = update(p, g, state)
        return p, stats, state, value

    held = params, stats, init(params)

    def step():
        nonlocal held
        *held, value = train_step(*held, x, y)
        return value

    return step


def forward(workload, model, params, stats):
    return partial(jax.jit(lambda p, stats, x: model(p, stats, x)[0]), params, stats, inputs(workload)[0])


class Jax:
    version = jax.__version__

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def warm(self):
        self.sync(jax.jit(lambda x: x + 1)(jnp.ones(4)))

    def sync(self, out):
        jax.block_until_ready(out)

    def array(self, out):
        return np.asarray(out)

    def chain10_bwd(self):
        def chain(x, a, b):
            for _ in range(5):
                x = x * a
                x = x + b
            return x.sum()

        (a, b), gradient = inputs("chain10_bwd"), jax.jit(jax.grad(chain))

        def step():
            for _ in range(programs.WORKLOADS["chain10_bwd"].inner):
                out = gradient(a, a, b)
            return out

        return step

    def gelu_chain(self):
        return partial(jax.jit(lambda x: nn.gelu(x * 1.1 + 0.3)), *inputs("gelu_chain"))

    def mlp_b64(self):
        return train("mlp_b64", *mlp(self.rng), adam())

    def mlp_b1024(self):
        return train("mlp_b1024", *mlp(self.rng), adam())

    def cnn_b64(self):
        return train("cnn_b64", *cnn(self.rng), adam())

    def resnet18_fwd(self):
        return forward("resnet18_fwd", *resnet18(self.rng, small=False, train=False))

    def resnet18_train(self):
        return train("resnet18_train", *resnet18(self.rng, small=True, train=True), sgd())

    def gpt_fwd(self):
        return forward("gpt_fwd", *gpt(self.rng))

    def gpt_train(self):
        return train("gpt_train", *gpt(self.rng), adam(0.01))
