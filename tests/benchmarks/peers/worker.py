"""The process of one framework. Commands come as lines of JSON on stdin, answers go to stdout.

{"build": workload}  ->  {"first_s": s, "build_s": s, "problem": text or null}, or {"unsupported": true}
{"chunk": s}         ->  {"t": s per operation}
"""

import gc
import json
import os
import statistics
import sys
import time

import numpy as np
import programs

from peers.frameworks import adapter

SHAPES = {"resnet18_fwd": (1, 1000), "gpt_fwd": (programs.BATCH * programs.SEQ, programs.VOCAB)}


def problem(workload, first, last):
    """None if a program's results are right, else what is wrong with them."""
    if not (np.isfinite(first).all() and np.isfinite(last).all()):
        return "not finite"
    if programs.WORKLOADS[workload].trains:
        return None if last < first else f"the loss did not fall: {first} -> {last}"
    if workload in SHAPES:
        return None if last.shape == SHAPES[workload] else f"its shape is {last.shape}"
    if not np.allclose(last, programs.expected(workload), rtol=2e-3, atol=2e-3):
        return "differs from NumPy"
    return None


class Worker:
    def __init__(self, name):
        self.adapter = adapter(name)
        self.adapter.warm()

    def call(self):
        out = self.step()
        self.adapter.sync(out)
        return out

    def build(self, workload):
        self.step = None
        gc.collect()
        program = getattr(self.adapter, workload, None)
        if program is None:
            return {"unsupported": True}
        start = time.perf_counter()
        self.step, self.inner = program(), programs.WORKLOADS[workload].inner
        built = time.perf_counter()
        out = self.call()
        ended = time.perf_counter()
        first = np.array(self.adapter.array(out))
        times = []
        while len(times) < 4 or (sum(times) < 0.5 and len(times) < 500):  # compilers finish their warm-up here
            t = time.perf_counter()
            out = self.call()
            times.append(time.perf_counter() - t)
        self.each = statistics.median(times[2:])
        wrong = problem(workload, first, np.asarray(self.adapter.array(out)))
        return {"first_s": ended - built, "build_s": built - start, "problem": wrong}

    def chunk(self, seconds):
        self.call()
        n = max(1, round(seconds / self.each))
        start = time.perf_counter()
        for _ in range(n):
            out = self.step()
        self.adapter.sync(out)
        self.each = (time.perf_counter() - start) / n
        return {"t": self.each / self.inner}


def serve(name):
    """Answer commands until stdin ends; the first answer says that the framework is loaded."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # frameworks may print

    def reply(**answer):
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    worker = Worker(name)
    reply(version=worker.adapter.version)
    for line in sys.stdin:
        command = json.loads(line)
        reply(**(worker.build(command["build"]) if "build" in command else worker.chunk(command["chunk"])))
