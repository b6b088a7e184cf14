"""Programs: values, places, numbers, errors of kernels, what a program tells of itself."""

import gc
import time
from itertools import pairwise

import numpy as np
import pytest
from calls import array, normal, spec, storage
from programs import (
    ARENA,
    ARG,
    CONSTANT,
    NONE,
    NUMBER,
    OUT,
    Perceptron,
    copier,
    data,
    failer,
    filler,
    kernel,
    live,
    not_sanitized,
    probe,
    program,
    spinner,
    step,
    values,
)

from treadle_backend_cpu import _native as native

ERRORS = {1: IndexError, 2: ZeroDivisionError, 3: MemoryError, 4: ValueError, 5: SystemError, -1: SystemError}

# ---- real kernels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 24, 3000])
def test_a_perceptron(rows):
    net = Perceptron(rows)
    for seed, scale in enumerate([1.0, 2, -0.5]):
        x = net.sample(seed)
        net.check(net.run(storage(x), scale), x, scale)


def test_gather_computes_or_names_the_step_of_a_bad_index():
    table, found = normal((7, 4), "float32"), np.array([[3], [-1], [6]])
    out = spec((3, 4), "float32")
    gather = kernel("gather_nd", ((7, 4), "float32"), ((3, 1), "int64"))
    double = kernel("add", ((3, 4), "float32"), ((3, 4), "float32"))
    run = program(
        [
            step(gather, (CONSTANT, 0, 0), (ARG, 0, 0), (ARENA, 0, 0)),
            step(double, (ARENA, 0, 0), (ARENA, 0, 0), (OUT, 0, 0)),
            step(gather, (CONSTANT, 0, 0), (ARG, 1, 0), (ARENA, 0, 0)),
        ],
        arena=48,
        args=(24, 24),
        outs=(48,),
        constants=(storage(table),),
    )
    assert np.array_equal(array(*run(storage(found), storage(found)), out), 2 * table[found[:, 0]])
    before = live()
    bad = np.array([[3], [7], [6]])
    with pytest.raises(IndexError, match=r"^step 2 \(gather_nd\): .*7"):
        run(storage(found), storage(bad))
    with pytest.raises(IndexError, match=r"^step 0 \(gather_nd\): .*7"):
        run(storage(bad), storage(found))
    assert live() == before


def test_integer_division_by_zero():
    run = program(
        [step(kernel("div", ((3,), "int32"), int), (ARG, 0, 0), (NUMBER, 0, 0), (OUT, 0, 0))],
        args=(12,),
        outs=(12,),
        numbers=1,
    )
    x = np.array([7, -7, 6], np.int32)
    assert values(*run(storage(x), 2), "int32", 3).tolist() == [3, -3, 3]
    with pytest.raises(ZeroDivisionError, match=r"^step 0 \(div_i32\): "):
        run(storage(x), 0)


def test_state_is_updated_in_place():
    many = ((1000,), "float32")
    run = program(
        [
            step(kernel("mul", many, float), (ARG, 1, 0), (NUMBER, 0, 0), (ARENA, 0, 0)),
            step(kernel("sub", many, many), (ARG, 0, 0), (ARENA, 0, 0), (ARG, 0, 0)),
        ],
        arena=4000,
        args=(4000, 4000),
        numbers=1,
    )
    weights, gradient = normal((1000,), "float32", 1), normal((1000,), "float32", 2)
    state, expected = storage(weights.copy()), weights.copy()
    for k in range(5):
        assert run(state, storage(gradient), 0.1 * k) == ()
        expected = expected - gradient * np.float32(0.1 * k)
    assert values(state, "float32", 1000).tobytes() == expected.tobytes()


# ---- places ----------------------------------------------------------------------------------------------------------


def test_offsets_of_every_kind():
    four = copier(4)
    run = program(
        [
            step(four, (ARG, 0, 4), (ARENA, 0, 100)),
            step(four, (CONSTANT, 0, 2), (ARENA, 0, 104)),
            step(copier(8), (ARENA, 0, 100), (OUT, 0, 8)),
            step(four, (OUT, 0, 12), (OUT, 0, 4)),
            step(four, (ARG, 1, 0), (OUT, 0, 0)),
            step(four, (OUT, 0, 0), (ARG, 1, 3)),
        ],
        arena=108,
        args=(8, 7),
        outs=(16,),
        constants=(data(b"__cons_"),),
    )
    given = data(b"....abcdefgh3210...")
    made = run(given.view(4), given.view(12))
    assert [bytes(m) for m in made] == [b"3210consefghcons"]
    assert bytes(given) == b"....abcdefgh3213210"


