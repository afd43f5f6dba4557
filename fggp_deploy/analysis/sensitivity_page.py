"""Layer sensitivities as a page."""

from __future__ import annotations

from fggp_deploy.analysis.sensitivity import Sensitivity
from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Page, Section, Table


def page(found: Sensitivity) -> Page:
    """Lay out the sensitivities."""
    levels = [d.sparsity for d in found.layers[0].drops] if found.layers else []
    rows = [
        (
            x.name,
            f"{x.n_weights:,}",
            f"{x.share:.2%}",
            *(words.points(d.drop_points, d.drop_low, d.drop_high) for d in x.drops),
            "keep dense" if x.spare else "",
        )
        for x in found.layers
    ]
    chart = None
    if levels:
        ends = [(d.drop_low, d.drop_high) for d in (x.drops[-1] for x in found.layers)]
        chart = Bars(
            f"Top-1 points lost with one layer at {levels[-1]:.0%} sparsity, 95% intervals",
            [x.name for x in found.layers],
            {"drop": [x.drops[-1].drop_points for x in found.layers]},
            "percentage points",
            {"drop": ends},
        )
    head = ["layer", "weights", "of all", *(f"drop at {s:.0%}" for s in levels), "suggestion"]
    caption = (
        f"Top-1 points lost on {found.n} held-out images of {found.data}, 95% intervals of paired "
        f"differences; not pruned: {words.share(found.top1)}. The layers are pruned by magnitude "
        "and not trained again, so the losses after fine-tuning are smaller."
    )
    spared = ", ".join(found.spared) or "none"
    lead = (
        f"Layers to keep dense, at most {found.budget:.0%} of the weights, by points saved per "
        f"weight: {spared}. A layer is suggested if pruning it alone to the largest sparsity loses "
        f"more than {found.tolerance_points:g} points, beyond chance (exact McNemar, Holm's "
        "correction)."
    )
    section = Section("Layers", [Table(caption, head, rows, chart)])
    return Page(f"Sensitivity of {found.model}", lead, None, [], [], [section])
