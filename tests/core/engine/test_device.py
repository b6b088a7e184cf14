"""Devices: names, contexts, defaults, moving; what runs where, and what happens without a kernel."""

import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import treadle as td
from treadle.errors import ArgumentError, DeviceError, UnsupportedError
from treadle.runtime import device as device_module
from treadle.runtime import dispatch, plugins
from treadle.runtime.backend import Backend, kernel

HERE = str(td.get_default_device())


class Bare(Backend):
    """The smallest backend: six methods, and kernels for two ops of one dtype.

    A storage is (bytes, where it points).
    """

    def alloc(self, nbytes):
        return bytearray(nbytes), 0

    def h2d(self, storage, data):
        raw, at = storage
        raw[at : at + len(data)] = data

    def d2h(self, storage, nbytes):
        raw, at = storage
        return raw[at : at + nbytes]

    def view(self, storage, nbytes):
        return storage[0], storage[1] + nbytes

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        for index in np.ndindex(shape):
            to, source = (
                s[1] + sum(i * n for i, n in zip(index, strides)) * itemsize
                for s, strides in ((dst, dst_strides), (src, src_strides))
            )
            dst[0][to : to + itemsize] = src[0][source : source + itemsize]

    def synchronize(self):
        pass

    def binary(self, call):
        n = call.outs[0].size
        if not all(hasattr(x, "shape") for x in call.ins):
            return None  # numbers are declined
        function = {"add": np.add, "mul": np.multiply}[call.op.name]
        read = lambda s: np.frombuffer(s[0], np.float32, n, s[1])  # noqa: E731
        return lambda a, b: (bytearray(function(read(a), read(b)).tobytes()), 0)

    for name in ("add", "mul"):
        binary = kernel(name, dtypes=("float32",), layouts="dense")(binary)


@pytest.fixture
def bare():
    td.register_backend("bare", Bare)
    before = dispatch.config.fallback
    yield "bare"
    td.fallback(before)


# ---- names ---------------------------------------------------------------------------------------------------------
def test_names_and_identity():
    d = td.device("reference")
    assert (
        d
        is td.device("reference:0")
        is td.device("reference", 0)
        is td.device(d)
        is td.device(type="reference", index=0)
    )
    assert d.type == "reference" and d.index == 0 and str(d) == "reference:0" and repr(d) == "device('reference:0')"
    assert (
        d == "reference"
        and d == "reference:0"
        and d != "reference:1"
        and d != 3
        and {d: 1}[td.device("reference")] == 1
    )


@pytest.mark.parametrize(
    "name", ["reference:", "reference:-1", "reference:x", ":0", "", "reference:0:0", 3, None, "nobody", "reference:³"]
)
def test_wrong_names(name):
    with pytest.raises(DeviceError):
        td.device(name)


def test_wrong_indices():
    for index in (-1, "0", 1.5):
        with pytest.raises(DeviceError):
            td.device("reference", index)
    with pytest.raises(DeviceError):
        td.device("reference:0", 0)
    with pytest.raises(DeviceError, match="does not exist"):
        td.zeros(1, device="reference:7")
    with pytest.raises(DeviceError, match="pip install"):
        td.zeros(1, device="nobody")


# ---- contexts and defaults -----------------------------------------------------------------------------------------
def test_contexts_nest():
    def made():
        return {
            str(x.device)
            for x in (
                td.zeros(1),
                td.tensor([1]),
                td.arange(2),
                td.rand(2),
                td.eye(2),
                td.full((1,), 2),
                td.empty(1),
                td.linspace(0, 1, 2),
                td.from_numpy(np.ones(1)),
            )
        }

    with td.device("reference") as d:
        assert d is td.device("reference") and made() == {"reference:0"} == {str(td.get_default_device())}
        with td.device(HERE):
            assert made() == {HERE}
            with d:
                assert made() == {"reference:0"}
            assert made() == {HERE}
        assert made() == {"reference:0"}
        assert (
            str(td.zeros(1, device=HERE).device) == HERE and str(td.ones_like(td.zeros(1, device=HERE)).device) == HERE
        )
    assert made() == {HERE}
    with pytest.raises(ZeroDivisionError), td.device("reference"):
        1 / 0  # noqa: B018
    assert str(td.zeros(1).device) == HERE


def test_contexts_belong_to_their_thread():
    d, wrong = td.device("reference"), []

    def work():
        for _ in range(300):
            if str(td.get_default_device()) != HERE:
                wrong.append(1)
            with d:
                if td.get_default_device() is not d:
                    wrong.append(2)

    with d:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert td.get_default_device() is d
    assert not wrong


