"""The verdict: checks, gates, and the most important figures."""

from __future__ import annotations

from dataclasses import replace

from fggp_deploy.measure.evaluate import Accuracy, Paired, Scores
from fggp_deploy.measure.latency import setting
from fggp_deploy.report import words
from fggp_deploy.report.page import Glance, Section, Table
from fggp_deploy.verification import gates
from fggp_deploy.verification.report import Report


def title(r: Report) -> str:
    """The file's name, and the names of what failed."""
    failed = [v.name for v in r.verdicts if not v.passed]
    return r.model.name + (f" ({', '.join(failed)})" if failed else "")


def lead(r: Report) -> str:
    """The sentence under the title, and the first layer that differs, if one does."""
    n, failed = len(r.verdicts), sum(not v.passed for v in r.verdicts)
    limits = any(v.name in {gate.name for gate in gates.GATES} for v in r.verdicts)
    passed = (
        f"all {n} checks and gates passed." if limits else f"all {n} checks passed; no gate is set."
    )
    of = "all convolution and linear weights"
    text = words.removed(r.sparsity, r.sparsity_before_compaction, of) + "; "
    text += passed if not failed else f"{failed} of {n} checks failed."
    return f"{text} {r.mismatch}." if r.mismatch is not None else text


def verdict(r: Report) -> Section:
    """Every check and gate."""
    rows = [
        (
            v.name,
            "pass" if v.passed else "FAIL",
            words.number(v.value),
            words.number(v.limit),
            v.unit,
            v.how,
        )
        for v in r.verdicts
    ]
    head = ["check or gate", "verdict", "value", "limit", "unit", "decided by"]
    caption = "The checks that every file must pass, then the gates that were set."
    return Section("Verdict", [Table(caption, head, rows)])


def glance(r: Report) -> list[Glance]:
    """The most important figures, with "–" for those that were not measured."""
    return [*_accuracy(r), *_size(r), *_latency(r), *_int8(r), *_corruptions(r), *_process(r)]


def _failed(r: Report, *names: str) -> tuple[str, ...]:
    """The checks and gates among `names` that failed."""
    return tuple(v.name for v in r.verdicts if v.name in names and not v.passed)


def _accuracy(r: Report) -> list[Glance]:
    rows = []
    if (a := r.accuracy) is not None:
        on, judged = f"{a.data} {a.split}, n = {a.n:,}", gates.names_on(gates.ACCURACY)
        failed = _failed(r, *judged, "preprocessing")
        rows.append(replace(_top1(f"top-1, {on}", a, a.model, a.paired), failed=failed))
        if a.kernels is not None:
            on_kernels = _top1(f"top-1 on the sparse kernels, {on}", a, a.kernels, a.kernels_paired)
            rows.append(replace(on_kernels, failed=_failed(r, *judged)))
    if (rounded := r.rounding) is not None:
        pair = r.rounding_paired
        rows.append(
            Glance(
                "rounded values against fp32",
                "–",
                f"logits within {rounded.max_rel:.1e} of the largest",
                f"{0 - pair.drop_points:+.2f} points, {pair.agreement.value:.2%} agree"
                if pair
                else f"top-1 of {rounded.n - rounded.top1_changed} of {rounded.n} the same",
                _failed(r, "rounded values against fp32"),
            )
        )
    return rows


def _size(r: Report) -> list[Glance]:
    s = r.size
    smaller = f"{s.reference_bytes / s.file_bytes:.1f}× smaller" if s.reference_bytes else "–"
    dense = words.size(s.reference_bytes) if s.reference_bytes else "–"
    failed = _failed(r, *gates.names_on(gates.SIZE))
    return [Glance("file", dense, words.size(s.file_bytes), smaller, failed)]


def _latency(r: Report) -> list[Glance]:
    """Latency on stock ONNX Runtime and, if the file runs on them, on the kernels."""
    rows = []
    times = r.latency.timings
    where = setting(r.latency.threads, r.latency.batch)
    judged = "kernels" if "kernels" in times else "model"
    for name, what in (
        ("model", f"median latency, {where}"),
        ("kernels", f"median latency on the sparse kernels, {where}"),
    ):
        if name not in times:
            continue
        s_up = r.latency.speedups.get(name)
        faster = "–" if s_up is None else words.ratio(s_up)
        if r.latency.too_busy:
            faster += ", but the machine was too busy to measure it"
        dense = f"{times['reference'].median_ms:.3f} ms" if "reference" in times else "–"
        failed = _failed(r, *gates.names_on(gates.SPEED)) if name == judged else ()
        rows.append(Glance(what, dense, f"{times[name].median_ms:.3f} ms", faster, failed))
    return rows


def _corruptions(r: Report) -> list[Glance]:
    if (d := r.robustness) is None:
        return []
    return [
        Glance(
            f"excess error under corruptions, n = {d.n:,}",
            "0 points",
            f"{d.excess_points:+.2f} points [{d.excess_low:+.2f}, {d.excess_high:+.2f}]",
            "–",
            _failed(r, *gates.names_on(gates.ROBUSTNESS)),
        )
    ]


def _process(r: Report) -> list[Glance]:
    theirs = r.processes.get("reference")
    on = "kernels" if "kernels" in r.processes else "model"
    if (cost := r.processes.get(on)) is None:
        return []
    with_them = " with the sparse kernels" if on == "kernels" else ""
    load = f"{theirs.load_ms:.0f} ms" if theirs else "–"
    peak = words.size(theirs.peak_rss_bytes) if theirs else "–"
    own = words.size(cost.peak_rss_bytes)
    return [
        Glance(f"load time{with_them}", load, f"{cost.load_ms:.0f} ms", "–"),
        Glance(f"peak memory of a process{with_them}", peak, own, "–"),
    ]


def _top1(what: str, a: Accuracy, scores: Scores, drop: Paired | None) -> Glance:
    top1 = scores.top1
    return Glance(
        what,
        f"{a.reference.top1.value:.2%}" if a.reference else "–",
        f"{top1.value:.2%} [{top1.low:.2%}, {top1.high:.2%}]",
        f"{0 - drop.drop_points:+.2f} points [{-drop.drop_high:+.2f}, {-drop.drop_low:+.2f}], "
        f"p = {words.probability(drop.p_value)}"
        if drop
        else "–",
    )


def _int8(r: Report) -> list[Glance]:
    """The dense int8 baseline: what is possible without pruning."""
    q, timed = r.int8, r.latency.timings.get("int8")
    reference = r.accuracy.reference if r.accuracy else None
    if q is None or timed is None or reference is None:
        return []
    dense = r.latency.timings["reference"]
    return [
        Glance(
            "baseline: the dense model in int8, not pruned",
            f"{reference.top1.value:.2%}, {dense.median_ms:.3f} ms",
            f"{q.scores.top1.value:.2%}, {timed.median_ms:.3f} ms",
            f"{0 - q.paired.drop_points:+.2f} points, {words.ratio(r.latency.speedups['int8'])}, "
            f"{words.size(q.file_bytes)}",
        )
    ]
