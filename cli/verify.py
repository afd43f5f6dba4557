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
    from fggp_deploy.verify.document import Report
    from fggp_deploy.verify.gates import Verdict

_BATCHES = ["1,8"]


@ends_cleanly
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="The .onnx file or .csr folder. Default: the newest in runs/."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The dense parent's ONNX. Default: reference.onnx beside the model."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to measure on, as for prune. Default: the one in the run's config.yaml "
            "beside the model, or a built-in one that the model names."
        ),
    ] = None,
    data_dir: o.DataDir = None,
    skip_unreadable: o.SkipUnreadable = False,
    split_seed: Annotated[
        int | None, typer.Option(help="Of the held-out images. Default: as it was trained with.")
    ] = None,
    workers: o.Workers = None,
    network: o.Network = None,
    trust_code: o.TrustCode = False,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Do not measure accuracy: self-test and speed only.")
    ] = False,
    max_drop: Annotated[
        float | None, typer.Option(help="Gate: top-1 points that may be lost (1.0 = one point).")
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Gate: least ratio of median latencies, dense / this.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Gate: largest file.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Gate: largest median latency of one run.")
    ] = None,
    max_excess_error: Annotated[
        float | None,
        typer.Option(help="Gate: points of mean excess error under corruptions; see --robustness."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Gate: least share of test images answered as the parent does (0.95)."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="YAML file of gates, for CI; a gate given here as an option overrides."),
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
        float, typer.Option(help="Time for latency where gates judge it; a fifth elsewhere.")
    ] = 10.0,
    seed: o.Seed = 0,
    robustness: Annotated[
        str | None,
        typer.Option(
            help="Noise and corruptions too: quick (seconds; a minute or two for large images) or "
            "full (minutes to hours)."
        ),
    ] = None,
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8/--no-int8",
            help="Time and score the dense parent in int8 too, calibrated on training images. "
            "Default: where those come with the test images; --int8 reads them.",
        ),
    ] = None,
    preprocessing_check: Annotated[
        bool,
        typer.Option(
            "--preprocessing-check/--no-preprocessing-check",
            help="Fail a file whose test images score better when prepared in another usual way.",
        ),
    ] = True,
    trusted: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file known to be good, to find the layer that differs when the self-test "
            "fails. Default: the checkpoint beside the model, exported anew (needs torch)."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="A report.json, or its folder: only check that the model is the file it tells of."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of report.html, report.json and report.md; NAME.report.html and so on "
            "for another file than its model.onnx. Default: the model's.",
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Check a deployable file against its parent: logits, accuracy, size, latency, memory.

    Needs no torch. Exit code 1 when the self-test, a parity check, the certificate or a gate
    fails. What was measured is in report.html, for people, and report.json, for machines.
    """
    from fggp_deploy.checkpoints.run_folder import packed
    from fggp_deploy.errors import ConfigError
    from fggp_deploy.measure.evaluation_data import images_for, with_training_images
    from fggp_deploy.verify.gates import Gates
    from fggp_deploy.verify.policy import overridden, read_policy
    from fggp_deploy.verify.report import verify as run
    from fggp_deploy.verify.report import write

    from .networks import torch_network, trusted_network
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
    options: dict[str, Any] = {
        "skip_unreadable": skip_unreadable, "workers": workers, "trust_code": trust_code,
        "split_seed": split_seed,
    }  # fmt: skip
    with working("verifying") as progress:
        reading = {"progress": progress} | {k: v for k, v in options.items() if v is not None}
        loaded = None if no_data else images_for(path, data, data_dir, **reading)
        if int8 and loaded is not None:
            loaded = with_training_images(loaded, path, data, data_dir, **reading)
        report = run(
            path, reference=reference, data=loaded, gates=gates, threads=counts,
            batches=o.integers("--batch", batch), seconds=seconds, seed=seed,
            robustness=robustness, int8=int8 is not False,
            check_preprocessing=preprocessing_check,
            trusted=lambda: trusted_network(
                path, trusted, network=network, trust_code=trust_code
            ),
            torch=lambda: torch_network(path, network=network, trust_code=trust_code),
            progress=progress,
        )  # fmt: skip
    folder = out or path.parent
    written = write(report, folder)
    if json:
        as_json(report.to_dict())
    else:
        show(report, written)
    if not report.passed:
        raise typer.Exit(1)


def show(report: Report, written: Path) -> None:
    """Print the report's figures as one table, and the verdicts."""
    from fggp_deploy.report.sections import glance
    from fggp_deploy.report.words import removed

    from .render import stdout, table

    before = report.sparsity_before_compaction
    how_sparse = removed(report.sparsity, before, "all conv and linear weights")
    table(
        f"{report.model.name}: {how_sparse}",
        ("", "dense parent", "this file", "difference"),
        [(g.what, g.reference, g.model, g.difference) for g in glance(report)],
    )
    for note in report.notes:
        stdout.print(f"note: {note}", markup=False)
    if report.mismatch is not None:
        stdout.print(f"{report.mismatch}.", markup=False)
    show_verdicts(report.verdicts)
    stdout.print(f"{'PASSED' if report.passed else 'FAILED'}; {written}")


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """One line a verdict."""
    from fggp_deploy.report.words import verdict

    from .render import stdout

    for v in verdicts:
        stdout.print(f"{'pass' if v.passed else 'FAIL'}  {verdict(v)}", markup=False)


def recheck(model: Path, report: Path, *, threads: int, json: bool) -> None:
    """Check a delivered file against its report; exit code 1 where it is another one."""
    from fggp_deploy.verify.recheck import recheck as run

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
