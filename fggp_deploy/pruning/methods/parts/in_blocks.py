"""Any criterion on whole blocks of weights instead of single ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fggp_deploy.pruning.criteria import Criterion, indices
from fggp_deploy.pruning.methods.parts.blocking import Blocking


@dataclass(frozen=True)
class InBlocks:
    """What `criterion` drops where each block counts as one weight.

    A block's |w| and |g| are the means over those of its weights that are alive. Among full blocks
    that is the order of their sums; a block that is shorter, or gone in part, is judged by what
    each of its weights is worth, since the target counts weights. A criterion's rate is of blocks.

    `blockings`: of the parameters whose flat weights `drop` gets, in order; at most 255 weights to
    a block.
    """

    criterion: Criterion
    blockings: Sequence[Blocking]

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 indices of at most n_drop weights.

        Blocks go whole, with what is alive of them, and as many as there is room for: the
        criterion's next block would be too much. So fewer weights are left over than a block has,
        and none where n_drop is a multiple of the width and all blocks are full.
        """
        sizes = self._sums(alive.view(torch.uint8))
        magnitude = self._means(w, alive, sizes)
        slope = None if g is None else self._means(g, alive, sizes)
        some = sizes > 0
        blocks = most_blocks(
            lambda n: self.criterion.drop(magnitude, slope, some, n), sizes, n_drop
        )
        gone = torch.zeros_like(some)
        gone[blocks] = True
        parts = gone.split([b.n_blocks for b in self.blockings])
        spread = [b.spread(t).view(-1) for b, t in zip(self.blockings, parts, strict=True)]
        return indices(torch.cat(spread).logical_and_(alive))

    def _means(self, x: Tensor, alive: Tensor, sizes: Tensor) -> Tensor:
        """Mean |x| of each block's alive weights, 0 where it has none."""
        return self._sums(x.abs().masked_fill_(~alive, 0)).div_(sizes.clamp(min=1))

    def _sums(self, x: Tensor) -> Tensor:
        parts = x.split([torch.Size(b.shape).numel() for b in self.blockings])
        return torch.cat([b.sums(t) for b, t in zip(self.blockings, parts, strict=True)])


def most_blocks(drop: Callable[[int], Tensor], sizes: Tensor, n_weights: int) -> Tensor:
    """`drop(n)` for the largest n by which no more than n_weights weights go.

    sizes: weights that are alive in each block, integers [B]. `drop(n)` gives n blocks' indices;
    those for n must be among those for n + 1, as they are by every criterion here. One call where
    all blocks have one size; else a search from both sides.
    """
    some = sizes[sizes > 0]
    if not len(some):
        return drop(0)
    small, large = int(some.min()), int(some.max())
    low, high = min(len(some), n_weights // large), min(len(some), n_weights // small)
    guess, before = n_weights * len(some) // int(some.sum()), (0, 0)
    while low < high:
        n = min(max(guess, low + 1), high)
        n_gone = int(sizes[drop(n)].sum())
        left = n_weights - n_gone
        if left >= 0:
            high = min(high, n + left // small)
            low = min(high, n + left // large)
        else:
            low, high = max(low, n + left // small), n + left // large
        more, weights = n - before[0], n_gone - before[1]  # so large is a block hereabouts
        guess, before = n + left * more // (weights or 1), (n, n_gone)
    return drop(low)
