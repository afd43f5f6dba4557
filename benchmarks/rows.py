"""What the benchmarks of speed report: ratios with intervals, medians, the machine's load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy.measure.latency import Milliseconds, speedup

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def ratio(over: Milliseconds, ms: Milliseconds) -> Row:
    found = speedup(over, ms, np.random.default_rng(0))
    low, value, high = (round(x, 3) for x in (found.low, found.value, found.high))
    return {"ratio": value, "interval": [low, high], "rounds": found.n, "different": found.measured}


def median_ms(ms: Milliseconds) -> float:
    return round(float(np.median([np.median(session) for session in ms])), 4)


def load() -> float:
    return round(os.getloadavg()[0], 2)


def words(found: Row) -> str:
    low, high = found["interval"]
    between = f"[{low:.2f}, {high:.2f}]"
    return f"{found['ratio']:.2f}x {between}" if found["different"] else f"no difference {between}"


def say(row: Row, text: str) -> None:
    about = f"{row['network']:17}{row['mask']:8} {row['sparsity']:.0%}"
    print(f"{about}  {text}  load {row.get('load_average', load())}", flush=True)
