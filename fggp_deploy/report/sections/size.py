"""Size: the file, its dense form, the dense model, and the entropy bound."""

from __future__ import annotations

from fggp_deploy.report import words
from fggp_deploy.report.page import Bars, Section, Table
from fggp_deploy.verification.report import Report


def size(r: Report) -> Section:
    """The section."""
    s = r.size
    found = [
        (words.FILE, s.file_bytes),
        ("entropy bound", s.bound_bytes),
        ("zeros written out", s.dense_bytes),
    ]
    if s.reference_bytes is not None:
        found.append((words.DENSE, s.reference_bytes))
    if r.int8 is not None:
        found.append((words.NETWORKS["int8"], r.int8.file_bytes))
    rows = [(name, f"{n:,}", f"{n / s.dense_bytes:.4f}") for name, n in found]
    counts = [
        (name, str(c.tensors), f"{c.nnz:,}", f"{c.stored_bytes:,}")
        for name, c in s.encodings.items()
    ]
    chart = Bars("Bytes", [n for n, _ in found], {"kB": [b / 1000 for _, b in found]}, "kB")
    caption = (
        "“Of dense” is relative to this network with its zeros written out. The bound is the "
        "entropy of the masks plus the non-zero values in float32 plus everything that is not a "
        "weight. All counts are exact."
    )
    return Section(
        "Size",
        [
            Table(caption, ["what", "bytes", "of dense"], rows, chart),
            Table(
                "How the weight tensors are stored.",
                ["encoding", "tensors", "non-zeros", "bytes"],
                counts,
            ),
        ],
    )
