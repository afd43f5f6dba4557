"""Allocations: how many weights each layer keeps at a given overall sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fggp_deploy.errors import ConfigError, LayerCollapse

Shapes = Mapping[str, tuple[int, ...]]

MIN_LAYER_DENSITY = 0.001  # 1/20 of the mean density at a sparsity of 98%


def uniform(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Number of weights to keep per parameter: the same density everywhere, and an exact total."""
    return _round_counts(shapes, dict.fromkeys(shapes, 1 - sparsity), sparsity)


def erk(shapes: Shapes, sparsity: float) -> dict[str, int]:
    """Number of weights to keep per parameter by Erdős–Rényi-kernel densities, with an exact total.

    density_l = min(1, ε·Σshape/Πshape), with the single ε that gives the total.
    Source: Evci et al. 2020, RigL (arXiv 1911.11134), section 3.
    """
    _check(shapes, sparsity)
    size = {name: math.prod(s) for name, s in shapes.items()}
    raw = {name: sum(s) / math.prod(s) for name, s in shapes.items()}
    budget = (1 - sparsity) * sum(size.values())
    dense: set[str] = set()
    while True:
        rest = [n for n in shapes if n not in dense]
        left = budget - sum(size[n] for n in dense)
        eps = left / sum(raw[n] * size[n] for n in rest) if rest else 0.0
        full = {n for n in rest if raw[n] * eps > 1}
        if not full:
            break
        dense |= full
    densities = {n: 1.0 if n in dense else eps * raw[n] for n in shapes}
    return _round_counts(shapes, densities, sparsity)


ALLOCATIONS = {"erk": erk, "uniform": uniform}
GLOBAL = "global"  # no allocation: all weights compete


@dataclass(frozen=True)
class Given:
    """The allocation that ends with `densities`, the fraction that each parameter keeps.

    At a lower sparsity, each parameter has lost the same part of its final loss. Parameters without
    a density stay dense as long as the total allows. Raises ConfigError.
    """

    densities: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, density in self.densities.items():
            if not isinstance(density, (int, float)) or not 0 < density <= 1:
                raise ConfigError(
                    f"densities: the share of {name} that is kept must be in (0, 1], got "
                    f"{density!r}"
                )

    def __call__(self, shapes: Shapes, sparsity: float) -> dict[str, int]:
        """Number of weights to keep per parameter, with an exact total."""
        _check(shapes, sparsity)
        if unknown := self.densities.keys() - shapes.keys():
            raise ConfigError(
                f"densities: {min(unknown)} is not a prunable weight of this network; take the "
                "names from the config.yaml of a run"
            )
        size = {name: math.prod(s) for name, s in shapes.items()}
        lost = {n: (1 - self.densities.get(n, 1.0)) * size[n] for n in shapes}
        part = sparsity * sum(size.values()) / (sum(lost.values()) or 1)
        kept = {n: max(0.0, 1 - part * lost[n] / size[n]) for n in shapes}
        return _round_counts(shapes, kept, sparsity)


