"""fggp-deploy compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes


@with_exit_codes
def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Run folders, model files or report.json files that verify wrote."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "compare.html"
    ),
    json: o.Json = False,
) -> None:
    """Compare verified files by accuracy, latency and bytes, and say which no other file beats.

    If the files were verified with --robustness, also show the prune potential by distribution: the
    largest sparsity whose error is within 0.5 points of the dense model.
    """
    from fggp_deploy.analysis.compare import compare as run
    from fggp_deploy.analysis.compare_page import page
    from fggp_deploy.common.files import write_atomic
    from fggp_deploy.report.html import html

    from .render import as_json, show_page

    found = run(paths)
    laid_out = page(found)
    write_atomic(out, html(laid_out).encode(errors="replace"))
    if json:
        as_json({**asdict(found), "page": str(out)})
    else:
        show_page(laid_out, out)
