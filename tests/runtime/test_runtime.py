"""`runtime.session`: the same outputs as ONNX Runtime, and regions wherever they can be made."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import NETS, Builder, agree, detector_net, mobile_net, plain_run, residual_net

from fggp_deploy import kernels, runtime
from fggp_deploy.common.timing import Watch
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError
from fggp_deploy.format.packing import pack
from fggp_deploy.graph.comparison import Parity
from fggp_deploy.runtime import cache as disk
from fggp_deploy.runtime import measured_planning, selection
from fggp_deploy.runtime.costs import LayerCost, leave_to_ort
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.plan import CompiledModel, Plan
from fggp_deploy.runtime.regions.programs import build_programs
from fggp_deploy.runtime.regions.rewriting import rewrite
from fggp_deploy.runtime.selection import DENSE, Selection, choose
from fggp_deploy.runtime.sessions import SessionConfig

pytestmark = pytest.mark.usefixtures("shapes_in_process")

needs_library = pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")


@pytest.fixture(autouse=True)
def short_tuning(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "TUNING_SECONDS", 0.05)


@needs_library
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_agrees_with_plain_onnxruntime(
    name: str, threads: int, packed: bool, tmp_path: Path
) -> None:
    model = NETS[name]()
    path = tmp_path / "m.onnx"
    onnx.save(pack(model) if packed else model, path)
    session = runtime.session(path, threads=threads, measure=False)
    assert runtime.uses_kernels(session)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)).astype(np.float32)
        agree(session.run(None, {"x": x}), plain_run(model, x))


@needs_library
@pytest.mark.parametrize(("name", "regions", "steps"), [("residual", 1, 9), ("split", 2, 4)])
def test_regions_found(name: str, regions: int, steps: int) -> None:
    built = build_programs(NETS[name]())
    assert len(built) == regions
    assert sum(len(b.steps) for b in built) == steps


@needs_library
@pytest.mark.parametrize(
    ("target", "batch", "inside"),
    [
        ([0, -1], "n", True),
        ([-1, 8 * 256], "n", True),
        ([4, -1], 4, True),
        ([4, 8 * 256], 4, True),
        ([-1, 8 * 128], 4, False),
        ([2, -1], 4, False),
        ([1, -1], "n", False),
    ],
)
def test_reshape_that_flattens(target: list[int], batch: Any, inside: bool) -> None:
    b = Builder()
    shape = b.tensor(np.array(target))
    model = b.model(b.op("Reshape", b.conv("x", 8, 3), shape), batch=batch)
    (region,) = build_programs(model)
    assert len(region.steps) == (2 if inside else 1)


@needs_library
@pytest.mark.parametrize("name", ["residual", "mobile", "split"])
def test_a_region_file_still_runs_on_a_stock_runtime(name: str) -> None:
    model = NETS[name]()
    rewritten = rewrite(model, build_programs(model), threads=1)
    onnx.checker.check_model(rewritten)
    assert any(n.domain == "ai.fggp" for n in rewritten.graph.node)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    agree(plain_run(rewritten, x), plain_run(model, x))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces timing: what `choose` returns, and the contenders that it was given."""
    said: dict[str, Any] = {"choice": Selection("whole", 2.0, 3.0), "contenders": []}

    def instead(contenders: dict[str, Any]) -> Selection:
        said["contenders"].append(sorted(contenders))
        for contender in contenders.values():
            contender()()
        return said["choice"]

    monkeypatch.setattr(selection, "choose", instead)
    return said


@needs_library
def test_the_compiled_model_is_cached(tmp_path: Path, own_cache: Path, chosen: Any) -> None:
    path = tmp_path / "m.onnx"
    model = residual_net()
    onnx.save(pack(model), path)
    first = runtime.session(path, threads=1)
    (kept,) = own_cache.rglob("*.json")
    assert kept.with_suffix(".onnx").is_file()
    second = runtime.session(path, threads=1)
    assert len(chosen["contenders"]) == 1  # the second session planned nothing
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    for session in (first, second):
        assert runtime.uses_kernels(session)
        assert runtime.explain(session).startswith("kernels: 6 layers in 1 region")
        assert "at least 2.00 times dense" in runtime.explain(session)
        agree(session.run(None, {"x": x}), plain_run(model, x))


