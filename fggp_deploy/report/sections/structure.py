"""Structure: the sparsity and the remaining work of each layer."""

from __future__ import annotations

from fggp_deploy.report.page import Bars, Section, Table
from fggp_deploy.verification.report import Report


def structure(r: Report) -> Section:
    """The section."""
    rows = []
    for layer in r.layers:
        shape = "×".join(map(str, layer.shape))
        sparsity, nnz = f"{layer.sparsity:.4f}", f"{layer.nnz:,}"
        dense = "–" if layer.macs is None else f"{layer.macs:,}"
        left = "–" if layer.macs is None else f"{_left(layer.macs, layer.sparsity):,}"
        stored = f"{layer.stored_bytes:,}"
        rows.append(
            (layer.name, layer.op, shape, sparsity, nnz, layer.encoding, stored, dense, left)
        )
    head = [
        "layer", "op", "shape", "sparsity", "non-zeros", "encoding", "bytes", "dense MACs",
        "MACs of non-zeros",
    ]  # fmt: skip
    names = [layer.name for layer in r.layers]
    sparsities = Bars(
        "Sparsity by layer", names, {"sparsity": [100 * x.sparsity for x in r.layers]}, "% removed"
    )
    weights = [x for x in r.layers if x.of_layer]
    blocks: list[str | Table] = [
        f"The sparsity over all {len(weights)} conv and linear weights is {r.sparsity:.4f}.",
        Table("The layers, counted in the file.", head, rows, sparsities),
    ]
    if known := [x for x in r.layers if x.macs is not None]:
        total, kept = (
            sum(m)
            for m in zip(
                *((x.macs or 0, _left(x.macs or 0, x.sparsity)) for x in known), strict=True
            )
        )
        work = Bars(
            "Multiply-accumulates by layer, for one image",
            [x.name for x in known],
            {
                "dense": [(x.macs or 0) / 1e6 for x in known],
                "of non-zeros": [_left(x.macs or 0, x.sparsity) / 1e6 for x in known],
            },
            "million MACs",
        )
        share = [("all layers", f"{total:,}", f"{kept:,}", f"{kept / max(1, total):.2%}")]
        caption = (
            "Total work for one image; the previous table has it by layer. Counted, not timed."
        )
        head = ["", "dense MACs", "MACs of non-zeros", "left"]
        blocks.append(Table(caption, head, share, work))
    return Section("Structure", blocks)


def _left(macs: int, sparsity: float) -> int:
    return round(macs * (1 - sparsity))
