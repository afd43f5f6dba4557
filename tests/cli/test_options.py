"""The options of a run on the command line, as its configuration describes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from fggp_deploy.cli import options as o
from fggp_deploy.cli.groups import with_groups
from fggp_deploy.cli.main import app
from fggp_deploy.common.option_rules import rules_of, setting
from fggp_deploy.training.config import PruneConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    depth: int = setting(3, "How deep.", least=1, commands=("dig",))
    speed: float | None = setting(None, "How fast.", kind=float, commands=("dig",))
    wet: bool | None = setting(None, "Whether it rains.", kind=bool, commands=("dig",))
    sizes: tuple[float, ...] | None = setting(
        None, "Sizes.", kind=float, many=True, commands=("dig",)
    )
    names: tuple[str, ...] = setting((), "Names.", kind=str, many=True, commands=("dig",))
    more: dict[str, Any] = setting({}, "More.", metavar="KEY=VALUE", commands=("dig",))
    hidden: int = setting(1, "Only in a file.", commands=())


@pytest.mark.parametrize(
    ("args", "given"),
    [
        ([], {}),
        (["--depth", "3"], {"depth": 3}),  # given, though it is the default
        (["--no-wet", "--speed", "1e-2"], {"wet": False, "speed": 0.01}),
        (["--sizes", "1,2", "--sizes", "3"], {"sizes": (1.0, 2.0, 3.0)}),
        (["--names", "a", "--names", "b"], {"names": ("a", "b")}),
        (["--more", "x=1", "--more", "y=on"], {"more": {"x": 1, "y": True}}),
    ],
)
def test_a_field_is_an_option(args: list[str], given: dict[str, Any]):
    seen: list[dict[str, Any]] = []

    @o.with_options_of(Config)
    def dig(given: dict[str, Any], *, json: o.Json = False) -> None:
        seen.append(given)

    own = typer.Typer()
    own.command()(dig)
    ended = CliRunner().invoke(own, args)
    assert ended.exit_code == 0, ended.output
    assert seen == [given]
    assert CliRunner().invoke(own, ["--hidden", "2"]).exit_code == 2


@dataclass(frozen=True, kw_only=True)
class Bed:
    flowers: Annotated[list[str], typer.Option(help="What grows.")] = field(
        default_factory=lambda: ["rose"]
    )
    wet: Annotated[bool, typer.Option("--wet")] = False


@pytest.mark.parametrize(
    ("args", "given"),
    [
        (["a"], ("a", Bed(), 1)),
        (["a", "--wet", "--depth", "2"], ("a", Bed(wet=True), 2)),
        (["a", "--flowers", "iris", "--flowers", "lily"], ("a", Bed(flowers=["iris", "lily"]), 1)),
    ],
)
def test_a_group_is_a_parameter_of_its_command(args: list[str], given: tuple[Any, ...]):
    seen: list[tuple[Any, ...]] = []

    @with_groups
    def plant(
        place: Annotated[str, typer.Argument()],
        *,
        bed: Bed,
        depth: Annotated[int, typer.Option()] = 1,
    ) -> None:
        seen.append((place, bed, depth))

    own = typer.Typer()
    own.command()(plant)
    ended = CliRunner().invoke(own, args)
    assert ended.exit_code == 0, ended.output
    assert seen == [given]
    assert [p.name for p in typer.main.get_command(own).params][:4] == [
        "place", "flowers", "wet", "depth"
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "config"), [("prune", PruneConfig), ("train", TrainConfig)])
def test_a_command_offers_the_options_of_its_configuration(name: str, config: type[TrainConfig]):
    command = typer.main.get_command(app).commands[name]
    offered = {p.name: p.help for p in command.params}
    for key, rule in rules_of(config).items():
        assert offered.get(key) == (rule.help if name in rule.commands else None)
    assert len({p.name for p in command.params}) == len(command.params)