def test_arguments_of_a_call_must_be_large_enough():
    run = program([step(copier(8), (ARG, 1, 4), (OUT, 0, 0))], args=(0, 12), outs=(8,))
    x = data(b"0123456789ab")
    assert bytes(*run(x.view(12), x)) == b"456789ab"
    with pytest.raises(ValueError, match=r"^program: argument 1 needs 12 bytes, its storage has 11$"):
        run(x, x.view(1))


@pytest.mark.parametrize("wrong", [None, "s", b"bytes", 1, 1.5, np.zeros(4), [1], object(), native.Storage])
def test_arguments_of_wrong_types(wrong):
    run = program([step(copier(), (ARG, 1, 0), (ARG, 0, 0))], args=(8, 8), numbers=2)
    x, y = data(b"12345678"), data(b"........")
    for position in range(2):
        given = [y, x, 1.0, 2]
        given[position] = wrong
        with pytest.raises(TypeError, match=f"program: argument {position} must be a Storage, not "):
            run(*given)
    for position in range(2, 4):
        given = [y, x, 1.0, 2]
        given[position] = "2" if isinstance(wrong, int | float) else wrong
        with pytest.raises(TypeError, match=f"program: argument {position} must be a number, not "):
            run(*given)
    assert bytes(y) == b"........"


@pytest.mark.parametrize("n", [0, 1, 2, 4, 50])
def test_arguments_of_wrong_number(n):
    run = program([step(copier(), (ARG, 0, 0), (OUT, 0, 0))], args=(8,), outs=(8,), numbers=2)
    with pytest.raises(TypeError, match=f"^program: takes 1 storages and 2 numbers; got {n} arguments$"):
        run(*[data(b"12345678")] * n)
    with pytest.raises(TypeError):
        run(x=data(b"12345678"))


def test_results_are_always_a_tuple_of_new_storages():
    x = data(b"12345678")
    fill = step(copier(), (ARG, 0, 0), (OUT, 0, 0))
    assert program([])() == ()
    assert program([fill], args=(8,), outs=(8,))(x)[0] is not program([fill], args=(8,), outs=(8,))(x)[0]
    sizes = (8, 0, 20_000, 3 << 20)
    made = program([fill], args=(8,), outs=sizes)(x)
    assert type(made) is tuple and tuple(m.nbytes for m in made) == sizes and bytes(made[0]) == bytes(x)


def test_unwanted_results_have_no_place():
    both = probe("probe_copy", 2, (-1, 8), (8, 8))
    run = program([step(both, (ARG, 0, 0), (ARG, 0, 8), (NONE, 0, 0), (OUT, 0, 0))], args=(16,), outs=(8,))
    assert bytes(*run(data(b"12345678abcdefgh"))) == b"abcdefgh"


@pytest.mark.parametrize("n", [0, 1, 25, 300, 3000])
def test_any_number_of_operands_and_arguments(n):
    many = probe("probe_copy", n, (2,) * n, (2,) * n)
    slots = [(ARG, k, 0) for k in range(n)] + [(OUT, n - 1 - k, 1) for k in range(n)]
    run = program([step(many, *slots)], args=(2,) * n, outs=(3,) * n)
    made = run(*[data(bytes([k % 251]) * 2) for k in range(n)])
    assert [bytes(m)[1:] for m in made] == [bytes([k % 251]) * 2 for k in reversed(range(n))]


def test_thousands_of_steps():
    ring = [(ARENA, 0, 64 * (k % 5)) for k in range(5000)]
    steps = [step(copier(), (ARG, 0, 0), ring[0])]
    steps += [step(copier(), a, b) for a, b in pairwise(ring)]
    run = program([*steps, step(copier(), ring[-1], (OUT, 0, 0))], arena=5 * 64, args=(8,), outs=(8,))
    assert run.__self__.steps == 5001 and bytes(*run(data(b"onwards!"))) == b"onwards!"


