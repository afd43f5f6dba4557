"""fggp-deploy sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fggp_deploy.errors import ConfigError, quoted

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups

if TYPE_CHECKING:
    from fggp_deploy.analysis.sensitivity import Sensitivity
    from fggp_deploy.common.progress import Progress
    from fggp_deploy.data.types import Dataset
    from fggp_deploy.format.model import SparseModel


@dataclass(frozen=True, kw_only=True)
class Search:
    """The sparsities, the images, and the limits of the suggestion."""

    sparsities: Annotated[
        list[str],
        typer.Option(metavar=o.NUMBERS, help="Sparsities of the one layer, separated by commas."),
    ] = field(default_factory=lambda: ["0.5,0.8,0.9,0.95"])
    tolerance: Annotated[
        float,
        typer.Option(
            help="Keep a layer dense if pruning it loses more than this many points of accuracy."
        ),
    ] = 1.0
    budget: Annotated[
        float, typer.Option(help="Largest share of all weights that the suggestion keeps dense.")
    ] = 0.05
    images: Annotated[
        int | None,
        typer.Option(
            help="Number of held-out images to use, drawn from all classes. Default: all."
        ),
    ] = None
    data: Annotated[
        str | None, typer.Option(help="Data set. Default: the one that the file was made with.")
    ] = None
    data_dir: o.DataDir = None
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 1

    def run(self, path: Path) -> Sensitivity:
        """Prune one layer at a time, with a progress bar; raises ConfigError."""
        from fggp_deploy.analysis.sensitivity import sensitivity as run
        from fggp_deploy.format.model import SparseModel

        from .progress import working

        packed = SparseModel.open(path)
        if self.images is not None and self.images < 1:
            raise ConfigError(f"--images must be at least 1, got {self.images}")
        levels = o.numbers("--sparsities", self.sparsities)
        with working("pruning one layer at a time") as progress:
            loaded = self._load(packed, progress)
            val = loaded.val if self.images is None else loaded.val.sample(self.images)
            return run(
                packed, val, data=loaded.name, sparsities=levels, tolerance_points=self.tolerance,
                budget=self.budget, threads=self.threads, progress=progress,
            )  # fmt: skip

    def _load(self, packed: SparseModel, progress: Progress) -> Dataset:
        """The held-out images."""
        from fggp_deploy.measure.evaluation_data import images_for
        from fggp_deploy.verification.model_under_test import check_data

        loaded = images_for(
            packed.path, self.data, self.data_dir, parts=("val",), progress=progress
        )
        if loaded is None:
            raise ConfigError(
                f"{packed.path} does not name the data that it was made with; give --data"
            )
        check_data(packed, loaded)
        return loaded


@with_exit_codes
@with_groups
def sensitivity(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An .onnx file that export made, dense or packed, or a run folder (for its dense "
            "model). Default: the newest run in runs/."
        ),
    ] = None,
    *,
    search: Search,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Page to write. Default: sensitivity.html beside it."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Prune one layer at a time by magnitude, and suggest which layers to keep dense.

    Measures on the held-out images, never on the test images. Needs no torch and trains nothing.
    """
    from fggp_deploy.analysis.sensitivity_page import page
    from fggp_deploy.checkpoints.run_folder import REFERENCE, newest
    from fggp_deploy.common.files import write_atomic
    from fggp_deploy.report.html import html

    from .render import as_json, show_page

    path = model or newest(REFERENCE)
    if path.is_dir() and path.suffix != ".csr":
        path = path / REFERENCE
    found = search.run(path)
    target = out or path.with_name("sensitivity.html")
    laid_out = page(found)
    write_atomic(target, html(laid_out).encode(errors="replace"))
    if json:
        as_json({**asdict(found), "spared": found.spared, "page": str(target)})
    else:
        show_page(replace(laid_out, notes=[]), target)
        _suggest(found.spared)


def _suggest(spared: Sequence[str]) -> None:
    """Print the command that keeps these layers dense."""
    from .render import stdout

    if spared:
        chosen = [word for layer in spared for word in ("--keep-dense", f"{layer}.weight")]
        stdout.print(quoted("fggp-deploy", "prune", *chosen), markup=False)
