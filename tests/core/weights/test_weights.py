"""Weights in files: round trips, the layout on disk, and every kind of damage."""

import io
import json
import math
import os
import struct
import time

import numpy as np
import pytest

import treadle as td
from treadle.errors import FormatError

DTYPES = [
    td.bool,
    td.int8,
    td.int16,
    td.int32,
    td.int64,
    td.uint8,
    td.uint16,
    td.uint32,
    td.uint64,
    td.float16,
    td.bfloat16,
    td.float32,
    td.float64,
]


def same(a, b):
    return (
        a.dtype is b.dtype
        and tuple(a.shape) == tuple(b.shape)
        and np.array_equal(a.to(td.float64).numpy(), b.to(td.float64).numpy())
    )


def dump(obj):
    f = io.BytesIO()
    td.save(obj, f)
    return f.getvalue()


def parse(raw):
    return td.load(io.BytesIO(raw))


def assemble(header, data=b"", length=None):
    """Build a file of another program by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype):
    x = td.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    y = parse(dump({"x": x, "scalar": x[0, 1], "empty": x[:0], "turned": x.t()}))
    assert same(y["x"], x) and same(y["scalar"], x[0, 1]) and same(y["turned"], x.t())
    assert tuple(y["empty"].shape) == (0, 3) and y["empty"].dtype is dtype


def test_special_values_keep_their_bits():
    a = np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45, 3e38], np.float32)
    a[1:2].view(np.uint32)[:] = 0xFFC12345
    y = parse(dump({"a": td.from_numpy(a.copy())}))["a"].numpy()
    assert y.tobytes() == a.tobytes()


def test_state_dict_to_a_path(tmp_path):
    model = td.nn.Sequential(td.nn.Linear(3, 4), td.nn.BatchNorm1d(4))
    path = tmp_path / "model.safetensors"
    for p in (path, str(path)):
        td.save(model.state_dict(), p)
        loaded = td.load(p)
        assert list(loaded) == list(model.state_dict())
        td.nn.Sequential(td.nn.Linear(3, 4), td.nn.BatchNorm1d(4)).load_state_dict(loaded)
        assert all(same(a, b) for a, b in zip(loaded.values(), model.state_dict().values(), strict=True))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    with pytest.raises(FileNotFoundError):
        td.load(tmp_path / "other")


def test_loaded_tensors_stand_on_their_own(tmp_path):
    td.save({"a": td.ones(3), "b": td.ones(3)}, tmp_path / "f")
    loaded = td.load(tmp_path / "f")
    loaded["a"].zero_()
    assert loaded["b"].tolist() == [1.0] * 3 and td.load(tmp_path / "f")["a"].tolist() == [1.0] * 3
    assert loaded["a"].requires_grad_().is_leaf


def test_nested_structures():
    obj = {
        "epoch": 3, "loss": 0.1 + 0.2, "inf": [math.inf, -math.inf], "name": "ü\n\"'", "none": None, "flag": True,
        "tuple": (1, [td.ones(2), {"deep": td.zeros(1)}]), 7: {"int key": td.arange(3)}, "dtype": td.bfloat16,
        "a.b": td.ones(1), "a": {"b": td.zeros(1)}, "": td.ones(1), "__metadata__": td.ones(2), "big": 2**80,
    }  # fmt: skip
    y = parse(dump(obj))
    assert list(y) == list(obj) and y["loss"] == obj["loss"] and y["inf"] == obj["inf"] and y["name"] == obj["name"]
    assert y["tuple"][0] == 1 and y["tuple"][1][1]["deep"].item() == 0.0 and y[7]["int key"].tolist() == [0, 1, 2]
    assert y["dtype"] is td.bfloat16 and y["flag"] is True and y["none"] is None and y["big"] == 2**80
    assert y["a.b"].item() == 1.0 and y["a"]["b"].item() == 0.0 and y[""].item() == 1.0
    assert tuple(y["__metadata__"].shape) == (2,)
    assert math.isnan(parse(dump([math.nan]))[0])
    assert parse(dump({})) == {} and parse(dump([])) == [] and parse(dump(3)) == 3
    assert parse(dump(td.ones(2))).tolist() == [1.0, 1.0]


def test_optimizer_state_resumes():
    model = td.nn.Linear(2, 2)
    opt = td.optim.Adam(model.parameters(), lr=0.1)
    model(td.ones(1, 2)).sum().backward()
    opt.step()
    saved = parse(dump({"model": model.state_dict(), "optimizer": opt.state_dict()}))
    other = td.nn.Linear(2, 2)
    again = td.optim.Adam(other.parameters())
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    for m, o in ((model, opt), (other, again)):
        m.zero_grad()
        m(td.ones(1, 2)).sum().backward()
        o.step()
    assert model.weight.tolist() == other.weight.tolist() and again.param_groups[0]["betas"] == (0.9, 0.999)


def test_what_cannot_be_saved():
    for bad in (
        {"a": object()},
        {"a": {1, 2}},
        {(1, 2): td.ones(1)},
        {True: td.ones(1)},
        {"a": np.ones(2)},
        {"a": b"bytes"},
    ):
        with pytest.raises(TypeError, match="save:"):
            dump(bad)
    with pytest.raises(ValueError, match="surrogates"):
        dump({"\ud800": td.ones(1)})


def test_layout_on_disk():
    raw = dump({"a": td.ones(3, dtype=td.uint8), "b": td.tensor([1.0, 2.0]), "c": td.ones(1, dtype=td.float64)})
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0 and list(header) == ["__metadata__", "a", "b", "c"]
    assert header["c"] == {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}  # large elements first
    assert header["b"]["data_offsets"] == [8, 16] and header["a"]["data_offsets"] == [16, 19]
    assert raw[8 + length :] == np.float64(1).tobytes() + np.array([1, 2], "<f4").tobytes() + b"\1\1\1"
    assert all(isinstance(v, str) for v in header["__metadata__"].values())


def test_safetensors_reads_and_writes_the_same(tmp_path):
    st = pytest.importorskip("safetensors.numpy")
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "i": np.array([1, 2], np.int64),
        "e": np.zeros((0, 2), np.float16),
    }
    td.save({k: td.from_numpy(v.copy()) for k, v in arrays.items()}, tmp_path / "ours")
    back = st.load_file(tmp_path / "ours")
    assert all(np.array_equal(back[k], v) for k, v in arrays.items())
    st.save_file(arrays, tmp_path / "theirs")
    loaded = td.load(tmp_path / "theirs")
    assert all(np.array_equal(loaded[k].numpy(), v) for k, v in arrays.items())


SMALL = {"w": np.array([1.5, -2.5], np.float32), "n": np.array([3], np.int64)}


def small(nested):
    tensors = {k: td.from_numpy(v.copy()) for k, v in SMALL.items()}
    return dump({"model": tensors, "epoch": 3} if nested else tensors)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_every_flipped_bit_is_found(nested):
    raw = small(nested)
    parse(raw)
    for i in range(len(raw)):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[i] ^= 1 << bit
            with pytest.raises(FormatError):
                parse(bytes(damaged))


def test_every_truncation_and_extension_is_found():
    raw = small(True)
    for n in range(len(raw)):
        with pytest.raises(FormatError):
            parse(raw[:n])
    for extra in (b"\0", b"\0" * 8, raw):
        with pytest.raises(FormatError, match="too long"):
            parse(raw + extra)


def test_swapped_blocks_and_random_damage_are_found():
    raw = small(False)
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = np.frombuffer(raw, np.uint8).copy()
        start = rng.integers(0, len(raw))
        damaged[start : start + rng.integers(1, 9)] = rng.integers(0, 256)
        if damaged.tobytes() != raw:
            with pytest.raises(FormatError):
                parse(damaged.tobytes())


FOREIGN = {
    "empty": (b"", "too short"),
    "seven bytes": (b"\0" * 7, "too short"),
    "huge header": (assemble(b"{}", length=2**63), "does not fit"),
    "header past the end": (assemble(b"{}", length=3), "does not fit"),
    "no header": (assemble(b""), "begin with"),
    "array": (assemble(b"[]"), "begin with"),
    "not json": (assemble(b'{"a":'), "not valid JSON"),
    "not utf-8": (assemble(b'{"\xff":1}'), "not UTF-8"),
    "trailing text": (assemble(b"{} x"), "not valid JSON"),
    "deep": (assemble(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not valid JSON"),
    "nan": (assemble(b'{"a":NaN}'), "not JSON"),
    "long number": (assemble(b'{"a":' + b"1" * 5000 + b"}"), "not valid JSON"),
    "duplicate": (
        assemble(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(8)),
        "twice",
    ),
    "metadata": (assemble({"__metadata__": {"a": 1}}), "text only"),
    "metadata list": (assemble({"__metadata__": []}), "text only"),
    "no fields": (assemble({"a": {"dtype": "F32"}}), "needs dtype"),
    "extra field": (assemble({"a": entry() | {"x": 1}}, bytes(8)), "needs dtype"),
    "dtype": (assemble({"a": entry("F8_E4M3", (8,))}, bytes(8)), "dtype"),
    "dtype list": (assemble({"a": entry(["F32"])}, bytes(8)), "dtype"),
    "negative size": (assemble({"a": entry(shape=(-2,))}, bytes(8)), "valid shape"),
    "bool size": (assemble({"a": entry(shape=(True, 2))}, bytes(8)), "valid shape"),
    "float size": (assemble({"a": entry(shape=(2.0,))}, bytes(8)), "valid shape"),
    "huge size": (assemble({"a": entry(shape=(2**64, 0), offsets=(0, 0))}), "valid shape"),
    "rank": (assemble({"a": entry(shape=(1,) * 70, offsets=(0, 4))}, bytes(4)), "valid shape"),
    "product overflow": (assemble({"a": entry(shape=(2**62, 2**62))}, bytes(8)), "does not fill"),
    "offsets": (assemble({"a": entry(offsets=(8, 0))}, bytes(8)), "does not fill"),
    "three offsets": (assemble({"a": entry(offsets=(0, 8, 8))}, bytes(8)), "data_offsets"),
    "past the end": (assemble({"a": entry()}, bytes(7)), "cut off"),
    "huge claim": (assemble({"a": entry(shape=(2**40,), offsets=(0, 2**42))}, bytes(8)), "cut off"),
    "overlap": (assemble({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "overlaps"),
    "same place": (assemble({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
    "gap": (assemble({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "gap"),
    "unused bytes": (assemble({"a": entry()}, bytes(9)), "too long"),
    "bool bytes": (assemble({"a": entry("BOOL", (2,), (0, 2))}, b"\1\2"), "0 and 1"),
    "pickle": (b"\x80\x04\x95" + bytes(50), "does not fit"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_malformed_files_of_others(name):
    raw, match = FOREIGN[name]
    with pytest.raises(FormatError, match=match):
        parse(raw)


def test_files_of_others_without_checksums():
    raw = assemble(
        {"__metadata__": {"format": "pt"}, "b": entry(), "a": entry("I64", (), (8, 16))}, struct.pack("<ffq", 1, 2, 3)
    )
    y = parse(raw)
    assert list(y) == ["b", "a"] and y["b"].tolist() == [1.0, 2.0] and y["a"].item() == 3


def test_altered_copies_of_our_metadata_are_refused():
    """Another program that keeps our metadata but writes a new header is told from damage by nobody."""
    raw = small(False)
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    with pytest.raises(FormatError, match="another program"):
        parse(assemble(header, raw[8 + length :]))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    td.save({"a": td.ones(2)}, path)
    before = path.read_bytes()

    def fail(handle):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        td.save({"a": td.zeros(2)}, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["f"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    old, young = tmp_path / ".f.1-a.tmp", tmp_path / ".f.2-b.tmp"
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (time.time() - 7200,) * 2)
    td.save({"a": td.ones(2)}, tmp_path / "f")
    assert sorted(os.listdir(tmp_path)) == [".f.2-b.tmp", "f"]


def test_symbolic_links_stay(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    td.save({"a": td.ones(1)}, link)
    assert link.is_symlink() and td.load(real)["a"].item() == 1.0


def test_from_the_middle_of_a_file():
    f = io.BytesIO(b"prefix" + small(False))
    f.seek(6)
    assert td.load(f)["n"].tolist() == [3]


def test_map_location(tmp_path):
    td.save({"a": td.ones(1)}, tmp_path / "f")
    place = td.ones(1).device
    assert td.load(tmp_path / "f", map_location=place)["a"].device == place
