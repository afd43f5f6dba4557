"""fggp-deploy inspect."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.analysis.inspection import Inspection, WeightRow


@with_exit_codes
def inspect(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint, .onnx, .csr folder or run folder. Default: the newest run in runs/."
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Show what is in a checkpoint or an exported file: sparsity, MACs and bytes by layer."""
    from fggp_deploy.analysis.inspection import inspect_file
    from fggp_deploy.checkpoints.run_folder import PRUNED, checkpoint_in, newest

    from .render import as_json

    path = path or newest(PRUNED)
    if path.is_dir() and path.suffix != ".csr":
        path = checkpoint_in(path)
    found = inspect_file(path)
    if json:
        rows = [asdict(r) for r in found.rows]
        as_json({"path": path, **found.about, **found.totals(), "layers": rows})
    else:
        show(path, found)


def show(path: Path, found: Inspection) -> None:
    """Print the weights as a table, and the rest as lines."""
    from .render import stdout, table

    macs = sum(r.macs or 0 for r in found.rows) or 1
    before = found.about.get("removed_before_compaction")
    table(
        str(path) if before is None else f"{path}: {before:.2%} removed, then compacted",
        ("weight", "shape", "sparsity", "kept", "MACs", "bytes", "stored as"),
        [_cells(r, macs) for r in found.rows],
    )
    total = found.totals()
    if any(r.prunable for r in found.weights):
        stdout.print(
            f"prunable weights: {total['n_removed']:,} of {total['n_prunable']:,} removed "
            f"({total['n_removed'] / max(total['n_prunable'], 1):.4%})"
        )
    stdout.print(
        f"all conv and linear weights: {total['n_all_removed']:,} of {total['n_all_weights']:,} "
        f"({total['n_all_removed'] / max(total['n_all_weights'], 1):.4%})"
    )
    for key, value in found.about.items():
        if key != "removed_before_compaction":
            stdout.print(f"{key.replace('_', ' ')}: {value}")


def _cells(r: WeightRow, macs_of_network: int) -> tuple[str, ...]:
    from .render import size

    return (
        r.name + _remark(r),
        "×".join(map(str, r.shape)),
        f"{r.n_removed / max(r.n_total, 1):.2%}",
        f"{r.n_total - r.n_removed:,}",
        "–" if r.macs is None else f"{r.macs / macs_of_network:.1%}",
        size(r.n_bytes),
        r.encoding,
    )


def _remark(row: WeightRow) -> str:
    if not row.of_layer:
        return " (no weight of a layer)"
    return " (dense by choice)" if row.prunable is False else ""
