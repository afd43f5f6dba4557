"""Regions that `export --regions` and `pack --regions` write into the file itself."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from graphs import NETS, Builder, agree, plain_run, residual_net
from onnx import ModelProto

from fggp_deploy import kernels, runtime
from fggp_deploy.errors import ConfigError
from fggp_deploy.exporters.options import ExportOptions, PackOptions
from fggp_deploy.exporters.own_network import export_model
from fggp_deploy.exporters.pack import pack_file
from fggp_deploy.format.compiled import compiled_for, is_compiled
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.packing import Packing, pack
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.region_file import with_regions
from fggp_deploy.runtime.sessions import SessionConfig

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)

X = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("own_cache")


def threads_of(model: ModelProto) -> set[int]:
    """What the regions of a model say about threads."""
    nodes = (n for n in model.graph.node if n.op_type.startswith("Region_"))
    return {a.i for n in nodes for a in n.attribute if a.name == "threads"}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_outputs_on_both_runtimes(name: str, threads: int) -> None:
    packed = pack(NETS[name]())
    model, what = with_regions(packed)
    assert is_compiled(model)
    assert compiled_for(model) is None
    assert threads_of(model) == {0}
    assert "by the cost model" in what
    want = plain_run(packed, X)
    for on_kernels in (False, True):
        session = SessionConfig(threads).open(model.SerializeToString(), on_kernels=on_kernels)
        agree(session.run(None, {"x": X}), want)


def test_a_session_plans_such_a_file_for_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_regions(pack(residual_net()))[0].SerializeToString()
    session = runtime.session(data, threads=1, measure=False)
    assert runtime.uses_kernels(session)
    assert "as the file was compiled" in runtime.explain(session)
    planned: list[int] = []

    class Planner:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> object:
            planned.append(1)
            return runtime.CompiledModel.standard("planned anew")

    monkeypatch.setattr("fggp_deploy.runtime.compiler.MeasuredPlanner", Planner)
    assert "planned anew" in runtime.explain(runtime.session(data, threads=1))
    assert planned == [1]


def test_such_a_file_can_be_compiled(tmp_path: Path) -> None:
    onnx.save(with_regions(pack(residual_net()))[0], tmp_path / "m.onnx")
    made = compile_file(tmp_path / "m.onnx", measure=False)
    assert compiled_for(onnx.load(made.path)) is not None


def test_few_zeros_are_no_reason_for_regions() -> None:
    dense = residual_net()
    for tensor in dense.graph.initializer:
        a = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(a == 0, 1, a), tensor.name))
    packed = Packing.of(dense).model
    model, why = with_regions(packed)
    assert model is packed
    assert "zeros" in why


def test_a_region_without_zeros_stays_with_onnxruntime() -> None:
    """The kernels would gain nothing on the depthwise layer, and change the layout twice."""
    b = Builder()
    x = b.op("Softplus", b.conv("x", 12, 3))
    x = b.op("Softplus", b.conv(x, 12, 12, group=12, density=1.0))
    packed = pack(b.model(b.conv(x, 12, 12)))
    model, what = with_regions(packed)
    assert what.startswith("2 layers in 2 regions")
    assert [n.op_type for n in model.graph.node].count("Conv") == 1
    agree(plain_run(model, X), plain_run(packed, X))


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_an_exported_file_is_read_like_any_other(tmp_path: Path, values: str) -> None:
    about = nets.metadata()
    notes: list[str] = []
    plain, regions = (
        export_model(
            nets.sparse_small(), tmp_path / name, preprocessing=about.preprocessing,
            classes=about.classes, values=values, regions=name == "r.onnx", note=notes.append,
        )
        for name in ("p.onnx", "r.onnx")
    )  # fmt: skip
    assert sum(n.startswith("regions: ") for n in notes) == 1
    first, second = SparseModel.open(plain), SparseModel.open(regions)
    assert second.metadata.to_props()["fggp.selftest"] == first.metadata.to_props()["fggp.selftest"]
    weights = ({layer.shape: layer.nnz for layer in m.layers} for m in (first, second))
    assert next(weights) == next(weights)
    assert second.file_bytes() < 1.5 * first.file_bytes() + 4096


def test_a_packed_file_is_compared_with_its_source(tmp_path: Path) -> None:
    onnx.save(residual_net(), tmp_path / "m.onnx")
    made = pack_file(tmp_path / "m.onnx", options=PackOptions(regions=True))
    assert made.notes[-1].startswith("regions: ")
    assert made.kernels_error is not None
    assert is_compiled(onnx.load(made.path))


def test_regions_are_functions() -> None:
    with pytest.raises(ConfigError, match="--regions writes functions, which --flat inlines"):
        ExportOptions(regions=True, flat=True)
    with pytest.raises(ConfigError, match="--regions is for --format onnx, not csr"):
        ExportOptions(regions=True, format="csr")
