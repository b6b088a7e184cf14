"""Starts the workers, times them in turn, and yields a record per framework and workload.

Records are dicts of plain values. All have "run" (when it was started) and "framework"; then, one of
  * missing: the packages that are not installed;
  * workload and error: what stopped it;
  * workload, median_s, min_s, max_s (seconds per operation over the chunks of the better way), chunks (their number),
    way, other_median_s (the other way's, or null), first_s (the first call), build_s (models and inputs, before it),
    problem (what is wrong with the results, or null), version, machine.
"""

import contextlib
import json
import os
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from functools import partial
from pathlib import Path

from peers.frameworks import missing

THREADS = 2
PACKAGE = Path(__file__).parent
START_S = 180  # a worker may take so long to import its framework


# ---- the machine ---------------------------------------------------------------------------------------------------
def cores():
    """The numbers of two logical processors, on different cores if there are such."""
    allowed = sorted(os.sched_getaffinity(0))
    first_of = {}
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        with contextlib.suppress(OSError):
            first_of.setdefault(siblings.read_text(), cpu)
    apart = sorted(first_of.values())
    return (apart if len(apart) >= THREADS else allowed)[:THREADS]


def machine():
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.machine()


def favour(pid):
    """Put a session before others, where the system allows it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-19")


def realtime(pid, on):
    """Put all threads of a process before everything else, or back, where the system allows it."""
    policy = os.SCHED_FIFO if on else os.SCHED_OTHER
    with contextlib.suppress(OSError):  # it may have died
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # threads come and go
                os.sched_setscheduler(int(thread), policy, os.sched_param(int(on)))


def environment(folder):
    """A worker's: two threads, processors only, and compiler caches that are empty at the start."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, str(THREADS)),
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "XDG_CACHE_HOME": f"{folder}/cache",
    }


# ---- workers -------------------------------------------------------------------------------------------------------
class Remote:
    """A worker's process, started at the first question and again after it died or was stopped."""

    def __init__(self, name, folder, options, processors):
        self.name, self.options, self.processors = name, options, processors
        self.log, self.environment = Path(folder) / f"{name}.log", environment(folder)
        self.process, self.loads = None, True

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PACKAGE), "--worker", self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                start_new_session=True,
                preexec_fn=partial(os.sched_setaffinity, 0, self.processors),
            )
        if not self.options.no_priority:
            favour(self.process.pid)
        self.loads = False  # until it has imported its framework
        self.version = self.read(START_S)["version"]
        self.loads = True

    def read(self, timeout):
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.stop()
            raise RuntimeError(f"no answer in {timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("its process died: " + self.log.read_text(errors="replace")[-400:].strip())
        return json.loads(line)

    def ask(self, **command):
        if self.process is None:
            self.start()
        with contextlib.suppress(OSError):  # it has died: reading says why
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        return self.read(self.options.timeout)

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)  # with the compilers it has started
            self.process.wait()
            self.process = None


# ---- one workload --------------------------------------------------------------------------------------------------
def built(remotes, workload):
    """{remote: its answer} of those that can run the workload, and {remote: error} of those that failed."""
    answers, errors = {}, {}
    for r in remotes:
        if not r.loads:
            continue
        try:
            answer = r.ask(build=workload)
        except RuntimeError as error:
            errors[r] = str(error)
            continue
        if "unsupported" not in answer:
            answers[r] = answer
    return answers, errors


def timed(remotes, options):
    """{remote: {way: seconds per operation, chunk by chunk}}, and {remote: error} of those that failed."""
    ways = ("plain",) if options.no_priority else ("realtime", "fair")
    times, spent, errors = {r: {way: [] for way in ways} for r in remotes}, dict.fromkeys(remotes, 0.0), {}
    for i in range(len(ways) * options.repeats):
        way = ways[i % len(ways)]
        for r in remotes:
            if r in errors or (i >= 6 and spent[r] > options.budget):
                continue
            start = time.perf_counter()
            try:
                times[r][way].append(chunk(r, way, options.chunk))
            except RuntimeError as error:
                errors[r] = str(error)
            spent[r] += time.perf_counter() - start
    return {r: chunks for r, chunks in times.items() if r not in errors}, errors


def chunk(r, way, seconds):
    if way != "realtime":
        return r.ask(chunk=seconds)["t"]
    realtime(r.process.pid, True)
    t = r.ask(chunk=seconds)["t"]
    realtime(r.process.pid, False)
    return t


def figures(chunks):
    """A record's numbers from the chunks of each way: those of the way with the lower median."""
    way = min(chunks, key=lambda w: statistics.median(chunks[w]))
    others = [statistics.median(ts) for w, ts in chunks.items() if w != way]
    ts = chunks[way]
    return {
        "median_s": statistics.median(ts),
        "min_s": min(ts),
        "max_s": max(ts),
        "chunks": len(ts),
        "way": way,
        "other_median_s": others[0] if others else None,
    }


# ---- a run ---------------------------------------------------------------------------------------------------------
def say(text):
    print(text, file=sys.stderr, flush=True)


def run(options):
    """Time the chosen frameworks at the chosen workloads and yield the records as they come."""
    stamp = {"run": datetime.now().astimezone().isoformat(timespec="seconds")}
    about, processors = machine(), cores()
    say(f"{about}, processors {processors}, load {os.getloadavg()[0]:.1f}")
    absent = {name: missing(name) for name in options.frameworks}
    for name, packages in absent.items():
        if packages:
            say(f"{name} is left out: {', '.join(packages)} not installed")
            yield {**stamp, "framework": name, "missing": packages}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        remotes = [Remote(name, folder, options, processors) for name in options.frameworks if not absent[name]]
        try:
            for workload in options.workloads:
                answers, errors = built(remotes, workload)
                chunks, more = timed(list(answers), options)
                for r, error in {**errors, **more}.items():
                    yield {**stamp, "framework": r.name, "workload": workload, "error": error}
                for r, by_way in chunks.items():
                    head = {**stamp, "framework": r.name, "workload": workload, "version": r.version, "machine": about}
                    yield {**head, **figures(by_way), **answers[r]}
                say(f"{datetime.now():%H:%M:%S} {workload} done, load {os.getloadavg()[0]:.1f}")
        finally:
            for r in remotes:
                r.stop()
