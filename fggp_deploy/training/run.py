"""A run from its folder to its result: new, resumed or finished."""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.checkpoints.run_folder import (
    DENSE_MODEL,
    RESUME,
    held,
    new_folder,
    remove_leftovers,
)
from fggp_deploy.distributed.ranks import ALONE, Ranks
from fggp_deploy.errors import (
    CheckpointError,
    FggpWarning,
    MachineError,
    Stopped,
    TrainingDiverged,
    command,
)
from fggp_deploy.models.checkpointing import to_checkpoint
from fggp_deploy.training import savepoint
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.evaluation import dense_accuracy
from fggp_deploy.training.interruption import Interruption
from fggp_deploy.training.log import RunLog
from fggp_deploy.training.loop import training_steps
from fggp_deploy.training.observer import Observer
from fggp_deploy.training.prepared import Prepared
from fggp_deploy.training.result import RunResult
from fggp_deploy.training.result_writer import ResultWriter
from fggp_deploy.training.resume import (
    Origin,
    earlier_run,
    refuse_changes,
    with_earlier_choices,
)
from fggp_deploy.training.session import Session

C = TypeVar("C", bound=TrainConfig)


@dataclass(frozen=True)
class Resumed:
    """An interrupted run: its folder, its last savepoint, and what it began with."""

    folder: Path
    saved: savepoint.Savepoint
    origin: Origin


class Run(Generic[C]):
    """One run in one folder: `out`, or a new folder called after `name`.

    Used as a context manager, it holds the folder against other processes. If `out` holds a
    finished run, `finished` is its result. If it holds an interrupted one, `resumed` is the
    state to resume from; the result is the same bit for bit on the same CPU. `complete` then trains
    a prepared session to its end. `config` are the options, with what an earlier run has chosen for
    `auto`. All ranks call; only the lead reads an earlier run and writes.
    """

    def __init__(
        self,
        out: Path | None,
        config: C,
        *,
        name: str,
        result_name: str,
        ranks: Ranks = ALONE,
    ) -> None:
        self.finished: RunResult | None = None
        self.resumed: Resumed | None = None
        self.config = config
        self._out, self._name = out, name
        self._result_name, self._ranks = result_name, ranks
        self._folder: Path | None = None
        self._stack = contextlib.ExitStack()
        self._opened = time.monotonic()

    def __enter__(self) -> Self:
        """Find the run in `out`; raises ResumeRefused if its options are others."""
        earlier = self._ranks.from_lead(lambda: earlier_run(self._out))
        if earlier is None:
            return self
        refuse_changes(earlier, self.config.to_dict())
        self.config = with_earlier_choices(self.config, earlier)
        self._folder = earlier.folder
        self._hold(earlier.folder)
        with contextlib.ExitStack() as on_error:
            on_error.push(self.__exit__)
            earlier = self._ranks.from_lead(lambda: earlier_run(self._out)) or earlier
            if earlier.finished:  # maybe by the process that held the folder until now
                self.finished = self._ranks.from_lead(lambda: _finished(earlier.folder))
            else:
                self.resumed = self._ranks.from_lead(lambda: _resumed(earlier.folder))
            on_error.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def complete(self, prepared: Prepared, observer: Observer) -> RunResult:
        """Train the session to its end, and return what was made. All ranks call.

        Raises Stopped after SIGINT or SIGTERM, when everything is saved; TrainingDiverged, after
        which earlier savepoints remain; and ResumeRefused if the inputs of a resumed run changed.
        """
        resumed, self.resumed = self.resumed, None  # frees the savepoint once it is loaded
        if resumed is None:
            folder, origin, dense_sha256 = self._begin(prepared)
        else:
            folder, origin, dense_sha256 = _resume(resumed, prepared)
            del resumed
        session = prepared.session
        results = ResultWriter(
            folder=folder,
            name=self._result_name,
            session=session,
            model_code_sha256=origin.model_code_sha256,
            dense_sha256=dense_sha256,
            names=prepared.names,
        )
        with Interruption() as interruption, contextlib.ExitStack() as stack:
            log = observer
            if session.ranks.leads:
                log = RunLog(folder, observer, step=session.position.step)
                stack.callback(log.close)
            _train(results, origin, interruption, log)
        return session.ranks.from_lead(results.finish)

    def _hold(self, folder: Path) -> None:
        self._ranks.from_lead(lambda: self._stack.enter_context(held(folder)))

    def _begin(self, prepared: Prepared) -> tuple[Path, Origin, str | None]:
        """Make the folder of a new run, or of one without a savepoint, and its first files."""
        folder, session = self._folder, prepared.session
        if folder is None:
            folder = self._ranks.from_lead(lambda: new_folder(self._out, self._name))
            self._hold(folder)
            session.position.seconds = time.monotonic() - self._opened
        prepared.check_same_on_all_ranks()
        if not session.ranks.leads:  # dropout of its own; the lead draws as if it were alone
            torch.manual_seed(session.config.seed + session.ranks.rank)
        origin = session.ranks.from_lead(lambda: prepared.write_first_files(folder))
        return folder, origin, prepared.dense.sha256 if prepared.dense else prepared.start_sha256


