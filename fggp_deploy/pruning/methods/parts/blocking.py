"""Cutting weights into small blocks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
