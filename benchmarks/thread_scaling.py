"""Speed on several threads, on a free machine and on one that another process keeps busy.

A deployed session runs one inference after the other, so a round of a contender is a block of
consecutive runs. Its figure is their mean: a run that waits for a core counts.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from busy import one_busy_core
from packed_files import RIVALS_TOLERANCE, Files
from rivals import Opener, rivals
from rows import Row, load, median_ms, ratio, say, words

from fggp_deploy.common.cores import usable_cores
from fggp_deploy.measure.latency import Milliseconds, measure, setting

BLOCK_MS = 40.0
# A new session of the kernels finds out in its first runs how many threads are faster.
RUNS_BEFORE = 30
MACHINES = ("free", "busy")
_COLORS = ("#0b62c4", "#c4570b", "#2a8a3e", "#8a2a7b", "#6b6b00", "#444444")


def thread_counts(cores: int) -> list[int]:
    """One thread, and the powers of two up to the number of cores; at least two threads."""
    return [2**i for i in range(max(2, cores).bit_length())]


def thread_scaling(files: Files, options: argparse.Namespace) -> Row:
    """One row: every contender on every number of threads, on a free and on a busy machine."""
    counts = options.threads or thread_counts(usable_cores())
    opened = {(name, n): o for n in counts for name, o in _openers(files, n, options).items()}
    blocks = {}
    for (name, n), open_ in opened.items():
        run = open_()
        files.check(f"{name}, {setting(n, 1)}", run(), tolerance=RIVALS_TOLERANCE)
        blocks[name, n] = _in_blocks(open_, _runs_in_a_block(run, options.block_ms))
    row: Row = files.row | {"threads": counts, "load_average": load()}
    row["free"] = _measured(blocks, options)
    with one_busy_core():
        row["busy"] = _measured(blocks, options)
    last = str(counts[-1])
    for machine in MACHINES:
        found = row[machine]
        over = [f"{name} {words(by[last])}" for name, by in found["over_dense"].items()]
        over.append(f"kernels over one thread {words(found['over_one_thread']['kernels'][last])}")
        say(row, f"{machine}, {last} threads: {'   '.join(over)}")
    return row


def _openers(files: Files, threads: int, options: argparse.Namespace) -> dict[str, Opener]:
    """What opens each contender with this number of threads; the kernels' plan is made now."""
    files.open_kernels(threads=threads, tuning_seconds=options.tuning_seconds)
    sessions = {"dense": files.open_dense, "kernels": files.open_kernels}
    found = {name: files.opener(open_, threads=threads) for name, open_ in sessions.items()}
    image = files.feeds(1)["x"]
    return found | {name: rival(files.dense, image, threads) for name, rival in rivals().items()}


def _runs_in_a_block(run: Callable[[], Any], block_ms: float) -> int:
    """How many runs take about that long."""
    start = time.perf_counter()
    for _ in range(3):
        run()
    return max(1, math.ceil(block_ms / (1000 * (time.perf_counter() - start) / 3)))


def _in_blocks(open_: Opener, n: int) -> tuple[Opener, int]:
    def opened() -> Callable[[], Any]:
        run = open_()
        for _ in range(RUNS_BEFORE):
            run()

        def block() -> None:
            for _ in range(n):
                run()

        return block

    return opened, n


def _measured(
    blocks: Mapping[tuple[str, int], tuple[Opener, int]], options: argparse.Namespace
) -> Row:
    """Milliseconds and ratios, name → number of threads as in JSON → figure."""
    samples = measure(
        {f"{name} {n}": open_ for (name, n), (open_, _) in blocks.items()},
        seconds=options.seconds,
        sessions=options.sessions,
        rng=np.random.default_rng(0),
    )
    ms: dict[tuple[str, int], Milliseconds] = {
        (name, n): [s / runs for s in samples[f"{name} {n}"]]
        for (name, n), (_, runs) in blocks.items()
    }
    found: Row = {"ms": {}, "over_dense": {}, "over_one_thread": {}}
    for (name, n), own in ms.items():
        found["ms"].setdefault(name, {})[str(n)] = median_ms(own)
        if name != "dense":
            found["over_dense"].setdefault(name, {})[str(n)] = ratio(ms["dense", n], own)
        if n > 1:
            one = ratio(ms[name, 1], own)
            found["over_one_thread"].setdefault(name, {})[str(n)] = one
    return found


def markdown(rows: Sequence[Row]) -> str:
    """A table of the rows: speed over dense with the same threads, and of the kernels over one."""
    names = list(rows[0]["free"]["over_dense"])
    settings = [("free", n) for n in rows[0]["threads"]] + [("busy", rows[0]["threads"][-1])]
    head = [f"{name}, {n} thread{'s' * (n > 1)}, {m}" for m, n in settings for name in names]
    head += [f"kernels over one thread, {m}" for m in MACHINES]
    lines = [f"| network | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for row in rows:
        cells = [row[m]["over_dense"][name][str(n)] for m, n in settings for name in names]
        last = str(row["threads"][-1])
        cells += [row[m]["over_one_thread"]["kernels"][last] for m in MACHINES]
        figures = [
            f"{c['ratio']:.2f} [{c['interval'][0]:.2f}, {c['interval'][1]:.2f}]" for c in cells
        ]
        lines.append(f"| {_name(row)} | {' | '.join(figures)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The speed of the kernels by the number of threads: over one thread, and over dense."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for i, row in enumerate(rows):
        for machine, style in zip(MACHINES, ("-", ":"), strict=True):
            how: dict[str, Any] = {"linestyle": style, "color": _COLORS[i % len(_COLORS)]}
            label = _name(row) if machine == "free" else None
            found, counts = row[machine], row["threads"]
            one = {"1": {"ratio": 1.0}} | found["over_one_thread"]["kernels"]
            dense = found["over_dense"]["kernels"]
            how["marker"] = "o"
            left.plot(counts, [one[str(n)]["ratio"] for n in counts], label=label, **how)
            right.plot(counts, [dense[str(n)]["ratio"] for n in counts], **how)
    left.plot(rows[0]["threads"], rows[0]["threads"], color="#999999", linewidth=0.8)
    left.set_ylabel("speed-up over one thread")
    right.set_ylabel("speed-up over dense, same threads")
    for axes in (left, right):
        axes.set_xlabel("threads")
        axes.set_xticks(rows[0]["threads"])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(
        loc="outside lower center", ncols=3, fontsize="small",
        title="solid: free machine; dotted: another process keeps a core busy",
        title_fontsize="small",
    )  # fmt: skip
    figure.savefig(path, metadata={"Date": None})


def _name(row: Row) -> str:
    return f"{row['network']}, {row['mask']}, {row['sparsity']:.0%}"
