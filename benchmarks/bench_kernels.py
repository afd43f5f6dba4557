"""The speed of the sparse kernels: every figure of the tables with one command.

    python benchmarks/bench_kernels.py [--quick] [--sections speed,variants,creation,memory]

speed     dense fp32 ONNX Runtime over `runtime.session`, and over a session that only registers
          the library: VGG-19, ResNet-50 at 32 and 224, random ERK and uniform masks at 90, 95 and
          98%; MobileNet-V2 at 90%. One thread, batch 1.
variants  the same networks on AVX2, on two threads and at batch 8, over one thread, batch 1.
creation  seconds to open a session without a cached plan, and its speed compared with a plan that
          was tuned for 15 s.
memory    peak resident memory of fresh processes, plan cached.

All contenders of a row run interleaved, each in ten fresh sessions. A figure is the median of the
sessions' ratios of medians, with its 95% bootstrap interval over the sessions. Outputs must agree
with dense within 1e-5 of the largest. Writes benchmarks/results/kernels-<isa>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from networks import NETWORKS, set_densities, to_onnx

from fggp_deploy import runtime
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.format.packing import pack
from fggp_deploy.kernels import chosen_isa, isas
from fggp_deploy.measure.latency import N_SESSIONS, Milliseconds, measure, speedup
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.measure.process import measure_processes
from fggp_deploy.runtime.sessions import SessionConfig

RESULTS = Path(__file__).parent / "results"
SECTIONS = ("speed", "variants", "creation", "memory")
TOLERANCE = 1e-5
PLANNED_SECONDS = 15.0
BIG = ("vgg19-32", "resnet50-32", "resnet50-224")
Row = dict[str, Any]
Open = Callable[[], ort.InferenceSession]


class Files:
    """One network with one mask, as a dense and a packed file with an open batch dimension."""

    def __init__(self, folder: str, network: str, mask: str, sparsity: float) -> None:
        net = NETWORKS[network]()
        set_densities(net, sparsity, mask)
        model = to_onnx(net, batch="n")
        self.row: Row = {"network": network, "mask": mask, "sparsity": sparsity}
        self.side = net.size
        self.dense = Path(folder) / f"{network}-{mask}-{sparsity}-dense.onnx"
        self.packed = Path(folder) / f"{network}-{mask}-{sparsity}.onnx"
        onnx.save(model, self.dense)
        onnx.save(pack(model), self.packed)

    def feeds(self, batch: int) -> dict[str, Any]:
        rng = np.random.default_rng(1)
        return {"x": rng.standard_normal((batch, 3, self.side, self.side), dtype=np.float32)}

    def open_dense(self, *, threads: int = 1) -> ort.InferenceSession:
        return SessionConfig(threads, SESSION_CONFIG).open(self.dense)

    def open_bare(self) -> ort.InferenceSession:
        """The packed file with only the library registered: each layer changes layout twice."""
        return SessionConfig(1, SESSION_CONFIG).open(self.packed, on_kernels=True)

    def open_kernels(
        self, *, threads: int = 1, batch: int = 1, isa: str = "", **plan: Any
    ) -> ort.InferenceSession:
        with _isa(isa):
            return runtime.session(
                self.packed, threads=threads, batch=batch, config=SESSION_CONFIG, **plan
            )


@contextlib.contextmanager
def _isa(name: str) -> Iterator[None]:
    """Use this instruction set for the sessions that are opened inside."""
    before = os.environ.get("FGGP_ISA")
    if name:
        os.environ["FGGP_ISA"] = name
    try:
        yield
    finally:
        if name and before is None:
            del os.environ["FGGP_ISA"]
        elif name:
            os.environ["FGGP_ISA"] = before or ""


def timed(
    opened: dict[str, tuple[Open, int]], files: Files, options: argparse.Namespace
) -> dict[str, Milliseconds]:
    """Milliseconds per image of each contender (an opener and its batch), in fresh sessions."""
    want = files.open_dense().run(None, files.feeds(1))[0]
    for name, (open_, batch) in opened.items():
        got = open_().run(None, files.feeds(batch))[0][:1]
        error = float(np.abs(got - want).max() / np.abs(want).max())
        if batch == 1 and not error <= TOLERANCE:
            raise SystemExit(f"{files.row} {name}: outputs differ by {error:.1e} of the largest")
    samples = measure(
        {
            name: lambda open_=open_, batch=batch: partial(open_().run, None, files.feeds(batch))
            for name, (open_, batch) in opened.items()
        },
        seconds=options.seconds,
        sessions=options.sessions,
        rng=np.random.default_rng(0),
    )
    return {name: [s / opened[name][1] for s in ms] for name, ms in samples.items()}


def ratio(over: Milliseconds, ms: Milliseconds) -> Row:
    found = speedup(over, ms, np.random.default_rng(0))
    low, value, high = (round(x, 3) for x in (found.low, found.value, found.high))
    return {"ratio": value, "interval": [low, high], "rounds": found.n, "different": found.measured}


def median_ms(ms: Milliseconds) -> float:
    return round(float(np.median([np.median(session) for session in ms])), 4)


def load() -> float:
    return round(os.getloadavg()[0], 2)


def speed(files: Files, options: argparse.Namespace) -> Row:
    plan = files.open_kernels(tuning_seconds=PLANNED_SECONDS)
    ms = timed(
        {
            "dense": (files.open_dense, 1),
            "kernels": (files.open_kernels, 1),
            "bare": (files.open_bare, 1),
        },
        files,
        options,
    )
    row = files.row | {"load_average": load(), "plan": runtime.explain(plan)}
    row |= {"dense_ms": median_ms(ms["dense"]), "kernels_ms": median_ms(ms["kernels"])}
    row |= {"kernels": ratio(ms["dense"], ms["kernels"]), "bare": ratio(ms["dense"], ms["bare"])}
    say(row, f"kernels {words(row['kernels'])}   library alone {words(row['bare'])}")
    return row


def variants(files: Files, options: argparse.Namespace) -> Row:
    """Milliseconds per image on one thread at batch 1, divided by those of the other settings."""
    settings: dict[str, dict[str, Any]] = {"kernels": {}, "threads 2": {"threads": 2}}
    settings["batch 8"] = {"batch": 8}
    if "avx2" in isas()[1:]:
        settings["avx2"] = {"isa": "avx2"}
    for how in settings.values():
        files.open_kernels(tuning_seconds=PLANNED_SECONDS, **how)
    ms = timed(
        {
            name: (partial(files.open_kernels, **how), how.get("batch", 1))
            for name, how in settings.items()
        },
        files,
        options,
    )
    row = files.row | {"load_average": load(), "kernels_ms": median_ms(ms["kernels"])}
    row |= {name: ratio(ms["kernels"], ms[name]) for name in settings if name != "kernels"}
    say(row, "   ".join(f"{n} {words(row[n])}" for n in settings if n != "kernels"))
    return row


def creation(files: Files, options: argparse.Namespace) -> Row:
    """Seconds to open without a cached plan, and the speed compared with the long-tuned plan."""
    ways: dict[str, dict[str, Any]] = {
        "planned": {"tuning_seconds": PLANNED_SECONDS},
        "default": {},
        "not measured": {"measure": False},
    }
    opened, seconds = {}, {}
    for name, how in ways.items():
        start = time.perf_counter()
        opened[name] = files.open_kernels(cache=False, **how)
        seconds[name] = round(time.perf_counter() - start, 2)
    # one session each: it is the plans that are compared, and a fresh session would plan again
    sessions = {name: (lambda s=session: s, 1) for name, session in opened.items()}
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


def words(found: Row) -> str:
    low, high = found["interval"]
    between = f"[{low:.2f}, {high:.2f}]"
    return f"{found['ratio']:.2f}x {between}" if found["different"] else f"no difference {between}"


def say(row: Row, text: str) -> None:
    about = f"{row['network']:17}{row['mask']:8} {row['sparsity']:.0%}"
    print(f"{about}  {text}  load {row.get('load_average', load())}", flush=True)


RUN = {"speed": speed, "variants": variants, "creation": creation, "memory": memory}


def plan(section: str, quick: bool) -> list[tuple[str, str, float]]:
    """(network, mask, sparsity) of each row of a section."""
    networks = BIG[:2] if quick else BIG
    if section == "speed":
        masks, sparsities = (
            (("erk",), (0.9, 0.98)) if quick else (("erk", "uniform"), (0.9, 0.95, 0.98))
        )
        rows = [(n, m, s) for n in networks for m in masks for s in sparsities]
        mobile = ("mobilenetv2-32",) if quick else ("mobilenetv2-32", "mobilenetv2-224")
        return rows + [(n, "uniform", 0.9) for n in mobile]
    if section == "variants":
        return [(n, "erk", s) for n in networks for s in (0.9, 0.98)]
    return [(n, "erk", 0.98) for n in BIG[:2]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer rows, sessions and seconds")
    parser.add_argument("--seconds", type=float, help="for each row (6; quick: 2)")
    parser.add_argument("--sessions", type=int, help=f"of each contender ({N_SESSIONS}; quick: 6)")
    parser.add_argument("--output", type=Path, help="default: in results/; quick: nothing")
    options = parser.parse_args()
    options.seconds = options.seconds or (2.0 if options.quick else 6.0)
    options.sessions = options.sessions or (6 if options.quick else N_SESSIONS)
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown sections {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    hardware = machine()
    print(f"{hardware['cpu']}, {hardware['cores']} cores, {isas()[0]}; load average {load()}")
    report: Row = {
        "hardware": hardware,
        "isa": chosen_isa(),
        "versions": package_versions(),
        "command": " ".join(["python", "benchmarks/bench_kernels.py", *sys.argv[1:]]),
        "load_average_before": load(),
    }
    output = options.output or (
        None if options.quick else RESULTS / f"kernels-{report['isa']}.json"
    )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fggp-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # plans of this run only
        for section in sections:
            print(f"-- {section}", flush=True)
            report[section] = []
            for network, mask, sparsity in plan(section, options.quick):
                files = Files(folder, network, mask, sparsity)
                report[section].append(RUN[section](files, options))
                files.dense.unlink()
                report["load_average_after"] = load()
                if output is not None:  # what was measured stays, whatever comes later
                    output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
