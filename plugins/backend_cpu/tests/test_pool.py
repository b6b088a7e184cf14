"""The thread pool: the same results for any number of threads, from any thread, after a fork."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from treadle_backend_cpu import _native as native
from treadle_backend_cpu.threads import num_threads

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent / "src" / "treadle_backend_cpu" / "csrc"
WITHOUT = {"TREADLE_NUM_THREADS": "", "OMP_NUM_THREADS": ""}


def tasks(n, steps=200):
    """Bind a kernel whose task t computes a number from t; return it and its right result."""
    run = native.bind("probe_tasks", 0, (8 * n,), (n, steps), (), b"", 1_000_000)
    x = np.arange(n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(steps):
            x = x * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return run, (x >> np.uint64(1)).astype(np.int64) + 3


def result(run):
    return np.frombuffer(run(), np.int64)


@pytest.fixture(autouse=True)
def keep_thread_count():
    with num_threads(native.get_num_threads()):
        yield


@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2, 4, 7])
def test_every_task_runs_once_on_any_number_of_threads(threads, n):
    run, expected = tasks(n)
    native.set_num_threads(threads)
    assert native.get_num_threads() == threads
    for _ in range(20):
        assert np.array_equal(result(run), expected)


def test_thread_count_may_change_between_calls():
    run, expected = tasks(50)
    for threads in [4, 1, 3, 2, 8, 1, 4] * 5:
        native.set_num_threads(threads)
        assert np.array_equal(result(run), expected)


@pytest.mark.parametrize("wrong, error", [(0, ValueError), (-1, ValueError), (513, ValueError), ("2", TypeError)])
def test_thread_count_is_checked(wrong, error):
    before = native.get_num_threads()
    with pytest.raises(error):
        native.set_num_threads(wrong)
    assert native.get_num_threads() == before


def test_context_manager_restores_the_count():
    before = native.get_num_threads()
    with num_threads(3):
        assert native.get_num_threads() == 3
    assert native.get_num_threads() == before


def test_concurrent_callers():
    native.set_num_threads(3)
    run, expected = tasks(40, 2000)
    wrong = []

    def call():
        for _ in range(50):
            if not np.array_equal(result(run), expected):
                wrong.append(threading.get_ident())

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert not wrong and not any(caller.is_alive() for caller in callers)


def test_long_kernels_release_the_gil():
    run = native.bind("probe_tasks", 0, (8,), (1, 200_000_000), (), b"", 1_000_000)
    done = threading.Event()

    def call():
        run()
        done.set()

    caller = threading.Thread(target=call)
    caller.start()
    turns = 0
    while not done.wait(0.005):
        turns += 1
    caller.join()
    assert turns > 3


@pytest.mark.skipif(
    "libtsan" in os.environ.get("LD_PRELOAD", ""),
    reason="no threads after a fork in that sanitizer",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks beside threads
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_computes(busy):
    native.set_num_threads(3)
    run, expected = tasks(40, 2000)
    result(run)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            result(run)

    other = threading.Thread(target=keep_busy)
    if busy:
        other.start()
    try:
        for _ in range(10):
            child = os.fork()
            if not child:
                ok = all(np.array_equal(result(run), expected) for _ in range(5)) and native.get_num_threads() == 3
                big = native.alloc(5 << 20)
                os._exit(0 if ok and big.nbytes else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        if busy:
            other.join()
    assert np.array_equal(result(run), expected)


def default_threads(**environment):
    code = "from treadle_backend_cpu import _native as n; print(n.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **WITHOUT, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_default_thread_count_obeys_the_environment():
    assert default_threads(TREADLE_NUM_THREADS="5", OMP_NUM_THREADS="3") == 5
    assert default_threads(OMP_NUM_THREADS="3,2") == 3
    assert default_threads(TREADLE_NUM_THREADS="many") == default_threads()
    assert default_threads(TREADLE_NUM_THREADS="100000") == 512


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_default_thread_count_obeys_affinity():
    allowed = os.sched_getaffinity(0)
    assert 1 <= default_threads() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(
    not shutil.which("gcc") or "LD_PRELOAD" in os.environ,
    reason="needs a compiler, no sanitizer around it",
)
@pytest.mark.parametrize("sanitizer", ["", "thread"])
def test_pool_alone_under_stress(sanitizer, tmp_path):
    flags = ["-fsanitize=thread", "-g"] if sanitizer else ["-O2"]
    sources = [
        HERE / "sanitize" / "pool_stress.c",
        *(CSRC / f for f in ("pool.c", "topology.c", "fail.c", "memory.c")),
    ]
    program = tmp_path / "stress"
    subprocess.run(["gcc", *flags, "-pthread", "-I", CSRC, *sources, "-o", program], check=True)
    rounds = ["100", "nofork"] if sanitizer else ["300"]
    done = subprocess.run([program, *rounds], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("ok fork-join"), done.stdout + done.stderr
