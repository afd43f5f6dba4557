"""`bench`: who is timed, what is said of who is not; never how long anything took."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder, detector_net, residual_net
from onnx import ModelProto
from typer.testing import CliRunner

from cli.main import app
from fggp_deploy import kernels
from fggp_deploy.analysis.bench import benchmark, cost_table, report
from fggp_deploy.analysis.bench import model as benchmarked
from fggp_deploy.analysis.bench.cost_table import CostTable
from fggp_deploy.analysis.bench.options import BenchOptions
from fggp_deploy.common import timing
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.packing import pack
from fggp_deploy.graph.comparison import Parity
from fggp_deploy.measure.latency import Speedup
from fggp_deploy.report.words import ratio
from fggp_deploy.runtime import selection
from fggp_deploy.runtime.selection import Selection

pytestmark = pytest.mark.usefixtures("shapes_in_process")

needs_library = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")
BRIEF: dict[str, Any] = {"seconds": 0.001, "sessions": 6}


@pytest.fixture(autouse=True)
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Selection]:
    """What the planner finds, without timing anything: by default, that the kernels are faster."""
    found = {"choice": Selection("whole", 2.0, 3.0)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(selection, "choose", lambda contenders: found["choice"])
    return found


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(pack(residual_net()), path)
    return path


def bench(path: Path, **options: Any) -> report.Report:
    """A brief benchmark."""
    return benchmark.bench(path, BenchOptions(**{**BRIEF, **options}))


def names(found: report.Report) -> list[str]:
    return [r.name for r in found.rivals]


@needs_library
def test_four_contenders_at_every_setting(packed: Path) -> None:
    found = bench(packed, threads=(1, 2), batches=(1, 3))
    assert names(found) == ["dense", "packed", "kernels", "int8"]
    settings = [(c.threads, c.batch) for c in found.cells if c.contender == "kernels"]
    assert settings == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert len(found.cells) == 4 * 4
    for cell in found.cells:
        assert cell.timing.sessions == 6
        assert (cell.speedup is None) == (cell.contender == "dense")
    assert all(p.plan.startswith("kernels: 6 layers") for p in found.plans)
    size = {r.name: r.file_bytes for r in found.rivals}
    assert size["packed"] == size["kernels"] == packed.stat().st_size < size["dense"]
    assert "16 random inputs" in found.rivals[-1].what
    assert all(r.scored is None for r in found.rivals)
    plain = found.to_dict()
    assert plain["schema_version"] == 1
    assert plain["machine"]["usable_cores"] >= 1
    assert plain["provenance"]["hardware"]["cpu"]


def test_a_busy_machine_is_noted(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = itertools.count()
    monkeypatch.setattr(timing, "waited_seconds", lambda: 3600.0 * next(reads))
    found = bench(packed, batches=(1, 2), int8=False)
    busy = [note for note in found.notes if "too busy to measure speed" in note]
    assert [note.partition(":")[0] for note in busy] == ["1 thread, batch 1", "1 thread, batch 2"]
    with pytest.warns(FggpWarning, match="too busy to measure speed"):
        cost_table.network_ms(packed.read_bytes(), on_kernels=False)


@needs_library
def test_plain_is_not_timed_against_itself(packed: Path, planned: dict[str, Selection]) -> None:
    planned["choice"] = Selection(None, 0.9, 1.1)
    found = bench(packed, int8=False)
    assert names(found) == ["dense", "packed", "kernels"]
    assert [c.contender for c in found.cells] == ["dense", "packed"]
    assert found.plans[0].plan.startswith("plain: no faster beyond doubt")


def test_a_file_with_nothing_packed(tmp_path: Path) -> None:
    path = tmp_path / "dense.onnx"
    b = Builder()
    onnx.save(b.model(b.conv("x", 8, 3, density=1.0)), path)
    found = bench(path, int8=False)
    assert names(found) == ["dense", "kernels"]
    assert found.rivals[0].file_bytes == path.stat().st_size
    assert any("nothing packed" in note for note in found.notes)
    assert [c.contender for c in found.cells] == ["dense"]


def test_a_fixed_batch(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    b = Builder()
    onnx.save(b.model(b.conv("x", 8, 3, density=1.0), batch=4), path)
    found = bench(path, batches=(1, 4))
    assert {c.batch for c in found.cells} == {4}
    assert "Batch 1 left out: the model takes 4." in found.notes
    assert "64 random inputs" in found.rivals[-1].what  # sixteen times four
    with pytest.raises(ConfigError, match="give --batch 4"):
        bench(path, batches=(2, 8))


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    b = Builder()
    model = b.model(b.conv("x", 8, 3))
    for d in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[d].dim_param = f"side{d}"
    path = tmp_path / "open.onnx"
    onnx.save(model, path)
    with pytest.raises(ConfigError, match=r"not known: \[n, 3, side2, side3\].*--shape"):
        bench(path)
    found = bench(path, shape=(3, 10, 12), int8=False)
    assert found.cells[0].contender == "dense"
    assert "is not known" not in found.plans[0].plan


@needs_library
def test_layers(packed: Path) -> None:
    found = bench(packed, layers=True, int8=False).layers
    assert found is not None
    convs = [x for x in found.layers if x.op == "Conv"]
    assert [x.shape for x in convs] == [
        *((16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3)),
        *((32, 16, 1, 1), (32, 16, 3, 3)),
    ]
    assert [x.macs for x in convs] == [110592, 589824, 589824, 8192, 73728]
    assert convs[0].density == 1.0
    assert all(0.02 < x.density < 0.2 for x in convs[1:])
    assert all(x.on_kernels for x in found.layers)
    # ONNX Runtime's profile names every convolution, fused or not
    assert all(x.dense_us is not None and x.kernels_us > 0 for x in convs)
    assert all("×" in x.variant for x in convs)


def with_metadata(model: ModelProto) -> ModelProto:
    pre = Preprocessing(16, 16, (0.5,) * 3, (0.25,) * 3)
    meta = Metadata(pre, tuple("0123456789"), data="random")
    onnx.helper.set_model_props(model, meta.to_props())
    return model


@needs_library
def test_real_images_calibrate_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, 60))
    pre = Preprocessing(16, 16, (0.5,) * 3, (0.25,) * 3)
    data = Dataset("random", tuple("0123456789"), split, split, split, pre)
    monkeypatch.setattr(benchmarked, "images_for", lambda *_, **__: data)
    path = tmp_path / "model.onnx"
    onnx.save(pack(with_metadata(residual_net())), path)
    found = bench(path)
    assert "60 images of random" in found.rivals[-1].what
    scored = {r.name: r.scored for r in found.rivals}
    for name in ("dense", "packed", "kernels"):
        assert scored[name] is not None
        assert (scored[name].agreement.k, scored[name].agreement.n) == (60, 60)
    assert scored["int8"].agreement.k > 30


def test_without_its_data_inputs_are_random(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(with_metadata(residual_net()), path)
    found = bench(path, int8=False)
    assert any("'random', which is opened only if you name it" in note for note in found.notes)


@needs_library
def test_wrong_answers_are_an_error(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "parity_of", lambda *_, **__: Parity(2e-4, 1e-4))
    with pytest.raises(ModelFileError, match=r"packed and dense outputs differ by 2\.0e-04"):
        bench(packed, int8=False)


@needs_library
def test_scores_that_are_nearly_zero_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(pack(detector_net()), path)
    found = bench(path, int8=False)
    assert [c.contender for c in found.cells] == ["dense", "packed", "kernels"]


@pytest.mark.parametrize(
    "wrong",
    [{"threads": (0,)}, {"batches": ()}, {"seconds": 0.0}, {"sessions": 5}, {"shape": (3, 0)}],
)
def test_options_out_of_domain(wrong: dict[str, Any], packed: Path) -> None:
    with pytest.raises(ConfigError):
        bench(packed, int8=False, **wrong)


@pytest.mark.parametrize(
    ("low", "value", "high", "says"),
    [
        (0.98, 1.01, 1.04, "no difference [0.98, 1.04]"),
        (1.0, 1.1, 1.2, "no difference [1.00, 1.20]"),
        (1.01, 1.1, 1.2, "1.10× [1.01, 1.20]"),
        (0.7, 0.8, 0.9, "0.80× [0.70, 0.90]"),
    ],
)
def test_the_noise_rule(low: float, value: float, high: float, says: str) -> None:
    assert ratio(Speedup(60, 10, value, low, high)) == says


@needs_library
def test_the_command(packed: Path, tmp_path: Path) -> None:
    arguments = ["bench", str(packed), "--seconds", "0.001", "--sessions", "6", "--layers"]
    out = tmp_path / "report.json"
    ended = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    for text in ("load average", "ratio to dense", "runtime.session: kernels", "Conv", "note: "):
        assert text in ended.stdout
    assert len(json.loads(out.read_text())["cells"]) == 4
    ended = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(ended.stdout)["model"] == "model.onnx"


def test_no_progress_line_says_a_thing_twice(monkeypatch):
    table = CostTable(isa="none", densities=(1.0,), layers={"a": (0.1,)}, rest_ms=0.0, dense_ms=0.1)

    def priced(path: Path, *, progress) -> CostTable:
        progress("timing layers", 0, 1)
        return table

    monkeypatch.setattr(cost_table, "table_of", priced)
    done = CliRunner().invoke(app, ["bench", "net.onnx", "--table", "--json"])
    assert done.exit_code == 0, done.output
    assert done.stderr == "timing: timing layers\n"