@needs_library
@pytest.mark.parametrize(
    "how", ["cut plan", "not a plan", "strange ratio", "other model", "no model", "cut model"]
)
def test_a_damaged_cache_is_made_again(
    how: str, tmp_path: Path, own_cache: Path, chosen: Any
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    runtime.session(path, threads=1)
    (kept,) = own_cache.rglob("*.json")
    model = kept.with_suffix(".onnx")
    if how == "cut plan":
        kept.write_text(kept.read_text()[:-9])
    elif how == "not a plan":
        kept.write_text('{"plan": {"sparse": 1, "reason": []}, "model_sha256": null}')
    elif how == "strange ratio":
        kept.write_text(kept.read_text().replace("2.0,", "NaN,"))
    elif how == "other model":
        onnx.save(mobile_net(), model)
    elif how == "no model":
        model.unlink()
    else:
        model.write_bytes(model.read_bytes()[:-9])
    assert disk.load(kept) is None
    assert runtime.uses_kernels(runtime.session(path, threads=1))
    assert disk.load(kept) is not None


@needs_library
def test_a_plan_made_on_a_busy_machine_is_made_again_after_an_hour(
    tmp_path: Path, own_cache: Path, chosen: Any
) -> None:
    chosen["choice"] = Selection("whole", 2.0, 3.0, busy=True)
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    assert "measured on a busy machine" in runtime.explain(runtime.session(path, threads=1))
    (kept,) = own_cache.rglob("*.json")
    assert disk.load(kept) is not None
    long_ago = kept.stat().st_mtime - disk.BUSY_SECONDS - 60
    os.utime(kept, (long_ago, long_ago))
    assert disk.load(kept) is None
    kept.write_text(kept.read_text().replace('"busy": true', '"busy": false'))
    os.utime(kept, (long_ago, long_ago))
    assert disk.load(kept) is not None


@needs_library
def test_plans_depend_on_batch_and_threads(tmp_path: Path, own_cache: Path, chosen: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    for threads, batch in ((1, 1), (2, 1), (1, 8), (1, 1)):
        runtime.session(path, threads=threads, batch=batch)
    assert len(list(own_cache.rglob("*.json"))) == 3


@needs_library
def test_an_unmeasured_plan_is_measured_when_asked(
    tmp_path: Path, own_cache: Path, chosen: Any
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    text = runtime.explain(runtime.session(path, threads=1, measure=False))
    assert "not measured" in text
    assert chosen["contenders"] == []
    runtime.session(path, threads=1)
    assert len(chosen["contenders"]) == 1
    assert "at least" in runtime.explain(runtime.session(path, threads=1, measure=False))


@needs_library
def test_old_entries_leave_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "KEPT", 2)
    for i in range(4):
        disk.save(own_cache / f"{i}.json", CompiledModel(Plan(True, "r", 2.0), bytes([i])))
    assert len(list(own_cache.iterdir())) == 4  # two plans and their models


@needs_library
def test_the_cache_is_for_its_owner_alone(tmp_path: Path, own_cache: Path, chosen: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    before = os.umask(0)  # as careless as can be
    try:
        runtime.session(path, threads=1)
    finally:
        os.umask(before)
    (kept,) = own_cache.rglob("*.json")
    modes = {p: p.stat().st_mode & 0o777 for p in (kept, kept.with_suffix(".onnx"), kept.parent)}
    assert list(modes.values()) == [0o600, 0o600, 0o700]
    assert disk.load(kept) is not None


@needs_library
@pytest.mark.parametrize("what", ["plan", "model", "folder", "link", "pipe", "owner"])
def test_what_others_may_change_is_not_read_from_the_cache(
    what: str, tmp_path: Path, own_cache: Path, chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    runtime.session(path, threads=1)
    (kept,) = own_cache.rglob("*.json")
    if what == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    elif what == "link":
        kept.rename(tmp_path / "plan.json")
        kept.symlink_to(tmp_path / "plan.json")
    elif what == "pipe":
        kept.unlink()
        os.mkfifo(kept)
    else:
        changed = {"plan": kept, "model": kept.with_suffix(".onnx"), "folder": kept.parent}[what]
        changed.chmod(0o777)
    assert disk.load(kept) is None
    assert runtime.uses_kernels(runtime.session(path, threads=1))
    assert len(chosen["contenders"]) == 2  # it was planned again
    assert (disk.load(kept) is not None) == (what != "owner")


@needs_library
def test_dense_where_sparse_does_not_pay(tmp_path: Path, chosen: Any) -> None:
    chosen["choice"] = Selection(None, 0.9, 1.1)
    path = tmp_path / "m.onnx"
    model = residual_net()
    onnx.save(pack(model), path)
    x = np.zeros((1, 3, 16, 16), np.float32)
    for _ in range(2):  # planned, and from the cache
        session = runtime.session(path, threads=1)
        assert not runtime.uses_kernels(session)
        assert runtime.explain(session) == "plain: no faster beyond doubt, ratio 0.90 to 1.10"
        agree(session.run(None, {"x": x}), plain_run(model, x))


@needs_library
def test_layers_that_lose_are_left_to_onnxruntime(
    tmp_path: Path, chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = residual_net()
    first = model.graph.node[1].output[0]  # the first Conv with its Relu
    monkeypatch.setattr(measured_planning, "leave_to_ort", lambda costs, entering: {first})
    chosen["choice"] = Selection("cut", 2.0, 3.0)
    session = runtime.session(model.SerializeToString(), threads=1)
    assert chosen["contenders"] == [["cut", "dense", "whole"]]
    assert "5 layers in 1 region" in runtime.explain(session)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    agree(session.run(None, {"x": x}), plain_run(model, x))


@needs_library
@pytest.mark.parametrize(
    ("how", "reason"),
    [("dense", "only 0% of its weights are zeros"), ("open", "not known: [n, 3, h, 16]")],
)
def test_plain_with_a_reason(how: str, reason: str) -> None:
    b = Builder()
    y = b.conv("x", 8, 3, density=1.0 if how == "dense" else 0.1)
    model = b.model(y)
    if how == "open":
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    session = runtime.session(model.SerializeToString(), threads=1)
    assert not runtime.uses_kernels(session)
    assert runtime.explain(session).startswith("plain: ")
    assert reason in runtime.explain(session)


@needs_library
@pytest.mark.parametrize("side", ["h", -1])
def test_open_sizes_are_given(
    side: str | int, tmp_path: Path, own_cache: Path, chosen: Any
) -> None:
    model = residual_net()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side  # some exporters write this for a size that is open
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert not runtime.uses_kernels(runtime.session(path, threads=1))
    for size in (16, 24):
        session = runtime.session(path, threads=1, shape=(3, size, size))
        assert runtime.uses_kernels(session)
        x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
        agree(session.run(None, {"x": x}), plain_run(model, x))
        assert runtime.compiled_file(path, threads=1, shape=(3, size, size)) is not None


@needs_library
def test_wrong_outputs_are_never_chosen_nor_cached(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, chosen: Any
) -> None:
    model = residual_net().SerializeToString()
    with monkeypatch.context() as patch:
        patch.setattr(measured_planning, "parity_of", lambda *_, **__: Parity(2e-4, 1e-4))
        for _ in range(2):
            with pytest.warns(FggpWarning, match=r"differ by 2\.0e-04 .*; you get a standard"):
                session = runtime.session(model, threads=1)
            assert not runtime.uses_kernels(session)
            assert "the sparse kernels disagree with ONNX Runtime" in runtime.explain(session)
    assert not list(own_cache.rglob("*.json"))
    assert runtime.uses_kernels(runtime.session(model, threads=1))


@needs_library
def test_scores_that_are_nearly_zero_are_no_reason_to_refuse(chosen: Any) -> None:
    model = detector_net()
    (_, scores) = SessionConfig(1).open(model.SerializeToString()).run(None, random_feeds(model, 1))
    assert 0 < scores.max() < 1e-5
    session = runtime.session(model.SerializeToString(), threads=1)
    assert runtime.uses_kernels(session), runtime.explain(session)


def test_explain_a_session_of_somebody_else() -> None:
    session = ort.InferenceSession(residual_net().SerializeToString())
    assert runtime.explain(session).startswith("plain: ")


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"threads": -1}, {"tuning_seconds": -1.0}, {"shape": (3, 0, 8)}]
)
def test_options_out_of_domain(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        runtime.session(b"", **wrong)


LIMITED = """
import resource, sys
from fggp_deploy import runtime
from fggp_deploy.errors import MachineError
from fggp_deploy.runtime.compile_to_file import compile_file
from pathlib import Path

path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # as if the disk were full
session = runtime.session(path, threads=1, cache=False)
assert not runtime.uses_kernels(session)
assert runtime.explain(session).startswith("plain: temporary files cannot be written ("), session
try:
    compile_file(path, measure=False)
except MachineError as e:
    assert "TMPDIR" in str(e)
else:
    raise AssertionError("it was compiled")
"""


@needs_library
def test_a_full_folder_of_temporary_files_is_not_the_models_fault(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_library
def test_no_folder_for_temporary_files(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(residual_net(), path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    session = runtime.session(path, threads=1)
    assert "plain: temporary files cannot be written" in runtime.explain(session)
    assert not list(own_cache.rglob("*.json"))  # it may work the next time


@pytest.mark.parametrize("what", ["nothing there", "empty", "noise"])
def test_what_cannot_be_read(what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if what != "nothing there":
        path.write_bytes(b"" if what == "empty" else bytes(range(256)))
    with pytest.raises(ModelFileError):
        runtime.session(path, threads=1)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGGP_KERNELS", str(tmp_path / "none.so"))
    kernels.load.cache_clear()
    try:
        assert "not built" in kernels.status().text
        path = tmp_path / "m.onnx"
        onnx.save(pack(residual_net()), path)
        session = runtime.session(path, threads=1)
        assert not runtime.uses_kernels(session)
        assert "not built" in runtime.explain(session)
        with pytest.raises(ModelFileError, match="missing"):
            runtime.session(tmp_path / "missing.onnx", threads=1)
    finally:
        kernels.load.cache_clear()


def cost(output: str, dense_us: float, kernels_us: float, elements: int) -> LayerCost:
    return LayerCost(output, "Conv", (), 0.1, 1, dense_us, kernels_us, "–", output, elements)


@pytest.mark.parametrize(
    ("costs", "left"),
    [
        ([("a", 100, 50, 100), ("b", 100, 50, 100)], set()),
        ([("a", 100, 200, 100), ("b", 300, 50, 100)], {"a"}),
        # a change of layout of 100,000 floats costs 150 µs, more than a's 100 µs less
        ([("a", 100, 200, 100_000), ("b", 300, 50, 100)], set()),
        ([("a", 300, 50, 100), ("b", 100, 400, 100), ("c", 300, 50, 100)], {"b"}),
        ([("a", 100, 200, 100), ("b", 100, 200, 100)], {"a", "b"}),
    ],
)
def test_which_layers_are_left(costs: list[Any], left: set[str]) -> None:
    assert leave_to_ort([cost(*c) for c in costs], entering=100) == left


class Sessions:
    """Contenders that take a given time per run in each session, measured without a clock."""

    def __init__(self, **ms: list[float]) -> None:
        self.ms = {name: iter(values) for name, values in ms.items()}
        self.opened: list[str] = []

    def choose(self) -> Selection:
        def opener(name: str) -> Any:
            def open_session() -> Any:
                self.opened.append(name)
                return next(self.ms[name])

            return open_session

        def measure(runs: dict[str, float], **limits: Any) -> dict[str, list[float]]:
            return {name: [ms] * limits["least"] for name, ms in runs.items()}

        return choose({name: opener(name) for name in self.ms}, measure=measure)


def test_faster_in_two_fresh_sessions() -> None:
    sessions = Sessions(dense=[6.0, 6.0], whole=[3.0, 4.0], cut=[2.0, 4.0])
    assert sessions.choose() == Selection("cut", 1.5, 3.0)
    assert sessions.opened == [DENSE, "whole", "cut", DENSE, "cut"]


@pytest.mark.parametrize("second", [1.0, 0.9])
def test_faster_only_in_one_session(second: float) -> None:
    found = Sessions(dense=[2.0, second], whole=[1.0, 1.0]).choose()
    assert found == Selection(None, second, second)


@pytest.mark.parametrize("waited", [0.0, 0.5])
def test_a_choice_on_a_busy_machine_says_so(waited: float) -> None:
    def measure(runs: Any, *, watch: Watch, **_: Any) -> dict[str, list[float]]:
        watch.record("whole", waited=waited, took=1.0)
        return {name: [3.0 if name == DENSE else 1.0] * 6 for name in runs}

    contenders = {DENSE: lambda: None, "whole": lambda: None}
    assert choose(contenders, measure=measure) == Selection("whole", 3.0, 3.0, busy=bool(waited))


def test_more_rounds_while_the_interval_holds_one() -> None:
    asked: list[bool] = []

    def measure(runs: Any, *, enough: Any, **_: Any) -> dict[str, list[float]]:
        even = [1.1, 0.9] * 3
        asked.append(enough({DENSE: even, "whole": [1.0] * 6}))
        asked.append(enough({DENSE: [*even, 1.1], "whole": [1.0] * 7}))
        asked.append(enough({DENSE: [1.1] * 6, "whole": [1.0] * 6}))
        asked.append(enough({DENSE: [0.9] * 6, "whole": [1.0] * 6}))
        return {DENSE: even, "whole": [1.0] * 6}

    contenders = {DENSE: lambda: None, "whole": lambda: None}
    assert choose(contenders, measure=measure).name is None
    assert asked == [False, False, True, True]
