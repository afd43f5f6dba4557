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

    A block has one tap. Rows are the shape's first number unless given, columns what is left. Where
    the blocks do not fill the weight, the last ones reach over its edge.
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
        """Rows and columns of blocks, of each tap."""
        rows, columns, _ = self.seen_as
        return -(-rows // self.height), -(-columns // self.width)

    @property
    def n_blocks(self) -> int:
        """Blocks of the weight."""
        return self.grid[0] * self.grid[1] * self.taps

    def cut(self, t: Tensor) -> Tensor:
        """A tensor of the weight's shape → [blocks, height·width], zero (False) over the edge."""
        rows, columns = self.grid
        seen = t.reshape(self.seen_as)
        whole = t.new_zeros(rows * self.height, columns * self.width, self.taps)
        whole[: seen.shape[0], : seen.shape[1]] = seen
        split = whole.view(rows, self.height, columns, self.width, self.taps)
        return split.permute(0, 2, 4, 1, 3).reshape(self.n_blocks, -1)

    def join(self, blocks: Tensor) -> Tensor:
        """What `cut` gave → the weight's shape."""
        rows, columns = self.grid
        split = blocks.view(rows, columns, self.taps, self.height, self.width)
        whole = split.permute(0, 3, 1, 4, 2).reshape(
            rows * self.height, columns * self.width, self.taps
        )
        return whole[: self.seen_as[0], : self.seen_as[1]].reshape(self.shape)

    def sums(self, t: Tensor) -> Tensor:
        """`cut(t).sum(1)` in the type of t, without the copy: [blocks]."""
        total = t.new_zeros(*self.grid, self.taps)
        for part in self._places(t.view(self.seen_as)):
            total[: part.shape[0], : part.shape[1]] += part
        return total.view(-1)

    def spread(self, blocks: Tensor) -> Tensor:
        """A value a block → each of its weights has it, in the weight's shape."""
        t = blocks.new_empty(self.seen_as)
        each = blocks.view(*self.grid, self.taps)
        for part in self._places(t):
            part.copy_(each[: part.shape[0], : part.shape[1]])
        return t.view(self.shape)

    def _places(self, seen: Tensor) -> list[Tensor]:
        """What each place in a block is in all blocks that have it: views of a [rows, …]."""
        places = ((i, j) for i in range(self.height) for j in range(self.width))
        parts = (seen[i :: self.height, j :: self.width] for i, j in places)
        return [part for part in parts if part.numel()]


def of_inputs(weight: Tensor, module: nn.Module | None, width: int) -> Blocking:
    """The blocks of `width` successive input channels of a Conv* or Linear weight.

    The same output channel and kernel position; within a group of a grouped convolution, so that
    a depthwise one has blocks of one weight. A group's last block has fewer where the channels are
    no multiple.
    """
    shape = tuple(weight.shape)
    if isinstance(module, _TRANSPOSED):  # [inputs, outputs/groups, …]
        return Blocking(shape, 1, width, module.groups, torch.Size(shape[1:]).numel())
    return Blocking(shape, 1, width, taps=torch.Size(shape[2:]).numel())


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
