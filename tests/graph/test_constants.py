"""Initializers that are graph inputs too: constants in IR version 3, replaceable ones later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder, residual_net
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import kernels, runtime
from fggp_deploy.analysis.explain import explain
from fggp_deploy.compaction.dead_channels import compact
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.format.functions import DOMAIN
from fggp_deploy.format.packing import REPLACEABLE, flatten, pack
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.constants import constant_initializers, overridable, unlist_initializers_
from fggp_deploy.graph.shapes import infer_shapes
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.named_shapes import value_shapes
from fggp_deploy.runtime.sessions import SessionConfig

needs_library = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")


def listed(model: ModelProto, ir_version: int, *, only: tuple[str, ...] = ()) -> ModelProto:
    """The model with its initializers, or some of them, among its inputs."""
    for t in model.graph.initializer:
        if not only or t.name in only:
            value = helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            model.graph.input.append(value)
    model.ir_version = ir_version
    return model


def old_net() -> ModelProto:
    """As exporters wrote in 2018: opset 9, IR version 3, every weight an input."""
    b = Builder()
    y = b.op("Relu", b.conv("x", 32, 3))
    y = b.op("Relu", b.conv(y, 32, 32))
    y = b.op("Flatten", b.op("GlobalAveragePool", y))
    y = b.op("Gemm", y, b.weight(10, 32), b.tensor(np.ones(10, np.float32)), transB=1)
    model = b.model(y)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 9))
    return listed(model, 3)


def image(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, 16, 16)).astype(np.float32)


def run(source: Path | bytes, **feeds: Any) -> np.ndarray:
    return SessionConfig(1).open(source).run(None, feeds)[0]


def own_weight() -> ModelProto:
    """Convolutions, the second of which has a weight `t2` that callers may replace."""
    b = Builder()
    y = b.op("Relu", b.conv("x", 32, 3))
    return listed(b.model(b.op("Relu", b.conv(y, 32, 32))), 8, only=("t2",))


def test_which_initializers_are_constants() -> None:
    model = own_weight()
    assert overridable(model.graph) == {"t2"}
    assert set(constant_initializers(model.graph)) == {"t0", "t1", "t3"}
    assert unlist_initializers_(model) == []  # a newer file means what it says
    model.ir_version = 3
    assert unlist_initializers_(model) == ["t2"]
    assert [v.name for v in model.graph.input] == ["x"]
    assert len(constant_initializers(model.graph)) == 4


@needs_library
@pytest.mark.parametrize("packed", [False, True])
def test_a_session_obeys_a_weight_that_is_fed(packed: bool, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(own_weight(), source)
    tried = pack_file(source).path if packed else source
    session = runtime.session(tried, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(session)  # for the first convolution
    other = np.random.default_rng(1).standard_normal((32, 32, 3, 3)).astype(np.float32)
    for feeds in ({"x": image()}, {"x": image(), "t2": other}):
        want = run(source, **feeds)
        got = session.run(None, feeds)[0]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@needs_library
def test_a_network_whose_weights_may_all_be_fed_is_plain() -> None:
    content = listed(residual_net(), 8).SerializeToString()
    session = runtime.session(content, threads=1, measure=False, cache=False)
    assert not runtime.uses_kernels(session)
    assert np.array_equal(session.run(None, {"x": image()})[0], run(content, x=image()))


@needs_library
def test_an_old_file_runs_on_the_kernels(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(old_net(), source)
    session = runtime.session(source, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(session)
    assert [i.name for i in session.get_inputs()] == ["x"]
    want = run(source, x=image())
    np.testing.assert_allclose(session.run(None, {"x": image()})[0], want, rtol=1e-4, atol=1e-5)
    fast = compile_file(source, measure=False).path
    assert [i.name for i in SessionConfig(1).open(fast).get_inputs()] == ["x"]
    np.testing.assert_allclose(run(fast, x=image()), want, rtol=1e-4, atol=1e-5)


def test_an_old_file_is_packed_and_the_result_says_so(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(old_net(), source)
    made = pack_file(source)
    assert made.n_packed == 3
    assert made.notes[-1].startswith("6 initializers are graph inputs in the source")
    packed = onnx.load(made.path)
    assert [v.name for v in packed.graph.input] == ["x"]
    for content in (packed, flatten(packed), unpack(packed)):
        np.testing.assert_allclose(
            run(content.SerializeToString(), x=image()), run(source, x=image()), rtol=1e-5
        )


def test_pack_leaves_a_replaceable_weight_and_says_why(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(listed(residual_net(), 8), source)
    with pytest.raises(ModelFileError, match=r"nothing to pack.*a graph input too"):
        pack_file(source)
    onnx.save(own_weight(), source)
    made = pack_file(source)
    assert f"left dense: t2: {REPLACEABLE}" in made.notes
    assert {v.name for v in onnx.load(made.path).graph.input} == {"x", "t2"}


def test_explain_counts_no_gain_for_a_replaceable_weight(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(own_weight(), source)
    found = {w.name: w for w in explain(source, seconds=0).weights}
    assert found["t2"].why == REPLACEABLE
    assert found["t2"].packed_bytes == found["t2"].stored_bytes
    assert found["t0"].packed_bytes < found["t0"].stored_bytes


def test_compaction_keeps_the_channels_of_a_replaceable_weight() -> None:
    b = Builder()
    w = np.ones((8, 3, 3, 3), np.float32)
    w[4:] = 0  # dead, unless somebody feeds another
    y = b.op("Relu", b.op("Conv", "x", b.tensor(w), pads=[1] * 4))
    model = b.model(b.conv(y, 16, 8))
    assert compact(model).n_removed == 4
    assert compact(listed(model, 8, only=("t0",))).n_removed == 0
    model.ir_version = 3
    found = compact(model)
    assert found.n_removed == 4
    assert [v.name for v in found.model.graph.input] == ["x"]


def test_parts_of_a_packed_weight_are_no_inputs() -> None:
    model = pack(residual_net())
    part = next(n for n in model.graph.node if n.domain == DOMAIN).input[1]
    with pytest.raises(ModelFileError, match="part of a packed weight and a graph input too"):
        unpack(listed(model, 8, only=(part,)))


def test_a_sparse_initializer_that_is_an_input_is_refused() -> None:
    model = own_weight()
    w = numpy_helper.to_array(model.graph.initializer[2])
    index = np.flatnonzero(w)
    values = numpy_helper.from_array(w.reshape(-1)[index], "t2")
    indices = numpy_helper.from_array(index, "t2.index")
    del model.graph.initializer[2]
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, w.shape))
    with pytest.raises(ModelFileError, match="sparse initializer 't2' is a graph input too"):
        unpack(model)


def test_shapes_do_not_rely_on_a_default() -> None:
    b = Builder()
    y = b.op("Reshape", "x", b.tensor(np.array([0, 3, 256])))
    model = b.model(y)
    assert infer_shapes(model)[y] == (None, 3, 256)
    assert value_shapes(model)[y][1:] == [3, 256]
    model = listed(model, 8)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(y, TensorProto.FLOAT, [None, None, None])
    )
    assert infer_shapes(model)[y] == (None, None, None)
    assert not any(isinstance(d, int) for d in value_shapes(model)[y])
