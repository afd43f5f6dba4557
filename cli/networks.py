"""The network that a file ought to hold, from the checkpoint beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.nn import Module

    from fggp_deploy.measure.network import Network


def trusted_network(
    model: Path, given: Path | None, *, network: str | None = None, trust_code: bool = False
) -> ModelProto | None:
    """What `model` ought to hold: the file given, or a new export of the checkpoint beside it.

    None if there is none, it is not the one recorded, or torch is not installed. `network` is
    FILE.py:FACTORY of the user's own if it has moved. Raises ModelFileError if it cannot be made,
    as of a network in the user's own file without `trust_code`.
    """
    from fggp_deploy.errors import ModelFileError, UserError
    from fggp_deploy.format.model import SparseModel
    from fggp_deploy.format.operators import unpack
    from fggp_deploy.graph.reading import read_model, reading

    if given is not None:
        with reading(str(given)):
            return unpack(read_model(given))
    if (found := restored(model, network=network, trust_code=trust_code)) is None:
        return None
    from fggp_deploy.exporters.torch_onnx import to_onnx

    try:
        return to_onnx(found, SparseModel.open(model).metadata)
    except UserError as e:
        raise ModelFileError(str(e)) from e


def torch_network(
    model: Path, *, network: str | None = None, trust_code: bool = False
) -> Network | None:
    """The network that `model` was made from, in torch; None and raises as `trusted_network`."""
    if (found := restored(model, network=network, trust_code=trust_code)) is None:
        return None
    from fggp_deploy.verify.torch_session import in_torch

    return in_torch(found)


def restored(model: Path, *, network: str | None = None, trust_code: bool) -> Module | None:
    """The network of the checkpoint beside `model`; None if it is not the one recorded."""
    from fggp_deploy.errors import ModelFileError, UserError
    from fggp_deploy.format.model import SparseModel
    from fggp_deploy.verify.certificate import checkpoint_of

    if (checkpoint := checkpoint_of(SparseModel.open(model))) is None:
        return None
    try:
        from fggp_deploy.checkpoints.checkpoint import Checkpoint
        from fggp_deploy.training.start import restore
    except ModuleNotFoundError:
        return None
    try:
        content = Checkpoint.open(checkpoint)
        return restore(content, checkpoint, network=network, trust_code=trust_code)
    except UserError as e:
        raise ModelFileError(str(e)) from e
