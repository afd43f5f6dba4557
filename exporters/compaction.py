"""Compaction with a check: both networks run on the same inputs, and their outputs must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from fggp_deploy.compaction.dead_channels import compact
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.packing import pack
from fggp_deploy.graph.comparison import parity_of
from fggp_deploy.runtime.sessions import Array, SessionConfig, run


@dataclass(frozen=True)
class Compacted:
    """What compaction removed.

    `channels` counts, by weight, output channels before and after, of the layers that lost some;
    `macs` dense multiply-accumulates for one image, before and after, None where shapes are not
    known; `dense_bytes` the plain ONNX file and `packed_bytes` the packed one, before and after.
    `error` is the largest difference of an output over the largest.
    """

    channels: dict[str, tuple[int, int]]
    n_removed: int
    macs: tuple[int | None, int | None]
    dense_bytes: tuple[int, int]
    packed_bytes: tuple[int, int]
    error: float

    def sentence(self) -> str:
        """One line for the user."""
        if not self.n_removed:
            return "compaction: no channel can go; the network is the same as without --compact"
        before, after = self.macs
        macs = f", {after / before:.1%} of the MACs left" if before and after else ""
        packed, dense = self.packed_bytes, self.dense_bytes
        return (
            f"compaction: {self.n_removed} dead channels removed, in {len(self.channels)} layer"
            f"{'s' * (len(self.channels) != 1)}"
            f"{macs}; packed in fp32 {packed[0]:,} → {packed[1]:,} bytes, dense {dense[0]:,} → "
            f"{dense[1]:,}; outputs within {self.error:.1e} of the largest"
        )


def n_removable(dense: ModelProto) -> int:
    """How many channels `compacted` would remove."""
    return compact(dense).n_removed


def compacted(dense: ModelProto, feeds: Mapping[str, Any]) -> tuple[ModelProto, Compacted]:
    """The model without its dead channels, compared with the original on `feeds`.

    Raises ModelFileError if their outputs do not agree, or one of them does not run.
    """
    done = compact(dense)
    whole, small = dense.SerializeToString(), done.model.SerializeToString()

    def outputs_of_whole(*, optimize: bool = True) -> list[Array]:
        session = SessionConfig(1).open(whole, name="the network", optimize=optimize)
        return run(session, feeds, "the network")

    name = "the network without its dead channels"
    found = parity_of(
        run(SessionConfig(1).open(small, name=name), feeds, name),
        outputs_of_whole(),
        unoptimized=lambda: outputs_of_whole(optimize=False),
    )
    if not found.passed:
        raise ModelFileError(
            f"{name} differs by {found.error:.1e} of the largest output; nothing was written, "
            "omit --compact, and report this"
        )
    sizes = (pack(dense).ByteSize(), pack(done.model).ByteSize())
    about = Compacted(
        done.channels, done.n_removed, done.macs, (len(whole), len(small)), sizes, found.error
    )
    return done.model, about
