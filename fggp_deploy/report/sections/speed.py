"""Speed: latency, cold start, time per layer, and what else ran on the machine."""

from __future__ import annotations

from fggp_deploy.measure.latency import PERCENTILES, setting
from fggp_deploy.measure.machine import Load
from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Lines, Section, Table
from fggp_deploy.runtime.costs import DENSE_RUNS, KERNEL_RUNS
from fggp_deploy.verification.report import Report

MAX_LAYERS = 60


def speed(r: Report) -> Section:
    """The section."""
    lat = r.latency
    said = [
        f"{name.capitalize()}: {words.speedup(s)}."
        for name, s in words.by_network(lat.speedups).items()
    ]
    blocks: list[str | Table] = [
        f"{setting(lat.threads, lat.batch).capitalize()}. All networks run in ONNX Runtime; "
        "“kernels” adds the sparse kernels. Each session loads every network again, warms up, and "
        "times interleaved rounds in shuffled order. The median is that of the sessions' medians, "
        "and the interval of the ratio is a bootstrap over sessions.",
        *([f"{busy[0].upper()}{busy[1:]}."] if (busy := lat.why_too_busy) else []),
        *(said or ["There is no dense model, so there is no speed-up."]),
        _latency(r),
        *([_settings(r)] if r.other_latencies else []),
        _load(r.load),
        _processes(r),
    ]
    if r.layer_times:
        blocks.append(_layers(r))
    if r.kernel_layers:
        blocks.append(_kernel_layers(r))
    return Section("Speed", blocks)


def _latency(r: Report) -> Table:
    rows, curves = [], {}
    for name, t in words.by_network(r.latency.timings).items():
        interval = f"{t.median_low_ms:.3f} to {t.median_high_ms:.3f}"
        n, p90, p99 = f"{t.n:,} in {t.sessions}", f"{t.p90_ms:.3f}", f"{t.p99_ms:.3f}"
        rows.append((name, f"{t.median_ms:.3f}", interval, p90, p99, n))
        # the slowest rounds would compress all others into a line
        curves[name] = [
            (ms, p) for ms, p in zip(t.percentiles_ms, PERCENTILES, strict=False) if p <= 98
        ]
    head = [
        "network",
        "median ms",
        "95% interval of the median",
        "p90 ms",
        "p99 ms",
        "rounds in sessions",
    ]
    chart = Lines(
        "Latency: cumulative share of rounds, up to the 98th percentile",
        curves, "ms", "% of rounds", smooth=True, log=True,
    )  # fmt: skip
    return Table("Latency of one run.", head, rows, chart)


def _settings(r: Report) -> Table:
    every = (r.latency, *r.other_latencies)
    found = {name for lat in every for name in lat.timings}
    names = [name for name in words.NETWORKS if name in found]
    rows, medians, intervals = [], {}, {}
    for lat in every:
        for name in names:
            what = f"{setting(lat.threads, lat.batch)}: {words.NETWORKS[name]}"
            t = lat.timings.get(name)
            if t is None:  # the kernels are not timed if they are not faster
                rows.append((what, "–", lat.plan.replace("plain:", "not used:"), *["–"] * 4))
                continue
            rows.append(
                (
                    what,
                    f"{t.median_ms:.3f}",
                    "–" if name not in lat.speedups else words.ratio(lat.speedups[name]),
                    f"{t.median_low_ms:.3f} to {t.median_high_ms:.3f}",
                    f"{t.p90_ms:.3f}",
                    f"{t.p99_ms:.3f}",
                    f"{t.n:,} in {t.sessions}",
                )
            )
    for name in names:
        timed = [(lat.timings.get(name), lat.batch) for lat in every]
        medians[words.NETWORKS[name]] = [t.median_ms / b if t else 0.0 for t, b in timed]
        intervals[words.NETWORKS[name]] = [
            (t.median_low_ms / b, t.median_high_ms / b) if t else (0.0, 0.0) for t, b in timed
        ]
    chart = Bars(
        "Median time per image by threads and batch, 95% intervals",
        [setting(lat.threads, lat.batch) for lat in every],
        medians,
        "ms per image",
        intervals,
    )
    caption = (
        "Latency of one run at every number of threads and batch, each measured as above. If the "
        "interval of the ratio contains 1, no difference was measured. The gates judge the first "
        "setting."
    )
    head = [
        "setting and network", "median ms", "ratio to the dense model", "95% interval", "p90 ms",
        "p99 ms", "rounds in sessions",
    ]  # fmt: skip
    return Table(caption, head, rows, chart)


