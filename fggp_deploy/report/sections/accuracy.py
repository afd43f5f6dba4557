"""Accuracy: top-1 and top-5, compared with the dense model, by class, and calibration."""

from __future__ import annotations

from fggp_deploy.measure.classes import ClassChange, lost_most
from fggp_deploy.measure.evaluate import Accuracy
from fggp_deploy.measure.statistics import ALPHA
from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Lines, Section, Table
from fggp_deploy.verification.report import Report

LEAST_IN_BIN = 10  # images; fewer have no meaningful accuracy
MAX_CLASSES = 30  # rows; the others are in report.json


def accuracy(r: Report) -> Section:
    """The section; without data it says so."""
    a = r.accuracy
    if a is None:
        return Section("Accuracy", ["Accuracy was not measured, because there is no data."])
    rows = []
    scored = [
        (words.DENSE, a.reference),
        (words.NETWORKS["int8"], r.int8.scores if r.int8 else None),
        (words.NETWORKS["model"] if a.kernels else words.FILE, a.model),
        (words.NETWORKS["kernels"], a.kernels),
    ]
    for name, scores in scored:
        if scores is not None:
            top5 = (
                words.share(scores.top5) if scores.top5 else "not defined for five classes or fewer"
            )
            rows.append((name, words.share(scores.top1), top5))
    caption = f"On the {a.n:,} images of the {a.split} split of {a.data}; Wilson 95% intervals."
    blocks: list[str | Table] = [Table(caption, ["network", "top-1", "top-5"], rows)]
    blocks += _paired(a) + _int8(r) + _rounding(r) + _classes(a) + [_calibration(a)] + _inputs(r)
    if curves := _curves(r):
        blocks += [curves, _by_sparsity(r)]
    return Section("Accuracy", blocks)


def _paired(a: Accuracy) -> list[str | Table]:
    p = a.paired
    if p is None:
        return ["There is no dense model, so there is no accuracy drop."]
    return [
        f"Top-1 drop: {p.drop_points:+.2f} points (95% interval {p.drop_low:+.2f} to "
        f"{p.drop_high:+.2f} by Agresti and Min, {p.bootstrap_low:+.2f} to {p.bootstrap_high:+.2f} "
        f"by a paired bootstrap of 10,000 resamples; n = {p.n:,}, paired). The two agree on "
        f"{words.share(p.agreement)}. {p.lost} images are lost and {p.gained} gained, exact "
        f"McNemar p = {words.probability(p.p_value)}."
    ]


def _int8(r: Report) -> list[str | Table]:
    q = r.int8
    if q is None:
        return []
    p = q.paired
    return [
        "Dense int8 is the dense model quantized by ONNX Runtime (static, QDQ, int8 weights per "
        f"channel, uint8 activations, calibrated on {q.n_calibration} training images). It loses "
        f"{p.drop_points:+.2f} points of top-1 (95% interval {p.drop_low:+.2f} to "
        f"{p.drop_high:+.2f}, n = {p.n:,}, paired), exact McNemar p = "
        f"{words.probability(p.p_value)}."
    ]


def _rounding(r: Report) -> list[str | Table]:
    p = r.rounding_paired
    if p is None:
        return []
    return [
        f"Rounding the values loses {p.drop_points:+.2f} points of top-1 against fp32 "
        f"(95% interval {p.drop_low:+.2f} to {p.drop_high:+.2f}, n = {p.n:,}, paired). The two "
        f"agree on {words.share(p.agreement)}."
    ]


def _classes(a: Accuracy) -> list[str | Table]:
    if not a.classes:
        return []
    lost = lost_most(a.classes)
    text = (
        f"No class lost more than chance explains (exact McNemar in each of {len(a.classes)} "
        f"classes, Holm's correction at {ALPHA:g})."
    )
    if lost:
        named = ", ".join(f"{c.name} ({-c.drop_points:+.1f} points)" for c in lost[:5])
        text = (
            f"Classes that lost most, beyond chance: {named} (exact McNemar in each of "
            f"{len(a.classes)} classes, Holm's correction at {ALPHA:g}). The losses of the other "
            "classes may be chance."
        )
    shown = sorted(a.classes, key=lambda c: -c.drop_points)[:MAX_CLASSES]
    caption = f"Top-1 by class, the largest loss first, {len(shown)} of {len(a.classes)} classes."
    head = ["class", "images", words.DENSE, words.FILE, "lost, gained", "drop, points", "p",
            "p after Holm"]  # fmt: skip
    return [text, Table(caption, head, [_row(c) for c in shown], _class_chart(shown))]


