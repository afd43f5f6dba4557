"""A global choice that leaves every layer its least number of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fggp_deploy.pruning.allocation import too_few

Layers = Mapping[str, slice]  # where each layer's weights are in the flat ones, in their order
Choose = Callable[[Sequence[str], int], Tensor]  # layers, count → int64 flat indices


def drop_above_floors(
    choose: Choose, alive: Tensor, layers: Layers, least: Mapping[str, int], n_drop: int
) -> tuple[Tensor, list[str]]:
    """What goes, bool [P], and the names of the layers that are held at their floors.

    alive: bool [P]. `choose` takes n weights of some layers. If its choice among all leaves each
    layer at least `least` weights, that is the result. A layer that would have fewer goes down to
    its floor by a choice within it alone, and the rest is chosen anew among the other layers,
    until no layer is below its floor. Exactly n_drop go, if `choose` is exact. Raises LayerCollapse
    if the floors leave fewer than n_drop.
    """
    counts = {n: int(alive[part].count_nonzero()) for n, part in layers.items()}
    if n_drop > sum(n - least[name] for name, n in counts.items()):
        raise too_few(sum(counts.values()) - n_drop, least)
    settled = torch.zeros_like(alive)
    competing, held, left = list(layers), list[str](), n_drop
    while competing:
        gone = settled.clone()
        gone[choose(competing, left)] = True
        low = [n for n in competing if counts[n] - _count(gone, layers[n]) < least[n]]
        if not low:
            return gone, held
        for name in low:
            chosen = choose([name], counts[name] - least[name])
            settled[chosen] = True
            left -= len(chosen)
        held += low
        competing = [n for n in competing if n not in low]
    return settled, held


def positions(parts: Iterable[slice], device: torch.device) -> slice | Tensor:
    """Some layers' weights among the flat ones: a slice if they lie together, else int64 indices.

    >>> positions([slice(0, 2), slice(2, 3)], torch.device("cpu"))
    slice(0, 3, None)
    >>> positions([slice(0, 2), slice(3, 4)], torch.device("cpu")).tolist()
    [0, 1, 3]
    """
    parts = list(parts)
    if all(a.stop == b.start for a, b in pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return torch.cat([torch.arange(p.start, p.stop, device=device) for p in parts])


def located(index: Tensor, where: slice | Tensor) -> Tensor:
    """Indices among the weights at `where` as flat ones."""
    return index + where.start if isinstance(where, slice) else where[index]


def _count(mask: Tensor, part: slice) -> int:
    return int(mask[part].count_nonzero())
