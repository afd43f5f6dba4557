"""`prune --target-latency`: densities from costs, pruning to them, and what is said of the end."""

from __future__ import annotations

import json

import pytest
import torch
from graphs import residual_net
from loops import make, sgd, steps

from fggp_deploy import Cubic, Pruner, kernels
from fggp_deploy.analysis.bench.cost_table import (
    CostTable,
    cost_table,
    fit_densities,
    with_densities,
)
from fggp_deploy.errors import ConfigError, MachineError
from fggp_deploy.exporters import latency_target
from fggp_deploy.pruning.allocation import Given
from fggp_deploy.pruning.methods import Task
from fggp_deploy.pruning.methods.gradual import GradualOptions
from fggp_deploy.pruning.methods.registry import BUILT_IN, info
from fggp_deploy.training.config import PruneConfig

ENDS = (0.01, 1.0)


def line(per_density: float) -> tuple[float, float]:
    """Costs that are proportional to the density."""
    return 0.01 * per_density, per_density


def test_layers_get_equal_time_where_costs_are_proportional():
    found = fit_densities({"a": line(2), "b": line(8)}, ENDS, budget=1.0)  # half a ms each
    assert found == {"a": pytest.approx(0.25, rel=0.02), "b": pytest.approx(0.0625, rel=0.02)}


def test_what_a_dense_layer_does_not_use_goes_to_the_others():
    found = fit_densities({"a": line(0.2), "b": line(8)}, ENDS, budget=1.0)
    assert found == {"a": 1.0, "b": pytest.approx(0.1, rel=0.02)}


def test_free_layers_and_rich_budgets_stay_dense():
    assert fit_densities({"a": (0.0, 0.0), "b": line(1)}, ENDS, budget=9.0) == {"a": 1.0, "b": 1.0}


def test_a_kink_is_kept_below():
    # from 10% on the layer costs 5 whatever the density: the next step up buys all of it
    curve = (0.1, 1.0, 5.0, 5.0)
    densities = (0.01, 0.1, 0.11, 1.0)
    assert fit_densities({"a": curve}, densities, budget=2.0)["a"] == pytest.approx(0.1, rel=0.05)
    assert fit_densities({"a": curve}, densities, budget=5.0)["a"] == 1.0


def test_a_budget_below_the_lowest_densities_is_refused():
    with pytest.raises(ConfigError, match=r"cost 0\.03, which is more than the budget of 0\.02"):
        fit_densities({"a": line(1), "b": line(2)}, ENDS, budget=0.02)


def test_given_by_hand():
    shapes = {"a": (10, 10), "b": (2, 5), "c": (3, 4)}
    given = Given({"a": 0.2, "b": 0.5})  # 80 and 5 of 122 go; c is not named
    assert given(shapes, 85 / 122) == {"a": 20, "b": 5, "c": 12}
    assert given(shapes, 17 / 122) == {"a": 84, "b": 9, "c": 12}  # a fifth of that
    with pytest.raises(ConfigError, match="d is not a prunable weight"):
        Given({"d": 0.5})(shapes, 0.5)
    for wrong in (0, 1.5, float("nan"), "half"):
        with pytest.raises(ConfigError, match=r"is kept must be in \(0, 1\]"):
            Given({"a": wrong})  # type: ignore[dict-item]


GRADUAL = [n for n in BUILT_IN if issubclass(info(n).options, GradualOptions)]


@pytest.mark.parametrize("name", GRADUAL)
def test_each_gradual_method_prunes_each_layer_to_its_density(name: str):
    net = make()
    sizes = {"conv2.weight": net.conv2.weight.numel(), "fc.weight": net.fc.weight.numel()}
    densities = {"conv2.weight": 0.25, "fc.weight": 0.5}
    keep = {n: round(d * sizes[n]) for n, d in densities.items()}
    target = 1 - sum(keep.values()) / sum(sizes.values())
    task = Task(
        target=target, schedule=Cubic(target, steps=10, updates=5), n_steps=10, steps_per_epoch=5,
        updates=5, rate=0.5, seed=0, input_shape=(1, 8, 8), batches=lambda n: [],
        densities=densities,
    )  # fmt: skip
    method = info(name).make(info(name).options(), task)
    pruner = Pruner(net, method, optimizer=sgd(net))
    steps(net, pruner, 10)
    kept = {n: int(m.sum()) for n, m in pruner.finish().items()}
    assert kept == keep


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "rigl"}, "so the method must be gradual"),
        ({"method_set": {"allocation": "erk"}}, "must not have its own allocation"),
        ({"target": (0.5, 0.9)}, "makes one network per run"),
        ({"target_latency": 0.0}, "--target-latency must be above 0"),
        ({"densities": {"fc.weight": 2.0}}, r"fc.weight that is kept must be in \(0, 1\]"),
    ],
)
def test_runs_that_cannot_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        PruneConfig(**{"target_latency": 1.0} | values)


