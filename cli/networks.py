"""The network that a file was made from, restored from the checkpoint beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.nn import Module

    from fggp_deploy.measure.network import Network


@dataclass(frozen=True)
class OriginalNetwork:
    """What `model` was made from; see `fggp_deploy.verification.original.Original`.

    `trusted` is an ONNX file known to be good, used instead of a new export of the checkpoint.
    `network` is FILE.py:FACTORY of the user's own network, if it has moved. Without `trust_code`
    such a network raises ModelFileError. There is no original network if the checkpoint beside the
    model is missing or not the one recorded, or if torch is not installed.
    """

    model: Path
    trusted: Path | None = None
    network: str | None = None
    trust_code: bool = False

    def in_torch(self) -> Network | None:
        """The network in torch."""
        if (found := self._restored()) is None:
            return None
        from fggp_deploy.measure.torch_network import in_torch

        return in_torch(found)

    def as_onnx(self) -> ModelProto | None:
        """The trusted file with its weights unpacked, or a new export of the checkpoint."""
        from fggp_deploy.errors import ModelFileError, UserError
        from fggp_deploy.format.model import SparseModel
        from fggp_deploy.format.unpacking import unpack
        from fggp_deploy.graph.reading import read_model, reading

        if self.trusted is not None:
            with reading(str(self.trusted)):
                return unpack(read_model(self.trusted))
        if (found := self._restored()) is None:
            return None
        from fggp_deploy.exporters.torch_onnx import to_onnx

        try:
            return to_onnx(found, SparseModel.open(self.model).metadata)
        except UserError as e:
            raise ModelFileError(str(e)) from e

    def _restored(self) -> Module | None:
        """The network of the checkpoint beside the model; None if it is not the one recorded."""
        from fggp_deploy.errors import ModelFileError, UserError
        from fggp_deploy.format.model import SparseModel
        from fggp_deploy.verification.certificate import checkpoint_of

        if (checkpoint := checkpoint_of(SparseModel.open(self.model))) is None:
            return None
        try:
            from fggp_deploy.checkpoints.checkpoint import Checkpoint
            from fggp_deploy.models.checkpointing import restore
        except ModuleNotFoundError:
            return None
        try:
            content = Checkpoint.open(checkpoint)
            return restore(content, checkpoint, network=self.network, trust_code=self.trust_code)
        except UserError as e:
            raise ModelFileError(str(e)) from e
