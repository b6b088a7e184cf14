"""The far side of the remote backend: reads requests from standard input, answers those that wait on standard output."""

import pickle
import sys

import numpy as np

import treadle  # noqa: F401 - the declarations of the ops
from treadle.op import CATALOGUE
from treadle.runtime.reference import compute


def array(memory, at, word, shape, strides):
    """A view of a block; NumPy refuses one that leaves it."""
    number, offset = at
    word = np.dtype(word)
    if 0 in shape:
        return np.empty(shape, word)
    return np.ndarray(shape, word, memory[number], offset, [s * word.itemsize for s in strides])


class Worker:
    """Blocks of bytes and bound kernels, by number."""

    def __init__(self):
        self.memory, self.kernels = {}, {}

    def alloc(self, number, nbytes):
        self.memory[number] = np.zeros(nbytes, np.uint8)

    def free(self, number, block):
        del self.memory[block]

    def h2d(self, number, block, offset, data):
        self.memory[block][offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def d2h(self, number, block, offset, nbytes):
        return self.memory[block][offset : offset + nbytes].tobytes()

    def copy(self, number, dst, src, itemsize, shape, dst_strides, src_strides):
        word = f"u{itemsize}"
        array(self.memory, dst, word, shape, dst_strides)[...] = array(self.memory, src, word, shape, src_strides)

    def bind(self, number, name, ins, attrs, outs):
        self.kernels[number] = CATALOGUE[name], ins, attrs, outs

    def run(self, number, kernel, given):
        op, ins, attrs, outs = self.kernels[kernel]
        rest = iter(given)
        arrays = [
            None
            if x is None
            else array(self.memory, next(rest), x[0].np, x[1], x[2])
            if isinstance(x, tuple)
            else next(rest)
            for x in ins
        ]
        for y, (block, offset) in zip(compute(op, arrays, attrs, outs), rest, strict=True):
            self.memory[block][offset : offset + y.nbytes] = y.reshape(-1).view(np.uint8)

    def nothing(self, number):
        """Answer, so that the other side knows that all before is done."""


def main():
    worker = Worker()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            what, number, details, wait = pickle.load(source)
        except EOFError:
            return
        try:
            answer = getattr(worker, what)(number, *details)
        except Exception as e:
            if not wait:
                raise
            answer = e
        if wait:
            pickle.dump(answer, sink)
            sink.flush()


if __name__ == "__main__":
    main()
