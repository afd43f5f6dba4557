"""Going on with a run that was cut: with the same options and the same inputs, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from fggp_deploy.data.types import Dataset
from fggp_deploy.errors import CheckpointError, ConfigError, ResumeRefused
from fggp_deploy.files import write_atomic
from fggp_deploy.folder import CONFIG, SUMMARY
from fggp_deploy.training.config import PruneConfig

# Keys that may differ between the processes of one run: they say where and how often, not what.
# What lies at a path is compared by its content.
MOVABLE = (
    "device", "save_every", "data_dir", "checkpoint", "recipe", "workers", "trust_code",
)  # fmt: skip


@dataclass(frozen=True)
class EarlierRun:
    """A run that a folder holds already. `config`: its resolved options, as plain types."""

    folder: Path
    config: Mapping[str, Any]
    finished: bool


def earlier_run(folder: Path | None) -> EarlierRun | None:
    """The run in a folder; None when there is none. Raises ConfigError when it is unreadable."""
    if folder is None or not (folder / CONFIG).is_file():
        return None
    path = folder / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise ConfigError(f"{path} cannot be read ({' '.join(str(e).split())})") from e
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no run's configuration; choose another --out")
    return EarlierRun(folder, config, (folder / SUMMARY).is_file())


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a run's resolved options, which make its folder a run's."""
    write_atomic(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def refuse_changes(earlier: EarlierRun, given: Mapping[str, Any]) -> None:
    """Raise ResumeRefused, naming the keys, where options differ from those of the earlier run.

    One that the earlier run's version did not have yet was at its default there.
    """
    differ = [
        f"{key} is {there!r} there, {here!r} here"
        for key, there, here in _pairs(_with_defaults(earlier.config), given)
        if key not in MOVABLE and there != here
    ]
    if differ:
        raise ResumeRefused(
            f"{earlier.folder} holds a run with other options: {'; '.join(differ)}; give the same "
            f"ones to go on with it, or another --out"
        )


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run with those that its version did not have, the method's own too."""
    said = {f.name: f.default for f in fields(PruneConfig) if f.default is not MISSING}
    said |= config
    if "method" in config:
        from fggp_deploy import methods  # here, since that needs torch

        own = methods.info(str(config["method"])).options.defaults()
        said["method_set"] = own | dict(config.get("method_set") or {})
    return said


def _pairs(
    earlier: Mapping[str, Any], given: Mapping[str, Any], of: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Each given key with the earlier value and its own; a mapping's keys one by one."""
    for key, value in given.items():
        there = earlier.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _pairs(there, value, of=f"{of}{key} ")
        else:
            yield f"{of}{key}", there, value


@dataclass(frozen=True)
class Origin:
    """What a run began with, by content; savepoints hold it, and it must be the same later.

    `data_sha256`: see `data_digest`. `start_sparsity`: what the schedule began from.
    `checkpoint_sha256`: of the file that was pruned, `parent_sha256` of the parent's file; None
    where there was none. `n_ranks`: how many processes share in the run.
    """

    data_sha256: str
    start_sparsity: float = 0.0
    checkpoint_sha256: str | None = None
    parent_sha256: str | None = None
    n_ranks: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any, path: Path) -> Origin:
        """Read what `to_dict` wrote; raises CheckpointError on anything else."""
        try:
            return cls(**d)
        except TypeError as e:
            raise CheckpointError(f"{path} does not say what its run began with ({e})") from e

    def refuse_other(self, now: Origin, folder: Path) -> None:
        """Raise ResumeRefused where data, checkpoint or parent are not what they were."""
        if self.n_ranks != now.n_ranks:
            raise ResumeRefused(
                f"{folder} holds a run of {self.n_ranks} processes, here are {now.n_ranks}, which "
                f"would add up its gradients in another way; start it with torchrun "
                f"--nproc-per-node and --nnodes as before, or give another --out"
            )
        later = now.to_dict()
        differ = [key for key, value in self.to_dict().items() if later[key] != value]
        if differ:
            names = " and another ".join(
                k.removesuffix("_sha256").replace("_", " ") for k in differ
            )
            raise ResumeRefused(
                f"{folder} holds a run that began with another {names}; give the same to go on "
                f"with it, or another --out"
            )


def data_digest(data: Dataset) -> str:
    """Hex SHA-256 over what tells data sets apart: name, classes, preprocessing, labels."""
    about = [
        data.name, data.classes, data.preprocessing.to_dict(), data.augment, data.flip,
        data.crop_padding,
    ]  # fmt: skip
    h = hashlib.sha256(json.dumps(about).encode())
    for split in (data.train, data.val):
        h.update(split.labels.tobytes())
    return h.hexdigest()
