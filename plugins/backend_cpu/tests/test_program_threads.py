"""Programs at run time: memory of warm calls, several threads, the GIL, signals."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from calls import storage
from programs import (
    ARENA,
    ARG,
    OUT,
    SANITIZED,
    Perceptron,
    copier,
    data,
    failer,
    live,
    not_sanitized,
    program,
    spinner,
    step,
)

from treadle_backend_cpu import _native as native


@not_sanitized
@pytest.mark.parametrize("arena, work", [(0, 100), (200, 100), (200, 100_000), (5 << 20, 100)])
def test_warm_calls_ask_the_system_for_nothing(arena, work):
    steps = [step(copier(8, work), (ARG, 0, 0), (ARENA, 0, arena - 8) if arena else (OUT, 0, 0))] * 50
    run = program(steps, arena=arena, args=(8,), outs=(8, 100_000), numbers=1)
    x = data(b"12345678")
    run(x, 1.0)
    before = native.memory_stats()
    for _ in range(500):
        run(x, 1.0)
    after = native.memory_stats()
    assert after["misses"] == before["misses"] and after["live"] == before["live"]
    assert after["allocs"] == before["allocs"] + 3 * 500


@not_sanitized
def test_arena_is_returned_after_errors():
    run = program([step(failer(4))], arena=3 << 20, args=(4,))
    native.trim()
    before = native.memory_stats(True)
    for wrong in (data(b"abcd"), data(b"abc"), None):
        with pytest.raises((ValueError, TypeError)):
            run(wrong)
    after = native.memory_stats()
    assert after["misses"] - before["misses"] <= 3 and after["peak"] < before["live"] + (4 << 20)


@pytest.mark.parametrize("rows", [8, 500])
def test_eight_threads_on_one_program(rows):
    net = Perceptron(rows)
    samples = [net.sample(k) for k in range(8)]
    single = [[bytes(m) for m in net.run(storage(x), 1.0 + k)] for k, x in enumerate(samples)]
    wrong, start = [], threading.Barrier(8)

    def call(k):
        x = storage(samples[k])
        start.wait()
        for _ in range(60):
            if [bytes(m) for m in net.run(x, 1.0 + k)] != single[k]:
                wrong.append(k)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)
    net.check(net.run(storage(samples[3]), 4.0), samples[3], 4.0)


def test_long_programs_release_the_gil():
    run = program([step(spinner(20, 1000), (ARENA, 0, 0))] * 21, arena=8)
    assert run.__self__.work == 21_000  # no step alone would
    done = threading.Event()
    caller = threading.Thread(target=lambda: (run(), done.set()))
    caller.start()
    turns = 0
    while not done.wait(0.005):
        turns += 1
    caller.join()
    assert turns > 3


LONG = """
import sys, time
from treadle_backend_cpu import _native as native
millions, work, count = {}
bound = native.bind("probe_tasks", 0, (8,), (1, int(millions * 1e6)), (), b"", work)
run = native.program(((bound, (0, 0, 0)),) * count, 4 << 20, (), (1 << 20,), (), 0)
before = native.memory_stats()["live"]
start = time.monotonic()
print("ready", flush=True)
try:
    run()
except KeyboardInterrupt:
    print("interrupted", native.memory_stats()["live"] == before, flush=True)
    raise
print("ran through", flush=True)
"""


@pytest.mark.parametrize("millions, work, count", [(5, 5_000_000, 20_000), (0.2, 0, 500_000)])
def test_ctrl_c_ends_a_long_program(millions, work, count):
    code = LONG.format((millions, work, count))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert out == "interrupted True\n" and "KeyboardInterrupt" in err
    assert time.monotonic() - sent < (10 if SANITIZED else 3)


@pytest.fixture
def alarms():
    """Return a function that calls a handler after 20 ms, and then every so many seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def start(handler, interval):
        signal.signal(signal.SIGALRM, lambda *_: handler())
        signal.setitimer(signal.ITIMER_REAL, 0.02, interval)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("work", [0, 1_000_000])
def test_handlers_run_between_steps_and_may_call_programs(alarms, work):
    run = program([step(spinner(0.2, work), (OUT, 0, 0))] * 2000, outs=(8,))
    small = program(
        [step(spinner(0, 0), (ARENA, 0, 0)), step(copier(), (ARENA, 0, 0), (OUT, 0, 0))], arena=8, outs=(8,)
    )
    expected, seen = [bytes(*run()), bytes(*small())], []
    alarms(lambda: seen.append((time.monotonic(), bytes(*small()))), 0.02)
    start = time.monotonic()
    made = bytes(*run())
    inside = [what for when, what in seen if when < time.monotonic()]
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert made == expected[0] and set(inside) == {expected[1]}
    assert 3 <= len(inside) <= 2 + (time.monotonic() - start) / 0.05 * 1.2


def test_handler_that_raises_stops_the_program(alarms):
    run = program([step(spinner(0.5, 1_000_000), (ARENA, 0, 0))] * 20_000, arena=1 << 20, outs=(1 << 20,))

    def handler():
        raise LookupError("enough")

    before = live()
    start = time.monotonic()
    for call in (run, run.__self__.timed):
        with pytest.raises(LookupError, match="enough"):
            alarms(handler, 0)
            call()
    assert live() == before and time.monotonic() - start < 5
