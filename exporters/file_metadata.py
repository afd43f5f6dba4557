"""The metadata of an exported file: preprocessing, counts, provenance and a self-test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import nn

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.data import Preprocessing, short_name
from fggp_deploy.errors import CheckpointError
from fggp_deploy.format.generated_inputs import Floats
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import layer_name
from fggp_deploy.models import without_folder
from fggp_deploy.verification.certificate import weights


def metadata_of(model: nn.Module, info: CheckpointInfo, content: Checkpoint) -> Metadata:
    """The metadata of a file, with a self-test of its network."""
    return Metadata(
        preprocessing=info.preprocessing,
        classes=info.classes,
        selftest=record(model, info.preprocessing),
        data=info.data or None,
        model=without_folder(info.model),
        sparsity=sparsity_of(info, content),
    )


def sparsity_of(info: CheckpointInfo, content: Checkpoint) -> dict[str, Any]:
    """Counts of prunable and of all weights; raises CheckpointError if one is missing."""
    try:
        prunable = [content.tensors[n] for n in info.prunable]
        weights = [content.tensors[n] for n in info.macs]
    except KeyError as e:
        raise CheckpointError(f"the checkpoint's own description is damaged: no weight {e}") from e
    return {
        "target": info.target,
        "method": info.method,
        "prunable": list(info.prunable),
        "n_prunable": sum(w.size for w in prunable),
        "n_removed": sum(int((w == 0).sum()) for w in prunable),
        "n_all_weights": sum(w.size for w in weights),
        "n_all_removed": sum(int((w == 0).sum()) for w in weights),
    }


def record(model: nn.Module, preprocessing: Preprocessing) -> SelfTest:
    """The self-test of a torch network in eval mode."""

    @torch.no_grad()
    def run(x: Floats) -> Floats:
        logits: Floats = model(torch.from_numpy(x)).numpy()
        return logits

    return SelfTest.of_classifier(run, preprocessing.input_shape)


def counts_of(dense: ModelProto, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """`recorded` with the counts of a compacted graph, and those of the network before."""
    layers = weights(dense)
    names = {layer_name(n) for n in recorded["prunable"]}
    prunable = [w for name, w in layers.items() if name in names]
    keys = ("n_prunable", "n_removed", "n_all_weights", "n_all_removed")
    return {
        **recorded,
        "n_prunable": sum(w.size for w in prunable),
        "n_removed": sum(int((w == 0).sum()) for w in prunable),
        "n_all_weights": sum(w.size for w in layers.values()),
        "n_all_removed": sum(int((w == 0).sum()) for w in layers.values()),
        "before_compaction": {k: recorded[k] for k in keys},
    }


def to_ship(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without the command line and the folders of the machine that made the file."""
    kept = {k: v for k, v in provenance.items() if k != "command"}
    paths = ("checkpoint", "data_dir", "weights")
    config = dict(kept.get("config") or {})
    config |= {k: Path(config[k]).name for k in paths if config.get(k)}
    if config.get("data"):
        config["data"] = short_name(config["data"])
    if config.get("model"):
        config["model"] = without_folder(config["model"])
    return kept | {"config": config} if kept else {}
