"""ONNX files that keep their weights in data files beside them, as torch.onnx.export writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import runtime
from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.reading import read_model, stored_bytes
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def network(n: int = 300) -> ModelProto:
    """Two linear layers that share a bias; the weights are 90% zeros."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, n, n)).astype(np.float32) * (rng.random((2, n, n)) < 0.1)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a.weight", "bias"], ["a"], transB=1),
            helper.make_node("Gemm", ["a", "b.weight", "bias"], ["y"], transB=1),
        ],
        "two layers",
        [helper.make_tensor_value_info("x", 1, ["batch", n])],
        [helper.make_tensor_value_info("y", 1, ["batch", n])],
        [
            numpy_helper.from_array(w[0], "a.weight"),
            numpy_helper.from_array(w[1], "b.weight"),
            numpy_helper.from_array(rng.standard_normal(n).astype(np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pair(folder: Path) -> Path:
    """The network as m.onnx and m.onnx.data."""
    path = folder / "m.onnx"
    onnx.save_model(network(), path, save_as_external_data=True, location="m.onnx.data")
    assert (folder / "m.onnx.data").stat().st_size > 2 * 300 * 300 * 4
    return path


def answers(session, x: np.ndarray) -> np.ndarray:
    return session.run(None, {"x": x})[0]


def test_the_pair_is_the_network_in_one_piece(tmp_path):
    path, x = pair(tmp_path), np.ones((1, 300), np.float32)
    assert read_model(path).SerializeToString() == network().SerializeToString()
    assert stored_bytes(path) == len(network().SerializeToString())
    want = answers(SessionConfig(1).open(network().SerializeToString()), x)
    assert np.array_equal(answers(SessionConfig(1).open(path), x), want)
    fast = runtime.session(path, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(fast)
    np.testing.assert_allclose(answers(fast, x), want, rtol=1e-3, atol=1e-3)


def test_a_plan_is_kept_for_the_data_too(tmp_path, monkeypatch):
    """Other weights in the data file are another network, though the .onnx file is the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, x = pair(tmp_path), np.ones((1, 300), np.float32)
    options = {"threads": 1, "measure": False}
    before = answers(runtime.session(path, **options), x)
    data = tmp_path / "m.onnx.data"
    data.write_bytes((np.frombuffer(data.read_bytes(), np.float32) * 2).tobytes())
    np.testing.assert_allclose(
        answers(runtime.session(path, **options), x),
        answers(SessionConfig(1).open(read_model(path).SerializeToString()), x),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    assert not np.allclose(answers(runtime.session(path, **options), x), before, rtol=0.1)


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "m.onnx"],
        ["explain", "m.onnx", "--seconds", "0.1"],
        ["pack", "m.onnx"],
        ["compile", "m.onnx", "--no-measure"],
        ["bench", "m.onnx", "--seconds", "0.1", "--no-int8"],
    ],
)
def test_every_command_reads_it(program, command):
    pair(program.cwd)
    ended = program(*command)
    assert ended.code == 0, ended.err
    if command[0] == "pack":
        packed = program.cwd / "m.packed.onnx"
        assert "13.1% of m.onnx; 2 tensors packed" in ended.out
        assert not any(t.external_data for t in onnx.load(packed).graph.initializer)


def test_what_torch_exports(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(40, 50), torch.nn.ReLU(), torch.nn.Linear(50, 60))
    net.eval()
    path = tmp_path / "m.onnx"
    torch.onnx.export(net, (torch.ones(1, 40),), path, dynamo=True, external_data=True)
    assert (tmp_path / "m.onnx.data").exists()
    constants = {t.name: numpy_helper.to_array(t) for t in read_model(path).graph.initializer}
    assert np.array_equal(constants["0.weight"], net[0].weight.detach().numpy())
    assert np.array_equal(constants["2.weight"], net[2].weight.detach().numpy())


def set_fields(tensor: TensorProto, **changes: str | None) -> None:
    """Change what a tensor says of its data; None removes a key."""
    entries = {e.key: e.value for e in tensor.external_data} | changes
    del tensor.external_data[:]
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def changed(change: Callable[[TensorProto], None]) -> Callable[[Path], None]:
    """Change the first tensor of the model file."""

    def apply(folder: Path) -> None:
        model = onnx.load(folder / "m.onnx", load_external_data=False)
        change(model.graph.initializer[0])
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return apply


def linked(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (folder / "m.onnx.data").rename(outside / "data")
    (folder / "m.onnx.data").symlink_to(outside / "data")


def shared(folder: Path) -> None:
    """A hundred tensors of the same bytes."""
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    for i in range(100):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"copy{i}"
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def as_a_pipe(folder: Path) -> None:
    (folder / "m.onnx.data").unlink()
    os.mkfifo(folder / "m.onnx.data")


HOSTILE = {
    "missing": (lambda f: (f / "m.onnx.data").unlink(), "does not exist; copy it"),
    "cut_off": (lambda f: os.truncate(f / "m.onnx.data", 400_000), "cut off"),
    "link_out": (linked, "link to another folder"),
    "pipe": (as_a_pipe, "not a regular file"),
    "absolute": (changed(lambda t: set_fields(t, location="/etc/passwd")), "in the same folder"),
    "above": (changed(lambda t: set_fields(t, location="../m.onnx.data")), "in the same folder"),
    "below": (changed(lambda t: set_fields(t, location="data/w")), "in the same folder"),
    "dots": (changed(lambda t: set_fields(t, location="..")), "in the same folder"),
    "windows": (changed(lambda t: set_fields(t, location="C:w")), "in the same folder"),
    "nameless": (changed(lambda t: set_fields(t, location="")), "in the same folder"),
    "negative": (changed(lambda t: set_fields(t, offset="-4")), "negative"),
    "no_number": (changed(lambda t: set_fields(t, length="1e3")), "not a number"),
    "long_number": (changed(lambda t: set_fields(t, length="9" * 5000)), "not a number"),
    "past_the_end": (changed(lambda t: set_fields(t, offset=str(2**62))), "ends at byte"),
    "short": (changed(lambda t: set_fields(t, length="4")), "need 360,000"),
    "type": (changed(lambda t: setattr(t, "data_type", 99)), "unknown type"),
    "text": (changed(lambda t: setattr(t, "data_type", TensorProto.STRING)), "holds strings"),
    "sides": (changed(lambda t: t.dims.__setitem__(0, -300)), "negative size"),
    "shared": (shared, "share the same bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pair_is_one_clear_error(tmp_path, case):
    change, says = HOSTILE[case]
    path = pair(tmp_path)
    change(tmp_path)
    for read in (read_model, SessionConfig(1).open):
        with pytest.raises(ModelFileError, match=says) as e:
            read(path)
        assert "\n" not in str(e.value)
        assert len(str(e.value)) < 600


def test_a_length_may_be_left_out(tmp_path):
    model = network()
    tensor = model.graph.initializer[0]
    (tmp_path / "data").write_bytes(b"1234" + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    set_fields(tensor, location="data", offset="4")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_model(tmp_path / "m.onnx").SerializeToString() == network().SerializeToString()


def test_half_bytes_are_counted(tmp_path):
    model = network()
    odd = model.graph.initializer.add(name="odd", dims=[3], data_type=TensorProto.INT4)
    odd.data_location = TensorProto.EXTERNAL
    set_fields(odd, location="data")
    (tmp_path / "data").write_bytes(b"\x21\x03")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_model(tmp_path / "m.onnx").graph.initializer[-1].raw_data == b"\x21\x03"
