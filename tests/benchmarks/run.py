#!/usr/bin/env python3
"""Time the benchmark programs in Treadle and in PyTorch, interleaved, and print the ratios.

    python tests/benchmarks/run.py                        # all workloads
    python tests/benchmarks/run.py -w mlp_b64,cnn_b64     # some
    python tests/benchmarks/run.py -f treadle_compiled,treadle,torch
    python tests/benchmarks/run.py --memory -f treadle_compiled,treadle,torch
    python tests/benchmarks/run.py --start                # import, process start to first step, memory, installed size

Each framework lives in a process of its own. The steady state is timed in chunks, framework by framework in turn, so
that a slow spell of the machine hits both; a ratio is the median over chunks of ours over theirs. Results are checked:
losses fall, and single ops agree with NumPy. Absolute times mean little on a shared machine; a claim needs a margin
over 15 %.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "2"
sys.path.insert(0, str(Path(__file__).parent))

import memory
import numpy as np
import programs

FRAMEWORKS = {  # package, fused optimizer, compiled
    "treadle": ("treadle", False, False),
    "treadle_compiled": ("treadle", False, True),
    "torch": ("torch", False, False),
    "torch_fused": ("torch", True, False),
}


# ---- the worker: builds a program, then times chunks on request ----------------------------------------------------
def problem(workload, first, last):
    if not (np.isfinite(first).all() and np.isfinite(last).all()):
        return "not finite"
    if programs.WORKLOADS[workload].trains:
        return None if last < first else f"the loss did not fall: {first} -> {last}"
    want = programs.expected(workload)
    if want is not None and not np.allclose(last, want, rtol=2e-3, atol=2e-3):
        return "differs from NumPy"
    return None


def worker(name):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    package, fused, compiled = FRAMEWORKS[name]
    book = programs.Programs(package, fused, compiled)

    def reply(**kw):
        replies.write(json.dumps(kw) + "\n")
        replies.flush()

    reply(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "build" in command:
            workload = command["build"]
            step = getattr(book, workload)()
            if programs.WORKLOADS[workload].trains or "_fwd" in workload:
                step = book.wrap(step)
            first = step().detach().numpy().copy()
            times = []
            while len(times) < 4 or (sum(times) < 0.4 and len(times) < 500):
                t = time.perf_counter()
                out = step()
                times.append(time.perf_counter() - t)
            each = statistics.median(times[2:])
            reply(problem=problem(workload, first, out.detach().numpy()))
        else:
            step()
            n = max(1, round(command["chunk"] / each))
            t = time.perf_counter()
            for _ in range(n):
                out = step()
            each = (time.perf_counter() - t) / n
            reply(t=each / programs.WORKLOADS[workload].inner)


class Remote:
    """A worker process."""

    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the worker died")
        return json.loads(line)

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.read()

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def human(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if seconds * factor >= 1 or unit == "ns":
            return f"{seconds * factor:.3g} {unit}"


def compare(workload, remotes, repeats, chunk):
    problems = {r.name: r.ask(build=workload)["problem"] for r in remotes}
    chunks = {r.name: [] for r in remotes}
    for _ in range(repeats):
        for r in remotes:
            chunks[r.name].append(r.ask(chunk=chunk)["t"])
    mine = remotes[0].name
    ours = chunks[mine]
    row = [workload, human(statistics.median(ours))]
    for name, theirs in chunks.items():
        if name != mine:
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            row += [human(statistics.median(theirs)), f"{ratio:.2f}"]
    wrong = [f"{n}: {p}" for n, p in problems.items() if p]
    print("| " + " | ".join(row) + " |" + (f"  <- {'; '.join(wrong)}" if wrong else ""), flush=True)


# ---- start-up ------------------------------------------------------------------------------------------------------
FIRST_STEP = """
import sys; sys.path.insert(0, {folder!r}); import programs
float(programs.Programs({package!r}).mlp_b64()())
import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def start():
    folder = str(Path(__file__).parent)
    print("| | treadle | torch |\n|---|---|---|")
    rows = {"import": {}, "process start to the end of the first MLP step": {}, "peak memory of that process": {}}
    for package in ("treadle", "torch"):
        for label, code in (
            ("import", f"import {package}"),
            ("process start to the end of the first MLP step", FIRST_STEP.format(folder=folder, package=package)),
        ):
            times = []
            for _ in range(5):
                t = time.perf_counter()
                out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
                times.append(time.perf_counter() - t)
            rows[label][package] = f"{statistics.median(times):.2f} s"
        rows["peak memory of that process"][package] = f"{float(out):.0f} MB"
    for label, cells in rows.items():
        print(f"| {label} | {cells['treadle']} | {cells['torch']} |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-w", "--workloads", default=",".join(programs.WORKLOADS))
    p.add_argument("-f", "--frameworks", default="treadle,torch", help="the first is compared with the others")
    p.add_argument("--repeats", type=int, default=7)
    p.add_argument("--chunk", type=float, default=0.15, help="seconds per chunk")
    p.add_argument("--start", action="store_true")
    p.add_argument("--memory", action="store_true", help="peak memory of the training steps instead of times")
    p.add_argument("--worker")
    a = p.parse_args()
    if a.worker:
        return worker(a.worker)
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    print(f"{date.today()}, {model}, 2 threads, load {os.getloadavg()[0]:.1f}\n")
    if a.start:
        return start()
    names = a.frameworks.split(",")
    if a.memory:
        return memory.table({n: (FRAMEWORKS[n][0], FRAMEWORKS[n][2]) for n in names}, a.workloads.split(","))
    remotes = [Remote(n) for n in names]
    print(f"| workload | {names[0]} | " + " | ".join(f"{n} | ratio" for n in names[1:]) + " |")
    print("|---" * (2 * len(names)) + "|")
    try:
        for workload in a.workloads.split(","):
            compare(workload, remotes, a.repeats, a.chunk)
    finally:
        for r in remotes:
            r.stop()


if __name__ == "__main__":
    main()