def _load(load: Load) -> str:
    if load.other_cores is None:
        return "It is not known what else ran while latency was measured."
    text = (
        f"While latency was measured ({load.seconds:.1f} s, loading included), this process used "
        f"{load.own_cores:.2f} cores and other processes {load.other_cores:.2f}"
    )
    if load.stolen_cores:
        text += f"; {load.stolen_cores:.2f} were taken by the host of this virtual machine"
    return text + "."


def _processes(r: Report) -> Table:
    rows = []
    for name, c in words.by_network(r.processes).items():
        load = f"{c.load_ms:.1f} ({c.load_min_ms:.1f} to {c.load_max_ms:.1f})"
        first = f"{c.first_run_ms:.2f} ({c.first_run_min_ms:.2f} to {c.first_run_max_ms:.2f})"
        peaks = (c.peak_rss_bytes, c.peak_rss_min_bytes, c.peak_rss_max_bytes)
        mib = [f"{b / 2**20:.1f}" for b in (*peaks, c.base_rss_bytes)]
        rows.append((name, str(c.n), load, first, f"{mib[0]} ({mib[1]} to {mib[2]})", mib[3]))
    head = [
        "network", "processes", "load ms", "first run ms", "peak memory MiB",
        "before the load MiB",
    ]  # fmt: skip
    caption = "Cold start and memory, medians over fresh processes (minimum to maximum)."
    return Table(caption, head, rows)


def _layers(r: Report) -> Table:
    slowest = sorted(r.layer_times, key=lambda t: -t.median_ms)[:MAX_LAYERS]
    names = {t.name for t in slowest}
    shown = [t for t in r.layer_times if t.name in names]
    total = sum(t.median_ms for t in r.layer_times) or 1.0
    rows = [
        (
            t.name,
            ", ".join(t.ops),
            str(t.n),
            f"{t.median_ms:.4f} ({t.low_ms:.4f} to {t.high_ms:.4f})",
            f"{t.median_ms / total:.1%}",
        )
        for t in shown
    ]
    chart = Bars(
        "Time per layer on stock ONNX Runtime, median and middle 90%",
        [t.name for t in shown],
        {words.NETWORKS["model"]: [t.median_ms for t in shown]},
        "ms",
        {words.NETWORKS["model"]: [(t.low_ms, t.high_ms) for t in shown]},
    )
    caption = (
        "Time per layer on stock ONNX Runtime, by its own profiler: each layer with the nodes that "
        f"follow it, {len(shown)} of {len(r.layer_times)}, median and middle 90% of the runs. "
        "The profiler changes the times, so they do not add up to the latency."
    )
    return Table(caption, ["layer", "operators", "runs", "ms", "share"], rows, chart)


def _kernel_layers(r: Report) -> Table:
    shown = sorted(r.kernel_layers, key=lambda c: -c.kernels_us)[:MAX_LAYERS]
    shown = [c for c in r.kernel_layers if c in shown]
    rows = [
        (
            c.name,
            c.op,
            f"{c.density:.1%}" if c.shape else "–",
            "–" if c.dense_us is None else f"{c.dense_us / 1000:.4f}",
            f"{c.kernels_us / 1000:.4f}",
            f"{c.dense_us / c.kernels_us:.2f}×" if c.dense_us and c.kernels_us else "–",
        )
        for c in shown
    ]
    chart = Bars(
        "Time per layer, dense and on the kernels",
        [c.name for c in shown],
        {
            "dense on stock onnxruntime": [(c.dense_us or 0.0) / 1000 for c in shown],
            words.NETWORKS["kernels"]: [c.kernels_us / 1000 for c in shown],
        },
        "ms",
    )
    caption = (
        f"Time per layer with what is fused into it, one image on one thread, {len(shown)} of "
        f"{len(r.kernel_layers)}: medians of {DENSE_RUNS} runs of the dense network by ONNX "
        f"Runtime's profiler and of {KERNEL_RUNS} runs on the kernels by their own clock. ONNX "
        "Runtime fuses different nodes, so the ratio of one layer is approximate. A layer without "
        "a dense time is fused into another one there."
    )
    head = ["layer", "operator", "non-zeros", "dense ms", "kernels ms", "ratio"]
    return Table(caption, head, rows, chart)