def _finished(folder: Path) -> RunResult:
    warnings.warn(
        f"{folder} holds a finished run, which is kept; choose another --out for a new run",
        FggpWarning,
        stacklevel=2,
    )
    return RunResult.load(folder)


def _resumed(folder: Path) -> Resumed | None:
    """The state from which a run resumes; None if it was interrupted before its first savepoint."""
    remove_leftovers(folder)
    saved = savepoint.latest(folder)
    if saved is None:
        return None
    return Resumed(folder, saved, Origin.from_dict(saved.state.get("origin"), saved.path))


def _resume(resumed: Resumed, prepared: Prepared) -> tuple[Path, Origin, str | None]:
    """Bring the session to the savepoint; refuses other inputs than those the run began with."""
    folder, saved, origin = resumed.folder, resumed.saved, resumed.origin
    origin.refuse_other(prepared.origin, folder)
    prepared.check_same_on_all_ranks()
    try:
        prepared.session.load_state_dict(saved.model, saved.state)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(
            f"{saved.path} does not fit the network and options of its run ({e})"
        ) from e
    if prepared.dense is None:
        return folder, origin, prepared.start_sha256
    info = Checkpoint.open(folder / DENSE_MODEL).info
    return folder, origin, info.reference_sha256 if info else None


def _train(
    results: ResultWriter, origin: Origin, interruption: Interruption, log: Observer
) -> None:
    """Train to the last step; keep each target's network, and write savepoints."""
    s, folder = results.session, results.folder
    began, earlier = time.monotonic(), s.position.seconds
    log.on_start(folder, s.config.epochs, s.n_steps, s.position.step)
    found = dense_accuracy(s) if s.position.step == 0 else None
    if found is not None:
        log.on_dense_accuracy(found)
    saved = began
    if s.n_steps == 0:
        results.keep(s.stages[-1])
    try:
        for step in training_steps(s, log):
            s.position.seconds = earlier + time.monotonic() - began
            for stage in s.stages:
                if stage.end == step:
                    results.keep(stage)
            if step == s.n_steps:
                break
            due = time.monotonic() - saved >= 60 * s.config.save_every
            received, due_to_any = s.ranks.most(interruption.received or 0, due)
            if received:
                _save(results, origin)
                raise Stopped(signal.Signals(received), step, s.n_steps, folder)
            if due_to_any:
                _try_to_save(results, origin)
                saved = time.monotonic()
    except TrainingDiverged as e:
        raise TrainingDiverged(f"{e}; {_what_is_left(s, folder)}") from e


def _save(results: ResultWriter, origin: Origin) -> None:
    """Write a savepoint of the session."""
    s = results.session
    s.check_finite()
    checkpoint = to_checkpoint(s.model, s.pruner.all_masks(), results.info)
    state = s.state_dict() | {"origin": origin.to_dict()}
    step = s.position.step
    s.ranks.from_lead(lambda: savepoint.write(results.folder, step, checkpoint, state))


def _try_to_save(results: ResultWriter, origin: Origin) -> None:
    """Write a savepoint; a full disk only warns, since it must not lose what is in memory."""
    try:
        _save(results, origin)
    except MachineError as e:
        minutes = results.session.config.save_every
        warnings.warn(
            f"{e}; the run continues without a savepoint and tries again in {minutes:g} minutes",
            FggpWarning,
            stacklevel=2,
        )


def _what_is_left(s: Session, folder: Path) -> str:
    """What a user can do after a run that diverged."""
    if any((folder / RESUME).glob("*")):
        name = "prune" if isinstance(s.config, PruneConfig) else "train"
        again = command("fggp-deploy", name, "--checkpoint", folder)
        return f"the last good state is kept: {again} starts a new run from it, with other options"
    return f"nothing was saved yet (--save-every {s.config.save_every:g} minutes)"
