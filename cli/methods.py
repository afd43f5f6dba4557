"""fggp-deploy methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.pruning.methods.listing import Description


@with_exit_codes
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method, with its options.")] = None,
    json: o.Json = False,
) -> None:
    """List the pruning methods that --method accepts, and their options.

    With NAME, describe the options of one method, which --method-set KEY=VALUE sets. Other
    packages can add methods by an entry point in the group fggp_deploy.methods.
    """
    from fggp_deploy.pruning.methods.listing import described, listing

    from .render import as_json

    if name is not None:
        one = described(name)
        return as_json(one.to_dict()) if json else show(one)
    rows = listing()
    return as_json([r.to_dict() for r in rows]) if json else _show_all(rows)


def show(method: Description) -> None:
    """Print a method and the options that it reads."""
    from fggp_deploy.common.option_rules import rules_of
    from fggp_deploy.training.config import PruneConfig

    from .render import stdout, table

    stdout.print(_entry(method).rpartition("\n")[0], markup=False, soft_wrap=True)
    own = [
        (f"--method-set {k.name}=", str(k.default), f"{k.help} {_domain(k.schema)}".strip())
        for k in method.options
    ]
    shared = [
        (f"--{r}", str(getattr(PruneConfig, r)), rules_of(PruneConfig)[r].help)
        for r in method.reads
    ]
    table("options", ("option", "default", "meaning"), own + shared)


def _show_all(rows: Sequence[Description]) -> None:
    from .render import stdout

    for row in rows:
        stdout.print(_entry(row), markup=False, soft_wrap=True)
    stdout.print(
        "\nThe start that is listed first is the default; --start trained|random chooses "
        "another.\n`fggp-deploy methods NAME` shows the values that each option accepts.",
        markup=False,
    )


def _domain(schema: Mapping[str, Any]) -> str:
    """What an option may be, as [global | uniform] or [above 0, at most 1]."""
    if "enum" in schema:
        return f"[{' | '.join(map(str, schema['enum']))}]"
    words = {
        "minimum": "at least", "exclusiveMinimum": "above",
        "maximum": "at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    bounds = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    return f"[{', '.join(bounds)}]" if bounds else ""


def _entry(m: Description) -> str:
    """A method in four lines."""
    without = "; needs no training (--epochs 0)" if m.without_training else ""
    targets = "several targets per run" if m.several_targets else "one target per run"
    own = [f"--method-set {s.name}={s.default}" for s in m.options]
    options = ", ".join([*own, *(f"--{r}" for r in m.reads)]) or "none"
    return (
        f"{m.name}: {m.title}\n"
        f"    {m.source}\n"
        f"    starts from {' or '.join(m.starts)}{without}; {targets}; state: {m.keeps}\n"
        f"    options: {options}"
    )
