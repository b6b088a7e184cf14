"""Run a Python program on a sanitized build of the kernels.

    python tests/sanitize/run.py address -m pytest tests/test_native.py
    python tests/sanitize/run.py address tests/sanitize/fuzz.py      (every kernel, random operands)
    python tests/sanitize/run.py thread tests/sanitize/callers.py    (several Python threads)
    python tests/sanitize/run.py thread --pool          (the thread pool alone, without Python)

address includes undefined behaviour. The build lies in build/sanitize/<kind>, is incremental, and
obeys the variables of setup.py (TREADLE_ONLY, TREADLE_LEVELS). With address every allocation has
its exact size and nothing is cached, so that an overrun by one byte is seen. The exit status is
that of the program; a finding makes it fail."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLUGIN = HERE.parents[1]
CSRC = PLUGIN / "src" / "treadle_backend_cpu" / "csrc"
LIBRARIES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}
OPTIONS = {
    # CPython keeps memory until the end and asks for absurd sizes in tests: neither is a finding.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": "exitcode=99:report_thread_leaks=0",
}


def build(kind):
    """Build the extension with the sanitizer; return the folder that makes it importable."""
    folder = PLUGIN / "build" / "sanitize" / kind
    environment = dict(os.environ, TREADLE_SANITIZE=kind)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    subprocess.run(command, cwd=PLUGIN, env=environment, check=True)
    return folder


def library(name):
    """Return the path of a run-time library of the compiler."""
    command = [os.environ.get("CC", "gcc"), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_pool(kind):
    """Build and run the stress test of the thread pool; return its exit status."""
    program = PLUGIN / "build" / "sanitize" / f"pool_stress_{kind}"
    program.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-O1", "-g", "-pthread", f"-fsanitize={kind}", "-I", str(CSRC)]
    sources = [
        str(HERE / "pool_stress.c"),
        *(str(CSRC / name) for name in ("pool.c", "topology.c", "fail.c", "memory.c")),
    ]
    subprocess.run([os.environ.get("CC", "gcc"), *flags, *sources, "-o", str(program)], check=True)
    return subprocess.run([str(program), "300", "nofork"], env={**os.environ, **OPTIONS}).returncode


def main(kind, *program):
    """Build, then run the program with the sanitizer loaded first; return its exit status."""
    if program == ("--pool",):
        return run_pool(kind)
    folder = build(kind)
    preload = ":".join(library(name) for name in LIBRARIES[kind])
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": preload,
        "PYTHONPATH": path,
        "PYTHONMALLOC": "malloc",
    }
    return subprocess.run([sys.executable, *program], env=environment).returncode


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in LIBRARIES:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
