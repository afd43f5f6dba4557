"""The speed of the sparse kernels: every figure of the tables with one command.

    python benchmarks/bench_kernels.py [--quick] [--sections speed,threads,variants,creation,memory]

speed     dense fp32 ONNX Runtime over `runtime.session`, over a session that only registers the
          library, and over OpenVINO and MNN if they are installed: VGG-19, ResNet-50 at 32 and 224,
          random ERK and uniform masks at 90, 95 and 98%; MobileNet-V2 at 90%. One thread, batch 1.
threads   the same contenders on one and more threads, on a free machine and while another process
          keeps one core busy. Also draws a chart, if there is an output.
variants  the same networks on AVX2 and at batch 8, over AVX-512 and batch 1.
creation  seconds to open a session without a cached plan, and its speed compared with a plan that
          was tuned for 15 s.
memory    peak resident memory of fresh processes, plan cached.

All contenders of a row run interleaved, each in ten fresh sessions. A figure is the median of the
sessions' ratios of medians, with its 95% bootstrap interval over the sessions. Outputs must agree
with dense within 1e-5 of the largest (OpenVINO and MNN: 1e-3). Writes
benchmarks/results/kernels-<isa>.json, and the chart beside it; `--json` prints the report.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from packed_files import RIVALS_TOLERANCE, TOLERANCE, Files
from rivals import Opener, rivals, versions
from rows import RESULTS, Row, load, median_ms, ratio, say, words
from thread_scaling import BLOCK_MS, draw, markdown, thread_scaling

from fggp_deploy import runtime
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.kernels import chosen_isa, isas
from fggp_deploy.measure.latency import N_SESSIONS, Milliseconds, measure
from fggp_deploy.measure.process import measure_processes

BIG = ("vgg19-32", "resnet50-32", "resnet50-224")


def timed(
    opened: dict[str, tuple[Opener, int]], files: Files, options: argparse.Namespace
) -> dict[str, Milliseconds]:
    """Milliseconds per image of each contender (an opener and its batch), in fresh sessions."""
    for name, (open_, batch) in opened.items():
        if batch == 1:
            files.check(name, open_()(), tolerance=_tolerance(name))
    samples = measure(
        {name: open_ for name, (open_, _) in opened.items()},
        seconds=options.seconds,
        sessions=options.sessions,
        rng=np.random.default_rng(0),
    )
    return {name: [s / opened[name][1] for s in ms] for name, ms in samples.items()}


def _tolerance(name: str) -> float:
    return RIVALS_TOLERANCE if name in rivals() else TOLERANCE


def speed(files: Files, options: argparse.Namespace) -> Row:
    plan = files.open_kernels(tuning_seconds=options.tuning_seconds)
    sessions = {"dense": files.open_dense, "kernels": files.open_kernels, "bare": files.open_bare}
    opened = {name: files.opener(open_) for name, open_ in sessions.items()}
    image = files.feeds(1)["x"]
    opened |= {name: rival(files.dense, image, 1) for name, rival in rivals().items()}
    ms = timed({name: (open_, 1) for name, open_ in opened.items()}, files, options)
    row = files.row | {"load_average": load(), "plan": runtime.explain(plan)}
    row |= {"dense_ms": median_ms(ms["dense"]), "kernels_ms": median_ms(ms["kernels"])}
    row |= {name: ratio(ms["dense"], own) for name, own in ms.items() if name != "dense"}
    say(row, "   ".join(f"{name} {words(row[name])}" for name in ms if name != "dense"))
    return row


def variants(files: Files, options: argparse.Namespace) -> Row:
    """Milliseconds per image on one thread at batch 1, divided by those of other settings."""
    settings: dict[str, dict[str, Any]] = {"kernels": {}, "batch 8": {"batch": 8}}
    if "avx2" in isas()[1:]:
        settings["avx2"] = {"isa": "avx2"}
    for how in settings.values():
        files.open_kernels(tuning_seconds=options.tuning_seconds, **how)
    opened = {}
    for name, how in settings.items():
        batch = how.get("batch", 1)
        opened[name] = files.opener(partial(files.open_kernels, **how), batch=batch), batch
    ms = timed(opened, files, options)
    row = files.row | {"load_average": load(), "kernels_ms": median_ms(ms["kernels"])}
    row |= {name: ratio(ms["kernels"], ms[name]) for name in settings if name != "kernels"}
    say(row, "   ".join(f"{n} {words(row[n])}" for n in settings if n != "kernels"))
    return row


def creation(files: Files, options: argparse.Namespace) -> Row:
    """Seconds to open without a cached plan, and the speed compared with the long-tuned plan."""
    ways: dict[str, dict[str, Any]] = {
        "planned": {"tuning_seconds": options.tuning_seconds},
        "default": {},
        "not measured": {"measure": False},
    }
    opened, seconds = {}, {}
    for name, how in ways.items():
        start = time.perf_counter()
        opened[name] = files.open_kernels(cache=False, **how)
        seconds[name] = round(time.perf_counter() - start, 2)
    # one session each: it is the plans that are compared, and a fresh session would plan again
    sessions = {name: (files.opener(lambda s=s: s), 1) for name, s in opened.items()}
    ms = timed(sessions, files, options)
    row = files.row | {"load_average": load(), "seconds": seconds}
    row |= {name: ratio(ms["planned"], ms[name]) for name in ways if name != "planned"}
    text = [f"{n} {seconds[n]:.1f} s, speed {words(row[n])}" for n in ways if n != "planned"]
    say(row, "   ".join(text))
    return row


def memory(files: Files, options: argparse.Namespace) -> Row:
    files.open_kernels()
    paths = {"dense": files.dense, "packed": files.packed, "kernels": files.packed}
    found = measure_processes(
        paths, input_shape=(1, 3, files.side, files.side), threads=1, on_kernels=["kernels"]
    )
    row = files.row | {name: asdict(cost) for name, cost in found.items()}
    text = [
        f"{name} {c.peak_rss_bytes / 2**20:.0f} MiB, load {c.load_ms:.0f} ms"
        for name, c in found.items()
    ]
    say(row, "   ".join(text))
    return row


RUN = {
    "speed": speed,
    "threads": thread_scaling,
    "variants": variants,
    "creation": creation,
    "memory": memory,
}


def plan(section: str, options: argparse.Namespace) -> list[tuple[str, str, float]]:
    """(network, mask, sparsity) of each row of a section."""
    networks = BIG[:2] if options.quick else BIG
    mobile = ("mobilenetv2-32", "mobilenetv2-224")[: 1 if options.quick else 2]
    masks, sparsities = ("erk", "uniform"), (0.9, 0.95, 0.98)
    if options.quick or section != "speed":
        masks, sparsities = masks[:1], (0.9, 0.98)
    if section in ("creation", "memory"):
        networks, sparsities = BIG[:2], (0.98,)
    if options.networks:
        networks, mobile = options.networks, ()
    rows = list(product(networks, masks, options.sparsities or sparsities))
    return rows + [(n, "uniform", 0.9) for n in mobile if section == "speed"]


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = partial(str.split, sep=",")
    parser.add_argument("--sections", type=names, default=list(RUN))
    parser.add_argument("--networks", type=names, help="of networks.py, instead of those above")
    parser.add_argument("--sparsities", type=lambda text: [float(x) for x in text.split(",")])
    parser.add_argument("--threads", type=lambda text: [int(x) for x in text.split(",")])
    parser.add_argument("--quick", action="store_true", help="fewer rows, sessions and seconds")
    parser.add_argument("--seconds", type=float, help="for each row (6; quick: 2)")
    parser.add_argument("--sessions", type=int, help=f"of each contender ({N_SESSIONS}; quick: 6)")
    parser.add_argument("--tuning-seconds", type=float, default=15.0, help="for each plan")
    parser.add_argument("--block-ms", type=float, default=BLOCK_MS, help="in section threads")
    parser.add_argument("--output", type=Path, help="default: in results/; quick: nothing")
    parser.add_argument("--add", action="store_true", help="add to the rows of the output")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (2.0 if options.quick else 6.0)
    options.sessions = options.sessions or (6 if options.quick else N_SESSIONS)
    if unknown := set(options.sections) - set(RUN):
        parser.error(f"unknown sections {', '.join(unknown)}; known: {', '.join(RUN)}")
    if options.threads and (options.threads[0] != 1 or len(options.threads) < 2):
        parser.error("--threads must begin with 1 and have at least two counts, such as 1,2")
    if options.output is None and not options.quick:
        options.output = RESULTS / f"kernels-{chosen_isa()}.json"
    return options


def new_report(arguments: list[str], options: argparse.Namespace) -> Row:
    """What is known before the first row; with --add the rows of the output so far."""
    report: Row = {
        "hardware": machine(),
        "isa": chosen_isa(),
        "versions": package_versions() | versions(),
        "commands": [" ".join(["python", "benchmarks/bench_kernels.py", *arguments])],
        "load_average_before": load(),
    }
    if options.add and options.output.exists():
        earlier = json.loads(options.output.read_text())
        earlier["commands"] += report["commands"]
        return earlier
    return report


def write(report: Row, output: Path) -> None:
    """Write what was measured so far, and the chart of its threads."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    if report.get("threads"):
        draw(report["threads"], output.with_name(f"{output.stem}-threads.svg"))


def measured(report: Row, options: argparse.Namespace) -> None:
    """Add the rows of every section to the report, and write it after each row."""
    print(f"{report['hardware']['cpu']}, {report['hardware']['cores']} cores, {isas()[0]}")
    with tempfile.TemporaryDirectory(prefix="fggp-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # plans of this run only
        for section in options.sections:
            print(f"-- {section}", flush=True)
            rows = report.setdefault(section, [])
            for network, mask, sparsity in plan(section, options):
                files = Files(folder, network, mask, sparsity)
                rows.append(RUN[section](files, options))
                files.dense.unlink()
                report["load_average_after"] = load()
                if options.output is not None:
                    write(report, options.output)
            if section == "threads":
                print(markdown(rows))


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    report = new_report(sys.argv[1:] if arguments is None else arguments, options)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        measured(report, options)
    if options.json:
        print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
