"""Finds layer densities that meet a latency on this machine, for `prune --target-latency`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from fggp_deploy.analysis.bench.cost_table import (
    CostTable,
    cost_table,
    fit_densities,
    network_ms,
    with_densities,
)
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.prune import prepare_pruning

from .options import ExportOptions
from .run import export_run
from .torch_onnx import to_onnx

ROUNDS = 6  # corrections of the plan by timing the whole network
CLOSE = 0.03  # relative error at which a plan is accepted
TOLERANCE = 0.10  # relative error that a result may have


@dataclass(frozen=True)
class LatencyPlan:
    """Densities that bring a network to `target_ms` an image, on one thread of this machine.

    `densities`: the share of its weights that each layer keeps; `sparsity`: of all prunable
    weights. `planned_ms`: measured with random masks of these densities. `parent_ms`: dense on
    plain onnxruntime.
    """

    target_ms: float
    planned_ms: float
    parent_ms: float
    sparsity: float
    densities: dict[str, float]
    table: CostTable

    def config(self, asked: PruneConfig) -> PruneConfig:
        """The run that prunes to these densities."""
        return replace(asked, densities=self.densities, target=self.sparsity)


@dataclass(frozen=True)
class LatencyCheck:
    """The latency of a pruned network: `ms` of the file through runtime.session, one thread.

    `met`: within 10% of `target_ms`. `why`: if it is not met, the reason as far as it is known.
    """

    target_ms: float
    ms: float
    met: bool
    why: str
    file: Path


def plan_latency(config: PruneConfig, *, progress: Progress = silent) -> LatencyPlan:
    """Choose densities by measured costs, and correct them by timing the whole network.

    `fit_densities` maximizes Σ log density within a budget. The budget is the target minus the
    costs that do not depend on masks. It is then corrected by the error of the network with
    random masks.
    Raises ConfigError for a target that the network meets dense, or does not meet at the lowest
    densities, and what `prepare_pruning` and `cost_table` raise.
    """
    target = config.target_latency
    assert target is not None  # the caller has checked it
    session = prepare_pruning(config, progress=progress).session
    masks, data = session.pruner.masks, session.data
    dense = to_onnx(session.model, Metadata(data.preprocessing, tuple(data.classes)))
    table = cost_table(dense, list(masks), progress=progress)
    if table.dense_ms <= target:
        raise ConfigError(
            f"--target-latency {target:g}: the dense network takes {table.dense_ms:.3g} ms here "
            "already; ask for less"
        )
    lowest = dict.fromkeys(table.layers, table.densities[0])
    floor = network_ms(with_densities(dense, lowest).SerializeToString())
    if floor > (1 + TOLERANCE) * target:
        raise ConfigError(
            f"--target-latency {target:g}: with {table.densities[0]:.0%} of the weights in each "
            f"layer the network takes {floor:.3g} ms here; ask for more, or a smaller network"
        )
    budget, tried = target - table.rest_ms, list[tuple[float, dict[str, float]]]()
    low, high = 0.0, math.inf  # budgets known to be too small and too large
    for done in range(ROUNDS):
        progress("timing the network with random masks", done, ROUNDS)
        try:
            densities = fit_densities(table.layers, table.densities, budget)
        except ConfigError:  # the costs add up to more than the network takes
            densities = lowest
        ms = network_ms(with_densities(dense, densities).SerializeToString())
        tried.append((ms, densities))
        if abs(ms - target) <= CLOSE * target:
            break
        low, high = (low, budget) if ms > target else (budget, high)
        budget += target - ms
        if not low < budget < high:
            budget = (low + high) / 2
    ms, densities = min(tried, key=lambda t: abs(t[0] - target))
    keep = {n: densities.get(n, 1.0) for n in masks}
    n_kept = sum(round(d * masks[n].numel()) for n, d in keep.items())
    if n_kept == masks.n_total:
        raise ConfigError(
            f"--target-latency {target:g}: no layer needs to lose a weight; the dense network "
            f"takes {table.dense_ms:.3g} ms on plain onnxruntime, {ms:.3g} ms on the kernels"
        )
    return LatencyPlan(target, ms, table.dense_ms, 1 - n_kept / masks.n_total, keep, table)


def check_latency(
    checkpoint: Path, target_ms: float, *, plan: LatencyPlan | None, trust_code: bool = False
) -> LatencyCheck:
    """Export a run's checkpoint beside itself and time the file; `plan`: what was expected."""
    file = export_run(checkpoint, ExportOptions(trust_code=trust_code)).path
    ms = network_ms(read_bytes(file))
    off = ms / target_ms - 1
    why = ""
    if abs(off) > TOLERANCE:
        why = f"{off:+.0%} off the target"
        if plan is not None:
            why += f"; random masks of the same densities took {plan.planned_ms:.3g} ms"
            if abs(plan.planned_ms / target_ms - 1) > TOLERANCE:
                why += f", the nearest of {ROUNDS} tries"
        why += f"; --target-latency {target_ms * target_ms / ms:.3g} corrects for this"
    return LatencyCheck(target_ms, ms, not why, why, file)