def within(keep: Mapping[str, int], alive: Mapping[str, int]) -> dict[str, int]:
    """`keep`, limited to the weights that are alive in each parameter, with the same total.

    If a parameter has too few, the others keep more, in proportion to the weights that they have
    to spare. Raises ConfigError if fewer weights are alive than are to be kept.

    >>> within({"a": 4, "b": 4}, {"a": 2, "b": 8})
    {'a': 2, 'b': 6}
    """
    if sum(keep.values()) > sum(alive.values()):
        raise ConfigError(
            f"cannot keep {sum(keep.values())} weights, because only {sum(alive.values())} are "
            "left; give a higher target, or a denser network"
        )
    kept = {n: min(k, alive[n]) for n, k in keep.items()}
    room = {n: alive[n] - k for n, k in kept.items()}
    missing, total = sum(keep.values()) - sum(kept.values()), sum(room.values())
    if missing:
        kept = {n: k + missing * room[n] // total for n, k in kept.items()}
    for name in sorted(kept, key=lambda n: kept[n] - alive[n]):  # the most room first
        if (left := sum(keep.values()) - sum(kept.values())) == 0:
            break
        kept[name] += min(left, alive[name] - kept[name])
    return kept


def floors(shapes: Shapes, sparsity: float, density: float) -> dict[str, int]:
    """The layer floors: the smallest number of weights that each layer keeps at `sparsity`.

    A floor is the larger of ⌈density·size⌉ and one weight per output (the first dimension). It is
    at least 1, and at most what the layer would keep at a uniform density. A density of 0 means no
    floor. Raises ConfigError unless density is in [0, 1), and LayerCollapse if `sparsity` leaves
    fewer weights than there are layers.

    >>> floors({"wide": (10, 100), "small": (4, 5)}, 0.9, 0.001)
    {'wide': 10, 'small': 2}
    """
    if not 0 <= density < 1:
        raise ConfigError(f"--min-layer-density must be in [0, 1), got {density:g}")
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(size.values())
    n_keep = total - round(sparsity * total)
    if density == 0:
        return dict.fromkeys(shapes, 0)
    if len(shapes) > n_keep:
        raise LayerCollapse(
            f"a target of {sparsity:g} leaves {n_keep} of {total} weights for {len(shapes)} "
            f"layers, and each needs one; give a target of at most {1 - len(shapes) / total:.6g}"
        )
    least = {
        name: max(1, min(max(math.ceil(density * n), shapes[name][0]), n * n_keep // total))
        for name, n in size.items()
    }
    for name in sorted(least, key=lambda n: -least[n]):  # the floors of 1 may exceed the total
        surplus = sum(least.values()) - n_keep
        least[name] -= min(max(surplus, 0), least[name] - 1)
    return least


def at_least(keep: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """`keep` with no layer below its floor and the same total.

    The missing weights come from the layers that are furthest above their floors. Raises
    LayerCollapse if the total is less than the sum of the floors.

    >>> at_least({"a": 0, "b": 9, "c": 4}, {"a": 2, "b": 1, "c": 1})
    {'a': 2, 'b': 7, 'c': 4}
    """
    kept = {n: max(k, least[n]) for n, k in keep.items()}
    for name in sorted(kept, key=lambda n: least[n] - kept[n]):
        surplus = sum(kept.values()) - sum(keep.values())
        kept[name] -= min(surplus, kept[name] - least[name])
    if sum(kept.values()) > sum(keep.values()):
        raise floors_too_high(sum(keep.values()), least)
    return kept


def floors_too_high(n_keep: int, least: Mapping[str, int]) -> LayerCollapse:
    """The error for floors whose sum exceeds the weights that the target leaves."""
    return LayerCollapse(
        f"the target leaves {n_keep} weights, and the floors of {len(least)} layers need "
        f"{sum(least.values())}; lower the target or --min-layer-density"
    )


def _check(shapes: Shapes, sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must be in [0, 1), got {sparsity}")
    if not shapes:
        raise ConfigError(
            "the network has no prunable weight: it has at most one convolution and no linear "
            "layer; give --prune-first to prune the first convolution"
        )


def _round_counts(
    shapes: Shapes, densities: Mapping[str, float], sparsity: float
) -> dict[str, int]:
    """Round densities to whole weights by largest remainder, so that the total is exact."""
    _check(shapes, sparsity)
    size = {name: math.prod(s) for name, s in shapes.items()}
    total = sum(size.values())
    n_keep = total - round(sparsity * total)
    exact = {name: densities[name] * size[name] for name in shapes}
    keep = {name: min(size[name], math.floor(exact[name])) for name in shapes}
    order = sorted(shapes, key=lambda name: keep[name] - exact[name])
    while (missing := n_keep - sum(keep.values())) > 0:
        grow = [n for n in order if keep[n] < size[n]][:missing]
        for name in grow:
            keep[name] += 1
    for name in reversed(order):  # floating error may have kept one too many
        surplus = sum(keep.values()) - n_keep
        keep[name] -= min(max(surplus, 0), keep[name])
    return keep
