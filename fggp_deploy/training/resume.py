"""Going on with a run that was cut: with the same options and the same inputs, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fggp_deploy.checkpoints.run_folder import CONFIG, SUMMARY
from fggp_deploy.common.files import write_atomic
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.common.yaml_files import read_yaml
from fggp_deploy.data import short_name
from fggp_deploy.data.digest import description_digest, images_digest
from fggp_deploy.errors import CheckpointError, ConfigError, FggpWarning, ResumeRefused
from fggp_deploy.training.config import PruneConfig

if TYPE_CHECKING:
    from fggp_deploy.training.session import Session

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
    config = read_yaml(path, what=str(path))
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
        if key not in MOVABLE and _without_folders(key, there) != _without_folders(key, here)
    ]
    if differ:
        raise ResumeRefused(
            f"{earlier.folder} holds a run with other options: {'; '.join(differ)}; give the same "
            f"ones to go on with it, or another --out"
        )


def _without_folders(key: str, value: Any) -> Any:
    """An option's value without the folders of this machine; the content there is compared."""
    if isinstance(value, str) and key == "data":
        return short_name(value)
    if isinstance(value, str) and key == "model":
        from fggp_deploy.models import without_folder  # here, since that needs torch

        return without_folder(value)
    return value


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run with those that its version did not have, the method's own too."""
    said = {f.name: f.default for f in fields(PruneConfig) if f.default is not MISSING}
    said |= config
    if "method" in config:
        from fggp_deploy.pruning import methods  # here, since that needs torch

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


# What a run began with, as the refusal of another one says it.
_BEGAN_WITH = {
    "data_sha256": "another data set",
    "images_sha256": "other images",
    "model_code_sha256": "other code of its network",
    "start_sparsity": "another start sparsity",
    "checkpoint_sha256": "another checkpoint",
    "parent_sha256": "another parent",
}
_UNKNOWN_TO_OLD_RUNS = ("images_sha256", "model_code_sha256")


@dataclass(frozen=True)
class Origin:
    """What a run began with, by content; savepoints hold it, and it must be the same later.

    `data_sha256`, `images_sha256`: see data.digest. `model_code_sha256`: of the user's own file
    that makes the network. `start_sparsity`: what the schedule began from. `checkpoint_sha256`: of
    the file that was pruned, `parent_sha256` of the parent's file; None if there was none.
    `n_ranks`: how many processes share in the run. `n_threads`: threads of each on a CPU.
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
        """What a session begins with. `progress` counts images that are hashed."""
        import torch  # here, since the command line reads an earlier run's options without it

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
        """Read what `to_dict` wrote; raises CheckpointError on anything else."""
        try:
            return cls(**d)
        except TypeError as e:
            raise CheckpointError(f"{path} does not say what its run began with ({e})") from e

    def contents(self) -> dict[str, Any]:
        """What may not change from process to process, nor from rank to rank."""
        return {key: value for key, value in self.to_dict().items() if key in _BEGAN_WITH}

    def refuse_other(self, now: Origin, folder: Path) -> None:
        """Raise ResumeRefused if data, code, checkpoint or parent are not what they were.

        Warns if the number of threads is another one, which only changes the last bits.
        """
        if self.n_ranks != now.n_ranks:
            raise ResumeRefused(
                f"{folder} holds a run of {self.n_ranks} processes, here are {now.n_ranks}, which "
                f"would add up its gradients in another way; start it with torchrun "
                f"--nproc-per-node and --nnodes as before, or give another --out"
            )
        later = now.contents()
        differ = [
            _BEGAN_WITH[key]
            for key, value in self.contents().items()
            if later[key] != value and not (value is None and key in _UNKNOWN_TO_OLD_RUNS)
        ]
        if differ:
            raise ResumeRefused(
                f"{folder} holds a run that began with {' and '.join(differ)}; give the same to "
                f"resume it, or another --out"
            )
        if self.n_threads and now.n_threads and self.n_threads != now.n_threads:
            warnings.warn(
                f"the run in {folder} began on {self.n_threads} threads and resumes on "
                f"{now.n_threads}, so its result will differ in the last bits from that of a run "
                f"that was never stopped; OMP_NUM_THREADS={self.n_threads} avoids that",
                FggpWarning,
                stacklevel=2,
            )
