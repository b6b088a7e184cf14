"""Module: registration, traversal, conversion, state_dict, hooks, repr."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import treadle as td
from treadle import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.scale = nn.Parameter(td.ones(2))
        self.register_buffer("count", td.zeros(1))
        self.register_buffer("scratch", td.zeros(1), persistent=False)
        self.size = 3

    def forward(self, x, shift=0.0):
        return self.inner(self.layer(x)) * self.scale + shift


def array(x):
    return x.detach().numpy()


NAMES = ["scale", "layer.weight", "layer.bias", "inner.0.weight", "inner.0.bias"]


def test_members_in_pytorchs_order():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == NAMES
    assert [n for n, _ in net.named_buffers()] == ["count", "scratch"]
    assert [n for n, _ in net.named_modules()] == ["", "layer", "inner", "inner.0", "inner.1"]
    assert [n for n, _ in net.named_children()] == ["layer", "inner"]
    assert list(net.state_dict()) == ["scale", "count", *NAMES[1:]]
    assert len(list(net.parameters(recurse=False))) == 1
    assert [n for n, _ in net.named_parameters("net")][0] == "net.scale"


def test_shared_members_are_given_once():
    net = nn.Module()
    net.a = net.b = nn.Linear(2, 2)
    net.w = net.a.weight
    assert [n for n, _ in net.named_parameters()] == ["w", "a.bias"]
    assert [n for n, _ in net.named_parameters(remove_duplicate=False)] == [
        "w",
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
    ]
    assert len(list(net.modules())) == 2
    assert list(net.state_dict()) == ["w", "a.weight", "a.bias", "b.weight", "b.bias"]


def test_assignment_rules():
    net = Net()
    with pytest.raises(TypeError, match="cannot assign 'Tensor' as parameter 'scale'"):
        net.scale = td.ones(2)
    with pytest.raises(TypeError, match="as child module 'layer'"):
        net.layer = 3
    with pytest.raises(TypeError, match="as buffer 'count'"):
        net.count = "three"
    net.count = td.ones(1)
    assert dict(net.named_buffers())["count"].item() == 1.0
    net.scale = None
    assert "scale" not in net.state_dict() and "scale" in net._parameters
    net.layer = nn.Parameter(td.ones(1))
    assert "layer" in dict(net.named_parameters()) and "layer" not in dict(net.named_children())
    net.size = nn.ReLU()
    assert "size" in dict(net.named_children())
    del net.size
    assert not hasattr(net, "size") and "size" not in dict(net.named_children())
    with pytest.raises(AttributeError):
        net.missing


def test_registration_errors():
    net = Net()
    with pytest.raises(KeyError, match="already exists"):
        net.register_parameter("size", nn.Parameter(td.ones(1)))
    with pytest.raises(KeyError, match="t contain"):
        net.register_buffer("a.b", td.ones(1))
    with pytest.raises(KeyError, match="t be empty string"):
        net.add_module("", nn.ReLU())
    with pytest.raises(TypeError, match="not a Module"):
        net.add_module("x", 3)
    with pytest.raises(TypeError, match="cannot assign"):
        net.register_buffer("x", 3)

    class Bad(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Bad()


def test_member_views_write_through():
    net = Net()
    net._modules["layer"] = nn.Identity()
    assert isinstance(net.layer, nn.Identity) and not isinstance(net._modules["layer"], nn.Linear)
    net._parameters["scale"] = nn.Parameter(td.zeros(2))
    assert net.scale.tolist() == [0.0, 0.0]
    assert net._buffers.pop("count").item() == 0.0 and not hasattr(net, "count")


def test_train_eval_apply_requires_grad():
    net = Net()
    assert net.eval() is net and not net.inner[1].training
    assert net.train() is net and net.inner[1].training
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "ReLU", "Sequential", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_conversion_keeps_identity_and_integers():
    net = nn.BatchNorm1d(2)
    p = net.weight
    net.double()
    assert net.weight is p and p.dtype is td.float64 and net.running_mean.dtype is td.float64
    assert net.num_batches_tracked.dtype is td.int64
    net.to(dtype=td.float16)
    assert p.dtype is td.float16
    net.to(td.zeros(1, dtype=td.float32)).to(p.device)
    assert p.dtype is td.float32 and p.requires_grad and p.is_leaf
    net(td.ones(3, 2)).sum().backward()
    net.bfloat16()
    assert p.grad.dtype is td.bfloat16
    with pytest.raises(TypeError):
        net.to(td.int32)


def test_zero_grad():
    net = nn.Linear(2, 1)
    net(td.ones(1, 2)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.weight.grad.tolist() == [[0.0, 0.0]]
    net.zero_grad()
    assert net.weight.grad is None


def test_state_dict_round_trip_and_sharing():
    a, b = Net(), Net()
    assert repr(b.load_state_dict(a.state_dict())) == "<All keys matched successfully>"
    for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert (array(p) == array(q)).all()
    state = a.state_dict()
    with td.no_grad():
        a.scale.fill_(7.0)
    assert state["scale"].tolist() == [7.0, 7.0]  # shares memory
    assert not state["scale"].requires_grad and a.state_dict(keep_vars=True)["scale"] is a.scale


def test_load_state_dict_errors():
    net = Net()
    state = net.state_dict()
    state["extra"] = state.pop("scale")
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"') as e:
        net.load_state_dict(state)
    assert 'Missing key(s) in state_dict: "scale"' in str(e.value)
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["scale"] and result.unexpected_keys == ["extra"]
    state = Net().state_dict()
    state["scale"] = td.ones(3)
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        net.load_state_dict(state, strict=False)
    state["scale"] = 3
    with pytest.raises(RuntimeError, match='named "scale"'):
        net.load_state_dict(state)
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict(3)


def test_load_state_dict_assign():
    net, other = Net(), Net().double()
    p = net.scale
    net.load_state_dict(other.state_dict(), assign=True)
    assert net.scale is not p and isinstance(net.scale, nn.Parameter) and net.scale.dtype is td.float64
    assert net.layer.weight.requires_grad


def test_extra_state():
    class Extra(nn.Module):
        extra = 1

        def get_extra_state(self):
            return {"extra": self.extra}

        def set_extra_state(self, state):
            self.extra = state["extra"]

    a, b = nn.Sequential(Extra()), nn.Sequential(Extra())
    a[0].extra = 5
    assert list(a.state_dict()) == ["0._extra_state"]
    b.load_state_dict(a.state_dict())
    assert b[0].extra == 5
    with pytest.raises(RuntimeError, match="Missing"):
        b.load_state_dict({})


def test_forward_hooks():
    net, calls = Net(), []
    x = td.ones(1, 3)
    plain = net(x)
    handles = [
        net.register_forward_pre_hook(lambda m, args: calls.append("pre")),
        net.register_forward_pre_hook(lambda m, args: (args[0] * 2,), prepend=True),
        net.register_forward_pre_hook(lambda m, args, kwargs: (args, {"shift": 1.0}), with_kwargs=True),
        net.register_forward_hook(lambda m, args, output: calls.append(args[0].tolist())),
        net.register_forward_hook(lambda m, args, kwargs, output: output + kwargs["shift"], with_kwargs=True),
    ]
    y = net(x)
    assert calls == ["pre", [[2.0, 2.0, 2.0]]]
    for h in handles:
        h.remove()
    np.testing.assert_allclose(array(y), array(net(x * 2)) + 2.0, rtol=1e-6)
    np.testing.assert_allclose(array(net(x)), array(plain))
    assert "_hooks" not in net.__dict__
    with net.register_forward_hook(lambda *a: 3):
        assert net(x) == 3
    assert net(x) is not None and "_hooks" not in net.__dict__


def test_always_called_hook():
    net, seen = nn.Module(), []
    net.register_forward_hook(lambda m, a, o: seen.append("always"), always_call=True)
    net.register_forward_hook(lambda m, a, o: seen.append("never"))
    with pytest.raises(NotImplementedError, match='missing the required "forward"'):
        net()
    assert seen == ["always"]


def test_full_backward_hook():
    net = nn.Linear(2, 1, bias=False)
    with td.no_grad():
        net.weight.copy_(td.tensor([[2.0, 3.0]]))
    seen = []
    handle = net.register_full_backward_hook(lambda m, gi, go: seen.append((gi[0].tolist(), go[0].tolist())))
    x = td.ones(1, 2, requires_grad=True)
    (net(x) * 5).sum().backward()
    assert seen == [([[10.0, 15.0]], [[5.0]])] and x.grad.tolist() == [[10.0, 15.0]]
    handle.remove()
    x.grad = None
    with net.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,)):
        net(x).sum().backward()
    assert x.grad.tolist() == [[4.0, 6.0]] and len(seen) == 1


def test_backward_hooks_of_several_tensors():
    class Pair(nn.Module):
        def forward(self, a, b, name, c):
            return a * b, b * 3.0, "text"

    net, seen = Pair(), []
    net.register_full_backward_pre_hook(lambda m, go: (go[0] * 10, None if go[1] is None else go[1] * 10, go[2]))
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    a, b, c = (td.tensor([v], requires_grad=True) for v in (2.0, 5.0, 7.0))
    x, y, text = net(a, b, "name", c.detach())
    assert text == "text" and x.item() == 10.0
    (x + y).sum().backward()
    assert a.grad.item() == 50.0 and b.grad.item() == 50.0 and len(seen) == 1
    gi, go = seen[0]
    assert len(gi) == 4 and len(go) == 3 and gi[2] is None and gi[3] is None and go[2] is None
    assert gi[0].item() == 50.0 and go[0].item() == go[1].item() == 10.0
    net(a, b, "name", c)[0].backward()  # the other output gets no gradient
    assert seen[1][1][1] is None


def test_backward_hook_without_input_gradients():
    net, seen = nn.Linear(1, 1), []
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    net(td.ones(1, 1)).sum().backward()
    assert seen[0][0] == (None,) and seen[0][1][0].item() == 1.0
    with td.no_grad():
        net(td.ones(1, 1, requires_grad=True))
    assert len(seen) == 1


def test_repr():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.ReLU()
            self.b = nn.Sequential(nn.Tanh())

        def extra_repr(self):
            return "k=3"

    assert repr(Named()) == "Named(\n  k=3\n  (a): ReLU()\n  (b): Sequential(\n    (0): Tanh()\n  )\n)"
    assert (
        repr(nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Tanh()])) == "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Tanh()\n)"
    )


def test_sequential():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    s = nn.Sequential(a, b)
    assert s.append(c) is s and list(s) == [a, b, c] and s[-1] is c
    assert list(s[1:]) == [b, c] and list(s[1:]._modules) == ["1", "2"]
    s.insert(1, c)
    assert list(s) == [a, c, b, c]
    del s[1]
    s[0] = b
    assert list(s) == [b, b, c] and s.pop(2) is c and len(s) == 2
    assert list(nn.Sequential(a) + nn.Sequential(b)) == [a, b] and len(nn.Sequential(a) * 3) == 3
    named = nn.Sequential({"x": a, "y": b})
    assert list(named._modules) == ["x", "y"] and named.x is a
    with pytest.raises(IndexError):
        s[5]
    with pytest.raises(TypeError):
        nn.Sequential(3)


def test_module_list_and_dict():
    m = nn.ModuleList([nn.ReLU()])
    m += [nn.Tanh(), nn.Tanh()]
    m.insert(0, nn.Sigmoid())
    assert [type(x).__name__ for x in m] == ["Sigmoid", "ReLU", "Tanh", "Tanh"] and len(m[1:3]) == 2
    del m[0]
    assert len(m) == 3 and list(m._modules) == ["0", "1", "2"] and len(m + [nn.ReLU()]) == 4
    d = nn.ModuleDict({"a": nn.ReLU()})
    d["b"] = nn.Tanh()
    d.update([("c", nn.Tanh())])
    assert list(d) == ["a", "b", "c"] and "b" in d and len(d) == 3 and list(d.keys()) == ["a", "b", "c"]
    assert isinstance(d.pop("a"), nn.ReLU) and [k for k, _ in d.items()] == ["b", "c"]
    del d["b"]
    d.clear()
    assert len(d) == 0
    with pytest.raises(KeyError):
        d["keys"] = nn.ReLU()


def test_parameter_containers():
    p = nn.ParameterList([td.ones(1)])
    p.append(nn.Parameter(td.zeros(2)))
    p += [td.ones(3)]
    assert [n for n, _ in p.named_parameters()] == ["0", "1", "2"] and len(p[1:]) == 2
    p[0] = td.full((1,), 5.0)
    assert p[0].item() == 5.0 and p[-1].shape[0] == 3
    d = nn.ParameterDict({"w": td.ones(2)})
    d["b"] = td.zeros(1)
    assert [n for n, _ in d.named_parameters()] == ["w", "b"] and "w" in d and len(d) == 2
    del d["w"]
    assert list(d.keys()) == ["b"] and d.items()[0][1] is d["b"]
    with pytest.raises(KeyError):
        d["update"] = td.ones(1)


def test_parameter_shares_memory_and_copies_deeply():
    data = td.zeros(2)
    p = nn.Parameter(data)
    assert p.is_leaf and p.requires_grad and repr(p).startswith("Parameter containing:")
    data.fill_(3.0)
    assert p.tolist() == [3.0, 3.0]
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    q = copy.deepcopy(p)
    assert isinstance(q, nn.Parameter) and q.requires_grad and q.tolist() == [3.0, 3.0]
    data.fill_(4.0)
    assert q.tolist() == [3.0, 3.0]


def test_deepcopy_and_pickle():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.tied = net[0]
    other = copy.deepcopy(net)
    assert other.tied is other[0] and other[0].weight is not net[0].weight
    x = td.ones(3, 2)
    np.testing.assert_array_equal(array(net.eval()(x)), array(other.eval()(x)))
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(array(net(x)), array(again(x)))
    assert isinstance(again[0].weight, nn.Parameter)


def test_no_reference_cycles():
    gc.collect()
    gc.disable()
    try:
        net = Net()
        net._modules, net._parameters  # views do not stay
        net(td.ones(1, 3)).sum().backward()
        ref = weakref.ref(net)
        del net
        assert ref() is None
    finally:
        gc.enable()


def test_get_by_path():
    net = Net()
    assert net.get_submodule("inner.0") is net.inner[0] and net.get_submodule("") is net
    assert net.get_parameter("inner.0.weight") is net.inner[0].weight
    assert net.get_buffer("count") is net.count
    for get, path in [(net.get_submodule, "inner.7"), (net.get_submodule, "size"), (net.get_parameter, "count")]:
        with pytest.raises(AttributeError):
            get(path)
