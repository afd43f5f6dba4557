"""The network to export: the checkpoint of a run, or weights that were pruned elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo, is_ours
from fggp_deploy.checkpoints.run_folder import is_running, run_of
from fggp_deploy.errors import ConfigError, command
from fggp_deploy.models.checkpointing import restore

from . import load, plain_weights
from .options import ExportOptions


@dataclass(frozen=True)
class Source:
    """A network in eval mode and the description of it; `notes` are lines for the user."""

    path: Path
    is_run: bool
    content: Checkpoint
    info: CheckpointInfo
    model: nn.Module
    notes: tuple[str, ...]


def folder_of(checkpoint: Path) -> Path:
    """Where the exported files of a checkpoint lie: in its run's folder, or else beside it."""
    return run_of(checkpoint) if is_ours(checkpoint) else checkpoint.parent


def output_path(checkpoint: Path, options: ExportOptions) -> Path:
    """The file to write; raises ConfigError if --out does not have the suffix of its format.

    The default name says what the file holds, as in `model.compact.w8a8.onnx`. In place of `model`
    it has the name of weights that were pruned elsewhere, or that of one of a run's targets.
    """
    name: str = load(options.format).DEFAULT_NAME
    if options.for_format:
        kind = "w8a8" if options.activations == "int8" else options.values
        kind = "" if kind == "fp32" else f".{kind}"
        name = f"model{kind}{'.flat' if options.flat else ''}.onnx"
    if options.compact:
        name = name.replace("model", "model.compact", 1)
    if not is_ours(checkpoint):
        name = name.replace("model", checkpoint.stem, 1)
    elif checkpoint.stem.startswith("pruned-"):
        name = name.replace("model", checkpoint.stem.replace("pruned", "model"))
    suffix = Path(name).suffix
    if options.out is not None and options.out.suffix != suffix:
        raise ConfigError(f"--out {options.out} must end in {suffix} for --format {options.format}")
    return options.out or folder_of(checkpoint) / name


def read_source(path: Path, options: ExportOptions) -> Source:
    """Read what `path` holds; raises CheckpointError, ConfigError and UnknownName."""
    notes: list[str] = []
    ours = is_ours(path)
    if ours:
        options.images.refuse_for(path)
        content = Checkpoint.open(path)
        model = restore(content, path, network=options.network, trust_code=options.trust_code)
        if run_of(path) != path.parent:
            notes.append(_unfinished(path))
    else:
        content, model = plain_weights.read(path, options, note=notes.append)
    assert content.info is not None  # is_ours has checked it, or plain_weights has made it
    return Source(path, ours, content, content.info, model, tuple(notes))


def _unfinished(savepoint: Path) -> str:
    step, run = int(savepoint.stem.removeprefix("step-")), run_of(savepoint)
    if is_running(run):
        cure = "it is still running; export again when it has ended"
    else:
        cure = f"resume it with {command('fggp-deploy', 'prune', '--out', run)}, then export again"
    return f"the run is not finished, this is its network after step {step}: {cure}"
