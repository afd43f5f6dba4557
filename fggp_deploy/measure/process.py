"""Load time and peak memory of a network, each time in a fresh process.

`python -m fggp_deploy.measure.process model.onnx --threads 1 --shape 1,3,32,32` measures itself and
prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

import fggp_deploy
from fggp_deploy.errors import FggpError, MachineError, ModelFileError
from fggp_deploy.measure.network import load, open_by_runtime
from fggp_deploy.runtime.sessions import Array

TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Cost:
    """Medians over `n` fresh processes, with the minimum and maximum of each.

    `load_ms` is the time to create the session, `first_run_ms` that of the first run, cold.
    `peak_rss_bytes` is the largest resident set after one run; `base_rss_bytes` of it were in use
    before the load (interpreter, numpy, onnxruntime).
    """

    n: int
    load_ms: float
    load_min_ms: float
    load_max_ms: float
    peak_rss_bytes: int
    peak_rss_min_bytes: int
    peak_rss_max_bytes: int
    base_rss_bytes: int
    first_run_ms: float
    first_run_min_ms: float
    first_run_max_ms: float


def measure_processes(
    models: Mapping[str, Path],
    *,
    input_shape: tuple[int, ...] | None = None,
    inputs: Path | None = None,
    threads: int,
    on_kernels: Collection[str] = (),
    rounds: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Cost]:
    """Measure each ONNX file `rounds` times, in turn: name → Cost.

    Those named in `on_kernels` are opened by `runtime.session`. They should have been planned
    before, because planning takes more time and memory. `input_shape` is [N, C, H, W] of the run;
    without it, `inputs` is a file that `save_inputs` wrote. `progress(done, total)` counts
    processes. Raises ModelFileError for a file that does not load
    and MachineError if no process can be started.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    fed = ["--inputs", str(inputs)]
    if input_shape is not None:
        fed = ["--shape", ",".join(map(str, input_shape))]
    for i in range(rounds):
        for j, (name, path) in enumerate(models.items()):
            extra = ["--kernels"] if name in on_kernels else []
            found[name].append(_child(name, path, [*fed, *extra], threads))
            progress(i * len(models) + j + 1, rounds * len(models))
    return {name: summary(runs) for name, runs in found.items()}


def save_inputs(path: Path, inputs: Mapping[str, Array]) -> None:
    """Write inputs by name for `measure_processes` to an npz file."""
    arrays: dict[str, Any] = {f"input_{i}": x for i, x in enumerate(inputs.values())}
    np.savez(path, names=np.array(list(inputs)), **arrays)


def _load_inputs(path: Path) -> dict[str, Array]:
    with np.load(path) as saved:
        return {str(name): saved[f"input_{i}"] for i, name in enumerate(saved["names"])}


def summary(runs: list[dict[str, float]]) -> Cost:
    """Summarise what the children printed."""
    load_ms = [r["load_ms"] for r in runs]
    first_ms = [r["first_run_ms"] for r in runs]
    peak = [int(r["peak_rss_bytes"]) for r in runs]
    return Cost(
        n=len(runs),
        load_ms=median(load_ms),
        load_min_ms=min(load_ms),
        load_max_ms=max(load_ms),
        peak_rss_bytes=int(median(peak)),
        peak_rss_min_bytes=min(peak),
        peak_rss_max_bytes=max(peak),
        base_rss_bytes=int(median(r["base_rss_bytes"] for r in runs)),
        first_run_ms=median(first_ms),
        first_run_min_ms=min(first_ms),
        first_run_max_ms=max(first_ms),
    )


def peak_rss_bytes() -> int:
    """The largest resident set that this process has had so far."""
    if sys.platform.startswith("linux"):
        # ru_maxrss would include the parent's memory, which survives fork and exec there.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        raise MachineError("/proc/self/status has no VmHWM; peak memory cannot be measured here")
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def _child(name: str, path: Path, extra: list[str], threads: int) -> dict[str, float]:
    root = str(Path(fggp_deploy.__file__).parents[1])
    old = os.environ.get("PYTHONPATH")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, old] if old else [root])}
    command = [sys.executable, "-P", "-m", __spec__.name, str(path)]
    command += ["--threads", str(threads), *extra]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise MachineError(f"cannot measure {name} in a fresh process: {e}") from e
    if done.returncode:
        kind = MachineError if done.returncode == MachineError.exit_code else ModelFileError
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise kind(f"{name} fails in a fresh process: {last}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Measure this process: load one file, run it once, print JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", help="N,C,H,W of the images of the one run")
    parser.add_argument("--inputs", type=Path, help="file of the inputs")
    parser.add_argument("--kernels", action="store_true", help="open by runtime.session")
    args = parser.parse_args(arguments)
    shape = [int(n) for n in args.shape.split(",")] if args.shape else [1]
    x = np.zeros(shape, np.float32)
    feeds = None if args.inputs is None else _load_inputs(args.inputs)
    base = peak_rss_bytes()
    start = time.perf_counter()
    try:
        if args.kernels:
            network, _ = open_by_runtime(
                args.model.name, args.model, threads=args.threads, batch=len(x)
            )
        else:
            network = load(args.model.name, args.model, threads=args.threads)
        load_ms = 1000 * (time.perf_counter() - start)
        begun = time.perf_counter()
        network.logits(x) if feeds is None else network.outputs(feeds)
        first_run_ms = 1000 * (time.perf_counter() - begun)
    except FggpError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    found = {"load_ms": load_ms, "first_run_ms": first_run_ms, "base_rss_bytes": base}
    print(json.dumps(found | {"peak_rss_bytes": peak_rss_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