def _row(c: ClassChange) -> tuple[str, ...]:
    return (
        c.name,
        f"{c.model.n:,}",
        words.percent(c.reference),
        words.percent(c.model),
        f"{c.lost}, {c.gained}",
        words.points(c.drop_points, c.drop_low, c.drop_high),
        words.probability(c.p_value),
        words.probability(c.p_holm),
    )


def _class_chart(shown: list[ClassChange]) -> Bars:
    both = {words.DENSE: [c.reference for c in shown], words.FILE: [c.model for c in shown]}
    return Bars(
        title="Top-1 accuracy by class, Wilson 95% intervals",
        labels=[c.name for c in shown],
        series={name: [100 * p.value for p in ps] for name, ps in both.items()},
        unit="top-1, %",
        intervals={name: [(100 * p.low, 100 * p.high) for p in ps] for name, ps in both.items()},
    )


def _calibration(a: Accuracy) -> Table:
    rows, series = [], {}
    for key, c in a.calibration.items():
        name = words.FILE if key == "model" else words.DENSE
        found = f"{100 * c.ece:.2f}% ({100 * c.low:.2f} to {100 * c.high:.2f}, n = {c.n:,})"
        largest = max(c.bins, key=lambda b: b.n)
        rows.append((name, found, f"{largest.low:.2f} to {largest.high:.2f}, n = {largest.n:,}"))
        series[name] = [(b.confidence, b.accuracy) for b in c.bins if b.n >= LEAST_IN_BIN]
    chart = Lines(
        f"Reliability: accuracy by confidence, in bins of at least {LEAST_IN_BIN} images",
        series,
        "confidence",
        "accuracy",
        diagonal=True,
    )
    caption = (
        "Expected calibration error: mean |accuracy − confidence| over 15 bins of equal width, "
        "weighted by images; middle 95% of 500 bootstrap resamples. All bins are in report.json."
    )
    return Table(caption, ["network", "ECE", "fullest bin"], rows, chart)


def _inputs(r: Report) -> list[str | Table]:
    c = r.inputs
    if c is None:
        return []
    rows = [("as the file records it", words.share(c.as_given))]
    rows += [(name, words.share(p)) for name, p in c.tried.items()]
    text = "No other preprocessing is better, so the file records that of its training."
    if not c.passed:
        text = (
            f"Likely cause of a loss: {c.best} would gain {c.gain_points:.1f} points "
            f"(p = {words.probability(c.p_value)}, Holm). The file probably does not record the "
            "preprocessing of its training."
        )
    caption = (
        f"Top-1 of this file on {c.n:,} test images over all classes, with other preprocessing. "
        "An alternative that gains nothing on a small sample is not tried on more images."
    )
    return [text, Table(caption, ["preprocessing", "top-1"], rows)]


def _curves(r: Report) -> Table | None:
    if not r.history:
        return None
    rows = [
        (str(e.epoch), f"{e.loss:.4f}", f"{e.val_accuracy:.2%}", f"{e.sparsity:.2%}")
        for e in r.history
    ]
    chart = Lines(
        "The run that made the file: held-out accuracy and sparsity by epoch",
        {
            "held-out accuracy": [(e.epoch, 100 * e.val_accuracy) for e in r.history],
            "sparsity": [(e.epoch, 100 * e.sparsity) for e in r.history],
        },
        "epoch",
        "%",
    )
    caption = "The run's own log (metrics.jsonl beside the file); one run, so there is no spread."
    return Table(caption, ["epoch", "loss", "held-out accuracy", "sparsity"], rows, chart)


def _by_sparsity(r: Report) -> Table:
    points = sorted((100 * e.sparsity, 100 * e.val_accuracy) for e in r.history)
    chart = Lines("Held-out accuracy against sparsity", {words.FILE: points}, "% removed", "%")
    caption = (
        "The same epochs by sparsity. Between epochs of the same sparsity the network was only "
        "trained."
    )
    rows = [(f"{sparsity:.2f}%", f"{accuracy:.2f}%") for sparsity, accuracy in points]
    return Table(caption, ["removed", "held-out accuracy"], rows, chart)
