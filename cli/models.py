"""fggp-deploy models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes

if TYPE_CHECKING:
    from fggp_deploy.models.listing import Listed


@with_exit_codes
def models(
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="Pattern of names, such as 'resnet*' or 'timm:*vit*'. Default: ours and "
            "torchvision's."
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """List the networks that --model accepts, with their sizes and inputs.

    Parameters are counted with 10 classes for the built-in networks and with 1,000 for those of
    torchvision and timm. For any other network, give --model FILE.py:FACTORY --trust-code.
    """
    from .progress import working
    from .render import as_json

    with working("building networks without memory"):
        from fggp_deploy.models.listing import listing, n_of_timm

        rows = listing(pattern)
        n_timm = n_of_timm() if pattern is None else None
    if json:
        return as_json([r.to_dict() for r in rows])
    show(rows)
    return _show_others(n_timm) if pattern is None else None


def show(rows: Sequence[Listed]) -> None:
    """Print networks as a table."""
    from .render import table

    columns = ("--model", "parameters", "prunable", "input", "classes", "source")
    cells = [
        (r.name, f"{r.n_parameters:,}", f"{r.n_prunable:,}", r.input, f"{r.num_classes:,}",
         r.source)
        for r in rows
    ]  # fmt: skip
    table("networks", columns, cells)


def _show_others(n_timm: int | None) -> None:
    """Say which other networks there are."""
    from .render import stdout

    stdout.print(
        f"timm:NAME: {n_timm:,} more; `fggp-deploy models 'timm:resnet*'` lists some"
        if n_timm
        else "timm:NAME: timm is not installed; pip install timm"
    )
    stdout.print("FILE.py:FACTORY: your own function, with --trust-code")
