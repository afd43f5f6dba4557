"""An explanation of an ONNX file in sentences and as a page."""

from __future__ import annotations

import math

from fggp_deploy.analysis.explain import Explanation, Speed
from fggp_deploy.analysis.weights import WORTH
from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Page, Section, Table


def page(e: Explanation) -> Page:
    """Lay out an explanation."""
    why = reasons(e)
    rows = [
        (
            w.name,
            w.op,
            "×".join(map(str, w.shape)),
            w.dtype,
            f"{w.sparsity:.2%}",
            f"{w.stored_bytes:,}",
            f"{w.packed_bytes:,}",
            "–" if w.macs is None else f"{w.macs:,}",
            str(why.index(w.why) + 1),
        )
        for w in e.weights
    ]
    head = [
        "weight", "read by", "shape", "type", "zeros", "bytes now", "bytes packed", "dense MACs",
        "why",
    ]  # fmt: skip
    names = [w.name for w in e.weights]
    chart = Bars(
        "Bytes by weight, now and packed",
        names,
        {
            "now": [w.stored_bytes / 1000 for w in e.weights],
            "packed": [w.packed_bytes / 1000 for w in e.weights],
        },
        "kB",
    )
    said = findings(e)
    sections = [
        Section("Findings", said),
        Section("Weights", [Table("Counted in the file; exact.", head, rows, chart), *numbered(e)]),
    ]
    return Page(f"Why {e.model} is as large and as fast as it is", said[0], None, [], [], sections)


def reasons(e: Explanation) -> list[str]:
    """Every distinct `why` of the weights, in their order."""
    return list(dict.fromkeys(w.why for w in e.weights))


def numbered(e: Explanation) -> list[str]:
    """The reasons as numbered lines, to which a table refers by number."""
    return [f"Why {i}: {why}." for i, why in enumerate(reasons(e), start=1)]


def findings(e: Explanation) -> tuple[str, ...]:
    """The explanation in sentences; each says whether it was measured or estimated."""
    said = []
    gain = e.file_bytes / e.packed_bytes
    if e.cannot_pack:
        said.append(f"Size: the file cannot be packed: {e.cannot_pack}.")
    elif gain > 1.02:
        said.append(
            f"Size: packing would make the file {gain:.2f}× smaller, {words.size(e.file_bytes)} to "
            f"{words.size(e.packed_bytes)} (measured, by packing it)."
        )
    elif e.file_bytes < 0.98 * e.dense_bytes:
        said.append(
            f"Size: the file is packed. With its zeros written out it would have "
            f"{words.size(e.dense_bytes)} instead of {words.size(e.file_bytes)} (measured)."
        )
    else:
        said.append("Size: packing would save nothing.")
    if e.int8_bytes < 0.9 * min(e.packed_bytes, e.file_bytes):
        said.append(
            f"Size: {_with('--values int8', e)} would make it {words.size(e.int8_bytes)} "
            "(measured, by packing it). Values are rounded; `verify` measures the effect."
        )
    counted = [w for w in e.weights if w.of_layer]
    n_counted = sum(math.prod(w.shape) for w in counted)
    said.append(f"Zeros: {e.sparsity:.2%} of all {n_counted:,} conv and linear weights.")
    dense = [w for w in counted if w.sparsity < WORTH]
    if dense:
        n_bytes = sum(w.stored_bytes for w in dense)
        said.append(
            f"Dense layers: {len(dense)} of {len(counted)} weights have too few zeros to pack. "
            f"They hold {n_bytes / e.file_bytes:.0%} of the file: "
            f"{_listed([w.name for w in dense])}."
        )
    others = sorted({w.dtype for w in e.weights if w.dtype != "float32" and w.sparsity >= WORTH})
    if others:
        said.append(f"Zeros in {', '.join(others)} weights do not make this file faster.")
    if dead := sum(w.dead_channels for w in e.weights):
        which = "1 output channel is" if dead == 1 else f"{dead} output channels are"
        said.append(f"{which} zero throughout. {_compaction(e)}")
    elif e.compaction is not None:
        said.append(_compaction(e))
    if e.macs_left is not None:
        said.append(
            f"Work: {e.macs_left:.1%} of the multiply-accumulates meet a non-zero, so skipping "
            f"zeros can gain at most {1 / max(e.macs_left, 1e-9):.1f}× in these layers (estimate, "
            "from counts)." + " Its int8 activations gain in addition." * e.in_bytes
        )
    said.append(_speed_in_words(e.speed, e.not_measured))
    return tuple(said)


def _compaction(e: Explanation) -> str:
    c = e.compaction
    if c is None:
        return "`--compact` removes none of them: what reads them, or a sum, needs all channels."
    macs = f", which leaves {c.macs_left:.1%} of the multiply-accumulates" if c.macs_left else ""
    return (
        f"{_with('--compact', e)} removes {c.n_channels} channels, exactly, for any runtime"
        f"{macs}. Packed, the file then has {words.size(c.packed_bytes)} (measured, by doing it)."
    )


def _with(option: str, e: Explanation) -> str:
    """The command that makes this file with an option."""
    if e.packed:  # `pack` does not take a packed file
        return f"`export {option}` (or `pack {option}` of its source)"
    return f"`pack {option}`"


def _speed_in_words(s: Speed | None, not_measured: str) -> str:
    if s is None:
        return f"Speed: not measured, because {not_measured}."
    busy = (
        " The machine was too busy to measure speed. Run this again when nothing else runs."
        if s.too_busy
        else ""
    )
    text = (
        f"Speed, {s.threads} thread{'s' * (s.threads != 1)}, {', '.join(s.inputs)}: "
        f"{s.stock_ms:.3f} ms on stock onnxruntime"
    )
    if s.kernels_ms is None:
        return (
            f"{text} (measured), which decodes sparse weights at load. The sparse kernels are not "
            f"used: {s.plan.removeprefix('plain: ')}.{busy}"
        )
    return (
        f"{text}, which multiplies the zeros, and {s.kernels_ms:.3f} ms on the sparse kernels: "
        f"{s.ratio:.2f}× [{s.ratio_low:.2f}, {s.ratio_high:.2f}] (measured).{busy}"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + ("" if len(names) <= 5 else f" and {len(names) - 5} more")
