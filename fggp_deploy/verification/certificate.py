"""The certificate: hashes and exact counts that let anybody check a file again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from fggp_deploy.common.files import sha256_file
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.unpacking import layer_name, unpack
from fggp_deploy.graph.reading import read_model, reading
from fggp_deploy.graph.view import GraphView
from fggp_deploy.graph.weights import untransposed

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Certificate:
    """Hashes are SHA-256 in hex; None means that there is nothing to check.

    `masks_sha256` is over layer names, shapes and packed masks in the file's order; `layers` has
    one hash per layer, of its name, shape and float32 values. The parent is the dense model:
    `parent_recorded` is its hash as the file records it. `checkpoint_recorded` is the recorded hash
    of the checkpoint, and `checkpoint_found` the name of the file beside it with that hash.
    `n_prunable` and `n_removed` are counted in the file over the layers that it names prunable;
    `n_removed_recorded` is what it claims. `revived` counts weights by layer that are zero in the
    dense model and not in the file; it is empty if the masks are a subset of the dense model's.
    """

    masks_sha256: str
    layers: dict[str, str]
    parent_recorded: str | None
    parent_masks_sha256: str | None
    checkpoint_recorded: str | None
    checkpoint_found: str | None
    n_prunable: int | None
    n_removed: int | None
    n_removed_recorded: int | None
    target: float | None
    revived: dict[str, int] | None

    @property
    def masks_are_a_subset(self) -> bool | None:
        """Whether every weight that is zero in the dense model is zero; None without that model."""
        return None if self.revived is None else not self.revived


def certificate(packed: SparseModel, reference: Path | None) -> Certificate:
    """Certify a model file; raises ModelFileError for a `reference` that cannot be read."""
    meta = packed.metadata
    own = weights(packed.dense())
    dense = None if reference is None else _dense_weights(reference)
    recorded = meta.sparsity
    prunable = recorded.get("prunable")
    names = (
        {layer_name(n) for n in prunable if isinstance(n, str)}
        if isinstance(prunable, list)
        else set()
    )
    counted = [w for name, w in own.items() if name in names]
    complete = bool(names) and len(counted) == len(names)
    checkpoint = checkpoint_of(packed)
    return Certificate(
        masks_sha256=masks_sha256(own),
        layers=layer_hashes(own),
        parent_recorded=meta.parent_sha256,
        parent_masks_sha256=None if dense is None else masks_sha256(dense),
        checkpoint_recorded=meta.checkpoint_sha256,
        checkpoint_found=None if checkpoint is None else checkpoint.name,
        n_prunable=sum(w.size for w in counted) if complete else None,
        n_removed=sum(int((w == 0).sum()) for w in counted) if complete else None,
        n_removed_recorded=_count(recorded.get("n_removed")),
        target=_share(recorded.get("target")),
        revived=None if dense is None else revived(own, dense),
    )


def checkpoint_of(packed: SparseModel) -> Path | None:
    """The checkpoint beside a model file with the hash that the file records, if any."""
    recorded = packed.metadata.checkpoint_sha256
    if recorded is None:
        return None
    beside = sorted(packed.path.parent.glob("*.safetensors"))
    return next((p for p in beside if p.is_file() and sha256_file(p) == recorded), None)


def weights(dense: ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of the convolution and linear layers by layer name, in the graph's order."""
    view = GraphView(dense.graph)
    found: dict[str, npt.NDArray[np.float32]] = {}
    for node in dense.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1:
            name = untransposed(view, node.input[1])
            if name in view.initializers:
                array = np.asarray(numpy_helper.to_array(view.initializers[name]), np.float32)
                found.setdefault(layer_name(name), array)
    return found


def masks_sha256(layers: Weights) -> str:
    """Hash of which weights are non-zero."""
    h = hashlib.sha256()
    for name, w in layers.items():
        h.update(f"{name}\0{w.shape}\0".encode())
        h.update(np.packbits(w.reshape(-1) != 0, bitorder="little").tobytes())
    return h.hexdigest()


def layer_hashes(layers: Weights) -> dict[str, str]:
    """For each layer the hash of its weights."""
    return {
        name: hashlib.sha256(
            f"{name}\0{w.shape}\0".encode() + w.astype("<f4").tobytes()
        ).hexdigest()
        for name, w in layers.items()
    }


def revived(own: Weights, dense: Weights) -> dict[str, int]:
    """The number of weights that are alive here and zero in the dense model, by layer.

    A channel of the dense model that is all zero comes from folding a batch norm and not from a
    mask, so it is not counted. Neither is a layer of another name or shape.
    """
    counts = {}
    for name, w in own.items():
        before = dense.get(name)
        if before is None or before.shape != w.shape:
            continue
        masked = (before == 0) & before.reshape(len(before), -1).any(axis=1).reshape(
            -1, *[1] * (before.ndim - 1)
        )
        if n := int((masked & (w != 0)).sum()):
            counts[name] = n
    return counts


def _dense_weights(reference: Path) -> dict[str, npt.NDArray[np.float32]]:
    with reading(reference.name):
        return weights(unpack(read_model(reference)))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1 else None
