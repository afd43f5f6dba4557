"""A global choice that respects the layer floors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fggp_deploy.pruning.allocation import floors_too_high

Layers = Mapping[str, slice]  # the position of each layer in the flat weights, in order
Choose = Callable[[Sequence[str], int], Tensor]  # layers, count → int64 flat indices


def drop_above_floors(
    choose: Choose, alive: Tensor, layers: Layers, least: Mapping[str, int], n_drop: int
) -> tuple[Tensor, list[str]]:
    """The weights to drop, bool [P], and the names of the layers that are held at their floors.

    alive: bool [P]. `choose` selects n weights of some layers. If its choice among all layers
    leaves each at least `least` weights, that is the result. Otherwise every layer below its floor
    is pruned by itself down to the floor, and the rest is chosen again among the other layers,
    until no layer is below its floor. Exactly n_drop weights are dropped if `choose` is exact.
    Raises LayerCollapse if the floors leave fewer than n_drop.
    """
    counts = {n: int(alive[part].count_nonzero()) for n, part in layers.items()}
    if n_drop > sum(n - least[name] for name, n in counts.items()):
        raise floors_too_high(sum(counts.values()) - n_drop, least)
    done = torch.zeros_like(alive)
    competing, held, left = list(layers), list[str](), n_drop
    while competing:
        gone = done.clone()
        gone[choose(competing, left)] = True
        low = [n for n in competing if counts[n] - _count(gone, layers[n]) < least[n]]
        if not low:
            return gone, held
        for name in low:
            chosen = choose([name], counts[name] - least[name])
            done[chosen] = True
            left -= len(chosen)
        held += low
        competing = [n for n in competing if n not in low]
    return done, held


def positions(parts: Iterable[slice], device: torch.device) -> slice | Tensor:
    """The flat positions of some layers: a slice if they are adjacent, else int64 indices.

    >>> positions([slice(0, 2), slice(2, 3)], torch.device("cpu"))
    slice(0, 3, None)
    >>> positions([slice(0, 2), slice(3, 4)], torch.device("cpu")).tolist()
    [0, 1, 3]
    >>> positions([], torch.device("cpu"))
    slice(0, 0, None)
    """
    parts = list(parts) or [slice(0, 0)]
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return torch.cat([torch.arange(p.start, p.stop, device=device) for p in parts])


def located(index: Tensor, where: slice | Tensor) -> Tensor:
    """Flat indices of indices that count within the positions `where`."""
    return index + where.start if isinstance(where, slice) else where[index]


def _count(mask: Tensor, part: slice) -> int:
    return int(mask[part].count_nonzero())
