"""Time per layer of a network on the kernels of this machine, by density."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from fggp_deploy import kernels, runtime
from fggp_deploy.common.files import check_readable
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.timing import Watch, rounds
from fggp_deploy.errors import ConfigError, FggpWarning, MachineError, ModelFileError
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.constants import initializers
from fggp_deploy.graph.reading import read_model, reading
from fggp_deploy.runtime.compiler import price_layers
from fggp_deploy.runtime.costs import LayerCost
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.plan import CompileRequest
from fggp_deploy.runtime.sessions import SessionConfig

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SECONDS = 2.0  # of timing one network


@dataclass(frozen=True)
class CostTable:
    """Milliseconds of each layer for one image on one thread, by its density, random masks.

    `layers[weight][i]` is the time at `densities[i]`, which rise to 1: the faster of the kernel in
    its region and ONNX Runtime's dense layer; at density 1 always the latter. `rest_ms` is the time
    of the layers without weights, `dense_ms` that of the whole network on stock ONNX Runtime.
    """

    isa: str
    densities: tuple[float, ...]
    layers: dict[str, tuple[float, ...]]
    rest_ms: float
    dense_ms: float


def cost_table(
    dense: ModelProto,
    names: Sequence[str] | None = None,
    *,
    densities: Sequence[float] = DENSITIES,
    progress: Progress = silent,
) -> CostTable:
    """Time every layer of a dense network within the network, at each of `densities`.

    `names` are the weights to prune, by default all that a layer of the kernels reads. The network
    gets random masks, the kernels' variants are tuned, and each step is timed in its region. Raises
    MachineError without the library, ModelFileError for a network that cannot be read or run or has
    no such layer.
    """
    if kernels.library_path() is None:
        raise MachineError("the sparse kernels are not built; see `fggp-deploy doctor`")
    wanted = set(initializers(dense.graph) if names is None else names)
    found: dict[str, dict[float, LayerCost]] = {}
    rest: list[float] = []
    for done, density in enumerate(sorted(densities)):
        progress("timing layers", done, len(densities))
        thin = with_densities(dense, dict.fromkeys(wanted, density))
        costs = price_layers(thin.SerializeToString(), CompileRequest(SessionConfig(1)))
        rest.append(sum(c.kernels_us for c in costs if c.name not in wanted) / 1000)
        for cost in costs:
            if cost.name in wanted:
                found.setdefault(cost.name, {})[density] = cost
    if not found:
        raise ModelFileError(
            "none of the network's layers can run on the sparse kernels, so there is nothing to "
            "time"
        )
    layers = {name: _row(by_density) for name, by_density in found.items()}
    return CostTable(
        isa=kernels.chosen_isa(),
        densities=(*sorted(densities), 1.0),
        layers=layers,
        rest_ms=float(np.median(rest)),
        dense_ms=network_ms(dense.SerializeToString(), on_kernels=False),
    )


def table_of(path: Path, *, progress: Progress = silent) -> CostTable:
    """The cost table of any ONNX file, packed or dense; raises what `cost_table` raises."""
    check_readable(path, ModelFileError)
    with reading(str(path)):
        dense = unpack(read_model(path))
    return cost_table(dense, progress=progress)


def _row(by_density: Mapping[float, LayerCost]) -> tuple[float, ...]:
    known = [c.dense_us for c in by_density.values() if c.dense_us]
    ours = [by_density[d].kernels_us for d in sorted(by_density)]
    dense = float(np.median(known)) if known else max(ours)
    return tuple(min(us, dense) / 1000 for us in (*ours, dense))


def with_densities(dense: ModelProto, densities: Mapping[str, float], seed: int = 0) -> ModelProto:
    """The network with random masks: each named weight keeps that share of its elements.

    The values are drawn again with the weight's own standard deviation, so that zeros that it had
    do not count.
    """
    rng = np.random.default_rng(seed)
    out = ModelProto()
    out.CopyFrom(dense)
    for tensor in out.graph.initializer:
        if tensor.name in densities and len(tensor.dims) >= 2:
            w = numpy_helper.to_array(tensor)
            if w.dtype == np.float32 and w.size:
                tensor.CopyFrom(
                    numpy_helper.from_array(_random(w, densities[tensor.name], rng), tensor.name)
                )
    return out


def _random(
    w: npt.NDArray[Any], density: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    n_keep = max(1, round(density * w.size))
    flat = np.zeros(w.size, np.float32)
    kept = rng.permutation(w.size)[:n_keep]
    flat[kept] = rng.standard_normal(n_keep) * (float(w.std()) or 1.0)
    return flat.reshape(w.shape)


def fit_densities(
    costs: Mapping[str, Sequence[float]], densities: Sequence[float], budget: float
) -> dict[str, float]:
    """The density of each layer that makes Σ log density largest while Σ cost is within `budget`.

    costs[layer][i] is the cost at densities[i], which rise to 1; between them costs are linear, and
    a denser layer never costs less. Halving a layer's weights lowers the objective equally in every
    layer. Solved by a Lagrange multiplier, found by bisection, exact up to the grid of densities
    (1% apart). Raises ConfigError if even the lowest densities cost more than `budget`.
    """
    grid = np.geomspace(densities[0], 1, 1 + math.ceil(math.log(1 / densities[0]) / 0.01))
    curves = {n: np.maximum.accumulate(np.interp(grid, densities, c)) for n, c in costs.items()}
    floor = sum(float(c[0]) for c in curves.values())
    if floor > budget:
        raise ConfigError(
            f"even the lowest densities cost {floor:.3g}, which is more than the budget of "
            f"{budget:.3g}; raise the budget"
        )

    def best(price: float) -> dict[str, int]:
        worth = np.log(grid)
        # the highest of equally good densities
        return {n: len(grid) - 1 - int(np.argmax((worth - price * c)[::-1])) for n, c in
                curves.items()}  # fmt: skip

    def cost(chosen: Mapping[str, int]) -> float:
        return sum(float(curves[n][i]) for n, i in chosen.items())

    low, high = 1e-12, 1e12
    if cost(best(low)) <= budget:
        high = low
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(best(middle)) <= budget else (middle, high)
    return {n: float(grid[i]) for n, i in best(high).items()}


def network_ms(model: bytes, *, on_kernels: bool = True) -> float:
    """Median milliseconds of one image on one thread, by runtime.session or on stock onnxruntime.

    Warns if the machine was too busy to measure them.
    """
    with reading("the model"):
        graph = unpack(ModelProto.FromString(model))
    feeds = random_feeds(graph, 1)
    fast = partial(runtime.session, threads=1, cache=False)
    session = (fast if on_kernels else SessionConfig(1).open)(model)
    watch = Watch()
    ms = rounds(
        {"it": partial(session.run, None, feeds)},
        seconds=SECONDS,
        rng=np.random.default_rng(0),
        least=10,
        watch=watch,
    )["it"]
    if watch.too_busy:
        warnings.warn(
            "the machine was too busy to measure speed: other programs delayed "
            f"{watch.share('it'):.0%} of the runs; repeat the measurement when no other program "
            "runs",
            FggpWarning,
            stacklevel=2,
        )
    return float(np.median(ms))
