"""fggp-deploy models."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o
from .exit_codes import with_exit_codes


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
    from .render import as_json, stdout, table

    with working("building networks without memory"):
        from fggp_deploy.models.listing import listing, n_of_timm

        rows = listing(pattern)
        n_timm = n_of_timm() if pattern is None else None
    if json:
        return as_json([r.to_dict() for r in rows])
    table(
        "networks",
        ("--model", "parameters", "prunable", "input", "classes", "source"),
        [
            (
                r.name,
                f"{r.n_parameters:,}",
                f"{r.n_prunable:,}",
                r.input,
                f"{r.num_classes:,}",
                r.source,
            )
            for r in rows
        ],
    )
    if pattern is None:
        stdout.print(
            f"timm:NAME: {n_timm:,} more; `fggp-deploy models 'timm:resnet*'` lists some"
            if n_timm
            else "timm:NAME: timm is not installed; pip install timm"
        )
        stdout.print("FILE.py:FACTORY: your own function, with --trust-code")
    return None
