"""fggp-deploy export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups

if TYPE_CHECKING:
    from fggp_deploy.exporters.exported import Exported
    from fggp_deploy.exporters.options import ExportOptions, ImageOptions


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """How the file stores the network."""

    format: Annotated[
        str,
        typer.Option(
            help="onnx (packed, one file), onnx-dense (zeros stored), csr (scipy), state-dict "
            "(for your own torch code), onnx-sparse (sparse_initializer: larger than onnx, and "
            "many tools fail on it)."
        ),
    ] = "onnx"
    flat: Annotated[
        bool,
        typer.Option(
            "--flat", help="onnx: inline our functions, for tools that do not support functions."
        ),
    ] = False
    regions: Annotated[
        bool,
        typer.Option(
            "--regions",
            help="onnx: write connected layers as single nodes: full speed for any program that "
            "registers the kernels, without `compile`; a little larger.",
        ),
    ] = False
    values: Annotated[
        str,
        typer.Option(
            help="onnx: fp32, fp16 or int8 (smaller; the effect on the outputs is measured)."
        ),
    ] = "fp32"
    activations: Annotated[
        str,
        typer.Option(
            help="onnx: fp32, or int8 to quantize activations too, with ranges from training "
            "images. This is fastest on the kernels, for networks pruned with --pattern 1x4."
        ),
    ] = "fp32"
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="Remove the channels that became dead; outputs stay the same."
        ),
    ] = False
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set whose training images set the ranges of activations. Default: the run's."
        ),
    ] = None
    data_dir: o.DataDir = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The network of the weights, and the preprocessing that they do not record."""

    network: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="For weights pruned elsewhere: the network, as for prune. For a run: your own "
            "FILE.py:FACTORY, if the file has moved.",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(
            help="For weights pruned elsewhere: width and height of the images in pixels."
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="For weights pruned elsewhere: mean of the pixels in 0..1 per channel, such as "
            "0.5,0.5,0.5."
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            help="For weights pruned elsewhere: standard deviation of the pixels per channel."
        ),
    ] = None
    classes: Annotated[
        Path | None,
        typer.Option(help="For weights pruned elsewhere: text file with one class name per line."),
    ] = None
    trust_code: o.TrustCode = False

    def images(self) -> ImageOptions:
        """The options about the images; raises ConfigError."""
        from fggp_deploy.exporters.options import ImageOptions

        return ImageOptions(
            classes=o.lines("--classes", self.classes) if self.classes is not None else None,
            image_size=self.image_size,
            mean=o.numbers("--mean", self.mean) if self.mean is not None else None,
            std=o.numbers("--std", self.std) if self.std is not None else None,
        )


@with_exit_codes
@with_groups
def export(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run folder or its checkpoint, or weights that were pruned elsewhere (give "
            "--model). Default: the newest run in runs/."
        ),
    ] = None,
    *,
    stored: StorageOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: beside the checkpoint."),
    ] = None,
    source: SourceOptions,
    json: o.Json = False,
) -> None:
    """Export a pruned checkpoint as a file to deploy, and its dense model as reference.onnx.

    Weights that were pruned elsewhere need neither data nor training:
    export FILE --model resnet20 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26

    The file runs on any ONNX Runtime from 1.20. It contains a self-test: generated inputs and
    the logits that they must give.
    """
    from fggp_deploy.exporters.options import ExportOptions

    from .render import as_json

    options = ExportOptions(
        **vars(stored), out=out, network=source.network, images=source.images(),
        trust_code=source.trust_code,
    )  # fmt: skip
    result = _exported(run, options)
    if json:
        as_json(result)
    else:
        show(result)


def _exported(run: Path | None, options: ExportOptions) -> Exported:
    """Export a run, by default the newest, with a progress bar."""
    from fggp_deploy.checkpoints.run_folder import PRUNED, checkpoint_in, newest

    from .progress import working

    checkpoint = run or newest(PRUNED)
    if checkpoint.is_dir():
        checkpoint = checkpoint_in(checkpoint)
    with working("exporting") as progress:
        from fggp_deploy.exporters.run import export_run

        return export_run(checkpoint, options, progress=progress)


def show(result: Exported) -> None:
    """Print what was written, and how far its outputs are from the network's."""
    from fggp_deploy.errors import command

    from .render import show_notes, size, stdout

    stdout.print(f"{result.path}: {size(result.file_bytes)}, sparsity {result.sparsity:.2%}")
    if result.reference is not None and result.reference_bytes:
        share = result.file_bytes / result.reference_bytes
        stdout.print(
            f"{result.reference}: {size(result.reference_bytes)}, the dense model that "
            f"verify compares with. The exported file is {share:.2%} of it"
        )
    if result.compaction is not None:
        stdout.print(result.compaction.sentence())
        if result.compaction.n_removed:
            verify = command("fggp-deploy", "verify", result.path)
            stdout.print(f"{verify} measures the gain")
    stdout.print(f"self-test under onnxruntime: logits within {result.self_test_error:.1e}")
    show_notes(result.notes)
