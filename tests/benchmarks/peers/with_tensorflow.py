"""TensorFlow with Keras layers under tf.function, channels-last images (its CPU kernels have no other)."""

from functools import partial

import numpy as np
import programs
import tensorflow as tf
from programs import BLOCKS, HEADS, LAYERS, SEQ, THREADS, VOCAB, D
from tensorflow import keras

L = keras.layers


# ---- models --------------------------------------------------------------------------------------------------------
def mlp():
    return keras.Sequential([L.Input((784,)), L.Dense(256, "relu"), L.Dense(10)])


def cnn():
    layers = [L.Input((28, 28, 1))]
    for channels in (32, 64):
        layers += [L.Conv2D(channels, 3, padding="same", activation="relu"), L.MaxPool2D()]
    return keras.Sequential([*layers, L.Flatten(), L.Dense(10)])


def conv_bn(x, o, k, stride):
    if stride > 1 and k > 1:
        x = L.ZeroPadding2D(k // 2)(x)  # as PyTorch pads: "same" would pad one side more
    x = L.Conv2D(o, k, stride, padding="valid" if stride > 1 else "same", use_bias=False)(x)
    return L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def resnet18(small):
    x = images = L.Input((32, 32, 3) if small else (224, 224, 3))
    x = L.ReLU()(conv_bn(x, 64, 3, 1) if small else conv_bn(x, 64, 7, 2))
    if not small:
        x = L.MaxPool2D(3, 2, padding="same")(x)
    for i, o, stride in BLOCKS:
        y = conv_bn(L.ReLU()(conv_bn(x, o, 3, stride)), o, 3, 1)
        x = L.ReLU()(y + (conv_bn(x, o, 1, stride) if i != o else x))
    return keras.Model(images, L.Dense(10 if small else 1000)(L.GlobalAveragePooling2D()(x)))


def gpt():
    ids = L.Input((SEQ,), dtype="int32")
    x = L.Embedding(VOCAB, D)(ids) + L.Embedding(SEQ, D)(keras.ops.arange(SEQ))
    for _ in range(LAYERS):
        h = L.LayerNormalization(epsilon=1e-5)(x)
        x = x + L.MultiHeadAttention(HEADS, D // HEADS)(h, h, use_causal_mask=True)
        h = L.Dense(4 * D)(L.LayerNormalization(epsilon=1e-5)(x))
        x = x + L.Dense(D)(keras.ops.gelu(h, approximate=True))
    x = L.Dense(VOCAB, use_bias=False)(L.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(ids, keras.ops.reshape(x, (-1, VOCAB)))


# ---- programs ------------------------------------------------------------------------------------------------------
def inputs(workload):
    arrays = (a if a.dtype == np.float32 else a.astype(np.int32) for a in programs.arrays(workload))
    return [tf.constant(a.transpose(0, 2, 3, 1) if a.ndim == 4 else a) for a in arrays]


class Function:
    """tf.function."""

    xla = False
    version = tf.__version__

    def __init__(self):
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
        tf.random.set_seed(0)
        self.function = tf.function(jit_compile=self.xla)

    def warm(self):
        self.function(lambda x: x + 1)(tf.ones(4))

    def sync(self, out):
        out.numpy()

    def array(self, out):
        return out.numpy()

    def train(self, workload, model, optimizer):
        x, y = inputs(workload)

        @self.function
        def train_step(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True)))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        return partial(train_step, x, y)

    def forward(self, workload, model):
        return partial(self.function(lambda x: model(x, training=False)), inputs(workload)[0])

    def chain10_bwd(self):
        a, b = inputs("chain10_bwd")

        @self.function
        def gradient(x, a, b):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = x
                for _ in range(5):
                    y = y * a
                    y = y + b
            return tape.gradient(y, x)

        def step():
            for _ in range(programs.WORKLOADS["chain10_bwd"].inner):
                out = gradient(a, a, b)
            return out

        return step

    def gelu_chain(self):
        return partial(self.function(lambda x: tf.nn.gelu(x * 1.1 + 0.3, approximate=True)), *inputs("gelu_chain"))

    def mlp_b64(self):
        return self.train("mlp_b64", mlp(), keras.optimizers.Adam())

    def mlp_b1024(self):
        return self.train("mlp_b1024", mlp(), keras.optimizers.Adam())

    def cnn_b64(self):
        return self.train("cnn_b64", cnn(), keras.optimizers.Adam())

    def resnet18_fwd(self):
        return self.forward("resnet18_fwd", resnet18(small=False))

    def resnet18_train(self):
        return self.train("resnet18_train", resnet18(small=True), keras.optimizers.SGD(0.01, 0.9))

    def gpt_fwd(self):
        return self.forward("gpt_fwd", gpt())

    def gpt_train(self):
        return self.train("gpt_train", gpt(), keras.optimizers.AdamW())


class Xla(Function):
    """tf.function(jit_compile=True)."""

    xla = True
