"""Parity: whether every way of running the network gives the same logits."""

from __future__ import annotations

from fggp_deploy.report.page import Section, Table
from fggp_deploy.verification.report import Report


def parity(r: Report) -> Section:
    """The section; it names the first layer that differs, if one does."""
    found = {} if r.self_test is None else {"self-test: torch at export, stock here": r.self_test}
    inputs = "all test images" if r.accuracy is not None else "probe inputs"
    ways = {
        "torch against stock": r.torch_parity,
        "kernels, compiled now, against stock": r.kernels_parity,
        "compiled file against stock": r.compiled_parity,
    }
    found |= {f"{name}, {inputs}": d for name, d in ways.items() if d is not None}
    found |= {f"packed against dense, {some}": d for some, d in r.parity.items()}
    if r.rounding is not None:
        found["rounded values against fp32, probe inputs"] = r.rounding
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
        "Largest differences of the logits. Max relative is relative to the largest logit. Max ULP "
        "counts the float32 numbers between the two; it is large if both are nearly zero. “Of the "
        "tolerance” passes up to 1."
    )
    blocks: list[str | Table] = [Table(caption, head, rows)]
    if r.torch_parity is None and r.rounding is None:
        blocks.append(
            "The network was not run in torch. That needs torch, and the checkpoint that the file "
            "was made from must be beside it. The self-test holds the logits of torch at export."
        )
    if r.mismatch is not None:
        blocks.insert(0, f"{r.mismatch}.")
    return Section("Parity", blocks)
