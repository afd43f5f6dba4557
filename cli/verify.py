"""fggp-deploy verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .endings import ends_cleanly

if TYPE_CHECKING:
    from fggp_deploy.verification.report import Report
    from fggp_deploy.verification.verdict import Verdict

_BATCHES = ["1,8"]


@ends_cleanly
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="The .onnx file or .csr folder. Default: the newest in runs/."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The dense model's ONNX. Default: reference.onnx beside the model."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to measure on, as for prune. Default: the one in the run's config.yaml "
            "beside the model, or a built-in data set that the model names."
        ),
    ] = None,
    data_dir: o.DataDir = None,
    skip_unreadable: o.SkipUnreadable = False,
    split_seed: Annotated[
        int | None,
        typer.Option(help="Seed of the held-out images. Default: that of the training run."),
    ] = None,
    workers: o.Workers = None,
    network: o.Network = None,
    trust_code: o.TrustCode = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Do not measure accuracy: self-test and speed only.")
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Gate: largest loss of top-1 accuracy in points (1.0 = one point)."),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(help="Gate: smallest ratio of median latencies, dense / this file."),
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Gate: largest file.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Gate: largest median latency of one run.")
    ] = None,
    max_excess_error: Annotated[
        float | None,
        typer.Option(help="Gate: largest mean excess error under corruptions; see --robustness."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Gate: smallest share of test images predicted as by the dense model (0.95)."
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="YAML file of gates, for CI; a gate given as an option overrides it."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Gates judge the bad end of the 95% interval instead."),
    ] = False,
    threads: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Threads of ONNX Runtime, as 4,1; gates judge the first. Default: the physical "
            "cores, and 1.",
        ),
    ] = None,
    batch: Annotated[
        list[str],
        typer.Option(
            metavar=o.NUMBERS, help="Images in a timed run, as 1,8; gates judge the first."
        ),
    ] = _BATCHES,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds to time the setting that gates judge; a fifth for each other one."
        ),
    ] = 10.0,
    seed: o.Seed = 0,
    robustness: Annotated[
        str | None,
        typer.Option(
            help="Also measure noise and corruptions: quick (seconds; a minute or two for large "
            "images) or full (minutes to hours)."
        ),
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8/--no-int8",
            help="Also measure the dense int8 baseline, calibrated on training images. Default: if "
            "those come with the test images; --int8 reads them.",
        ),
    ] = None,
    preprocessing_check: Annotated[
        bool,
        typer.Option(
            "--preprocessing-check/--no-preprocessing-check",
            help="Fail a file whose test images score better with another common preprocessing.",
        ),
    ] = True,
    trusted: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file known to be good, to find the layer that differs when the self-test "
            "fails. Default: a new export of the checkpoint beside the model (needs torch)."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="A report.json, or its folder: only check that it describes this model."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of report.html, report.json and report.md; NAME.report.html and so on "
            "for a file that is not its model.onnx. Default: the model's folder.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Check a deployable file against its dense model: logits, accuracy, size, latency, memory.

    Needs no torch. The exit code is 1 if the self-test, a parity check, the certificate or a gate
    fails. The results are in report.html, for people, and in report.json, for machines.
    """
    from fggp_deploy.checkpoints.run_folder import packed
    from fggp_deploy.errors import ConfigError
    from fggp_deploy.measure.evaluation_data import images_for, with_training_images
    from fggp_deploy.report.files import write_report
    from fggp_deploy.verification.gates import Gates
    from fggp_deploy.verification.options import VerifyOptions
    from fggp_deploy.verification.policy import overridden, read_policy
    from fggp_deploy.verification.verify import verify as run

    from .networks import OriginalNetwork
    from .progress import working
    from .render import as_json

    if no_data and data:
        raise ConfigError("--data and --no-data exclude each other")
    path = packed(model)
    counts = o.integers("--threads", threads) if threads else None
    if check is not None:
        recheck(path, check, threads=counts[0] if counts else 1, json=json)
        return
    gates = Gates(
        max_drop, min_speedup, max_bytes, max_latency_ms, max_excess_error, min_agreement, strict
    )
    if policy is not None:
        gates = overridden(read_policy(policy), gates)
    reading: dict[str, Any] = {
        "skip_unreadable": skip_unreadable, "workers": workers, "trust_code": trust_code,
        "split_seed": split_seed,
    }  # fmt: skip
    reading = {k: v for k, v in reading.items() if v is not None}
    options = VerifyOptions(
        threads=counts, batches=o.integers("--batch", batch), seconds=seconds, seed=seed,
        robustness=robustness, int8=int8 is not False, check_preprocessing=preprocessing_check,
    )  # fmt: skip
    original = OriginalNetwork(path, trusted=trusted, network=network, trust_code=trust_code)
    with working("verifying") as progress:
        loaded = None
        if not no_data:
            loaded = images_for(path, data, data_dir, progress=progress, **reading)
        if int8 and loaded is not None:
            loaded = with_training_images(
                loaded, path, data, data_dir, progress=progress, **reading
            )
        report = run(
            path, reference=reference, data=loaded, gates=gates, options=options,
            original=original, progress=progress,
        )  # fmt: skip
    folder = out or path.parent
    written = write_report(report, folder)
    if json:
        as_json(report.to_dict())
    else:
        show(report, written)
    if not report.passed:
        raise typer.Exit(1)


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
