"""SparseModel: a deployable model read back and checked, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.artifacts.selftest import SelfTest

__all__ = ["Layer", "Metadata", "SelfTest", "SparseModel"]


@dataclass(frozen=True)
class Layer:
    """A weight of the network as the file stores it.

    `encoding` is dense, bitmask, gaps8, gaps16 or csr; `macs` counts the dense multiply-accumulates
    for one image, None where the graph does not tell.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    encoding: str
    nnz: int
    stored_bytes: int
    macs: int | None

    @property
    def size(self) -> int:
        """Number of weights, zeros included."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1]."""
        return 1 - self.nnz / self.size


class SparseModel:
    """A deployable model; `open` reads it (work in progress)."""