def test_set_default_device():
    try:
        td.set_default_device("reference")
        assert str(td.ones(1).device) == "reference:0" and repr(td.ones(1)) == "tensor([1.])"
        with td.device(HERE):
            assert str(td.ones(1).device) == HERE
    finally:
        td.set_default_device(None)
    assert str(td.ones(1).device) == HERE
    with pytest.raises(DeviceError):
        td.set_default_device("nobody")


def run(code, **env):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env)
    return done.returncode, done.stdout.strip(), done.stderr


def test_the_environment_chooses_a_device():
    code = "import treadle as td; print(td.ones(1).device, td.get_default_device())"
    assert run(code, TREADLE_DEVICE="reference")[1] == "reference:0 reference:0"
    status, _, text = run(code, TREADLE_DEVICE="nobody")
    assert status and "nobody provides 'nobody'" in text
    assert (
        run(
            "import treadle as td; td.set_default_device('reference'); print(td.ones(1).device)",
            TREADLE_DEVICE="nobody",
        )[1]
        == "reference:0"
    )
    assert run("import treadle; print('imported')", TREADLE_DEVICE="nobody")[1] == "imported"


# ---- moving --------------------------------------------------------------------------------------------------------
def test_to():
    x = td.ones(2)
    assert x.to(HERE) is x and x.to(td.float32) is x and x.to(x) is x and x.to(device=None, dtype=None) is x
    assert x.to(td.float32, copy=True) is not x and x.to(HERE, td.float32, False, True) is not x
    for args in (
        ("reference", td.float64),
        (td.float64, "reference"),
        (td.device("reference"), "float64"),
        (td.zeros(1, dtype=td.float64, device="reference"),),
        ("reference", td.float64, True),
    ):
        y = x.to(*args)
        assert str(y.device) == "reference:0" and y.dtype is td.float64 and y.tolist() == [1, 1]
    assert (
        x.to(float).dtype is td.float64
        and x.to(int).dtype is td.int64
        and x.to(bool).dtype is td.bool
        and x.to("int8").dtype is td.int8
    )
    assert x.to(dtype=td.float16).dtype is td.float16 and x.to(device="reference").cpu().device.backend.host
    for wrong in (3, object(), [1]):
        with pytest.raises(ArgumentError):
            x.to(wrong)
    with pytest.raises(td.errors.DTypeError):
        x.to(dtype="float31")
    with pytest.raises(DeviceError):
        x.to("nobody")


def test_gradients_cross_devices():
    x = td.ones(3, requires_grad=True)
    y = (x * 2).t().to("reference") * td.tensor([1.0, 2.0, 3.0], device="reference")
    y.to(td.float64).sum().backward()
    assert x.grad.tolist() == [2, 4, 6] and str(x.grad.device) == HERE and x.grad.dtype is td.float32


def test_every_dtype_moves():
    for name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64".split():
        x = td.tensor([0, 1, 1]).to(getattr(td, name))
        there = x.to("reference")
        assert there.dtype is x.dtype and there.cpu().tolist() == x.tolist()
        v = td.arange(6).to(getattr(td, name)).reshape(2, 3).t().flip(0)
        assert v.to("reference").tolist() == v.tolist()


def test_operands_on_different_devices():
    a, b = td.ones(2, 2, device=HERE), td.ones(2, 2, device="reference")
    if HERE == "reference:0":
        pytest.skip("one device only")
    for f in (
        lambda: a + b,
        lambda: a @ b,
        lambda: td.cat([a, b]),
        lambda: td.where(a > 0, a, b),
        lambda: a.add_(b),
        lambda: a[b[0].to(td.int64)],
        lambda: td.nn.functional.linear(a, b),
    ):
        with pytest.raises(DeviceError, match=rf"{HERE}.*reference:0|reference:0.*{HERE}"):
            f()
    assert a.copy_(b).tolist() == [[1, 1], [1, 1]]
    a[0] = b[0] * 3
    assert a.tolist() == [[3, 3], [1, 1]]


