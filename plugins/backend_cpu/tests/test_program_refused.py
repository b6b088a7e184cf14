"""What is wrong with a program is refused when it is made, and no call of an accepted one does harm."""

import random

import pytest
from programs import ARENA, ARG, CONSTANT, NONE, NUMBER, OUT, data, probe, program, step

from treadle_backend_cpu import _native as native

PAIR = probe("probe_copy", 2, (8, -1), (8, 8), scalars=b"\xff\x0c")
GOOD = [(ARG, 0, 0), (NUMBER, 0, 0), (ARENA, 0, 56), (NONE, 0, 0)]


def bad(position, slot):
    return [step(PAIR, *GOOD), step(PAIR, *GOOD[:position], slot, *GOOD[position + 1 :])]


@pytest.mark.parametrize(
    "position, slot, text",
    [
        (0, (6, 0, 0), "operand 0 is of an unknown kind, 6"),
        (0, (-1, 0, 0), "operand 0 is of an unknown kind, -1"),
        (0, (2**80, 0, 0), "slot number 0 does not fit in 64 bits"),
        (0, (ARG, 0, 2**80), "slot number 2 does not fit in 64 bits"),
        (0, (ARG, 1, 0), "operand 0 is argument 1 of 1"),
        (0, (ARG, -1, 0), "operand 0 is argument -1 of 1"),
        (0, (ARG, 0, 17), "operand 0 has 0 bytes at offset 17 of 16"),
        (0, (ARG, 0, -1), "operand 0 has 0 bytes at offset -1 of 16"),
        (0, (ARENA, 0, 65), "operand 0 has 0 bytes at offset 65 of 64"),
        (0, (ARENA, 0, -(2**63)), "operand 0 has 0 bytes at offset -9223372036854775808 of 64"),
        (0, (CONSTANT, 1, 0), "operand 0 is constant 1 of 1"),
        (0, (CONSTANT, 0, 13), "operand 0 has 0 bytes at offset 13 of 12"),
        (0, (OUT, 2, 0), "operand 0 is result 2 of 2"),
        (0, (OUT, 1, 5), "operand 0 has 0 bytes at offset 5 of 4"),
        (0, (NUMBER, 0, 0), "operand 0 must be a Storage, not a number"),
        (0, (NONE, 0, 0), "operand 0 cannot be left out"),
        (1, (NUMBER, 1, 0), "operand 1 is number 1 of 1"),
        (1, (NUMBER, 2**62, 0), "operand 1 is number 4611686018427387904 of 1"),
        (2, (ARENA, 0, 57), "operand 2 has 8 bytes at offset 57 of 64"),
        (2, (ARENA, 0, 2**63 - 1), "operand 2 has 8 bytes at offset 9223372036854775807 of 64"),
        (2, (ARG, 0, 9), "operand 2 has 8 bytes at offset 9 of 16"),
        (2, (OUT, 1, 0), "operand 2 has 8 bytes at offset 0 of 4"),
        (2, (OUT, -1, 0), "operand 2 is result -1 of 2"),
        (2, (CONSTANT, 0, 0), "result 2 is a constant"),
        (2, (NUMBER, 0, 0), "result 2 is a number"),
        (2, (NONE, 0, 0), "operand 2 cannot be left out"),
        (3, (ARENA, 0, 0), "operand 3 was bound as unwanted"),
    ],
)
def test_bad_places_are_refused_with_the_step_and_its_kernel(position, slot, text):
    constants = (data(b"constant 12b"),)
    with pytest.raises(ValueError, match=rf"^program: step 1 \(probe_copy\): {text}$"):
        program(bad(position, slot), 64, (16,), (16, 4), constants, 1)


