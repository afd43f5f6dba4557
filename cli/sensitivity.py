"""fggp-deploy sensitivity."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .endings import ends_cleanly

_SPARSITIES = ["0.5,0.8,0.9,0.95"]


@ends_cleanly
def sensitivity(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An .onnx file that export made, dense or packed, or a run folder (for its dense "
            "model). Default: the newest run in runs/."
        ),
    ] = None,
    sparsities: Annotated[
        list[str],
        typer.Option(metavar=o.NUMBERS, help="Sparsities of the one layer, separated by commas."),
    ] = _SPARSITIES,
    tolerance: Annotated[
        float, typer.Option(help="Points that a layer may lose before it is to be kept dense.")
    ] = 1.0,
    budget: Annotated[
        float, typer.Option(help="Largest share of all weights that is suggested to stay dense.")
    ] = 0.05,
    images: Annotated[
        int | None,
        typer.Option(help="Held-out images to use, chosen over all classes. Default: all."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set. Default: the one that the file was made with.")
    ] = None,
    data_dir: o.DataDir = None,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write. Default: sensitivity.html."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Prune one layer at a time by magnitude, and suggest which layers to keep dense.

    Measures on the held-out images, never on the test images. Needs no torch and trains nothing.
    """
    from fggp_deploy.analysis.sensitivity import sensitivity as run
    from fggp_deploy.analysis.sensitivity_page import page
    from fggp_deploy.checkpoints.run_folder import REFERENCE, newest
    from fggp_deploy.common.files import write_atomic
    from fggp_deploy.errors import ConfigError, quoted
    from fggp_deploy.format.model import SparseModel
    from fggp_deploy.measure.evaluation_data import images_for
    from fggp_deploy.report.html import html
    from fggp_deploy.verification.model_under_test import check_data

    from .progress import working
    from .render import as_json, show_page, stdout

    path = model or newest(REFERENCE)
    if path.is_dir() and path.suffix != ".csr":
        path = path / REFERENCE
    packed = SparseModel.open(path)
    if images is not None and images < 1:
        raise ConfigError(f"--images must be at least 1, got {images}")
    levels = o.numbers("--sparsities", sparsities)
    with working("pruning one layer at a time") as progress:
        loaded = images_for(path, data, data_dir, parts=("val",), progress=progress)
        if loaded is None:
            raise ConfigError(f"{path} does not say what data it was made with; give --data")
        check_data(packed, loaded)
        val = loaded.val if images is None else loaded.val.sample(images)
        found = run(
            packed, val, data=loaded.name, sparsities=levels, tolerance_points=tolerance,
            budget=budget, threads=threads, progress=progress,
        )  # fmt: skip
    target = out or path.with_name("sensitivity.html")
    laid_out = page(found)
    write_atomic(target, html(laid_out).encode(errors="replace"))
    if json:
        as_json({**asdict(found), "spared": found.spared, "page": str(target)})
        return
    show_page(replace(laid_out, notes=[]), target)
    if found.spared:
        chosen = [word for layer in found.spared for word in ("--keep-dense", f"{layer}.weight")]
        stdout.print(quoted("fggp-deploy", "prune", *chosen), markup=False)
