"""Drive every C kernel with random operands on a sanitized build.

    python tests/sanitize/run.py address tests/sanitize/fuzz.py         10,000 calls a kernel
    ... fuzz.py --calls 300 --isa avx2 --only softmax                           less
    ... fuzz.py --isa avx512 --kernel add_f32 --index 17                        one binding again

Operands come through the backend's own factories: any shape, layout and value that the core could
pass, in storages of exact size. The best instruction set of the machine gets all calls, the
others a tenth. A finding ends its process; the parent shows it with how to repeat it, and goes on.
The exit status is 1 when there was one, or when a kernel was not reached."""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

LEVELS = ("avx512", "avx2", "base")
MISUSE = "(misuse)"
MAX_ATTEMPTS = 20  # bindings tried for each one wanted, before a kernel counts as out of reach
PER_BINDING = 8  # calls of one bound kernel with small operands
SHOWN = 60  # lines of a report


def arguments():
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="of each kernel")
    parser.add_argument("--isa", help="levels, separated by commas; each gets all calls")
    parser.add_argument("--only", default="", help="part of the kernels' names")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit for one kernel")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernel", help="repeat one binding of this kernel")
    parser.add_argument("--index", type=int, help="the binding's number")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="no line for every kernel")
    return parser.parse_args()


# ---- parent: gives kernels to workers, collects counts and reports -------------------------------------------------
class Worker:
    """A process that fuzzes kernels, one after the other; it is started again after a finding."""

    def __init__(self, options, isa):
        self.options, self.isa, self.process = options, isa, None
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the worker
        self.status = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115

    def start(self):
        """Start the process; its errors go to the log."""
        o = self.options
        command = [sys.executable, __file__, "--worker", self.status.name, "--seed", str(o.seed)]
        command += ["--seconds", str(o.seconds)]
        for file in (self.log, self.status):
            file.seek(0)
            file.truncate()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "TREADLE_CPU_ISA": self.isa},
        )  # fmt: skip

    def fuzz(self, kernel, calls):
        """Return what the worker says of a kernel, or None when it died; then text says why."""
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps([kernel, calls]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else None

    def report(self):
        """Return what a dead process left behind, and how to repeat it."""
        code = self.process.wait()
        self.process = None
        self.log.seek(0)
        text = self.log.read().splitlines()
        self.status.seek(0)
        place = self.status.read().strip()
        if not place:
            raise SystemExit("\n".join(["a worker cannot start:", *text]))
        head = f"--- finding (exit status {code}): --isa {self.isa} --seed {self.options.seed} {place}"
        return "\n".join([head, *text[:SHOWN]])

    def stop(self):
        """End the process."""
        if self.process:
            self.process.stdin.close()
            self.process.wait()


OVERRUN = """
from treadle_backend_cpu import _native as n
print(n.isa(), *n.names(), flush=True)
n.bind("probe_copy", 1, (64,), (64,), (), b"\\xff", 0)(n.alloc(40))
print("not sanitized")
"""


def kernels_of(isa):
    """Return the kernels of a level, or None where this machine or build lacks it.

    An overrun on purpose must end the process: else nothing could be found."""
    environment = {**os.environ, "TREADLE_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", OVERRUN], env=environment, capture_output=True, text=True)
    words = done.stdout.split()
    if words[:1] != [isa]:
        return None
    if words[-1] == "sanitized" or "AddressSanitizer" not in done.stderr:
        raise SystemExit("an overrun is not seen: this build has no AddressSanitizer")
    return words[1:]


class Totals:
    """Counts over all levels, and what was found."""

    def __init__(self):
        self.kernels, self.calls, self.reports, self.missed = set(), 0, 0, []

    def add(self, isa, kernel, result, wanted, quiet):
        """Count one kernel's calls and print its line."""
        calls, seconds = result["calls"], result["seconds"]
        self.kernels.add(kernel)
        self.calls += calls
        self.reports += len(result["errors"])
        for text in result["errors"]:
            print(f"--- finding: --isa {isa} {text}", flush=True)
        short = "" if calls >= wanted else f"  of {wanted}: limit of time"
        if not calls:
            self.missed.append(f"{kernel} ({isa})")
        if short or not quiet:
            print(f"{isa:7}{kernel:28}{calls:8}{seconds:8.1f} s{short}", flush=True)


