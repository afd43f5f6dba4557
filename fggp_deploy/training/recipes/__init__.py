"""Resolve the options of a run from defaults, a recipe, a file and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from fggp_deploy.common.option_rules import plain
from fggp_deploy.common.yaml_files import parse_assignments, parse_yaml, read_yaml
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.resume import earlier_run, refuse_changes

C = TypeVar("C", bound=TrainConfig)

RECIPES = ("best", "fast", "paper", "paper-2026")


def resolve(
    kind: type[C],
    *,
    recipe: str | None = None,
    file: Path | None = None,
    settings: Iterable[str] = (),
    explicit: Mapping[str, Any],
    out: Path | None = None,
) -> C:
    """The options of a run: defaults < recipe < file < settings (key=value) < explicit.

    If `out` holds a run already, its options replace the defaults, and no given option may differ
    from them (ResumeRefused). Raises ConfigError, for a new run also if an option that the user
    gave would change nothing.
    """
    in_file = _without_trust(_read_file(file, kind)) if file else {}
    recipe = recipe or in_file.get("recipe")
    given = recipe_values(recipe, kind) if recipe else {}
    unchanged = vars(kind()) | given
    changed = [k for k, v in in_file.items() if v != unchanged[k]]  # a config.yaml has all keys
    in_settings = kind.read(parse_assignments(settings, of="--set"), where="--set")
    for later in (in_file, in_settings, explicit):
        given = _over(given, later)
    if recipe:
        given["recipe"] = recipe
    earlier = earlier_run(out)
    if earlier is None:
        config = kind(**given)
        if isinstance(config, PruneConfig):
            config.refuse_unread([*changed, *in_settings, *explicit])
        return config
    refuse_changes(earlier, {k: plain(v) for k, v in given.items()})
    own = _without_trust(kind.read(earlier.config, where=str(earlier.folder)))
    return kind(**_over(own, given))


def _over(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """`values` overridden by `later`; mappings are merged entry by entry."""
    merged = {**values, **later}
    for key, value in later.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merged[key] = {**values[key], **value}
    return merged


def _without_trust(values: dict[str, Any]) -> dict[str, Any]:
    """The values without `trust_code`, which only the command line may give."""
    return {k: v for k, v in values.items() if k != "trust_code"}


def recipe_values(name: str, kind: type[TrainConfig]) -> dict[str, Any]:
    """The values of one of the package's recipes; raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return kind.read(parse_yaml(text, what=f"recipe {name}"), where=f"recipe {name}")


def _read_file(path: Path, kind: type[TrainConfig]) -> dict[str, Any]:
    values = read_yaml(path, what=f"--config {path}")
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} must map keys to values, such as `epochs: 10`")
    return kind.read(values, where=str(path))
