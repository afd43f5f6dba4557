"""fggp-deploy compile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.runtime.compile_to_file import CompiledFile


@with_exit_codes
def compile(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="A packed .onnx file, or any with many zeros. Default: the newest model in runs/."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: NAME.compiled.onnx beside it."),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime to tune for.")] = 1,
    batch: Annotated[
        int, typer.Option(help="Images per run to tune for; the file accepts any number.")
    ] = 1,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Tune the kernels on this machine, and write only regions that are faster on it. "
            "--no-measure takes the cost model's choice, as for another machine.",
        ),
    ] = True,
    seconds: Annotated[float, typer.Option(help="Time to spend on tuning.")] = 5.0,
    json: o.Json = False,
) -> None:
    """Write a model in which connected layers are single nodes for the sparse kernels.

    A program in any language that registers the kernels' library runs the file as fast as
    runtime.session, without planning at its start. Without the library, each node runs as the
    layers that it replaces, on any ONNX Runtime from 1.20. Both ways are checked.

    Example:  fggp-deploy compile model.onnx -o fast.onnx --threads 2
    """
    from fggp_deploy.checkpoints.run_folder import packed
    from fggp_deploy.runtime.compile_to_file import compile_file
    from fggp_deploy.verification.report_files import set_aside_report

    from .progress import working
    from .render import as_json

    path = packed(model)
    with working("compiling") as progress:
        made = compile_file(
            path, out, threads=threads, batch=batch, measure=measure, seconds=seconds,
            progress=progress,
        )  # fmt: skip
    old_report = set_aside_report(made.path)
    if json:
        as_json(made)
    else:
        show(made, old_report)


def show(made: CompiledFile, old_report: Path | None) -> None:
    """Print what was compiled, how it was checked, and the new name of an earlier report."""
    from .render import size, stdout

    gain = "not measured" if made.speedup is None else f"at least {made.speedup:.2f} times dense"
    stdout.print(
        f"{made.path}: {size(made.file_bytes)} ({made.source.name}: {size(made.source_bytes)})\n"
        f"{made.layers} layers in {made.regions} region{'s' * (made.regions != 1)} for {made.isa} "
        f"({made.cpu}), threads {made.threads}, batch {made.batch}: {gain}"
    )
    if made.left:
        stdout.print(f"these run on ONNX Runtime: {', '.join(made.left)}", markup=False)
    on = "its self-test passes" if made.self_test else "on noise (it has no self-test)"
    stdout.print(
        f"{on}: within {made.stock_error:.1e} of the source's largest output on stock "
        f"onnxruntime, {made.kernels_error:.1e} on the kernels"
    )
    if old_report is not None:
        stdout.print(f"note: the report of the file that was here before is {old_report.name} now")
