"""The training curves of the run that made a file, from metrics.jsonl beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES, MAX_EPOCHS = 16 << 20, 2_000


@dataclass(frozen=True)
class Epoch:
    """What a run logged after an epoch; `val_accuracy` is on the held-out images, in [0, 1]."""

    epoch: int
    loss: float
    val_accuracy: float
    sparsity: float


def history(folder: Path) -> tuple[Epoch, ...]:
    """Read metrics.jsonl; empty without that file. Lines that cannot be read are skipped."""
    path = folder / "metrics.jsonl"
    try:
        if path.stat().st_size > MAX_BYTES:
            return ()
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    epochs = (_epoch(line) for line in lines)
    return tuple(e for e in epochs if e is not None)[:MAX_EPOCHS]


def _epoch(line: str) -> Epoch | None:
    try:
        d = json.loads(line)
        loss, val, sparsity = (float(d[k]) for k in ("loss", "val_accuracy", "sparsity"))
        found = Epoch(int(d["epoch"]), loss, val, sparsity)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return found if all(map(math.isfinite, (loss, val, sparsity))) else None
