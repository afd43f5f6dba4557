"""Parity: whether every way to run the network gives the same logits."""

from __future__ import annotations

from fggp_deploy.verify.document import Report
from fggp_deploy.verify.page import Section, Table


def parity(r: Report) -> Section:
    """The section; it names the first layer that differs where one does."""
    found = {} if r.self_test is None else {"self-test: torch at export, stock here": r.self_test}
    found |= {f"packed against dense, {inputs}": d for inputs, d in r.parity.items()}
    if r.kernels_parity is not None:
        found["kernels against stock, test images"] = r.kernels_parity
    if r.rounding is not None:
        found["fp16 values against fp32, probe inputs"] = r.rounding
    rows = [
        (
            name,
            str(d.n),
            "yes" if d.bit_equal else "no",
            f"{d.max_abs:.3g}",
            f"{d.max_rel:.3g}",
            f"{d.max_ulp:,}",
            f"{d.worst:.3g}",
            f"{d.n - d.top1_changed} of {d.n}",
        )
        for name, d in found.items()
    ]
    head = [
        "check", "inputs", "equal bits", "max abs", "max relative", "max ULP",
        "of the tolerance", "same top-1",
    ]  # fmt: skip
    caption = (
        "Largest differences of the logits. Relative: to the largest logit. ULP: float32 numbers "
        "between the two, many where both are nearly zero. Of the tolerance: passes up to 1."
    )
    blocks: list[str | Table] = [Table(caption, head, rows)]
    if r.mismatch is not None:
        blocks.insert(0, f"{r.mismatch}.")
    return Section("Parity", blocks)