@pytest.mark.parametrize(
    "wrong, error, text",
    [
        (PAIR, TypeError, r"step 1: must be a tuple \(bound kernel, slots\)"),
        ((PAIR,), TypeError, r"step 1: must be a tuple \(bound kernel, slots\)"),
        ((None, ()), TypeError, "step 1: is not of a bound kernel"),
        ((len, ()), TypeError, "step 1: is not of a bound kernel"),
        ((PAIR.__self__, ()), TypeError, "step 1: is not of a bound kernel"),
        ((native.program((), 0, (), (), (), 0), ()), TypeError, "step 1: is not of a bound kernel"),
        ((PAIR, [0] * 12), TypeError, r"step 1 \(probe_copy\): slots must be a tuple"),
        ((PAIR, (0,) * 11), ValueError, r"step 1 \(probe_copy\): 11 slot numbers for 4 operands, not three each"),
        ((PAIR, ()), ValueError, r"step 1 \(probe_copy\): 0 slot numbers for 4 operands, not three each"),
        ((PAIR, (0.0,) * 12), TypeError, r"step 1 \(probe_copy\): slot number 0 is not an integer"),
        ((PAIR, (0,) * 11 + (None,)), TypeError, r"step 1 \(probe_copy\): slot number 11 is not an integer"),
    ],
)
def test_bad_steps_are_refused(wrong, error, text):
    good = step(PAIR, (ARENA, 0, 0), (ARENA, 0, 0), (ARENA, 0, 0), (NONE, 0, 0))
    with pytest.raises(error, match=f"^program: {text}$"):
        program([good, wrong], arena=64)


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        (([], 0, (), (), (), 0), TypeError, "tuple"),
        (((), None, (), (), (), 0), TypeError, "int"),
        (((), -1, (), (), (), 0), ValueError, "arena of -1 bytes"),
        (((), 2**63, (), (), (), 0), OverflowError, "int"),
        (((), 0, [8], (), (), 0), TypeError, "tuple"),
        (((), 0, (8, -1), (), (), 0), ValueError, "argument 1 has -1 bytes"),
        (((), 0, (2**63,), (), (), 0), OverflowError, "int"),
        (((), 0, ("8",), (), (), 0), TypeError, "int"),
        (((), 0, (), (-8,), (), 0), ValueError, "result 0 has -8 bytes"),
        (((), 0, (), (8.0,), (), 0), TypeError, "int"),
        (((), 0, (), (), (b"12345678",), 0), TypeError, "constant 0 is not a Storage"),
        (((), 0, (), (), (), -1), ValueError, "-1 numbers"),
        (((), 0, (), (), (), 2**40), ValueError, "more than"),
        (((), 0, (), (), (), 1.0), TypeError, "int"),
        (((), 0, (1,) * 2_000_000, (), (), 0), ValueError, "more than"),
        (((), 0), TypeError, "argument"),
        (((), 64, (), (), (), 0, (0,)), ValueError, "1 numbers for the rooms of 0 steps"),
        (((), 64, (), (), (), 0, [0]), TypeError, "tuple"),
    ],
)
def test_bad_programs_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        native.program(*arguments)


@pytest.mark.parametrize("room", [(1, 8), (-64, 8), (0, 65), (64, 1), (0, -1), (128, 0), (2**62, 2**62), (0, 2**64)])
def test_rooms_outside_of_the_arena_are_refused(room):
    with pytest.raises((ValueError, OverflowError), match="room|int"):
        native.program((step(PAIR, *GOOD),), 64, (16,), (16, 4), (), 1, room)


def garbage(rnd):
    """Describe a program whose parts are mostly right; its kernels read nothing and write 8 bytes."""
    edges = (2**70, 2**63 - 1, 2**62, 2**32, 65, 64, 57, 56, 9, 8, 7, 2, 1, 0)
    odd = (*edges, *(-n for n in edges), None, "x", b"", 1.5, True, (), [1], native.alloc(8))
    kernels = [
        native.bind("probe_tasks", 2, out, (1, 3), (), b"\xff\x04", w) for out in ((8,), (8, -1)) for w in (0, 10**6)
    ]
    places = [
        (ARENA, 0, 0),
        (ARENA, 0, 56),
        (ARG, 0, 0),
        (ARG, 1, 8),
        (CONSTANT, 0, 8),
        (NUMBER, 1, 0),
        (OUT, 0, 16),
        (NONE, 0, 0),
    ]

    def slots(bound):
        firsts = [rnd.choice(places[:-1]) for _ in range(2)] + [rnd.choice(places[:4] + places[6:7])]
        firsts += [places[-1]] * (bound.__self__.n_out - 1)
        flat = [n for place in firsts for n in place]
        if rnd.random() < 0.3:
            at, value = rnd.randrange(len(flat)), rnd.choice(odd)
            flat[at] = value * 8 if at % 3 == 2 and isinstance(value, int) else value  # offsets are aligned
        if rnd.random() < 0.05:
            flat.pop()
        return tuple(flat)

    steps = []
    for _ in range(rnd.randrange(6)):
        bound = rnd.choice(kernels)
        steps.append(
            (bound, slots(bound)) if rnd.random() < 0.97 else rnd.choice((*odd, (bound, 3), (None, ()), bound))
        )
    whole = [tuple(steps), 64, (8, 16), (24,), (native.alloc(8),), 2]
    if rnd.random() < 0.2:
        whole[rnd.randrange(6)] = rnd.choice((*odd, (8,), (-1, 8), (2**40,), (None,)))
    return whole


def test_garbage_is_refused_or_runs():
    rnd, made, ran = random.Random(0), 0, 0
    refused = (TypeError, ValueError, OverflowError, MemoryError)
    for _ in range(3000):
        try:
            run = native.program(*garbage(rnd))
        except refused:
            continue
        made += 1
        pieces = (native.alloc(8), native.alloc(16), native.alloc(7), 3, 2.5, 2**70, None, "x")
        given = [native.alloc(8), native.alloc(16), 1, 2.5]
        if rnd.random() < 0.3:
            given[rnd.randrange(4)] = rnd.choice(pieces)
        if rnd.random() < 0.1:
            given.pop()
        try:
            (run.__self__.timed if rnd.random() < 0.2 else run)(*given)
        except refused:
            continue
        ran += 1
    assert made > 300 and ran > 200
