"""The report as Markdown: the verdict first, and each number with its n and its spread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fggp_deploy.verify.accuracy import Proportion
from fggp_deploy.verify.latency import Speedup

if TYPE_CHECKING:
    from fggp_deploy.verify.report import Report


def markdown(report: Report) -> str:
    """Render the whole report."""
    sections = (
        _verdict,
        _accuracy,
        _speed,
        _size,
        _parity,
        _layers,
        _provenance,
    )
    return "\n\n".join(section(report) for section in sections) + "\n"


def speedup_in_words(s: Speedup) -> str:
    """One sentence: how much faster or slower, or that no difference was measured."""
    interval = f"95% interval {s.low:.3f} to {s.high:.3f}"
    interval += f", n = {s.n} rounds in {s.sessions} sessions"
    if not s.measured:
        return f"no difference measured (ratio {s.value:.3f}, {interval})"
    if s.value >= 1:
        return f"{s.value:.2f}× as fast as the reference ({interval})"
    return f"slower than the reference, {s.value:.2f}× its speed ({interval})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars, tags and line breaks in cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _verdict(r: Report) -> str:
    failed = [v.name for v in r.verdicts if not v.passed]
    head = f"# PASSED: {_cell(r.model.name)}"
    if failed:
        head = f"# FAILED: {_cell(r.model.name)} ({', '.join(failed)})"
    rows = [
        (v.name, _number(v.value), _number(v.limit), v.unit, "pass" if v.passed else "FAIL", v.how)
        for v in r.verdicts
    ]
    gates = table(["gate", "value", "limit", "unit", "verdict", "decided by"], rows)
    return "\n\n".join([head, gates, *(f"Note: {note}" for note in r.notes)])


def _accuracy(r: Report) -> str:
    a = r.accuracy
    if a is None:
        return "## Accuracy\n\nNot measured: no data."
    rows = []
    for name, scores in (("model", a.model), ("reference", a.reference)):
        if scores is not None:
            top5 = _share(scores.top5) if scores.top5 else "not defined for five classes or fewer"
            rows.append((name, _share(scores.top1), top5))
    text = [
        "## Accuracy",
        f"On the {a.n} images of the {a.split} split of {_cell(a.data)}; Wilson 95% intervals.",
        table(["network", "top-1", "top-5"], rows),
    ]
    if a.paired is None:
        text.append("No reference, so no accuracy drop.")
    else:
        p = a.paired
        text.append(
            f"Top-1 drop: {p.drop_points:+.2f} points (95% interval {p.drop_low:+.2f} to "
            f"{p.drop_high:+.2f}, n = {p.n}, paired). The two agree on {_share(p.agreement)}; "
            f"{p.lost} images lost and {p.gained} gained, exact McNemar p = {p.p_value:.3g}."
        )
    if (r16 := r.rounding_paired) is not None:
        text.append(
            f"What fp16 values change against fp32: {r16.drop_points:+.2f} points of top-1 lost "
            f"(95% interval {r16.drop_low:+.2f} to {r16.drop_high:+.2f}, n = {r16.n}, paired); the "
            f"two agree on {_share(r16.agreement)}."
        )
    return "\n\n".join(text)


def _speed(r: Report) -> str:
    lat = r.latency
    rows = []
    for name, t in lat.timings.items():
        interval = f"{t.median_low_ms:.3f} to {t.median_high_ms:.3f}"
        n, p90, p99 = f"{t.n} in {t.sessions}", f"{t.p90_ms:.3f}", f"{t.p99_ms:.3f}"
        rows.append((name, n, f"{t.median_ms:.3f}", interval, p90, p99))
    costs = []
    for name, c in r.processes.items():
        load = f"{c.load_ms:.1f} ({c.load_min_ms:.1f} to {c.load_max_ms:.1f})"
        peaks = (c.peak_rss_bytes, c.peak_rss_min_bytes, c.peak_rss_max_bytes)
        mib = [f"{b / 2**20:.1f}" for b in (*peaks, c.base_rss_bytes)]
        costs.append((name, str(c.n), load, f"{mib[0]} ({mib[1]} to {mib[2]})", mib[3]))
    words = [f"{name}: {speedup_in_words(s)}." for name, s in lat.speedups.items()]
    head = [
        "network",
        "rounds in sessions",
        "median ms",
        "95% interval of the median",
        "p90 ms",
        "p99 ms",
    ]
    cost_head = ["network", "processes", "load ms", "peak memory MiB", "of it before the load MiB"]
    return "\n\n".join(
        [
            "## Speed",
            f"{lat.threads} thread(s), batch {lat.batch}; model and reference on stock "
            "onnxruntime, kernels is the model on the sparse kernels in it. Each session loads "
            "every network afresh, warms up, and times interleaved rounds in shuffled order; the "
            "median is that of the sessions' medians, and the interval of the ratio a bootstrap "
            "over sessions.",
            table(head, rows),
            *(words or ["No reference, so no speed-up."]),
            "Load time and memory, medians over fresh processes (least to most):",
            table(cost_head, costs),
        ]
    )


def _size(r: Report) -> str:
    s = r.size
    rows = [("file", s.file_bytes), ("entropy bound", s.bound_bytes), ("dense", s.dense_bytes)]
    if s.reference_bytes is not None:
        rows.append(("reference", s.reference_bytes))
    sizes = [(name, f"{n:,}", f"{n / s.dense_bytes:.4f}") for name, n in rows]
    counts = [
        (name, str(c.tensors), f"{c.nnz:,}", f"{c.stored_bytes:,}")
        for name, c in s.encodings.items()
    ]
    return "\n\n".join(
        [
            "## Size",
            "Dense is this network with its zeros written out; the bound is the entropy of the "
            "masks plus the non-zero values plus everything that is not a weight.",
            table(["what", "bytes", "of dense"], sizes),
            table(["encoding", "tensors", "non-zeros", "bytes"], counts),
        ]
    )


def _parity(r: Report) -> str:
    found = {} if r.self_test is None else {"self-test": r.self_test}
    found |= {f"packed against dense, {inputs}": d for inputs, d in r.parity.items()}
    if r.kernels_parity is not None:
        found["kernels against stock, test images"] = r.kernels_parity
    if r.rounding is not None:
        found["fp16 values against fp32, probe inputs"] = r.rounding
    rows = []
    for name, d in found.items():
        top1 = f"{d.n - d.top1_changed} of {d.n}"
        equal = "yes" if d.bit_equal else "no"
        rows.append((name, str(d.n), equal, f"{d.max_abs:.3g}", f"{d.max_rel:.3g}", top1))
    head = ["check", "inputs", "equal bits", "max abs", "max relative", "same top-1"]
    return "## Parity\n\n" + table(head, rows)


def _layers(r: Report) -> str:
    rows = []
    for layer in r.layers:
        shape = "×".join(map(str, layer.shape))
        sparsity = f"{layer.sparsity:.4f}"
        macs = "" if layer.macs is None else f"{layer.macs:,}"
        nnz, stored = f"{layer.nnz:,}", f"{layer.stored_bytes:,}"
        rows.append((layer.name, layer.op, shape, sparsity, nnz, layer.encoding, stored, macs))
    head = ["layer", "op", "shape", "sparsity", "non-zeros", "encoding", "bytes", "dense MACs"]
    total = f"Over all {len(r.layers)} weight tensors, the sparsity is {r.sparsity:.4f}."
    return "\n\n".join(["## Layers", total, table(head, rows)])


def _provenance(r: Report) -> str:
    m, p = r.machine, r.provenance
    load = "unknown" if m.load_average is None else f"{m.load_average:.2f}"
    rows = [
        ("model", f"{r.model.name}, sha256 {r.model.sha256}"),
        ("made by", json.dumps(r.origin)),
        ("verified by", p.command),
        ("at", f"{p.started}, in {p.seconds:.1f} s"),
        ("options", json.dumps(p.config)),
        ("hardware", ", ".join(f"{key}: {value}" for key, value in p.hardware.items())),
        ("cores", f"{m.physical_cores} physical, {m.usable_cores} logical ones usable"),
        ("memory", f"{m.memory_bytes / 2**30:.1f} GiB"),
        ("load average at the start", load),
        ("versions", ", ".join(f"{name} {version}" for name, version in p.versions.items())),
    ]
    if r.reference is not None:
        rows.insert(1, ("reference", f"{r.reference.name}, sha256 {r.reference.sha256}"))
    return "## Provenance\n\n" + table(["what", "value"], rows)


def _number(x: float) -> str:
    return f"{x:,}" if isinstance(x, int) else f"{x:.4g}"


def _share(p: Proportion) -> str:
    return f"{100 * p.value:.2f}% ({100 * p.low:.2f} to {100 * p.high:.2f}, n = {p.n})"
