"""The options of fggp-deploy verify, in groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fggp_deploy.errors import ConfigError

from . import options as o

if TYPE_CHECKING:
    from fggp_deploy.common.progress import Progress
    from fggp_deploy.data.types import Dataset
    from fggp_deploy.verification.gates import Gates
    from fggp_deploy.verification.options import VerifyOptions


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data set for accuracy, and what is needed to open it."""

    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to measure on, as for prune. Default: the one in the run's config.yaml "
            "beside the model, or a built-in data set that the model names."
        ),
    ] = None
    data_dir: o.DataDir = None
    skip_unreadable: o.SkipUnreadable = False
    split_seed: Annotated[
        int | None,
        typer.Option(help="Seed of the held-out images. Default: that of the training run."),
    ] = None
    workers: o.Workers = None
    network: o.Network = None
    trust_code: o.TrustCode = False
    no_data: Annotated[
        bool,
        typer.Option("--no-data", help="Measure no accuracy; check only the self-test and speed."),
    ] = False

    def __post_init__(self) -> None:
        if self.no_data and self.data:
            raise ConfigError("--data and --no-data exclude each other")

    def load(self, model: Path, *, training_images: bool, progress: Progress) -> Dataset | None:
        """The images for a file, None without data; `training_images`: read those too."""
        from fggp_deploy.measure.evaluation_data import images_for, with_training_images

        if self.no_data:
            return None
        given = {
            "skip_unreadable": self.skip_unreadable, "workers": self.workers,
            "trust_code": self.trust_code, "split_seed": self.split_seed, "progress": progress,
        }  # fmt: skip
        options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        found = images_for(model, self.data, self.data_dir, **options)
        if training_images and found is not None:
            return with_training_images(found, model, self.data, self.data_dir, **options)
        return found


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """The gates, and the file from which the others are read."""

    max_drop: Annotated[
        float | None,
        typer.Option(help="Gate: largest loss of top-1 accuracy in percentage points."),
    ] = None
    min_speedup: Annotated[
        float | None,
        typer.Option(help="Gate: smallest ratio of median latencies, dense / this file."),
    ] = None
    max_bytes: Annotated[
        int | None, typer.Option(help="Gate: largest size of the file in bytes.")
    ] = None
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Gate: largest median latency of one run.")
    ] = None
    max_excess_error: Annotated[
        float | None,
        typer.Option(help="Gate: largest mean excess error under corruptions; see --robustness."),
    ] = None
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Gate: smallest share of test images predicted as by the dense model (0.95)."
        ),
    ] = None
    policy: Annotated[
        Path | None,
        typer.Option(help="YAML file of gates, for CI; a gate given as an option overrides it."),
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Gates judge the worse end of the 95% interval instead of the estimate.",
        ),
    ] = False

    def gates(self) -> Gates:
        """The gates of the policy, if there is one, and of the options."""
        from fggp_deploy.verification.gates import GATES, Gates
        from fggp_deploy.verification.policy import overridden, read_policy

        limits = {gate.name: getattr(self, gate.option) for gate in GATES}
        given = Gates(**limits, strict=self.strict)
        return given if self.policy is None else overridden(read_policy(self.policy), given)


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions:
    """What is measured, and for how long."""

    threads: Annotated[
        list[str] | None,
        typer.Option(
            metavar=o.NUMBERS,
            help="Threads of ONNX Runtime, such as 4,1; gates judge the first. Default: the "
            "physical cores, and 1.",
        ),
    ] = None
    batch: Annotated[
        list[str],
        typer.Option(
            metavar=o.NUMBERS, help="Images per timed run, such as 1,8; gates judge the first."
        ),
    ] = field(default_factory=lambda: ["1,8"])
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds to time the setting that gates judge; every other setting gets a fifth."
        ),
    ] = 10.0
    seed: o.Seed = 0
    robustness: Annotated[
        str | None,
        typer.Option(
            help="Also measure noise and corruptions: quick (seconds; a minute or two for large "
            "images) or full (minutes to hours)."
        ),
    ] = None
    corruptions: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Use published corrupted test images for --robustness, such as a folder "
            "CIFAR-10-C; full then measures all of them, as papers do.",
        ),
    ] = None
    int8: Annotated[
        bool | None,
        typer.Option(
            "--int8/--no-int8",
            help="Also measure the dense int8 baseline, calibrated on training images. Default: if "
            "those come with the test images; --int8 reads them.",
        ),
    ] = None
    preprocessing_check: Annotated[
        bool,
        typer.Option(
            "--preprocessing-check/--no-preprocessing-check",
            help="Fail a file if its accuracy is higher with another common preprocessing.",
        ),
    ] = True

    def counts(self) -> tuple[int, ...] | None:
        """The numbers of threads; None for the default."""
        return o.integers("--threads", self.threads) if self.threads else None

    def options(self) -> VerifyOptions:
        """The options in the library's form; raises ConfigError."""
        from fggp_deploy.verification.options import VerifyOptions

        return VerifyOptions(
            threads=self.counts(),
            batches=o.integers("--batch", self.batch),
            seconds=self.seconds,
            seed=self.seed,
            robustness=self.robustness,
            corruptions=self.corruptions,
            int8=self.int8 is not False,
            check_preprocessing=self.preprocessing_check,
        )
