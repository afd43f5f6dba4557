"""Resume a run only with the same options and the same inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from fggp_deploy.checkpoints.run_folder import CONFIG, SUMMARY
from fggp_deploy.common.files import write_atomic
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.yaml_files import read_yaml
from fggp_deploy.data import short_name
from fggp_deploy.data.digest import description_digest, images_digest
from fggp_deploy.errors import CheckpointError, ConfigError, FggpWarning, ResumeRefused
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.settings import AUTO

if TYPE_CHECKING:
    from fggp_deploy.training.session import Session

C = TypeVar("C", bound=TrainConfig)

# Options that may differ when a run resumes, because they do not change its result. Files are
# compared by their content instead of their path.
MOVABLE = (
    "device", "save_every", "data_dir", "checkpoint", "recipe", "workers", "trust_code",
)  # fmt: skip


@dataclass(frozen=True)
class EarlierRun:
    """A run that a folder holds already. `config`: its resolved options as plain types."""

    folder: Path
    config: Mapping[str, Any]
    finished: bool


def earlier_run(folder: Path | None) -> EarlierRun | None:
    """The run in a folder, None if there is none. Raises ConfigError if it cannot be read."""
    if folder is None or not (folder / CONFIG).is_file():
        return None
    path = folder / CONFIG
    config = read_yaml(path, what=str(path))
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not the configuration of a run; choose another --out")
    return EarlierRun(folder, config, (folder / SUMMARY).is_file())


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a run's resolved options, by which its folder is recognized."""
    write_atomic(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def refuse_changes(earlier: EarlierRun, given: Mapping[str, Any]) -> None:
    """Raise ResumeRefused, naming the keys, if options differ from those of the earlier run.

    An option that the earlier run's version did not have counts as being at its default.
    """
    differ = [
        f"{key} is {there!r} in that run, {here!r} now"
        for key, there, here in _pairs(_with_defaults(earlier.config), given)
        if key not in MOVABLE and _without_folders(key, there) != _without_folders(key, here)
        if (key, here) != ("precision", AUTO)  # the earlier run has chosen one
    ]
    if differ:
        raise ResumeRefused(
            f"{earlier.folder} holds a run with other options: {'; '.join(differ)}; give its "
            f"options to resume it, or another --out for a new run"
        )


def with_earlier_choices(config: C, earlier: EarlierRun) -> C:
    """The options of a resumed run, with the precision that its first part chose for `auto`."""
    if config.precision != AUTO:
        return config
    return replace(config, precision=earlier.config.get("precision", config.precision))


def _without_folders(key: str, value: Any) -> Any:
    """An option's value without this machine's folders; their content is compared instead."""
    if isinstance(value, str) and key == "data":
        return short_name(value)
    if isinstance(value, str) and key == "model":
        from fggp_deploy.models import without_folder  # here, since that needs torch

        return without_folder(value)
    return value


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run, with defaults for those that its version did not have."""
    complete = {f.name: f.default for f in fields(PruneConfig) if f.default is not MISSING}
    complete |= config
    if "method" in config:
        from fggp_deploy.pruning import methods  # here, since that needs torch

        own = methods.info(str(config["method"])).options.defaults()
        complete["method_set"] = own | dict(config.get("method_set") or {})
    return complete


def _pairs(
    earlier: Mapping[str, Any], given: Mapping[str, Any], of: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Each given key with its earlier and its present value; a mapping's keys one by one."""
    for key, value in given.items():
        there = earlier.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _pairs(there, value, of=f"{of}{key} ")
        else:
            yield f"{of}{key}", there, value


# How a message names an input that changed.
_BEGAN_WITH = {
    "data_sha256": "another data set",
    "images_sha256": "other images",
    "model_code_sha256": "other code of its network",
    "start_sparsity": "another start sparsity",
    "checkpoint_sha256": "another checkpoint",
    "parent_sha256": "another dense model",
}
_UNKNOWN_TO_OLD_RUNS = ("images_sha256", "model_code_sha256")


@dataclass(frozen=True)
class Origin:
    """Hashes of the inputs of a run. Savepoints hold them, and a resumed run must have the same.

    `data_sha256`, `images_sha256`: see data.digest. `model_code_sha256`: of the user's own file
    that makes the network. `start_sparsity`: from which the schedule starts. `checkpoint_sha256`:
    of the file to prune; `parent_sha256`: of the dense model's file; None if there is none.
    `n_ranks`: processes that share the run. `n_threads`: threads of each on a CPU.
    """

    data_sha256: str
    start_sparsity: float = 0.0
    checkpoint_sha256: str | None = None
    parent_sha256: str | None = None
    n_ranks: int = 1
    images_sha256: str | None = None
    model_code_sha256: str | None = None
    n_threads: int | None = None

    @classmethod
    def of(
        cls,
        session: Session,
        *,
        start_sparsity: float,
        checkpoint_sha256: str | None,
        parent_sha256: str | None = None,
        progress: Progress | None = None,
    ) -> Origin:
        """The origin of a prepared session. `progress` counts images that are hashed."""
        import torch  # here, so that the command line can read a run's options without it

        from fggp_deploy import models

        return cls(
            data_sha256=description_digest(session.data),
            start_sparsity=start_sparsity,
            checkpoint_sha256=checkpoint_sha256,
            parent_sha256=parent_sha256,
            n_ranks=session.ranks.world,
            images_sha256=images_digest(session.data, progress=progress or silent),
            model_code_sha256=models.code_digest(session.config.model),
            n_threads=torch.get_num_threads() if session.device.type == "cpu" else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any, path: Path) -> Origin:
        """Read what `to_dict` returned; raises CheckpointError for anything else."""
        try:
            return cls(**d)
        except TypeError as e:
            raise CheckpointError(f"{path} does not record the inputs of its run ({e})") from e

    def contents(self) -> dict[str, Any]:
        """The inputs that must be the same when the run resumes, and in all ranks."""
        return {key: value for key, value in self.to_dict().items() if key in _BEGAN_WITH}

    def refuse_other(self, now: Origin, folder: Path) -> None:
        """Raise ResumeRefused if data, code, checkpoint or dense model have changed.

        Warns if the number of threads has changed, which affects only the last bits.
        """
        if self.n_ranks != now.n_ranks:
            raise ResumeRefused(
                f"{folder} holds a run of {self.n_ranks} processes, and now there are "
                f"{now.n_ranks}, which would sum gradients in another order; start it with "
                f"torchrun --nproc-per-node and --nnodes as before, or give another --out"
            )
        later = now.contents()
        differ = [
            _BEGAN_WITH[key]
            for key, value in self.contents().items()
            if later[key] != value and not (value is None and key in _UNKNOWN_TO_OLD_RUNS)
        ]
        if differ:
            raise ResumeRefused(
                f"{folder} holds a run that began with {' and '.join(differ)}; give the same "
                f"inputs to resume it, or another --out for a new run"
            )
        if self.n_threads and now.n_threads and self.n_threads != now.n_threads:
            warnings.warn(
                f"the run in {folder} began on {self.n_threads} threads and resumes on "
                f"{now.n_threads}, so its result will differ in the last bits from that of a run "
                f"without interruption; OMP_NUM_THREADS={self.n_threads} avoids that",
                FggpWarning,
                stacklevel=2,
            )
