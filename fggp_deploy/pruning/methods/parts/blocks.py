"""Weights in small blocks, and any criterion on whole blocks instead of single weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fggp_deploy.pruning.criteria import Criterion, indices

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Blocking:
    """A weight of `shape`, seen as [rows, columns, taps], in blocks of `height` x `width`.

    A block has one tap. By default, rows are the first dimension and columns all the others. If the
    blocks do not fill the weight, the last ones reach over its edge.
    """

    shape: tuple[int, ...]
    height: int
    width: int
    rows: int | None = None
    taps: int = 1

    @property
    def seen_as(self) -> tuple[int, int, int]:
        """Rows, columns and taps."""
        rows = self.shape[0] if self.rows is None else self.rows
        return rows, torch.Size(self.shape).numel() // (rows * self.taps), self.taps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks, per tap."""
        rows, columns, _ = self.seen_as
        return -(-rows // self.height), -(-columns // self.width)

    @property
    def n_blocks(self) -> int:
        """Number of blocks in the weight."""
        return self.grid[0] * self.grid[1] * self.taps

    def cut(self, t: Tensor) -> Tensor:
        """A tensor of the weight's shape → [blocks, height·width], zero beyond the edge."""
        rows, columns = self.grid
        seen = t.reshape(self.seen_as)
        whole = t.new_zeros(rows * self.height, columns * self.width, self.taps)
        whole[: seen.shape[0], : seen.shape[1]] = seen
        split = whole.view(rows, self.height, columns, self.width, self.taps)
        return split.permute(0, 2, 4, 1, 3).reshape(self.n_blocks, -1)

    def join(self, blocks: Tensor) -> Tensor:
        """The result of `cut` → the weight's shape."""
        rows, columns = self.grid
        split = blocks.view(rows, columns, self.taps, self.height, self.width)
        whole = split.permute(0, 3, 1, 4, 2).reshape(
            rows * self.height, columns * self.width, self.taps
        )
        return whole[: self.seen_as[0], : self.seen_as[1]].reshape(self.shape)

    def sums(self, t: Tensor) -> Tensor:
        """`cut(t).sum(1)` in the type of t, without a copy: [blocks]."""
        total = t.new_zeros(*self.grid, self.taps)
        for part in self._places(t.view(self.seen_as)):
            total[: part.shape[0], : part.shape[1]] += part
        return total.view(-1)

    def spread(self, blocks: Tensor) -> Tensor:
        """One value per block → the same value for each of its weights, in the weight's shape."""
        t = blocks.new_empty(self.seen_as)
        each = blocks.view(*self.grid, self.taps)
        for part in self._places(t):
            part.copy_(each[: part.shape[0], : part.shape[1]])
        return t.view(self.shape)

    def _places(self, seen: Tensor) -> list[Tensor]:
        """For each position in a block, a view of that position in all blocks that have it."""
        places = ((i, j) for i in range(self.height) for j in range(self.width))
        parts = (seen[i :: self.height, j :: self.width] for i, j in places)
        return [part for part in parts if part.numel()]


def of_inputs(weight: Tensor, module: nn.Module | None, width: int) -> Blocking:
    """The blocks of `width` consecutive input channels of a Conv* or Linear weight.

    A block has one output channel and one kernel position. It lies within one group, so that the
    blocks of a depthwise convolution have one weight. The last block of a group is shorter if the
    number of channels is not a multiple of `width`.
    """
    shape = tuple(weight.shape)
    if isinstance(module, _TRANSPOSED):  # [inputs, outputs/groups, …]
        return Blocking(shape, 1, width, module.groups, torch.Size(shape[1:]).numel())
    return Blocking(shape, 1, width, taps=torch.Size(shape[2:]).numel())


@dataclass(frozen=True)
class InBlocks:
    """Applies `criterion` to whole blocks, each of which counts as one weight.

    A block's |w| and |g| are the means over its alive weights. Among full blocks this gives the
    same order as sums; shorter or partly removed blocks are compared per weight, because the target
    counts weights. The rate of a criterion is a fraction of blocks.

    `blockings`: those of the parameters whose flat weights `drop` gets, in order; at most 255
    weights per block.
    """

    criterion: Criterion
    blockings: Sequence[Blocking]

    def drop(self, w: Tensor, g: Tensor | None, alive: Tensor, n_drop: int) -> Tensor:
        """Choose what to drop: w, g [P], alive bool [P] → int64 indices of at most n_drop weights.

        Blocks are removed whole, as many as fit into n_drop. The rest is less than one block, and
        zero if n_drop is a multiple of the width and all blocks are full.
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
        """Mean |x| of the alive weights of each block; 0 for an empty block."""
        return self._sums(x.abs().masked_fill_(~alive, 0)).div_(sizes.clamp(min=1))

    def _sums(self, x: Tensor) -> Tensor:
        parts = x.split([torch.Size(b.shape).numel() for b in self.blockings])
        return torch.cat([b.sums(t) for b, t in zip(self.blockings, parts, strict=True)])


def most_blocks(drop: Callable[[int], Tensor], sizes: Tensor, n_weights: int) -> Tensor:
    """`drop(n)` for the largest n with which at most n_weights weights are removed.

    sizes: the number of alive weights in each block, integers [B]. `drop(n)` returns the indices of
    n blocks, which must be among those of drop(n + 1), as with every criterion here. Needs one call
    if all blocks have the same size, otherwise a search from both sides.
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
        more, weights = n - before[0], n_gone - before[1]  # the local block size
        guess, before = n + left * more // (weights or 1), (n, n_gone)
    return drop(low)
