"""fggp-deploy pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups

if TYPE_CHECKING:
    from fggp_deploy.exporters.options import PackOptions
    from fggp_deploy.exporters.pack import PackedFile


@dataclass(frozen=True, kw_only=True)
class PackingOptions:
    """How the file is packed."""

    values: Annotated[str, typer.Option(help="fp32, fp16 or int8 (smaller, rounded).")] = "fp32"
    mean: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Mean of the pixels in 0..1 per channel, such as 0.485,0.456,0.406.",
        ),
    ] = None
    std: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Standard deviation of the pixels per channel, such as 0.229,0.224,0.225.",
        ),
    ] = None
    classes: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line.")
    ] = None
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Sizes for the open dimensions of the first input after the batch, such as "
            "3,224,224.",
        ),
    ] = None
    compact: Annotated[
        bool, typer.Option("--compact", help="Remove dead channels; outputs stay the same.")
    ] = False
    regions: Annotated[
        bool,
        typer.Option(
            "--regions", help="Write connected layers as single nodes, as for `export --regions`."
        ),
    ] = False

    def options(self) -> PackOptions:
        """The options in the library's form; raises ConfigError."""
        from fggp_deploy.exporters.options import PackOptions

        return PackOptions(
            values=self.values,
            mean=o.numbers("--mean", self.mean) if self.mean else None,
            std=o.numbers("--std", self.std) if self.std else None,
            classes=o.lines("--classes", self.classes) if self.classes is not None else None,
            shape=o.integers("--shape", self.shape) if self.shape else None,
            compact=self.compact,
            regions=self.regions,
        )


@with_exit_codes
@with_groups
def pack(
    model: Annotated[Path, typer.Argument(help="Any .onnx file.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: NAME.packed.onnx beside it."),
    ] = None,
    packing: PackingOptions,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; only run the file's own self-test.")
    ] = False,
    json: o.Json = False,
) -> None:
    """Pack any ONNX file whose weights hold zeros, stored dense or as sparse_initializer.

    Weights that are not packed stay unchanged, and a line gives the reason. Every packed weight
    is decoded and compared. If the network runs on generated inputs, its outputs are compared
    too. With --mean and --std, an image classifier becomes a file that `verify` accepts. Without
    them, the file carries a self-test of its outputs.

    Example:  fggp-deploy pack other.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from .progress import working
    from .render import as_json

    if check:
        return _check(model, json=json)
    options = packing.options()
    with working("packing"):
        from fggp_deploy.exporters.pack import pack_file
        from fggp_deploy.verification.report_files import set_aside_report

        made = pack_file(model, out, options)
        set_aside_report(made.path)
    return as_json(made) if json else show(made)


def show(made: PackedFile) -> None:
    """Print what was packed, and how the file was compared with its source."""
    from .render import show_notes, size, stdout

    share = made.file_bytes / made.source_bytes
    zeros = made.n_zeros / max(1, made.n_weights)
    stdout.print(
        f"{made.path}: {size(made.file_bytes)}, {share:.1%} of {made.source}; {made.n_packed} "
        f"tensor{'s' * (made.n_packed != 1)} packed; {zeros:.2%} of all {made.n_weights:,} conv "
        "and linear weights are zero"
    )
    if made.compaction is not None:
        stdout.print(made.compaction.sentence())
    if made.opset != made.source_opset:
        stdout.print(f"raised from opset {made.source_opset} to {made.opset}")
    if made.ran:
        equal = "bit-equal" if made.bit_equal else f"within {made.error:.1e} of the largest output"
        stdout.print(f"run on {', '.join(made.ran)}: {equal} on stock onnxruntime", markup=False)
        if made.kernels_error is not None:
            stdout.print(f"on the kernels: within {made.kernels_error:.1e}")
        if made.rounding is not None:
            stdout.print(made.rounding.sentence())
    else:
        stdout.print(
            f"the network was not run, but every weight was compared: {made.why_not}", markup=False
        )
    if not made.preprocessing:
        stdout.print(
            "the file does not record how images are prepared; "
            "if it takes images, give --mean and --std"
        )
    show_notes(made.notes)


def _check(model: Path, *, json: bool) -> None:
    from fggp_deploy.exporters.parity import run_self_test

    from .render import as_json, stdout

    passed = run_self_test(model)
    if json:
        as_json({"path": model, "self_test": passed})
    else:
        for where, good in passed.items():
            stdout.print(f"self-test on {where}: {'passed' if good else 'FAILED'}")
    if not all(passed.values()):
        raise typer.Exit(1)
