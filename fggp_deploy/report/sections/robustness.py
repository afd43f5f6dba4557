"""Robustness: accuracy under noise and corruptions, compared with the dense model."""

from __future__ import annotations

from fggp_deploy.measure.robustness import Robustness
from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Lines, Section, Table
from fggp_deploy.verification.report import Report


def robustness(r: Report) -> Section:
    """The section; if robustness was not measured, it says how to measure it."""
    d = r.robustness
    if d is None:
        text = (
            "Robustness was not measured. `--robustness quick|full` measures it if there are data "
            "and a dense model."
        )
        return Section("Robustness", [text])
    origin = (
        "the code and the strengths are fggp-deploy's own"
        if d.source == "generated"
        else f"the images are the published ones of {d.source}"
    )
    intro = (
        f"After Liebenwein et al., Lost in Pruning, 2021; {d.extent}: {d.n} test images over all "
        "classes. Common corruptions stand in for the paper's other shifts, which need other test "
        f"sets. The kinds are those of Hendrycks and Dietterich, 2019; {origin}. Left out: "
        f"{', '.join(d.left_out)}."
    )
    clean = (
        f"Error without corruption: {words.share(d.model_error)}, dense model "
        f"{words.share(d.reference_error)}."
    )
    mean = (
        f"Mean excess error over {len(d.shifts)} corruptions: "
        f"{words.points(d.excess_points, d.excess_low, d.excess_high)} points, bootstrap over "
        f"images, n = {d.n}. It is positive if the pruned network suffers more than the dense "
        "model."
    )
    errors = []
    if d.mean_error is not None and d.mean_reference_error is not None:
        errors.append(
            f"Mean error over {len(d.shifts)} corruptions: {100 * d.mean_error:.2f}%, dense model "
            f"{100 * d.mean_reference_error:.2f}%."
        )
    return Section("Robustness", [intro, clean, *errors, mean, _kinds(d), _shifts(d), *_noise(d)])


def _kinds(d: Robustness) -> Table:
    rows = [
        (k.kind, str(k.n_severities), words.points(k.excess_points, k.excess_low, k.excess_high))
        for k in d.kinds
    ]
    chart = Bars(
        "Excess error by corruption, bootstrap 95% intervals over images",
        [k.kind for k in d.kinds],
        {"excess error": [k.excess_points for k in d.kinds]},
        "percentage points",
        {"excess error": [(k.excess_low, k.excess_high) for k in d.kinds]},
    )
    caption = f"Mean excess error by kind, over its severities; n = {d.n} images each."
    return Table(caption, ["corruption", "severities", "excess error, points"], rows, chart)


def _shifts(d: Robustness) -> Table:
    rows = [
        (
            f"{s.kind} {s.severity}",
            words.share(s.model_error),
            words.share(s.reference_error),
            words.points(s.excess_points, s.excess_low, s.excess_high),
        )
        for s in d.shifts
    ]
    head = ["corruption and severity", "error", "error of the dense model", "excess error, points"]
    return Table("Every corruption; Wilson 95% intervals of the errors.", head, rows)


def _noise(d: Robustness) -> list[Table]:
    distances = [(v.epsilon, v.softmax_distance) for v in d.noise]
    rows = [
        (
            f"{v.epsilon:.1f}",
            words.share(v.agreement),
            f"{v.softmax_distance:.4f} ({v.distance_low:.4f} to {v.distance_high:.4f})",
        )
        for v in d.noise
    ]
    agreement = Lines(
        "Agreement with the dense model under noise, Wilson 95% intervals",
        {"equal predictions": [(v.epsilon, 100 * v.agreement.value) for v in d.noise]},
        "ε",
        "% of images",
        {"equal predictions": [(100 * v.agreement.low, 100 * v.agreement.high) for v in d.noise]},
    )
    distance = Lines(
        "Distance of the softmax outputs under noise, 95% intervals of the mean",
        {"‖softmax difference‖₂": distances},
        "ε",
        "mean distance",
        {"‖softmax difference‖₂": [(v.distance_low, v.distance_high) for v in d.noise]},
    )
    head = ["ε", "equal predictions", "mean ‖softmax difference‖₂"]
    caption = f"Uniform noise x + 2ε(u − ½) on the normalized inputs; n = {d.n} images at each ε."
    again = "The distances again, as in the chart above."
    return [
        Table(caption, head, rows, agreement),
        Table(again, [head[0], head[2]], [(row[0], row[2]) for row in rows], distance),
    ]
