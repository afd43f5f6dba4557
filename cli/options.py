"""Options that several commands share, and the options of a run, made from its configuration."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fggp_deploy.common.option_rules import Rule, option, rules_of
from fggp_deploy.training.config import PruneConfig, TrainConfig

NUMBERS = "N,N"  # how --help shows options that `numbers` and `integers` read
_DECIMAL_COMMAS = re.compile(r"0,\d+(,0,\d+)*")  # such as 0,9 for 0.9: not a list


def _option(name: str, rule: Rule) -> Any:
    """The command-line form of an option."""
    spelling = option(name)
    if rule.kind is bool and rule.optional:
        spelling += f"/--no-{spelling.removeprefix('--')}"
    metavar = rule.metavar or (NUMBERS if rule.is_number_list else None)
    return typer.Option(spelling, help=rule.help, metavar=metavar)


def _shared(name: str) -> Any:
    """An option of a run that other commands also have."""
    return _option(name, rules_of(PruneConfig)[name])


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
DataDir = Annotated[Path | None, _shared("data_dir")]
Workers = Annotated[int | None, _shared("workers")]
SkipUnreadable = Annotated[bool, _shared("skip_unreadable")]
TrustCode = Annotated[bool, _shared("trust_code")]
Epochs = Annotated[int, _shared("epochs")]
Seed = Annotated[int, _shared("seed")]
Network = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The network, if it is your own FILE.py:FACTORY and the file has moved since.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="YAML file of options; a run's config.yaml repeats that run."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any option by its key in a YAML file."),
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
        help="The run's folder; by default a new one in runs/. If it holds an interrupted run, "
        "that run resumes with its own options.",
    ),
]


def with_options_of(
    config: type[TrainConfig],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that `config` offers it.

    The command's first parameter gets the options that the user gave, by key, in their own types:
    `{"target": 0.9, "epochs": 3}`. Its other parameters stay options of their own. The name of
    the command is that of the function.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        offered = {n: r for n, r in rules_of(config).items() if command.__name__ in r.commands}

        @functools.wraps(command)
        def with_given(ctx: typer.Context, **values: Any) -> None:
            given = {n: _read(n, r, values[n]) for n, r in offered.items() if _is_given(ctx, n)}
            command(given, **{p.name: values[p.name] for p in own})

        parameters = [
            inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(_parameter(n, r, getattr(config, n, None)) for n, r in offered.items()),
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own),
        ]
        with_given.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_given.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_given

    return decorate


def _parameter(name: str, rule: Rule, default: Any) -> inspect.Parameter:
    """The parameter from which Typer makes the option."""
    kind: Any = list[str] if rule.many or rule.kind is dict else rule.kind
    if isinstance(default, float) and rule.many:
        default = [str(default)]
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if default == () else default,
        annotation=Annotated[kind if default else kind | None, _option(name, rule)],
    )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _read(name: str, rule: Rule, value: Any) -> Any:
    """The value of an option in its own type; raises ConfigError."""
    if rule.is_number_list:
        read = numbers(option(name), value)
        return read[0] if rule.single and len(read) == 1 else read
    if rule.kind is dict:
        from fggp_deploy.common.yaml_files import parse_assignments

        return rule.read(name, parse_assignments(value, of=option(name)))
    return tuple(value) if rule.many else value


def which_data(config: TrainConfig) -> str:
    """The line that names a run's data set, and whether it is the default one."""
    default = ", the default; give --data for another" if config.data == TrainConfig.data else ""
    return f"data: {config.data}{default}"


def numbers(name: str, given: str | Sequence[str]) -> tuple[float, ...]:
    """Read the comma-separated numbers of an option and its repetitions; raises ConfigError."""
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
        raise ConfigError(f"{name} must be numbers separated by commas, got {text!r}{cure}") from e


def integers(name: str, given: str | Sequence[str]) -> tuple[int, ...]:
    """Read comma-separated whole numbers, as `numbers` does; raises ConfigError."""
    from fggp_deploy.errors import ConfigError

    text = ",".join(_each(given))
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(f"{name} must be whole numbers separated by commas, got {text!r}") from e


def _each(given: str | Sequence[str]) -> Sequence[str]:
    """The values of an option: `--threads 1 --threads 2` means `--threads 1,2`."""
    return [given] if isinstance(given, str) else given


def lines(name: str, path: Path) -> tuple[str, ...]:
    """The lines of a small text file, without the empty ones; raises ConfigError."""
    from fggp_deploy.common.files import check_readable
    from fggp_deploy.errors import ConfigError

    if check_readable(path) > 1 << 24:
        raise ConfigError(f"{name} {path} is larger than 16 MiB, too large for a list of classes")
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    except ValueError as e:
        raise ConfigError(f"{name} {path} is not UTF-8 text") from e
