"""Layer sensitivity: the loss of accuracy if one layer alone is pruned by magnitude.

Nothing is trained. The result suggests which layers to keep dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Part
from fggp_deploy.errors import ConfigError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.unpacking import layer_name
from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.reading import reading
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.network import Floats, load
from fggp_deploy.measure.statistics import (
    ALPHA,
    Proportion,
    difference_interval,
    holm,
    mcnemar,
    proportion,
)


@dataclass(frozen=True)
class Drop:
    """Top-1 points lost if the layer alone has this sparsity, paired, with a 95% interval."""

    sparsity: float
    top1: Proportion
    drop_points: float
    drop_low: float
    drop_high: float
    p_value: float


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer: its weights, their share of all weights, and the drops at each sparsity.

    `spare` suggests keeping it dense; see `worth_sparing`.
    """

    name: str
    n_weights: int
    share: float
    drops: tuple[Drop, ...]
    spare: bool


@dataclass(frozen=True)
class Sensitivity:
    """All layers of a file, on `n` held-out images, in the network's order."""

    model: str
    data: str
    n: int
    top1: Proportion
    tolerance_points: float
    budget: float
    layers: tuple[LayerSensitivity, ...]

    @property
    def spared(self) -> list[str]:
        """The layers to keep dense, the most sensitive first."""
        found = [layer for layer in self.layers if layer.spare]
        return [x.name for x in sorted(found, key=lambda x: -x.drops[-1].drop_points)]


def sensitivity(
    packed: SparseModel,
    split: Part,
    *,
    data: str,
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    tolerance_points: float = 1.0,
    budget: float = 0.05,
    threads: int = 1,
    progress: Progress = silent,
) -> Sensitivity:
    """Prune each convolution and linear layer alone by magnitude, and measure top-1 on `split`.

    The split must be held-out data and not the test data, because the suggestions influence the
    network. Raises ConfigError for sparsities outside (0, 1) or a negative tolerance, DataError
    for an empty split.
    """
    levels = sorted(set(sparsities))
    if not levels or not all(0 < s < 1 for s in levels):
        raise ConfigError(f"sparsities must be in (0, 1), got {list(sparsities)}")
    if not 0 <= budget <= 1:
        raise ConfigError(f"the budget must be a share of the weights in [0, 1], got {budget}")
    if not tolerance_points >= 0:
        raise ConfigError(f"the tolerance must not be negative, got {tolerance_points}")
    with reading(packed.path.name):
        dense = packed.dense()
    tensors = initializers(dense.graph)
    layers = {layer_name(n): n for n in tensors}
    names = [layers[layer.name] for layer in packed.layers if layer.name in layers]

    def right() -> npt.NDArray[np.bool_]:
        network = load(packed.path.name, dense.SerializeToString(), threads=threads)
        y: Floats = evaluate.logits(network, split, packed.metadata.images)
        return evaluate.hits(y, split.labels, 1)

    before = right()
    found: list[tuple[str, int, tuple[Drop, ...]]] = []
    for i, name in enumerate(names):
        w = numpy_helper.to_array(tensors[name]).copy()
        drops = []
        for j, level in enumerate(levels):
            progress(layer_name(name), i * len(levels) + j, len(names) * len(levels))
            _set(tensors[name], smallest_removed(w, level))
            drops.append(_drop(level, before, right()))
        _set(tensors[name], w)
        found.append((layer_name(name), w.size, tuple(drops)))
    progress("done", len(names) * len(levels), len(names) * len(levels))
    total = sum(size for _, size, _ in found)
    spared = worth_sparing(
        [(size / total, drops[-1]) for _, size, drops in found],
        tolerance_points=tolerance_points,
        budget=budget,
    )
    return Sensitivity(
        model=packed.path.name,
        data=data,
        n=len(split),
        top1=proportion(int(before.sum()), len(split)),
        tolerance_points=tolerance_points,
        budget=budget,
        layers=tuple(
            LayerSensitivity(name, size, size / total, drops, i in spared)
            for i, (name, size, drops) in enumerate(found)
        ),
    )


def worth_sparing(
    layers: Sequence[tuple[float, Drop]], *, tolerance_points: float, budget: float
) -> set[int]:
    """Indices of the layers to keep dense, from each one's share of the weights and its drop.

    Candidates lose more than the tolerance, and more than chance explains (exact McNemar, Holm's
    correction for the layers). Those that save most points per kept weight are chosen first, as
    long as their shares add up to at most `budget`.
    """
    adjusted = holm([drop.p_value for _, drop in layers])
    candidates = [
        i
        for i, ((_, drop), p) in enumerate(zip(layers, adjusted, strict=True))
        if drop.drop_points > tolerance_points and p < ALPHA
    ]
    chosen: set[int] = set()
    spent = 0.0
    for i in sorted(candidates, key=lambda i: -layers[i][1].drop_points / layers[i][0]):
        if spent + layers[i][0] <= budget:
            chosen.add(i)
            spent += layers[i][0]
    return chosen


def smallest_removed(w: npt.NDArray[np.float32], sparsity: float) -> npt.NDArray[np.float32]:
    """A copy whose round(sparsity · size) smallest magnitudes are zero; ties by index."""
    out = w.copy()
    order = np.argsort(np.abs(w).reshape(-1), kind="stable")
    out.reshape(-1)[order[: round(sparsity * w.size)]] = 0
    return out


def _set(tensor: TensorProto, w: npt.NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))


def _drop(sparsity: float, before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Drop:
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    n = len(before)
    low, high = difference_interval(lost, gained, n)
    return Drop(
        sparsity,
        proportion(int(after.sum()), n),
        100 * (lost - gained) / n,
        100 * low,
        100 * high,
        mcnemar(lost, gained),
    )
