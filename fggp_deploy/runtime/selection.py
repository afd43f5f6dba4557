"""Choosing the fastest model by timing: whether the kernels are faster than ONNX Runtime here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fggp_deploy.common.timing import TimedCall, Watch, median_interval, rounds

DENSE = "dense"  # the contender that all others must beat
# The interval of the ratio is checked only after these numbers of rounds, because a check after
# every round would make chance findings likely. Measuring ends at the last, or at the time limit.
LOOKS = (6, 12, 24, 48, 96)
MAX_SECONDS = 4.0


@dataclass(frozen=True)
class Selection:
    """The fastest contender if it beats `DENSE` beyond doubt, else None.

    `low` and `high` are the 95% interval of its ratio, the median of dense time over its own.
    `busy` says that the machine was too busy to be sure.
    """

    name: str | None
    low: float
    high: float
    busy: bool = False


def choose(
    contenders: Mapping[str, Callable[[], TimedCall]],
    *,
    seconds: float = MAX_SECONDS,
    measure: Callable[..., dict[str, list[float]]] = rounds,
    watch: Watch | None = None,
) -> Selection:
    """Take a contender only if it is faster in two sessions, each opened anew.

    A contender opens a session and returns a function that runs it once. In the first session all
    are timed, in the second only the best of them; in each the 95% interval of the paired ratios
    must lie above 1. While it contains 1, more rounds are taken, within `seconds` per session.
    """
    rng, watch = np.random.default_rng(0), watch or Watch()
    fast = [name for name in contenders if name != DENSE]
    lows, highs = [], []
    for _ in range(2):
        runs = {name: contenders[name]() for name in (DENSE, *fast)}
        ms = measure(
            runs,
            seconds=seconds,
            rng=rng,
            least=LOOKS[0],
            most=LOOKS[-1],
            warmup=2,
            enough=_clear,
            watch=watch,
        )
        fast = [_fastest(ms)]
        low, high = _ratio(ms, fast[0])
        if not low > 1:
            return Selection(None, low, high, watch.too_busy)
        lows.append(low)
        highs.append(high)
    return Selection(fast[0], min(lows), max(highs), watch.too_busy)


def _fastest(ms: Mapping[str, Sequence[float]]) -> str:
    return min((n for n in ms if n != DENSE), key=lambda n: float(np.median(ms[n])))


def _ratio(ms: Mapping[str, Sequence[float]], name: str) -> tuple[float, float]:
    return median_interval([a / b for a, b in zip(ms[DENSE], ms[name], strict=True)])


def _clear(ms: Mapping[str, list[float]]) -> bool:
    n = len(ms[DENSE])
    if n not in LOOKS or (len(ms) > 2 and n < LOOKS[1]):  # several candidates: rank them well
        return False
    low, high = _ratio(ms, _fastest(ms))
    return low > 1 or high < 1
