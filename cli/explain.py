"""fggp-deploy explain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.analysis.explain import Explanation


@with_exit_codes
def explain(
    model: Annotated[Path, typer.Argument(help="Any .onnx file.")],
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 1,
    seconds: Annotated[
        float, typer.Option(help="Seconds of latency measurement; 0 measures none.")
    ] = 3.0,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Sizes for open dimensions of the first input after the batch, such as 3,224,224."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write a page to this .html file.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Explain why an ONNX file is not smaller or faster: where its zeros are, and what uses them.

    Measures the effect of packing by packing, and that of the sparse kernels by timing them.
    Figures that are only estimated are marked as such.
    """
    from fggp_deploy.analysis.explain import explain as run
    from fggp_deploy.analysis.explain_page import findings, page
    from fggp_deploy.common.files import write_atomic
    from fggp_deploy.errors import ConfigError
    from fggp_deploy.report.html import html

    from .progress import working
    from .render import as_json

    if threads < 1 or not 0 <= seconds < 86_400:
        raise ConfigError(
            f"--threads must be at least 1 and --seconds at least 0, got {threads} and {seconds}"
        )
    sizes = o.integers("--shape", shape) if shape else ()
    if not all(n > 0 for n in sizes):
        raise ConfigError(f"--shape must be positive numbers, got {shape}")
    with working("explaining"):
        found = run(model, threads=threads, seconds=seconds, shape=sizes)
    laid_out = page(found)
    if out is not None:
        write_atomic(out, html(laid_out).encode(errors="replace"))
    if json:
        as_json({**asdict(found), "findings": findings(found)})
    else:
        show(model, found)


def show(model: Path, found: Explanation) -> None:
    """Print the weights as a table, then the reasons and the findings."""
    from fggp_deploy.analysis.explain_page import findings, numbered, reasons

    from .render import size, stdout, table

    why = reasons(found)
    rows = [
        (
            w.name, w.op, f"{w.sparsity:.2%}", size(w.stored_bytes), size(w.packed_bytes),
            str(why.index(w.why) + 1),
        )
        for w in found.weights
    ]  # fmt: skip
    table(str(model), ("weight", "read by", "zeros", "now", "packed", "why"), rows)
    for line in (*numbered(found), *findings(found)):
        stdout.print(line, markup=False)