def test_program_holds_what_it_needs():
    def make():
        constant = np.arange(4000, dtype=np.uint8)
        return program(
            [step(copier(4000), (CONSTANT, 0, 0), (OUT, 0, 0))], outs=(4000,), constants=(storage(constant),)
        )

    run = make()
    gc.collect()
    others = [native.alloc(4000) for _ in range(20)]
    assert np.array_equal(np.frombuffer(*run(), np.uint8), np.arange(4000, dtype=np.uint8)) and len(others) == 20


@not_sanitized
def test_program_releases_what_it_held():
    before = live()
    for _ in range(3):
        step_ = step(copier(), (CONSTANT, 0, 0), (OUT, 0, 0))
        program([step_] * 10, outs=(8,), constants=(native.alloc(1 << 20),))()
        with pytest.raises(ValueError):
            program([step_, step(copier(), (ARG, 0, 0), (OUT, 0, 0))], outs=(8,), constants=(native.alloc(1 << 20),))
    assert live() == before


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_one_number_in_several_dtypes():
    kinds = {1: "int8", 4: "int64", 9: "float16", 11: "float32", 12: "float64", 0: "bool"}
    steps, outs = [], []
    for code, name in kinds.items():
        for number in (1, 0):
            steps.append(step(filler(code, np.dtype(name).itemsize, 3), (NUMBER, number, 0), (OUT, len(outs), 0)))
            outs.append(3 * np.dtype(name).itemsize)
    run = program(steps, outs=tuple(outs), numbers=2)
    for a, b in [(3, 2.75), (-1.5, 300), (True, 1e3), (np.float64(0.1), 0)]:
        made = iter(run(a, b))
        for name in kinds.values():
            for value in (b, a):
                got = values(next(made), name, 3)
                if name == "int8" and abs(value) > 127:
                    expected = value % 256 if isinstance(value, int) else 127
                    expected -= 256 * (expected > 127)
                else:
                    expected = np.array(value).astype(name)
                assert got.tolist() == [expected] * 3, (name, value)


def test_numbers_that_do_not_fit():
    run = program([step(filler(4, 8), (NUMBER, 0, 0), (OUT, 0, 0))], outs=(8,), numbers=2)
    assert values(*run(2**63 - 1, 2**80), "int64", 1)[0] == 2**63 - 1
    before = live()
    with pytest.raises(OverflowError):
        run(2**63, 0)
    assert live() == before


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("work", [100, 1_000_000])
@pytest.mark.parametrize("at", [0, 2])
def test_errors_of_kernels(at, work, code):
    steps = [step(copier(8, work), (ARG, 0, 0), (OUT, 0, 0)) for _ in range(3)]
    steps.insert(at, step(failer(code, work)))
    run = program(steps, arena=1000, args=(8,), outs=(8, 100_000))
    x, before = data(b"12345678"), live()
    for call in (run, run.__self__.timed):
        with pytest.raises(ERRORS[code], match=rf"^step {at} \(probe_fail\): "):
            call(x)
    assert live() == before


def test_message_of_a_task_is_kept():
    with pytest.raises(IndexError, match=r"^step 1 \(probe_fail\): task 0 of 0 failed$"):
        program([step(spinner(0, 10), (ARENA, 0, 0)), step(failer(1, tasks=50))], arena=8)()


def test_steps_before_a_failure_have_run_and_those_after_it_have_not():
    steps = [step(copier(), (ARG, 0, 0), (ARG, 1, 0)), step(failer(1)), step(copier(), (ARG, 0, 0), (ARG, 2, 0))]
    run = program(steps, args=(8, 8, 8))
    x, y, z = data(b"12345678"), data(b"........"), data(b"........")
    with pytest.raises(IndexError):
        run(x, y, z)
    assert (bytes(y), bytes(z)) == (b"12345678", b"........")


@pytest.mark.parametrize("arena, outs", [(1 << 50, ()), (2**63 - 1, ()), (64, (1 << 20, 1 << 50)), (64, (2**63 - 1,))])
def test_memory_that_cannot_be_had(arena, outs):
    run = program([], arena=arena, outs=outs)
    before = live()
    for _ in range(3):
        with pytest.raises(MemoryError, match="cannot allocate"):
            run()
    assert live() == before


