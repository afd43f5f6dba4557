"""Tables in which every cell is one run of the program; runs can be parallel and can be resumed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-m", "fggp_deploy.cli"]
_CUT = (128 + signal.SIGTERM, -signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """One run: its folder's name, the program's arguments except --out, the run it waits for."""

    name: str
    command: Callable[[], list[str]]
    after: str | None = None


def done(folder: Path, name: str) -> bool:
    """Whether the run is finished."""
    return (folder / name / "summary.json").exists()


def make(
    runs: Sequence[Job],
    folder: Path,
    *,
    kept: Callable[[str], None],
    parallel: int = 1,
    minutes: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Execute the missing runs, `parallel` at a time; True if all runs are finished.

    A run that `minutes` interrupts resumes at the next call. `kept` is called for each finished
    run. A failed run is reported and skipped; its log lies beside its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes if minutes else None
    waiting = [r for r in runs if not done(folder, r.name)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        over = end is not None and time.monotonic() > end
        for run in [r for r in waiting if r.after is None or done(folder, r.after)]:
            if over or len(running) >= parallel:
                break
            waiting.remove(run)
            words = [*PROGRAM, *run.command(), "--out", str(folder / run.name)]
            print(f"{run.name}: {shlex.join(words[1:])}", file=sys.stderr)
            with (folder / f"{run.name}.log").open("ab") as log:
                running[run.name] = subprocess.Popen(
                    words,
                    env={**os.environ, **(environment or {})},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        if over:
            for process in running.values():
                process.terminate()  # it saves all
            waiting.clear()
        elif not running:
            break  # what is left waits for what failed
        time.sleep(0.5)
        for name, process in list(running.items()):
            try:
                code = process.wait(timeout=60 if over else 0)
            except subprocess.TimeoutExpired:
                continue
            del running[name]
            if code == 0:
                kept(name)
            elif code not in _CUT:
                print(f"{name} failed, see {name}.log", file=sys.stderr)
    return all(done(folder, r.name) for r in runs)


def figures(folder: Path, name: str) -> dict[str, Any]:
    """The results of a finished run; `epochs` is its log, one dict per epoch."""
    summary = json.loads((folder / name / "summary.json").read_text())
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    epochs = [e for e in map(json.loads, lines) if "val_accuracy" in e]
    speeds = [e["images_per_second"] for e in epochs]
    return {
        "accuracy": summary["test_accuracy"],
        "n_test": summary["n_test"],
        "images_per_second": round(statistics.median(speeds), 1) if speeds else None,
        "epochs": epochs,
        **{k: summary[k] for k in ("seconds", "n_prunable", "n_removed", "digest")},
    }


def mean_text(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation (count), of percentages."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"
