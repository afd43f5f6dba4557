"""A training stage from its options to its folder, be it new, cut short or finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo
from fggp_deploy.checkpoints.run_folder import PARENT, held, new_folder, remove_leftovers
from fggp_deploy.common.files import sha256_file
from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import CheckpointError, FggpWarning
from fggp_deploy.models import recorded
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.training import savepoint
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.resume import (
    MOVABLE,
    EarlierRun,
    Origin,
    earlier_run,
    refuse_changes,
    write_config,
)
from fggp_deploy.training.run import Run
from fggp_deploy.training.session import Session
from fggp_deploy.training.start import Start, count_macs, to_checkpoint

__all__ = ["Origin", "Ready", "conduct"]


@dataclass(frozen=True)
class Ready:
    """A session before its first step, what it began with, and its parent if it has one.

    `start_sha256`: hash of the weights' file that it starts from. `names`: our names of
    parameters → the user's, where they differ.
    """

    session: Session
    origin: Origin
    parent: Start | None = None
    start_sha256: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


Prepare = Callable[[Path | None, Origin | None], Ready]


def conduct(
    prepare: Prepare,
    config: TrainConfig,
    *,
    name: str,
    result_name: str,
    observer: Observer,
    out: Path | None,
    ranks: Ranks,
) -> RunResult:
    """Make ready and run to the end, in `out` or a new folder called after `name`.

    `prepare` gets None and None, or the folder and the origin of a run to go on with. Where `out`
    holds a run that was cut, goes on from its last savepoint, to the same result bit for bit on
    the same CPU; where it holds a finished one, says so and returns what that made. Raises
    ResumeRefused when the options or inputs are not that run's own. All ranks call; the lead
    alone writes, and what it reads of an earlier run the others get from it.
    """
    earlier = ranks.from_lead(lambda: earlier_run(out))
    if earlier is None:
        began = time.monotonic()
        ready = prepare(None, None)  # whatever is wrong shows before a folder is made
        folder = ranks.from_lead(lambda: new_folder(out, name))
        with _held(folder, ranks):
            run = _begin(folder, ready, result_name)
            return replace(run, prepared=time.monotonic() - began).go(observer)
    refuse_changes(earlier, config.to_dict())
    with _held(earlier.folder, ranks):
        if earlier.finished:
            warnings.warn(
                f"{earlier.folder} holds a finished run, which stays as it is; choose another "
                f"--out for a new one",
                FggpWarning,
                stacklevel=2,
            )
            return ranks.from_lead(lambda: RunResult.load(earlier.folder))
        return _go_on(prepare, earlier, result_name, ranks).go(observer)


@contextlib.contextmanager
def _held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """The folder, held by the lead for all ranks."""
    with contextlib.ExitStack() as stack:
        ranks.from_lead(lambda: stack.enter_context(held(folder)))
        yield


def _begin(folder: Path, ready: Ready, result_name: str) -> Run:
    session = ready.session
    _check_alike(ready)
    if not session.ranks.leads:  # dropout of its own; what the lead draws is as if it were alone
        torch.manual_seed(session.config.seed + session.ranks.rank)
    origin = session.ranks.from_lead(lambda: _first_files(folder, ready))
    return Run(
        folder=folder,
        result_name=result_name,
        session=session,
        origin=origin,
        parent_sha256=ready.parent.sha256 if ready.parent else ready.start_sha256,
        names=ready.names,
    )


def _first_files(folder: Path, ready: Ready) -> Origin:
    """Write what a run's folder has from the start; the origin, with the parent as it is there."""
    session = ready.session
    write_config(folder, session.config.to_dict())
    if session.data.held_out is not None:
        session.data.held_out.save_beside(folder)
    if ready.parent is None:
        return ready.origin
    _keep_parent(ready.parent, ready, folder)
    return replace(ready.origin, parent_sha256=sha256_file(folder / PARENT))


def _check_alike(ready: Ready) -> None:
    """Raise RanksDiffer unless all ranks were given the same options, data and weights."""
    s = ready.session
    about = {k: v for k, v in s.config.to_dict().items() if k not in MOVABLE}
    text = json.dumps([about, ready.origin.contents()], sort_keys=True)
    s.ranks.check_same(
        lambda: hashlib.sha256(text.encode()).hexdigest(),
        "the processes of this run were given different options, data or weights; start all with "
        "the same command, on machines that see the same files",
    )


def _last_savepoint(folder: Path) -> savepoint.Savepoint | None:
    remove_leftovers(folder)
    return savepoint.latest(folder)


def _go_on(prepare: Prepare, earlier: EarlierRun, result_name: str, ranks: Ranks) -> Run:
    folder = earlier.folder
    saved = ranks.from_lead(lambda: _last_savepoint(folder))
    if saved is None:  # it was cut before its first savepoint
        return _begin(folder, prepare(None, None), result_name)
    origin = Origin.from_dict(saved.state.get("origin"), saved.path)
    ready = prepare(folder, origin)
    origin.refuse_other(ready.origin, folder)
    _check_alike(ready)
    try:
        ready.session.load_state_dict(saved.model, saved.state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as e:
        raise CheckpointError(
            f"{saved.path} does not fit the network and options of its run ({e})"
        ) from e
    reference = ready.start_sha256
    if ready.parent is not None:
        info = Checkpoint.open(folder / PARENT).info
        reference = info.reference_sha256 if info else None
    return Run(
        folder=folder,
        result_name=result_name,
        session=ready.session,
        origin=origin,
        parent_sha256=reference,
        names=ready.names,
    )


def _keep_parent(parent: Start, ready: Ready, folder: Path) -> None:
    session = ready.session
    data, model = parent.data, session.teacher
    assert model is not None  # a run with a parent learns from it
    info = CheckpointInfo(
        model=recorded(session.config.model, folder),
        model_code_sha256=ready.origin.model_code_sha256,
        data=data.name,
        classes=data.classes,
        preprocessing=data.preprocessing,
        macs=count_macs(model, data.preprocessing.input_shape),
        reference_sha256=parent.sha256,
        names=parent.names,
        provenance={"copy_of": parent.checkpoint.name},
    )
    to_checkpoint(model, parent.masks or MaskSet({}), info).save(folder / PARENT)