# ---- the object ------------------------------------------------------------------------------------------------------


def test_program_describes_itself():
    run = program([step(copier(work=7), (ARG, 0, 0), (ARENA, 0, 0))] * 3, arena=640, args=(8,))
    about = run.__self__
    assert (about.steps, about.arena_bytes, about.work) == (3, 640, 21) and type(about) is native.Program
    for name in ("steps", "arena_bytes", "work"):
        with pytest.raises(AttributeError):
            setattr(about, name, 1)
    with pytest.raises(TypeError):
        native.Program()


def test_absurd_estimates_of_work():
    steps = [step(copier(work=w), (ARENA, 0, 0), (ARENA, 0, 8)) for w in (-(2**63), 2**63 - 1, -5, 0)]
    run = program(steps, arena=16)
    assert 10**15 < run.__self__.work < 2**63 and run() == ()
    assert program(steps[::2], arena=16).__self__.work == 0


def test_timed_returns_results_and_nanoseconds_of_each_step():
    steps = [
        step(copier(), (ARG, 0, 0), (OUT, 0, 0)),
        step(spinner(5, 10_000_000), (OUT, 1, 0)),
        step(copier(), (OUT, 0, 0), (ARENA, 0, 0)),
    ]
    run = program(steps, arena=8, args=(8,), outs=(8, 8), numbers=1)
    x, start = data(b"12345678"), time.monotonic()
    (copy, spun), times = run.__self__.timed(x, 1)
    elapsed = (time.monotonic() - start) * 1e9
    assert bytes(copy) == bytes(x) and bytes(spun) == bytes(run(x, 1)[1])
    assert len(times) == 3 and all(type(t) is int and t >= 0 for t in times)
    assert times[1] > 10 * (times[0] + times[2]) and sum(times) <= elapsed
    with pytest.raises(TypeError, match="takes 1 storages and 1 numbers; got 0"):
        run.__self__.timed()
    assert program([]).__self__.timed() == ((), ())


# ---- working memory --------------------------------------------------------------------------------------------------


def taken(run, *args):
    """How many blocks of the allocator a call takes."""
    run(*args)
    before = native.memory_stats()["allocs"]
    run(*args)
    return native.memory_stats()["allocs"] - before


@not_sanitized
def test_working_memory_lies_in_the_unused_part_of_the_arena():
    steps = (step(probe("probe_scratch", 0, (), (1 << 20,))),) * 2
    size = 4 << 20
    assert taken(native.program(steps, size, (), (), (), 0)) == 3
    assert taken(native.program(steps, size, (), (), (), 0, (0, size, 64, size - 64))) == 1
    assert taken(native.program(steps, size, (), (), (), 0, (0, size, 0, 1 << 20))) == 2, "a header does not fit"
    assert taken(native.program(steps, size, (), (), (), 0, (0, 0, size, 0))) == 3


@not_sanitized
def test_a_room_ends_with_its_step():
    """A kernel outside of the program takes a block of its own again, also after one that failed."""
    scratch = probe("probe_scratch", 0, (), (1 << 20,))
    native.program((step(scratch),), 4 << 20, (), (), (), 0, (0, 4 << 20))()
    with pytest.raises(ValueError):
        native.program((step(scratch), step(failer(4))), 4 << 20, (), (), (), 0, (0, 4 << 20, 0, 4 << 20))()
    assert taken(scratch) == 1


@pytest.mark.parametrize("k", [256, 2000])
def test_threads_share_a_room(k):
    """A product whose tasks pack their operands in working memory gives the same bits there."""
    run = kernel("matmul", ((192, k), "float32"), ((k, 320), "float32"))
    a, b = storage(normal((192, k), "float32")), storage(normal((k, 320), "float32"))
    places, size = ((ARG, 0, 0), (ARG, 1, 0), (OUT, 0, 0)), 16 << 20
    want = native.program((step(run, *places),), size, (192 * k * 4, k * 1280), (192 * 1280,), (), 0)(a, b)[0]
    for room in (size, 1 << 19, 1 << 16):
        made = native.program((step(run, *places),), size, (192 * k * 4, k * 1280), (192 * 1280,), (), 0, (0, room))
        for _ in range(5):
            assert bytes(memoryview(made(a, b)[0])) == bytes(memoryview(want))
