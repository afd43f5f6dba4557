"""What it comes to: the verdict, the gates, and the figures that people ask for first."""

from __future__ import annotations

from fggp_deploy.verify import words
from fggp_deploy.verify.accuracy import Accuracy, Paired, Scores
from fggp_deploy.verify.document import Report
from fggp_deploy.verify.latency import setting
from fggp_deploy.verify.page import Glance, Section, Table


def title(r: Report) -> str:
    """The file's name, and what failed."""
    failed = [v.name for v in r.verdicts if not v.passed]
    return r.model.name + (f" ({', '.join(failed)})" if failed else "")


def lead(r: Report) -> str:
    """One sentence under the title, and the first layer that differs if one does."""
    n, failed = len(r.verdicts), sum(not v.passed for v in r.verdicts)
    of = "all convolution and linear weights"
    text = words.removed(r.sparsity, r.sparsity_before_compaction, of) + "; "
    text += f"all {n} checks and gates passed." if not failed else f"{failed} of {n} checks failed."
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
    return Section(
        "Verdict", [Table("Checks that always hold, then the gates that were set.", head, rows)]
    )


def glance(r: Report) -> list[Glance]:
    """The first figures, "–" for what was not measured."""
    rows = []
    if (a := r.accuracy) is not None:
        rows.append(_top1(f"top-1, {a.data} {a.split}, n = {a.n:,}", a, a.model, a.paired))
        if a.kernels is not None:
            rows.append(_top1("the same on the sparse kernels", a, a.kernels, a.kernels_paired))
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
            )
        )
    s = r.size
    smaller = f"{s.reference_bytes / s.file_bytes:.1f}× smaller" if s.reference_bytes else "–"
    parent = words.size(s.reference_bytes) if s.reference_bytes else "–"
    rows.append(Glance("file", parent, words.size(s.file_bytes), smaller))
    times = r.latency.timings
    where = setting(r.latency.threads, r.latency.batch)
    for name, what in (
        ("model", f"median latency, {where}"),
        ("kernels", "the same on the sparse kernels"),
    ):
        if name in times:
            s_up = r.latency.speedups.get(name)
            faster = "–"
            if s_up is not None:
                faster = words.ratio(s_up)
            dense = f"{times['reference'].median_ms:.3f} ms" if "reference" in times else "–"
            rows.append(Glance(what, dense, f"{times[name].median_ms:.3f} ms", faster))
    rows += _rival(r)
    if (d := r.robustness) is not None:
        rows.append(
            Glance(
                f"error under corruptions, beyond the dense parent's, n = {d.n:,}",
                "0 points",
                f"{d.excess_points:+.2f} points [{d.excess_low:+.2f}, {d.excess_high:+.2f}]",
                "–",
            )
        )
    theirs = r.processes.get("reference")
    on = "kernels" if "kernels" in r.processes else "model"
    if (cost := r.processes.get(on)) is not None:
        with_them = " with the sparse kernels" if on == "kernels" else ""
        load = f"{theirs.load_ms:.0f} ms" if theirs else "–"
        rows.append(Glance(f"load time{with_them}", load, f"{cost.load_ms:.0f} ms", "–"))
        peak = words.size(theirs.peak_rss_bytes) if theirs else "–"
        own = words.size(cost.peak_rss_bytes)
        rows.append(Glance(f"peak memory of a process{with_them}", peak, own, "–"))
    return rows


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


def _rival(r: Report) -> list[Glance]:
    """What the dense parent in int8 would have given without any pruning."""
    q, timed = r.int8, r.latency.timings.get("int8")
    parent = r.accuracy.reference if r.accuracy else None
    if q is None or timed is None or parent is None:
        return []
    dense = r.latency.timings["reference"]
    return [
        Glance(
            "the rival: the dense parent in int8, not pruned",
            f"{parent.top1.value:.2%}, {dense.median_ms:.3f} ms",
            f"{q.scores.top1.value:.2%}, {timed.median_ms:.3f} ms",
            f"{0 - q.paired.drop_points:+.2f} points, {words.ratio(r.latency.speedups['int8'])}, "
            f"{words.size(q.file_bytes)}",
        )
    ]
