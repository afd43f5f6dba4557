"""The sliding window of a two-dimensional convolution or pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A kernel's height and width and how it moves; `pads` is top, left, bottom, right."""

    kernel: Pair
    strides: Pair
    dilations: Pair
    pads: tuple[int, int, int, int]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], kernel: Sequence[Any]) -> Window | None:
        """The window of a node; None if it is not two-dimensional or depends on auto_pad."""
        auto_pad = attributes.get("auto_pad", b"NOTSET")
        if len(kernel) != 2 or auto_pad not in (b"NOTSET", b"VALID"):
            return None
        pads = attributes.get("pads", [0] * 4) if auto_pad == b"NOTSET" else [0] * 4
        return cls(
            kernel=tuple(kernel),
            strides=tuple(attributes.get("strides", [1, 1])),
            dilations=tuple(attributes.get("dilations", [1, 1])),
            pads=tuple(pads),
        )

    def reach(self, axis: int) -> int:
        """From the first to the last element under the window: 0 is down, 1 is across."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def padding(self, axis: int) -> Pair:
        """The padding before and behind the plane."""
        return self.pads[axis], self.pads[axis + 2]
