"""Every way to run a file against stock ONNX Runtime: torch, the kernels, the compiled file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from verified import N_TEST, Original, dataset, markdown, metadata, network

from fggp_deploy import kernels
from fggp_deploy.common.files import sha256_file
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.format.unpacking import split
from fggp_deploy.measure.network import Network, load
from fggp_deploy.runtime import selection
from fggp_deploy.runtime.selection import Selection

pytestmark = pytest.mark.usefixtures("shapes_in_process")


@pytest.fixture
def on_kernels(tmp_path, monkeypatch, quick):
    """`quick` with kernels that the planner takes, without timing anything."""
    monkeypatch.delenv("FGGP_KERNELS")
    if kernels.library_path() is None:
        pytest.skip("the kernels are not built")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(selection, "choose", lambda _: Selection("whole", 2.0, 3.0))
    return quick


def test_kernels_and_the_compiled_file_are_compared_with_stock(folder, on_kernels):
    found = on_kernels(folder / "model.onnx", data=dataset())
    assert set(found.latency.timings) == {"model", "reference", "kernels"}
    assert set(found.latency.speedups) == {"model", "kernels"}
    for parity in (found.kernels_parity, found.compiled_parity):
        assert parity.n == N_TEST
        assert parity.passed
        assert parity.top1_changed == 0
    assert found.accuracy.kernels == found.accuracy.model
    assert found.accuracy.kernels_paired == found.accuracy.paired
    assert found.torch_parity is None
    names = [v.name for v in found.verdicts]
    assert {"kernels against stock", "compiled file against stock"} <= set(names)
    text = markdown(found)
    assert "kernels, compiled now, against stock, all test images" in text
    assert "compiled file against stock, all test images" in text
    assert "was not run in torch" in text
    top1 = next(line for line in text.splitlines() if "top-1, " in line)
    kernels = next(line for line in text.splitlines() if "top-1 on the sparse kernels, " in line)
    assert kernels.split("|")[2:] == top1.split("|")[2:]


def test_without_data_the_probe_inputs_are_compared(folder, on_kernels):
    found = on_kernels(folder / "model.onnx")
    assert found.kernels_parity.n == found.compiled_parity.n == 4
    assert "compiled file against stock, probe inputs" in markdown(found)


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_a_compiled_file_that_is_wrong_names_layer_and_channel(
    folder, on_kernels, tmp_path, values
):
    path = packed_onnx.export(
        network(0.95), metadata(network(0.95)), folder / "model.onnx", values=values
    )
    assert on_kernels(path).passed
    (place,) = (tmp_path / "cache").rglob("*.onnx")
    compiled = onnx.load(place)
    weight = split(onnx.load(path)).weights["b.weight"].decode()
    counts = np.count_nonzero(weight, axis=(1, 2, 3))
    (stored,) = [t for t in compiled.graph.initializer if t.name == "b.weight.values"]
    w = numpy_helper.to_array(stored).copy()
    w[counts[:20].sum() : counts[:21].sum()] *= -1
    stored.CopyFrom(numpy_helper.from_array(w, stored.name))
    place.write_bytes(compiled.SerializeToString())
    plan = json.loads(place.with_suffix(".json").read_text())
    plan["model_sha256"] = sha256_file(place)
    place.with_suffix(".json").write_text(json.dumps(plan))

    found = on_kernels(path)
    assert [v.name for v in found.verdicts if not v.passed] == ["compiled file against stock"]
    assert (found.mismatch.layer, found.mismatch.channels) == ("b", (20,))
    assert found.mismatch.tensors == ("b.weight",)
    assert found.notes[0].startswith(f"Remove {place.name} from the cache")


def test_torch_is_compared_on_all_images(folder, quick):
    class Wrong:
        """The same network, but with different logits for the third image."""

        def __init__(self, change: float):
            self.session = load("net", network(0.95).SerializeToString(), threads=1).session
            self.change, self.get_outputs = change, self.session.get_outputs
            self.get_inputs = self.session.get_inputs

        def run(self, names, feed):
            (y,) = self.session.run(names, feed)
            y[2] += self.change
            return [y]

    right = Original(torch=Network("t", Wrong(0)))
    good = quick(folder / "model.onnx", data=dataset(), original=right)
    assert (good.torch_parity.n, good.torch_parity.passed) == (N_TEST, True)
    assert "torch against stock, all test images" in markdown(good)
    bad = quick(
        folder / "model.onnx",
        data=dataset(),
        original=Original(network(0.9), Network("t", Wrong(1))),
    )
    assert [v.name for v in bad.verdicts if not v.passed] == ["torch against stock"]
    assert bad.torch_parity.max_abs == pytest.approx(1)
    assert bad.mismatch.layer == "a"


def test_torch_that_cannot_run_is_a_note(folder, quick):
    class Refuses(Original):
        def in_torch(self) -> Network:
            raise ModelFileError("net.py:make needs --trust-code")

    found = quick(folder / "model.onnx", original=Refuses())
    assert found.passed
    assert found.notes[-1] == "The network was not run in torch: net.py:make needs --trust-code."
