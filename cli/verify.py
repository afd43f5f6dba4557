"""fggp-deploy verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .endings import ends_cleanly

if TYPE_CHECKING:
    from fggp_deploy.verify.report import Report


@ends_cleanly
def verify(
    model: Annotated[
        Path | None,
        typer.Argument(help="The .onnx file or .csr folder. Default: the newest run's."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The dense parent's ONNX. Default: reference.onnx beside the model."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to measure on, as for prune. Default: the one it was made with, from "
            "config.yaml beside the model where there is one."
        ),
    ] = None,
    data_dir: o.DataDir = None,
    skip_unreadable: o.SkipUnreadable = False,
    split_seed: Annotated[
        int | None, typer.Option(help="Of the held-out images. Default: as it was trained with.")
    ] = None,
    workers: o.Workers = None,
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
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Gates judge the bad end of the 95% interval instead."),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads of ONNX Runtime. Default: the physical cores.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a timed run.")] = 1,
    seconds: Annotated[float, typer.Option(help="Time to spend on latency.")] = 10.0,
    seed: o.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of report.json and report.md. Default: the model's.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Check a deployable file against its parent: logits, accuracy, size, latency, memory.

    Needs no torch. Exit code 1 when the self-test, the parity check or a gate fails.
    """
    from fggp_deploy.errors import ConfigError
    from fggp_deploy.folder import PACKED, newest
    from fggp_deploy.verify.gates import Gates
    from fggp_deploy.verify.material import images_for
    from fggp_deploy.verify.report import verify as run
    from fggp_deploy.verify.report import write

    from .progress import working
    from .render import as_json

    if no_data and data:
        raise ConfigError("--data and --no-data exclude each other")
    path = model or newest(PACKED)
    if path.is_dir() and (path / PACKED).is_file():
        path = path / PACKED
    gates = Gates(max_drop, min_speedup, max_bytes, max_latency_ms, strict)
    options: dict[str, Any] = {
        "skip_unreadable": skip_unreadable, "workers": workers, "trust_code": trust_code,
        "split_seed": split_seed,
    }  # fmt: skip
    with working("verifying") as progress:
        loaded = (
            None
            if no_data
            else images_for(
                path, data, data_dir, progress=progress, **{k: v for k, v in options.items() if v}
            )
        )
        report = run(
            path, reference=reference, data=loaded, gates=gates, threads=threads, batch=batch,
            seconds=seconds, seed=seed, progress=progress,
        )  # fmt: skip
    folder = out or path.parent
    write(report, folder)
    if json:
        as_json(report.to_dict())
    else:
        show(report, folder)
    if not report.passed:
        raise typer.Exit(1)


def show(report: Report, folder: Path) -> None:
    """Print the report's figures as one table, and the verdicts."""
    from .render import stdout, table

    table(
        f"{report.model.name}: {report.sparsity:.2%} of all conv and linear weights removed",
        ("", "dense parent", "this file", "difference"),
        figures(report),
    )
    for note in report.notes:
        stdout.print(f"note: {note}")
    for v in report.verdicts:
        sign = "pass" if v.passed else "FAIL"
        stdout.print(f"{sign}  {v.name}: {v.value:.4g} {v.unit}, limit {v.limit:.4g} ({v.how})")
    stdout.print(f"{'PASSED' if report.passed else 'FAILED'}; {folder / 'report.md'}")


def figures(report: Report) -> list[tuple[str, str, str, str]]:
    """Rows of (what, dense parent, this file, difference), "–" for what was not measured."""
    from .render import size

    rows = []
    if (a := report.accuracy) is not None:
        top1 = a.model.top1
        drop = a.paired
        rows.append(
            (
                f"top-1, {a.data} {a.split}, n = {a.n:,}",
                f"{a.reference.top1.value:.2%}" if a.reference else "–",
                f"{top1.value:.2%} [{top1.low:.2%}, {top1.high:.2%}]",
                f"{-drop.drop_points:+.2f} points, p = {drop.p_value:.2g}" if drop else "–",
            )
        )
    if (rounded := report.rounding) is not None:
        pair = report.rounding_paired
        rows.append(
            (
                "fp16 values against fp32",
                "",
                f"logits within {rounded.max_rel:.1e} of the largest",
                f"{0 - pair.drop_points:+.2f} points, {pair.agreement.value:.2%} agree"
                if pair
                else f"top-1 of {rounded.n - rounded.top1_changed} of {rounded.n} the same",
            )
        )
    parent_bytes = report.size.reference_bytes
    rows.append(
        (
            "file",
            size(parent_bytes) if parent_bytes else "–",
            size(report.size.file_bytes),
            f"{parent_bytes / report.size.file_bytes:.1f}× smaller" if parent_bytes else "–",
        )
    )
    times, speedup = report.latency.timings, report.latency.speedups.get("model")
    faster = "–"
    if speedup is not None:
        word = "" if speedup.measured else ", no difference"
        faster = f"{speedup.value:.2f}× [{speedup.low:.2f}, {speedup.high:.2f}]{word}"
    rows.append(
        (
            f"median latency, batch {report.latency.batch}, {report.latency.threads} threads",
            f"{times['reference'].median_ms:.3f} ms" if "reference" in times else "–",
            f"{times['model'].median_ms:.3f} ms",
            faster,
        )
    )
    if "kernels" in times:
        fast = report.latency.speedups.get("kernels")
        rows.append(
            (
                "the same on the sparse kernels",
                "",
                f"{times['kernels'].median_ms:.3f} ms",
                f"{fast.value:.2f}× [{fast.low:.2f}, {fast.high:.2f}]" if fast else "–",
            )
        )
    costs = report.processes
    parent = costs.get("reference")
    for contender, what in (("model", ""), ("kernels", " on the sparse kernels")):
        if (cost := costs.get(contender)) is not None:
            rows += [
                (
                    f"load time{what}",
                    f"{parent.load_ms:.0f} ms" if parent else "–",
                    f"{cost.load_ms:.0f} ms",
                    "–",
                ),
                (
                    f"peak memory of a process{what}",
                    size(parent.peak_rss_bytes) if parent else "–",
                    size(cost.peak_rss_bytes),
                    "–",
                ),
            ]
    return rows