def run_level(options, isa, names, calls, totals):
    """Fuzz the kernels of one level with as many workers as asked for."""
    from concurrent.futures import ThreadPoolExecutor
    from queue import Empty, SimpleQueue

    queue = SimpleQueue()
    for name in names:
        queue.put(name)

    def serve(worker):
        try:
            while True:
                name = queue.get_nowait()
                result = worker.fuzz(name, calls)
                if result is None:
                    totals.reports += 1
                    totals.kernels.add(name)
                    print(worker.report(), flush=True)
                else:
                    totals.add(isa, name, result, calls, options.quiet)
        except Empty:
            worker.stop()

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(serve, [Worker(options, isa) for _ in range(options.jobs)]))


def parent(options):
    """Fuzz all levels; return the exit status."""
    start, totals = time.monotonic(), Totals()
    wanted = options.isa.split(",") if options.isa else LEVELS
    available = [(isa, names) for isa in wanted if (names := kernels_of(isa)) is not None]
    for isa in set(wanted) - {isa for isa, _ in available}:
        print(f"{isa}: not on this machine, or not in this build")
    for k, (isa, names) in enumerate(available):
        calls = options.calls if options.isa or k == 0 else max(options.calls // 10, 1)
        chosen = [name for name in (*names, MISUSE) if options.only in name]
        run_level(options, isa, chosen, calls, totals)
    for name in totals.missed:
        print(f"not reached: {name}")
    minutes = (time.monotonic() - start) / 60
    count = len(totals.kernels - {MISUSE})
    print(f"{count} kernels, {totals.calls:,} calls, {totals.reports} reports ({minutes:.1f} min)")
    return int(bool(totals.reports or totals.missed or not available))


# ---- worker --------------------------------------------------------------------------------------------------------
class Fuzzer:
    """Draws calls for a kernel until it was called often enough."""

    def __init__(self, status, seed):
        from targets import Targets

        self.targets, self.status, self.seed = Targets(), status, seed

    def kernel(self, name, calls, seconds):
        """Return how often the kernel was called, the time, and errors that were no crash."""
        start, counts, errors, index = time.monotonic(), Counter(), [], 0
        while counts[name] < calls and time.monotonic() - start < seconds and len(errors) < 3:
            if index > MAX_ATTEMPTS * calls or (index > 2000 and not counts[name]):
                break
            error = self.binding(name, index, counts)
            errors += [error] if error else []
            index += 1
        return {"calls": counts[name], "seconds": time.monotonic() - start, "errors": errors}

    def binding(self, name, index, counts):
        """Do all calls of one binding, which its number repeats; return an error or None."""
        place = f"--kernel {name} --index {index}"
        self.note(place)
        rnd = random.Random(f"{self.seed}/{name}/{index}")
        try:
            self.targets.run(rnd, name, counts, PER_BINDING)
        except Exception:
            return f"--seed {self.seed} {place}\n{traceback.format_exc(limit=-6)}"
        return None

    def note(self, place):
        """Write down where we are, for the parent to read after a crash."""
        if self.status:
            os.pwrite(self.status.fileno(), place.ljust(100).encode(), 0)


def worker(options):
    """Serve kernels from standard input."""
    with open(options.worker, "r+") as status:
        fuzzer = Fuzzer(status, options.seed)
        for line in sys.stdin:
            name, calls = json.loads(line)
            result = fuzzer.kernel(name, calls, options.seconds)
            print(json.dumps(result), flush=True)
    return 0


def repeat(options):
    """Do one binding again, in an environment that chooses the level."""
    if options.isa and os.environ.get("TREADLE_CPU_ISA") != options.isa:
        environment = {**os.environ, "TREADLE_CPU_ISA": options.isa}
        return subprocess.run([sys.executable, *sys.argv], env=environment).returncode
    counts = Counter()
    error = Fuzzer(None, options.seed).binding(options.kernel, options.index, counts)
    print(error or dict(counts))
    return int(error is not None)


def main():
    """Be the parent, a worker of it, or a repetition; return the exit status."""
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]
    options = arguments()
    if options.worker:
        return worker(options)
    return repeat(options) if options.kernel else parent(options)


if __name__ == "__main__":
    sys.exit(main())
