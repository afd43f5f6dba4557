"""Granularity: weights, kernels or filters that are kept or removed as one unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError, UnknownName

GRANULARITIES = ("weight", "kernel", "filter")


@dataclass(frozen=True)
class Units:
    """A weight as `rows` groups of `n` units with `size` weights each.

    weight: the single weights of each output. kernel: the kernels of each filter. filter: all
    filters of the layer, in one group. A matrix always has the single weights of each output.

    >>> Units.of((8, 4, 3, 3), "kernel")
    Units(rows=8, n=4, size=9)
    """

    rows: int
    n: int
    size: int

    @classmethod
    def of(cls, shape: tuple[int, ...], granularity: str) -> Units:
        """The units of a weight [outputs, inputs, …]; raises UnknownName."""
        if granularity not in GRANULARITIES:
            raise UnknownName("granularity", granularity, GRANULARITIES)
        outputs, inputs, *kernel = shape
        taps = torch.Size(kernel).numel()
        if granularity == "weight" or not kernel:
            return cls(outputs, inputs * taps, 1)
        if granularity == "kernel":
            return cls(outputs, inputs, taps)
        return cls(1, outputs, inputs * taps)

    @property
    def count(self) -> int:
        """Number of units."""
        return self.rows * self.n

    def sums(self, t: Tensor) -> Tensor:
        """Sums over each unit of a tensor of the weight's shape → [rows, n]."""
        t = t.reshape(self.rows, self.n, self.size)
        return t.squeeze(2) if self.size == 1 else t.sum(2)

    def spread(self, units: Tensor, like: Tensor) -> Tensor:
        """[rows, n] to every weight of its unit, in shape and memory layout of `like`."""
        whole = units.unsqueeze(2).expand(-1, -1, self.size).reshape(like.shape)
        return torch.empty_like(like, dtype=units.dtype).copy_(whole)

    def grouped(self, n_kept: int) -> Units:
        """These units; as one group if so few stay that rows would be empty."""
        return self if n_kept >= self.rows else Units(1, self.count, self.size)

    def by_row(self, n_kept: int) -> list[int]:
        """n_kept units spread over the rows: ⌊n_kept/rows⌋ each, one more for the first rows."""
        each, more = divmod(n_kept, self.rows)
        return [each + (r < more) for r in range(self.rows)]


def whole_units(units: Mapping[str, Units], keep: Mapping[str, int]) -> dict[str, int]:
    """Units to keep per parameter, with the same total number of weights as `keep`.

    Each parameter keeps the whole units of its share, at least one. The rest goes to units of other
    parameters, largest units first, so that single weights come last. Raises ConfigError if whole
    units cannot give the total.

    >>> whole_units({"a": Units(1, 8, 9), "b": Units(4, 10, 1)}, {"a": 25, "b": 10})
    {'a': 2, 'b': 17}
    """
    kept = {n: max(1, keep[n] // u.size) for n, u in units.items()}
    left = sum(keep.values()) - sum(k * units[n].size for n, k in kept.items())
    for name in sorted(units, key=lambda n: -units[n].size):
        u = units[name]
        change = min(max(left // u.size, 1 - kept[name]), u.count - kept[name])
        kept[name] += change
        left -= change * u.size
    if left:
        total = sum(u.count * u.size for u in units.values())
        near = 1 - (sum(keep.values()) - left) / total
        sizes = sorted({u.size for u in units.values()})
        raise ConfigError(
            f"exactly {total - sum(keep.values())} of {total} weights cannot be removed in whole "
            f"units of {' or '.join(map(str, sizes))} weights, of which every layer keeps one; "
            f"the nearby sparsity {near:.9g} is possible"
        )
    return kept
