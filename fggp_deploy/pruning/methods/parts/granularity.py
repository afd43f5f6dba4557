"""What goes or stays as one: single weights, kernels or filters, in groups that share a count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fggp_deploy.errors import ConfigError, UnknownName

GRANULARITIES = ("weight", "kernel", "filter")


@dataclass(frozen=True)
class Units:
    """A weight as `rows` groups of `n` units of `size` weights each.

    weight: each output's weights, one by one. kernel: each filter's kernels. filter: the layer's
    filters, in one group. A matrix has no kernels and no filters, but each output's weights.

    >>> Units.of((8, 4, 3, 3), "kernel")
    Units(rows=8, n=4, size=9)
    """

    rows: int
    n: int
    size: int

    @classmethod
    def of(cls, shape: tuple[int, ...], granularity: str) -> Units:
        """Of a weight [outputs, inputs, …]; raises UnknownName."""
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
        """How many units there are."""
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
        """Itself; all units as one group where so few stay that rows would be empty."""
        return self if n_kept >= self.rows else Units(1, self.count, self.size)

    def by_row(self, n_kept: int) -> list[int]:
        """That many units over the rows: ⌊n_kept/rows⌋ each, and the first rows one more."""
        each, more = divmod(n_kept, self.rows)
        return [each + (r < more) for r in range(self.rows)]


def whole_units(units: Mapping[str, Units], keep: Mapping[str, int]) -> dict[str, int]:
    """Units to keep per parameter, for `keep` weights each; the total of weights is the same.

    Each keeps what is whole of its share, one unit at least. What that leaves over goes to units
    of other parameters, the largest that fit first, so that it ends where weights are single.
    Raises ConfigError where the total cannot be met by whole units.

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
            f"n/a: {total - sum(keep.values())} of {total} weights cannot be removed in whole "
            f"units of {', '.join(map(str, sizes))}, one of each layer kept; a sparsity near by "
            f"that can be met is {near:.9g}"
        )
    return kept
