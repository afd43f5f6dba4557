"""fggp-deploy bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups

if TYPE_CHECKING:
    from fggp_deploy.analysis.bench.options import BenchOptions
    from fggp_deploy.analysis.bench.report import BenchReport, ContenderTiming, KernelLayers


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What is timed, and for how long."""

    threads: Annotated[
        list[str], typer.Option(metavar=o.NUMBERS, help="Threads of ONNX Runtime, such as 1,2.")
    ] = field(default_factory=lambda: ["1"])
    batch: Annotated[
        list[str], typer.Option(metavar=o.NUMBERS, help="Images per run, such as 1,8.")
    ] = field(default_factory=lambda: ["1"])
    layers: Annotated[
        bool, typer.Option("--layers", help="Also measure the time per layer, on one thread.")
    ] = False
    by_density: Annotated[
        bool,
        typer.Option(
            "--table",
            help="Measure instead the time per layer on the kernels at densities from 1% to 100%, "
            "with random masks, on one thread.",
        ),
    ] = False
    int8: Annotated[
        bool,
        typer.Option("--int8/--no-int8", help="Also time the dense int8 baseline of ONNX Runtime."),
    ] = True
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Sizes for the open dimensions of the input after the batch, such as 3,224,224.",
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(help="Images that calibrate int8. Default: the data that the file names."),
    ] = None
    data_dir: o.DataDir = None
    seconds: Annotated[float, typer.Option(help="Seconds per setting.")] = 6.0
    sessions: Annotated[
        int,
        typer.Option(
            help="Fresh sessions of each contender, at least 6; the intervals are over them."
        ),
    ] = 10
    seed: o.Seed = 0

    def options(self) -> BenchOptions:
        """The options in the library's form; raises ConfigError."""
        from fggp_deploy.analysis.bench.options import BenchOptions

        return BenchOptions(
            threads=o.integers("--threads", self.threads),
            batches=o.integers("--batch", self.batch),
            layers=self.layers,
            int8=self.int8,
            shape=o.integers("--shape", self.shape) if self.shape else None,
            data=self.data,
            data_dir=self.data_dir,
            seconds=self.seconds,
            sessions=self.sessions,
            seed=self.seed,
        )


@with_exit_codes
@with_groups
def bench(
    model: Annotated[
        Path | None,
        typer.Argument(help="Any .onnx file, or a run folder. Default: the newest model in runs/."),
    ] = None,
    *,
    measurement: BenchSettings,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write the JSON report to.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Time a model in four ways: dense fp32, packed, on the sparse kernels, and dense int8.

    All run inside ONNX Runtime with the same options, interleaved, each in fresh sessions. Dense is
    the model itself; its zeros are multiplied like any other weight. A ratio above 1 is faster than
    dense; if its 95% interval contains 1, no difference was measured. Takes any ONNX file.

    Example:  fggp-deploy bench model.onnx --threads 1,2 --batch 1,8 --layers
    """
    from fggp_deploy.checkpoints.run_folder import packed

    from .render import as_json

    path = packed(model)
    if measurement.by_density:
        return _table(path, out=out, json=json)
    report = _measured(path, measurement.options())
    if out is not None:
        _write(out, report.to_dict())
    return as_json(report.to_dict()) if json else show(report)


def _measured(path: Path, options: BenchOptions) -> BenchReport:
    """Time a model, with a progress bar."""
    from fggp_deploy.analysis.bench.benchmark import bench as run

    from .progress import working

    with working("benchmarking") as progress:
        return run(path, options, progress=progress)


def _write(out: Path, found: Any) -> None:
    from fggp_deploy.common.files import write_atomic

    from .render import json_text

    write_atomic(out, json_text(found) + "\n")


def _table(path: Path, *, out: Path | None, json: bool) -> None:
    from fggp_deploy.analysis.bench.cost_table import table_of

    from .progress import working
    from .render import as_json, stdout, table

    with working("timing") as progress:
        found = table_of(path, progress=progress)
    if out is not None:
        _write(out, found)
    if json:
        return as_json(found)
    table(
        f"{path.name}: ms per layer on {found.isa}, one thread, by density",
        ("layer", *(f"{d:.0%}" for d in found.densities)),
        [(name, *(f"{ms:.3f}" for ms in row)) for name, row in found.layers.items()],
    )
    stdout.print(
        f"layers without weights {found.rest_ms:.3f} ms; all of it dense {found.dense_ms:.3f} ms"
    )
    return None


def show(report: BenchReport) -> None:
    """Print the machine, one table per setting, the layers, and the notes."""
    from fggp_deploy.measure.latency import setting

    from .render import size, stdout, table

    hardware, m = report.provenance.hardware, report.machine
    stdout.print(
        f"{hardware['cpu']} ({', '.join(hardware['features'])}), {m.usable_cores} cores; kernels "
        f"for {report.isa or 'none'}; onnxruntime {report.provenance.versions['onnxruntime']}; "
        f"load average {m.load_average} before, {report.load_average_after} after"
    )
    table(
        report.model,
        ("contender", "bytes", "top-1", "same as dense"),
        [
            (
                f"{r.name}: {r.what}",
                size(r.file_bytes),
                f"{r.scored.top1.value:.1%} of {r.scored.top1.n:,}" if r.scored else "–",
                f"{r.scored.agreement.value:.1%}" if r.scored else "–",
            )
            for r in report.rivals
        ],
    )
    for planned in report.plans:
        cells = [
            c for c in report.cells if (c.threads, c.batch) == (planned.threads, planned.batch)
        ]
        table(
            setting(planned.threads, planned.batch),
            ("contender", "median ms", "90% ms", "ratio to dense"),
            map(_row, cells),
        )
        stdout.print(f"runtime.session: {planned.plan}", markup=False)
    if report.layers is not None:
        _show_layers(report.layers)
    for note in report.notes:
        stdout.print(f"note: {note}", markup=False)


def _row(c: ContenderTiming) -> tuple[str, str, str, str]:
    from fggp_deploy.report.words import ratio

    t = c.timing
    return c.contender, f"{t.median_ms:.3f}", f"{t.p90_ms:.3f}", ratio(c.speedup)


def _show_layers(found: KernelLayers) -> None:
    from .render import stdout, table

    if not found.layers:
        stdout.print(f"layers were not timed: {found.plan}", markup=False)
        return
    table(
        "layers on one thread, with what is fused into them",
        ("layer", "shape", "density", "MACs", "dense ms", "kernel ms", "kernel", "ratio"),
        [
            (
                f"{layer.op} {layer.name}",
                "×".join(map(str, layer.shape)) or "–",
                f"{layer.density:.1%}" if layer.shape else "–",
                f"{layer.macs:,}" if layer.macs else "–",
                f"{layer.dense_us / 1000:.3f}" if layer.dense_us else "–",
                f"{layer.kernels_us / 1000:.3f}",
                layer.variant if layer.on_kernels else "left to ORT",
                f"{layer.dense_us / layer.kernels_us:.2f}"
                if layer.dense_us and layer.kernels_us
                else "–",
            )
            for layer in found.layers
        ],
    )
    stdout.print(f"plan: {found.plan}", markup=False)