def test_the_command_takes_one_target(program):
    ended = program("prune", "--target-latency", "1", "--target", "0.9")
    assert ended.code == 2
    assert ended.err == "error: --target-latency replaces --target; give one of them\n"


@pytest.fixture
def machine(monkeypatch):
    """A machine where the demo network costs what `off` and the table say, without measuring."""
    reported = {"off": 0.0, "n": 0}

    def table(dense, names, **_) -> CostTable:
        return CostTable("none", ENDS, {n: line(1.0) for n in names}, 0.5, 20.0)

    def ms(model: dict[str, float]) -> float:
        reported["n"] += 1
        return 0.5 + reported["off"] + sum(model.values())

    class Thin:
        def __init__(self, densities):
            self.densities = densities

        def SerializeToString(self):  # noqa: N802 - protobuf's name
            return self.densities

    monkeypatch.setattr(latency_target, "cost_table", table)
    monkeypatch.setattr(latency_target, "with_densities", lambda dense, densities: Thin(densities))
    monkeypatch.setattr(latency_target, "network_ms", ms)
    monkeypatch.setattr(latency_target, "to_onnx", lambda *_: None)
    return reported


def test_a_plan_moves_its_budget_by_what_the_network_is_off(machine):
    exact = latency_target.plan_latency(PruneConfig(target_latency=4.0))
    assert machine["n"] == 2  # the lowest densities, and these
    assert exact.planned_ms == pytest.approx(4.0, rel=0.03)
    machine |= {"off": 1.5, "n": 0}
    moved = latency_target.plan_latency(PruneConfig(target_latency=4.0))
    assert machine["n"] == 3
    assert moved.planned_ms == pytest.approx(4.0, rel=0.03)
    assert sum(moved.densities.values()) == pytest.approx(2.0, rel=0.06)
    config = moved.config(PruneConfig(target_latency=4.0))
    assert config.densities == moved.densities
    assert config.target == moved.sparsity


def test_targets_that_cannot_be_are_refused_with_what_can(machine):
    with pytest.raises(ConfigError, match="the dense network takes 20 ms here already"):
        latency_target.plan_latency(PruneConfig(target_latency=21.0))
    machine["off"] = 5.0
    with pytest.raises(ConfigError, match=r"with 1% of the weights in each layer .* takes 5\.62"):
        latency_target.plan_latency(PruneConfig(target_latency=5.0))


@pytest.mark.parametrize(
    ("ms", "why"),
    [
        (4.3, ""),
        (5.0, "+25% off the target; --target-latency 3.2 corrects for this"),
    ],
)
def test_the_result_says_whether_it_met(monkeypatch, tmp_path, ms, why):
    (tmp_path / "m.onnx").write_bytes(b"any")
    made = type("Made", (), {"path": tmp_path / "m.onnx"})
    monkeypatch.setattr(latency_target, "export_run", lambda *_, **__: made)
    monkeypatch.setattr(latency_target, "network_ms", lambda _: ms)
    found = latency_target.check_latency(tmp_path / "p", 4.0, plan=None)
    assert (found.met, found.why) == (not why, why)


def test_a_table_of_a_real_network(monkeypatch):
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    table = cost_table(residual_net(), densities=(0.05, 0.5))
    assert table.densities == (0.05, 0.5, 1.0)
    assert len(table.layers) == 6
    assert all(len(row) == 3 and min(row) > 0 for row in table.layers.values())
    monkeypatch.setenv("FGGP_KERNELS", "none")
    with pytest.raises(MachineError, match="not built"):
        cost_table(residual_net())


def test_random_masks_have_the_densities():
    thin = with_densities(residual_net(), {"t0": 0.25})
    weights = {t.name: t for t in thin.graph.initializer}
    n = len(torch.frombuffer(bytearray(weights["t0"].raw_data), dtype=torch.float32).nonzero())
    assert n == round(0.25 * 16 * 3 * 3 * 3)


@pytest.mark.slow
def test_a_run_meets_its_latency(program):
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    made = program("prune", "--target-latency", "0.2", "--epochs", "1", "--json")
    assert made.code == 0, made.err
    reported = made.json["latency"]
    assert reported["met"] == (abs(reported["ms"] / 0.2 - 1) <= 0.1)
    assert reported["met"] or "off the target" in reported["why"]
    kept = json.loads((program.cwd / made.json["folder"] / "latency.json").read_text())
    assert kept["result"]["ms"] == reported["ms"]
    assert set(kept["plan"]["densities"]) == set(kept["plan"]["table"]["layers"])