# ---- what runs where -----------------------------------------------------------------------------------------------
def test_fallback_policies(bare):
    x = td.tensor([1.0, 2.0], device=bare)
    with td.fallback("error"):
        assert (x + x).tolist() == [2, 4]
        assert (x * x).tolist() == [1, 4]
        with pytest.raises(UnsupportedError, match=r"exp: bare:0 has no kernel for float32"):
            x.exp()
        with pytest.raises(UnsupportedError, match="cast"):
            x.to(td.float64)
    with td.fallback("allow"), warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(x.exp().numpy(), np.exp([1, 2]), rtol=1e-6)
        assert (x + 1).tolist() == [2, 3]
        assert x.softmax(0).sum().item() == pytest.approx(1)
        w = td.tensor([1.0, 2.0], device=bare, requires_grad=True)
        ((w * w).t() + w[0]).sum().backward()
        assert w.grad.tolist() == [4, 4]
    dispatch._WARNED.clear()
    with td.fallback("warn"):
        with pytest.warns(RuntimeWarning, match=r"log \(float32\) has no kernel on bare:0"):
            x.log()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            x.log()  # once
            td.ones(5, device=bare).log()
    with td.fallback("error"), pytest.raises(UnsupportedError):
        x.log()  # the policy holds for calls that ran before
    with pytest.raises(ArgumentError):
        td.fallback("sometimes")


def test_fallback_nests_and_sets(bare):
    config = dispatch.config
    start = config.fallback
    with td.fallback("allow"):
        with td.fallback("error"):
            assert config.fallback == "error"
        assert config.fallback == "allow"
    assert config.fallback == start
    td.fallback("error")
    assert config.fallback == "error"


def test_policy_from_the_environment():
    assert run("from treadle.config import config; print(config.fallback)", TREADLE_FALLBACK="error")[1] == "error"


def test_explain(bare):
    x = td.ones(2, 3)
    report = td.explain(lambda x: (x + 1).softmax(1).t().contiguous().sum(), x)
    assert [row[1] for row in report.rows][:2] == ["add", "softmax"] and {row[0] for row in report.rows} == {HERE}
    ways = dict(report.counts[HERE])
    assert ways["view"] == 1 and "host" not in ways
    assert f"{HERE}:" in str(report) and "native" in str(report)
    with td.fallback("allow"):
        report = td.explain(lambda x: (x + x).exp().softmax(0), td.ones(2, device=bare))
    how = {row[1]: row[3] for row in report.rows}
    assert how["add"] == "native" and how["exp"] == "host"
    assert str(td.explain(lambda: None)) == "no ops ran"
    with pytest.raises(td.errors.ShapeError):
        td.explain(lambda: td.ones(2) + td.ones(3))
    assert (td.ones(2) + 1).tolist() == [2, 2]


def test_explain_sees_the_backward_pass():
    w = td.ones(3, 3, requires_grad=True)
    loss = (w @ w).sum()
    names = [row[1] for row in td.explain(loss.backward).rows]
    assert names.count("matmul") == 2 and w.grad is not None


def test_views_and_copies_need_no_kernel(bare):
    with td.fallback("error"):
        x = td.tensor(np.arange(6, dtype=np.float32).reshape(2, 3), device=bare)
        assert x.t().flip(0)[1:].contiguous().tolist() == [[1, 4], [0, 3]]
        assert td.cat([x, x[:1]]).shape == (3, 3) and x.expand(2, 2, 3).clone().tolist() == [x.tolist()] * 2
        x[:, 1] = x[:, 0]
        assert x.tolist() == [[0, 0, 2], [3, 3, 5]] and x.clone().tolist() == x.tolist()
        assert td.zeros(2, device=bare).tolist() == [0, 0] and repr(x) and x[1, 2].item() == 5


def test_training_on_the_reference_device():
    """Two hundred steps of a small network: no recursion, no growth of anything, and it learns."""
    td.manual_seed(0)
    with td.device("reference"):
        model = td.nn.Sequential(td.nn.Linear(4, 8), td.nn.ReLU(), td.nn.Linear(8, 2))
        optimizer = td.optim.Adam(model.parameters(), lr=1e-2)
        x, y = td.randn(16, 4), td.randint(0, 2, (16,))
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = td.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_notice_about_the_built_in_device_says_why(monkeypatch):
    row = plugins.Plugin("cpu", "treadle-backend-cpu", status="unavailable", reason="no gcc", remedy="install gcc")
    monkeypatch.setattr(plugins, "best", lambda: plugins.BUILT_IN)
    monkeypatch.setattr(plugins, "plugins", lambda: [row])
    monkeypatch.setattr(dispatch.config, "device", None)
    with pytest.warns(RuntimeWarning, match="cpu is unavailable: no gcc. What would help: install gcc"):
        assert str(device_module._choose()).startswith("reference")


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_selection_from_two_numbers(name):
    """Only the result says what type they are."""
    c = td.tensor([True, False], device=name)
    assert td.ops.where(c, 2, 3).tolist() == [2, 3] and td.ops.where(c, 2, 3).dtype is td.int64
    assert td.ops.where(c, 0.5, 3).tolist() == [0.5, 3.0] and td.ops.where(c, 0.5, 3).dtype is td.float32
