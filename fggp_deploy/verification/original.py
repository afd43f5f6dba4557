"""The network that a file was made from, as a caller of `verify` can supply it."""

from __future__ import annotations

from typing import Protocol

from onnx import ModelProto

from fggp_deploy.measure.network import Network


class Original(Protocol):
    """The network that a file was made from.

    Making it may import torch, which verification itself never does. Therefore each method is
    called at most once, after all timing. Both raise ModelFileError if the network cannot be made.
    """

    def in_torch(self) -> Network | None:
        """The network in torch, to be compared on all data; None if there is none."""
        ...

    def as_onnx(self) -> ModelProto | None:
        """The network in standard ONNX operators, trusted to be right; None if there is none.

        It is called only if a check fails, to find the first layer that differs.
        """
        ...
