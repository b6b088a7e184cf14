"""What branches and bodies may not do, and what the errors say."""

import pytest

import treadle as td
from treadle import nn

DEVICES = [pytest.param("cpu"), pytest.param("reference")]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    with td.device(request.param):
        yield request.param


def fails(error, match, f, *args):
    with pytest.raises(error, match=match):
        td.compile(f)(*args)
    assert (td.ones(2) + 1).tolist() == [2, 2]


def test_branches_that_disagree():
    error, x = td.errors.ArgumentError, td.ones(2)
    where = r"test_control_errors\.py:\d+"
    fails(
        error,
        rf"{where}.*gives float32\[2\].*gives float32\[\]",
        lambda x: td.cond(x[0] > 0, lambda: x, lambda: x[0]),
        x,
    )
    fails(
        error, r"gives \(float32\[2\],\).*gives float32\[2\]", lambda x: td.cond(x[0] > 0, lambda: (x,), lambda: x), x
    )
    fails(error, r"float32\[2\].*int32\[2\]", lambda x: td.cond(x[0] > 0, lambda: x, lambda: x.to(td.int32)), x)
    fails(error, r"gives 1, .*gives 2", lambda x: td.cond(x[0] > 0, lambda: 1, lambda: 2), x)
    fails(error, "one element decides", lambda x: td.cond(x > 0, lambda: x, lambda: x), x)


def test_carries_that_change():
    x = td.ones(2)
    error = td.errors.ArgumentError
    loops = [
        (
            lambda x: td.scan(lambda c, x: (td.stack([c, x]), None), x[0], x),
            r"goes in as float32\[\].*out as float32\[2\]",
        ),
        (lambda x: td.scan(lambda c, x: ((c, c), None), x[0], x), r"comes out as \(float32\[\], float32\[\]\)"),
        (lambda x: td.scan(lambda c, x: (c + 1, None), 0, x), "goes in as 0 and comes out as 1"),
        (lambda x: td.while_loop(lambda c: c.sum() < 9, lambda c: c.to(td.float64), x), r"float64\[2\]"),
    ]
    for f, text in loops:
        for run in (f, td.compile(f)):
            with pytest.raises(error, match=rf"test_control_errors\.py:\d+.*{text}"):
                run(x)


def test_arguments_that_do_not_fit():
    x = td.ones(2)
    for wrap in (lambda f: f, td.compile):
        for f, text in [
            (lambda x: td.scan(lambda c, _: (c, c), x), "length is needed"),
            (lambda x: td.scan(lambda c, _: (c, c), x, x, length=3), "differ in how long"),
            (lambda x: td.scan(lambda c, _: (c, c), x, x[0]), "one dimension or more"),
            (lambda x: td.scan(lambda c, _: c, x, x), r"must return \(carry, y\)"),
            (lambda x: td.scan(lambda c, x: (c, 3), x, x), "what is stacked must be tensors, not 3"),
            (lambda x: td.while_loop(lambda c: c > 0, lambda c: c, x), "one element|ambiguous"),
            (lambda x: td.while_loop(lambda c: True, lambda c: c, x, max_steps=-1), "negative"),
        ]:
            with pytest.raises(td.errors.ArgumentError, match=text):
                wrap(f)(x)
    fails(td.errors.ArgumentError, "no tensor", lambda x: td.while_loop(lambda c: True, lambda c: c, 1), x)


def test_writes_from_inside_are_refused():
    w, opt = td.ones(2, requires_grad=True), td.optim.SGD([td.ones(2, requires_grad=True)], lr=0.1)
    norm = nn.BatchNorm1d(2)
    error, x = td.errors.TraceError, td.ones(3, 2)

    def body(g):
        return lambda x: td.scan(lambda c, v: (c + v + 0 * g(c, v), None), x[0], x)[0]

    def stepped(c, v):
        opt.param_groups[0]["params"][0].grad = td.ones(2)
        opt.step()
        return c

    fails(
        error,
        r"the body of td\.scan writes in place.*test_control_errors\.py:\d+",
        body(lambda c, v: w.detach().add_(v)),
        x,
    )
    fails(error, "writes in place", body(lambda c, v: c.mul_(2)), x)
    fails(error, "writes in place", body(lambda c, v: v[0:1].mul_(2).sum()), x)
    fails(error, "writes in place", lambda x: td.cond(x.sum() > 0, lambda v: norm(v), lambda v: v, x), x)
    fails(error, r"writes in place|\.grad", body(stepped), x)
    fails(error, r"\.grad of a tensor from outside", body(lambda c, v: (w * v).sum().backward() or v), x)
    assert w.grad is None and w.tolist() == [1, 1]
    assert td.compile(body(lambda c, v: (c * 1).mul_(2)))(x).tolist() == [4, 4]


def test_random_numbers_in_a_loop_are_refused():
    fails(
        td.errors.TraceError,
        "pass them as xs",
        lambda x: td.scan(lambda c, v: (c + td.rand(()), None), x[0], x),
        td.ones(3),
    )
    fails(
        td.errors.TraceError,
        "draws random",
        lambda x: td.while_loop(lambda c: c < 3, lambda c: c + td.rand(()), x),
        td.zeros(()),
    )


def test_what_escapes_from_a_body_is_caught():
    kept = []

    def f(x):
        td.scan(lambda c, v: (c + v, kept.append(v * 2)), x[0], x)
        return kept[0] + 1

    fails(td.errors.TraceError, r"test_control_errors\.py:\d+", f, td.ones(3))


def test_reading_a_value_names_the_way_out():
    fails(
        td.errors.TraceError, r"td\.cond, td\.scan and td\.while_loop", lambda x: x if x.sum() > 0 else -x, td.ones(2)
    )
    fails(
        td.errors.TraceError,
        r"test_control_errors\.py",
        lambda x: td.scan(lambda c, v: (c if c > v else v, None), x[0], x),
        td.ones(2),
    )
