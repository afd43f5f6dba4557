"""fggp-deploy verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes
from .groups import with_groups
from .verify_options import DataOptions, GateOptions, MeasurementOptions

if TYPE_CHECKING:
    from fggp_deploy.format.model import SparseModel
    from fggp_deploy.verification.report import Report
    from fggp_deploy.verification.verdict import Verdict


Reference = Annotated[
    Path | None,
    typer.Option(help="The dense model's ONNX. Default: reference.onnx beside the model."),
]
Trusted = Annotated[
    Path | None,
    typer.Option(
        help="A good ONNX file, to find the layer that differs if the self-test fails. "
        "Default: a new export of the checkpoint beside the model (needs torch)."
    ),
]
Check = Annotated[
    Path | None,
    typer.Option(help="A report.json, or its folder; check only whether it describes this model."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder of report.html, report.json and report.md; NAME.report.html and so on "
        "for a file that is not its model.onnx. Default: the model's folder.",
    ),
]


@with_exit_codes
@with_groups
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="The .onnx file or .csr folder. Default: the newest in runs/."),
    ] = None,
    *,
    reference: Reference = None,
    images: DataOptions,
    limits: GateOptions,
    measurement: MeasurementOptions,
    trusted: Trusted = None,
    check: Check = None,
    out: Out = None,
    json: o.Json = False,
) -> None:
    """Check a deployable file against its dense model: logits, accuracy, size, latency, memory.

    Needs no torch. The exit code is 1 if the self-test, a parity check, the certificate or a gate
    fails. The results are in report.html, for people, and in report.json, for machines.
    """
    from fggp_deploy.checkpoints.run_folder import packed
    from fggp_deploy.format.model import SparseModel
    from fggp_deploy.report.files import write_report

    from .render import as_json

    path = packed(model)
    if check is not None:
        recheck(path, check, threads=(measurement.counts() or (1,))[0], json=json)
        return
    opened = SparseModel.open(path)
    if opened.metadata.preprocessing is None:
        verify_any(opened, reference, images, limits, measurement, out=out, json=json)
        return
    report = _measured(opened, reference, images, limits, measurement, trusted)
    written = write_report(report, out or path.parent)
    if json:
        as_json(report.to_dict())
    else:
        show(report, written)
    if not report.passed:
        raise typer.Exit(1)


def verify_any(
    model: SparseModel,
    reference: Path | None,
    images: DataOptions,
    limits: GateOptions,
    measurement: MeasurementOptions,
    *,
    out: Path | None,
    json: bool,
) -> None:
    """Verify a network that is not an image classifier, without data; exit code 1 if it fails."""
    from json import dumps

    from fggp_deploy.common.files import write_atomic
    from fggp_deploy.errors import ConfigError
    from fggp_deploy.verification.any_network import verify_outputs

    from .progress import working
    from .render import as_json, size, stdout, table

    path = model.path
    if images.data:
        raise ConfigError(
            f"{path} does not say how its images are prepared, so --data cannot be measured; give "
            "`pack` its --mean and --std, or leave --data out"
        )
    with working("verifying") as progress:
        found = verify_outputs(
            model, reference=reference, limits=limits.gates(), options=measurement.options(),
            progress=progress,
        )  # fmt: skip
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        written = out / f"{path.name}.outputs.json"
        write_atomic(written, dumps(found.to_dict(), indent=2) + "\n")
    if json:
        as_json(found.to_dict())
    else:
        rows = [
            (name, f"{t.median_ms:.3f} ms", size(c.peak_rss_bytes) if c else "–")
            for name, t in found.latency.timings.items()
            for c in (found.processes.get(name),)
        ]
        table(f"{path}: {size(found.size.file_bytes)}", ("", "median latency", "peak memory"), rows)
        for change in found.changes:
            top1 = "" if change.top1 is None else f", top-1 agrees for {change.top1:.1%}"
            stdout.print(
                f"{change.name} against the dense model: within {change.error:.1e} of the largest, "
                f"cosine {change.cosine:.6f}{top1}",
                markup=False,
            )
        stdout.print(f"inputs: {', '.join(found.inputs)}; {found.latency.plan}", markup=False)
        for note in found.notes:
            stdout.print(f"note: {note}", markup=False)
        show_verdicts(found.verdicts)
        if out is not None:
            stdout.print(f"written to {written}", markup=False)
        stdout.print("PASSED" if found.passed else "FAILED")
    if not found.passed:
        raise typer.Exit(1)


def _measured(
    model: SparseModel,
    reference: Path | None,
    images: DataOptions,
    limits: GateOptions,
    measurement: MeasurementOptions,
    trusted: Path | None,
) -> Report:
    """Verify a file, with a progress bar."""
    from fggp_deploy.verification.verify import verify as run

    from .networks import OriginalNetwork
    from .progress import working

    gates, options = limits.gates(), measurement.options()
    path = model.path
    original = OriginalNetwork(
        path, trusted=trusted, network=images.network, trust_code=images.trust_code
    )
    with working("verifying") as progress:
        return run(
            model,
            reference=reference,
            data=images.load(path, training_images=measurement.int8 is True, progress=progress),
            gates=gates,
            options=options,
            original=original,
            progress=progress,
        )


def show(report: Report, written: Path) -> None:
    """Print the report's figures as one table, then the notes and verdicts."""
    from fggp_deploy.report.sections import glance
    from fggp_deploy.report.words import removed

    from .render import stdout, table

    before = report.sparsity_before_compaction
    how_sparse = removed(report.sparsity, before, "all conv and linear weights")
    table(
        f"{report.model.name}: {how_sparse}",
        ("", "dense model", "this file", "difference"),
        [(g.what, g.reference, g.model, g.difference) for g in glance(report)],
    )
    for note in report.notes:
        stdout.print(f"note: {note}", markup=False)
    if report.mismatch is not None:
        stdout.print(f"{report.mismatch}.", markup=False)
    show_verdicts(report.verdicts)
    stdout.print(f"{'PASSED' if report.passed else 'FAILED'}; {written}")


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print one line per verdict."""
    from fggp_deploy.report.words import verdict

    from .render import stdout

    for v in verdicts:
        stdout.print(f"{'pass' if v.passed else 'FAIL'}  {verdict(v)}", markup=False)


def recheck(model: Path, report: Path, *, threads: int, json: bool) -> None:
    """Check a delivered file against its report; the exit code is 1 if it is a different file."""
    from fggp_deploy.verification.recheck import recheck as run

    from .render import as_json, stdout

    verdicts = run(model, report, threads=threads)
    passed = all(v.passed for v in verdicts)
    if json:
        as_json({"passed": passed, "verdicts": [asdict(v) for v in verdicts]})
    else:
        show_verdicts(verdicts)
        stdout.print(f"{'PASSED' if passed else 'FAILED'}: {model} against {report}", markup=False)
    if not passed:
        raise typer.Exit(1)
