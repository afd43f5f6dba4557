"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.rules import RULES

NUMBERS = "N,N"  # how help shows what `numbers` and `integers` read


def _help(key: str, **settings: Any) -> Any:
    return typer.Option(help=RULES[key].help, **settings)


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
DataName = Annotated[str, typer.Option("--data", help=RULES["data"].help)]
DataDir = Annotated[Path | None, _help("data_dir")]
ImageSize = Annotated[int | None, _help("image_size")]
Resize = Annotated[int | None, _help("resize")]
Augment = Annotated[str, _help("augment")]
Flip = Annotated[bool | None, typer.Option("--flip/--no-flip", help=RULES["flip"].help)]
Stream = Annotated[bool | None, typer.Option("--stream/--no-stream", help=RULES["stream"].help)]
Workers = Annotated[int | None, _help("workers")]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help=RULES["skip_unreadable"].help)
]
SplitSeed = Annotated[int, _help("split_seed")]
Model = Annotated[str, _help("model")]
Network = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The network, if it is your own FILE.py:FACTORY and the file has moved since.",
    ),
]
Checkpoint = Annotated[Path | None, _help("checkpoint")]
Weights = Annotated[str | None, _help("weights")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help=RULES["trust_code"].help)]
Epochs = Annotated[int, _help("epochs")]
BatchSize = Annotated[int, _help("batch_size")]
Lr = Annotated[float, _help("lr")]
LrSchedule = Annotated[str, _help("lr_schedule")]
Warmup = Annotated[float, _help("warmup_epochs")]
WeightDecay = Annotated[float, _help("weight_decay")]
LabelSmoothing = Annotated[float, _help("label_smoothing")]
Ema = Annotated[float, _help("ema")]
AverageEpochs = Annotated[float, _help("average_epochs")]
Ensemble = Annotated[int, _help("ensemble")]
BnImages = Annotated[int, _help("bn_images")]
Seed = Annotated[int, _help("seed")]
Device = Annotated[str, _help("device")]
Precision = Annotated[str, _help("precision")]
Compile = Annotated[bool, typer.Option("--compile", help=RULES["compile"].help)]
SaveEvery = Annotated[float, typer.Option(metavar="MINUTES", help=RULES["save_every"].help)]
PruneFirst = Annotated[bool, typer.Option("--prune-first", help=RULES["prune_first"].help)]
KeepDense = Annotated[list[str] | None, _help("keep_dense")]
Mean = Annotated[list[str] | None, _help("mean", metavar=NUMBERS)]
Std = Annotated[list[str] | None, _help("std", metavar=NUMBERS)]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file of options; a run's config.yaml repeats that run."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any option by its key in a YAML file."),
]
MethodSet = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help=RULES["method_set"].help)
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Where to write; by default a new folder in runs/."),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The run's folder; by default a new one in runs/. One that holds a run that was cut "
        "goes on with that run: its own options hold, and none may differ.",
    ),
]

_LISTS = ("target", "mean", "std")
_DECIMAL_COMMAS = re.compile(
    r"0,\d+(,0,\d+)*"
)  # 0,9: no list of ours holds a 0 and a larger number


def which_data(config: TrainConfig) -> str:
    """The line that names a run's data set, and says so if it is the default one."""
    default = ", the default; give --data for another" if config.data == TrainConfig.data else ""
    return f"data: {config.data}{default}"


def given(ctx: typer.Context) -> dict[str, Any]:
    """The options of a run that stand on the command line, in their own types."""
    read: dict[str, Any] = {}
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        if name not in RULES or source is None or source.name != "COMMANDLINE":
            continue
        if name in _LISTS:
            value = numbers(f"--{name}", value)
            value = value[0] if name == "target" and len(value) == 1 else value
        if name == "method_set":
            value = settings("--method-set", value)
        read[name] = tuple(value) if isinstance(value, list) else value
    return read


def settings(name: str, texts: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE texts, values as in YAML; raises ConfigError."""
    from fggp_deploy.common.yaml_files import parse_yaml
    from fggp_deploy.errors import ConfigError

    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{name} takes key=value, got {text!r:.100}")
        values[key.strip()] = parse_yaml(value, what=f"the value of {name} {text!r:.100}")
    return dict(RULES[name.strip("-").replace("-", "_")].read(name.strip("-"), values))


def numbers(name: str, given: str | Sequence[str]) -> tuple[float, ...]:
    """Read comma-separated numbers, of one option or of all its repetitions; raises ConfigError."""
    from fggp_deploy.errors import ConfigError

    for one in _each(given):
        if _DECIMAL_COMMAS.fullmatch(one):
            parts = one.split(",")
            meant = ",".join(map(".".join, zip(parts[::2], parts[1::2], strict=True)))
            raise ConfigError(f"{name} got {one!r}; write numbers with a decimal point: {meant}")
    text = ",".join(_each(given))
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as e:
        cure = "; write 98% as 0.98" if "%" in text else ""
        raise ConfigError(f"{name} must be numbers with commas between, got {text!r}{cure}") from e


def integers(name: str, given: str | Sequence[str]) -> tuple[int, ...]:
    """Read comma-separated whole numbers, as `numbers` does; raises ConfigError."""
    from fggp_deploy.errors import ConfigError

    text = ",".join(_each(given))
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(f"{name} must be whole numbers with commas between, got {text!r}") from e


def _each(given: str | Sequence[str]) -> Sequence[str]:
    """The texts of an option: `--threads 1 --threads 2` means `--threads 1,2`."""
    return [given] if isinstance(given, str) else given


def lines(name: str, path: Path) -> tuple[str, ...]:
    """The lines of a small text file, without the empty ones; raises ConfigError."""
    from fggp_deploy.common.files import check_readable
    from fggp_deploy.errors import ConfigError

    if check_readable(path) > 1 << 24:
        raise ConfigError(f"{name} {path} is larger than 16 MiB, which no list of classes is")
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    except ValueError as e:
        raise ConfigError(f"{name} {path} is not UTF-8 text") from e
