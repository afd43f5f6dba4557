"""fggp-deploy train."""

from __future__ import annotations

from typing import Any

from fggp_deploy.training.config import TrainConfig

from . import options as o
from .exit_codes import with_exit_codes


@with_exit_codes
@o.with_options_of(TrainConfig)
def train(
    given: dict[str, Any],
    *,
    config: o.Config = None,
    set: o.Set = None,
    out: o.RunFolder = None,
    json: o.Json = False,
) -> None:
    """Train a network from random weights, dense or sparse, or continue from a checkpoint.

    Writes a run folder with dense.safetensors; give that to prune --checkpoint. Published weights
    for other classes: --model torchvision:resnet18 --weights DEFAULT --new-head --lr 0.01.

    Interrupted runs resume: run the same command with the same --out.
    """
    from fggp_deploy.training.recipes import resolve
    from fggp_deploy.training.train import train as run

    from .progress import watch
    from .prune import show

    options = resolve(TrainConfig, file=config, settings=set or (), explicit=given, out=out)
    with watch(o.which_data(options)) as observer:
        result = run(options, observer=observer, out=out)
    show(result, json=json)
