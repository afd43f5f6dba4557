"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="folder:PATH (one folder of images a class), hf:NAME_OR_PATH, FILE.py:FUNCTION, or "
        "fashion-mnist-12k, fashion-mnist, mnist, cifar10, cifar100, svhn.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds a named data set, as torchvision has it (cifar-10-batches-py). "
        "Default: a cache, into which it is downloaded."
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels that images get. Default: the network's, else that of the images "
        "where all have one of at most 96, else 64."
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Shorter side before the crop in the centre, as 256 for an --image-size 224."
    ),
]
Augment = Annotated[
    str,
    typer.Option(
        help="none; basic (shift, mirror); strong (and TrivialAugmentWide, random erasing)."
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Mirror images; not for digits, text or traffic signs."),
]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Decode images each time they are needed, or once. Default: once if 1 GiB suffices.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes that decode images. Default: the cores less one, at most 8."),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Leave out images that cannot be decoded; count them."),
]
SplitSeed = Annotated[
    int,
    typer.Option(help="Chooses the tenths held out for val and test where the data have none."),
]
Model = Annotated[
    str,
    typer.Option(
        help="Network: one that `fggp-deploy models` lists, as resnet20 or torchvision:resnet50, "
        "or FILE.py:FACTORY, your own function (num_classes, in_channels) -> nn.Module."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights to start from: a state dict in .safetensors, .pt, .pth, .th or .ckpt, from "
        "any training code. No code in it is run."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Published weights of torchvision:NAME or timm:NAME: DEFAULT, a name as "
        "IMAGENET1K_V1, or the file fetched by hand. Their mean and std are used."
    ),
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the Python of a FILE.py:FUNCTION.")
]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int, typer.Option(help="Images in a training step.")]
Lr = Annotated[float, typer.Option(help="Peak learning rate.")]
LrSchedule = Annotated[str, typer.Option(help="cosine, or step (x0.1 at 50% and 75%).")]
Warmup = Annotated[float, typer.Option(help="Epochs of linear learning-rate growth.")]
WeightDecay = Annotated[float, typer.Option(help="Weight decay.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on the same CPU.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")]
PruneFirst = Annotated[bool, typer.Option("--prune-first", help="Prune the first convolution too.")]
KeepDense = Annotated[
    list[str] | None,
    typer.Option(help="Weights to leave dense, by name pattern (fc.*); may be given repeatedly."),
]
Numbers = Annotated[
    str | None,
    typer.Option(help="Per channel, as 0.485,0.456,0.406: what the checkpoint was trained with."),
]
Out = Annotated[Path | None, typer.Option(help="Where to write; by default a new folder in runs/.")]


def numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Read comma-separated numbers; raises ConfigError."""
    from fggp_deploy.errors import ConfigError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(f"{name} must be numbers with commas between, got {text!r}") from e


def integers(name: str, text: str) -> tuple[int, ...]:
    """Read comma-separated whole numbers; raises ConfigError."""
    from fggp_deploy.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(f"{name} must be whole numbers with commas between, got {text!r}") from e
