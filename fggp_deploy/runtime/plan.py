"""Whether a model runs on the kernels here, and the measurement behind that choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fggp_deploy.common.timing import Run, Watch, median_interval, rounds

if TYPE_CHECKING:
    from fggp_deploy.runtime.costs import LayerCost

DENSE = "dense"  # the contender that all others must beat
# The interval of the ratio is looked at after these many rounds only: looking after every one
# would make chance findings likely. Measuring ends at the last, or after so many seconds.
LOOKS = (6, 12, 24, 48, 96)
MAX_SECONDS = 4.0


@dataclass(frozen=True)
class Plan:
    """`sparse`: the compiled model takes the place of the file, for the `reason` given.

    `ratio` is dense time over sparse time, the lower end of its 95% interval, None where nothing
    was timed; `tuning_seconds` is the time that the search for kernel variants was given. `busy`:
    other programs held the measurement up, so that it should be repeated later.
    """

    sparse: bool
    reason: str
    ratio: float | None = None
    tuning_seconds: float = 0.0
    busy: bool = False

    def __str__(self) -> str:
        return f"{'kernels' if self.sparse else 'plain'}: {self.reason}"


@dataclass(frozen=True)
class Compiled:
    """A plan and the model with its regions as single nodes; None where the plan is dense.

    `layers` is what each layer costs, empty where nothing was timed or it came from the cache.
    """

    plan: Plan
    model: bytes | None = None
    layers: Sequence[LayerCost] = field(default=())


@dataclass(frozen=True)
class Choice:
    """The fastest contender where it beats `DENSE` beyond doubt, else None; [low, high] of its
    ratio, the median of dense time over its own. `busy`: the machine was too busy to be sure."""

    name: str | None
    low: float
    high: float
    busy: bool = False


def choose(
    contenders: Mapping[str, Callable[[], Run]],
    *,
    seconds: float = MAX_SECONDS,
    measure: Callable[..., dict[str, list[float]]] = rounds,
    watch: Watch | None = None,
) -> Choice:
    """Take a contender only where two sessions, each opened afresh, both say that it is faster.

    A contender opens a session and returns what runs it once. In the first session all are timed,
    in the second the best of them again; in each the 95% interval of the paired ratios must lie
    above 1. Where it holds 1, more rounds are taken, within `seconds` a session.
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
            return Choice(None, low, high, watch.too_busy)
        lows.append(low)
        highs.append(high)
    return Choice(fast[0], min(lows), max(highs), watch.too_busy)


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
