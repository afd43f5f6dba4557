"""The settings of a run in groups, so that each part of training takes only the group it needs.

A configuration (training.config) inherits all groups: it is one flat set of options to the user,
and still an InputSettings to the function that loads the data. Each field carries its rule, its
help and its command-line form; see common.option_rules.setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fggp_deploy.common.option_rules import Settings, setting
from fggp_deploy.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InputSettings(Settings):
    """What a run reads: the network, its weights and the images.

    `mean` and `std` replace the data set's own for a checkpoint that was trained elsewhere. `flip`
    is None if the data set decides.
    """

    model: str = setting(
        "resnet10s2",
        "Network: a name from `fggp-deploy models`, such as resnet20 or torchvision:resnet50, or "
        "FILE.py:FACTORY, your own function (num_classes, in_channels) -> nn.Module.",
    )
    checkpoint: Path | None = setting(
        None,
        "Weights to start from: a state dict in .safetensors, .pt, .pth, .th or .ckpt, from any "
        "training code. No code in it is run.",
        kind=Path,
    )
    weights: str | None = setting(
        None,
        "Published weights of torchvision:NAME or timm:NAME: DEFAULT, a name such as "
        "IMAGENET1K_V1, or a downloaded file. Their mean and std are used.",
        kind=str,
    )
    new_head: bool = setting(
        False,
        "Start with a new last layer, for classes other than the checkpoint's.",
        commands=("train",),
    )
    trust_code: bool = setting(False, "Run the Python code of a FILE.py:FUNCTION.")
    data: str = setting(
        "fashion-mnist-12k",
        "folder:PATH (one folder of images per class), hf:NAME_OR_PATH, FILE.py:FUNCTION, or "
        "fashion-mnist-12k, fashion-mnist, mnist, cifar10, cifar100, svhn.",
    )
    data_dir: Path | None = setting(
        None,
        "Folder that holds a named data set in torchvision's layout (cifar-10-batches-py). "
        "Default: a cache, into which it is downloaded.",
        kind=Path,
    )
    mean: tuple[float, ...] | None = setting(
        None,
        "Mean per channel, such as 0.485,0.456,0.406, that the checkpoint was trained with.",
        kind=float,
        many=True,
    )
    std: tuple[float, ...] | None = setting(
        None,
        "Standard deviation per channel, such as 0.229,0.224,0.225, that the checkpoint was "
        "trained with.",
        kind=float,
        many=True,
        above=0,
    )
    image_size: int | None = setting(
        None,
        "Width and height of the network's input in pixels. Default: the network's own; else "
        "that of the images, if all have one size of at most 96; else 64.",
        kind=int,
        least=1,
        most=16384,
    )
    resize: int | None = setting(
        None,
        "Shorter side before the center crop, such as 256 for an --image-size of 224.",
        kind=int,
        least=1,
    )
    augment: str = setting(
        "basic",
        "none; basic (shift, mirror); strong (basic, TrivialAugmentWide and random erasing).",
        choices=("none", "basic", "strong"),
    )
    flip: bool | None = setting(
        None, "Mirror images. Leave it off for digits, text or traffic signs.", kind=bool
    )
    stream: bool | None = setting(
        None,
        "Decode images each time that they are needed (--stream) or once. Default: once, if they "
        "fit in 1 GiB.",
        kind=bool,
    )
    workers: int | None = setting(
        None,
        "Processes that decode images. Default: one less than the cores, at most 8.",
        kind=int,
        least=0,
    )
    skip_unreadable: bool = setting(
        False, "Leave out images that cannot be decoded, and report how many."
    )
    split_seed: int = setting(
        0,
        "Seed that chooses the tenths that are held out for validation and test, if the data set "
        "has no such parts.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is not None and self.weights is not None:
            raise ConfigError("--checkpoint and --weights both name the weights; give one of them")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std must be given together")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """SGD with Nesterov momentum and one learning-rate cycle per target."""

    epochs: int = setting(
        10,
        "Passes over the training images in the whole run; 0 for methods that need no training.",
        least=0,
    )
    batch_size: int = setting(128, "Images per training step, over all devices.", least=2)
    lr: float = setting(0.1, "Peak learning rate.", above=0)
    lr_schedule: str = setting(
        "cosine", "cosine, or step (x0.1 at 50% and 75%).", choices=("cosine", "step")
    )
    warmup_epochs: float = setting(1.0, "Epochs of linear learning-rate growth.", least=0)
    momentum: float = setting(0.9, "Nesterov momentum.", least=0, below=1, commands=())
    weight_decay: float = setting(5e-4, "Weight decay.", least=0)
    label_smoothing: float = setting(
        0.0, "Share of the label that is spread over all classes.", least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class AveragingSettings(Settings):
    """How the weights of the last steps become the result; see training.averaging."""

    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights. It starts at the last mask update "
        "and becomes the result; 0: none.",
        least=0,
        below=1,
    )
    average_epochs: float = setting(
        0.0,
        "Average the weights over this many epochs at the end, but only over steps after the "
        "last mask update. The average becomes the result. 0: none.",
        least=0,
    )
    ensemble: int = setting(
        0,
        "Networks to draw from the distribution of the weights over --average-epochs; the test "
        "accuracy of their mean prediction is reported beside the result's. 0: none.",
        least=0,
    )
    bn_images: int = setting(
        0,
        "Training images over which batch-norm statistics are computed again at the end; 0: none.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema and self.average_epochs:
            raise ConfigError("--ema and --average-epochs both average the weights; give one")
        if self.average_epochs and not self.bn_images:
            raise ConfigError(
                "--average-epochs needs --bn-images, such as 2000: the averaged weights need "
                "batch-norm statistics of their own"
            )
        if self.ensemble and not self.average_epochs:
            raise ConfigError(
                "--ensemble draws networks from the distribution of the weights over the last "
                "epochs; give --average-epochs too, such as 2, and --bn-images, such as 2000"
            )


@dataclass(frozen=True, kw_only=True)
class PrunableSettings(Settings):
    """Which weights are prunable."""

    keep_dense: tuple[str, ...] = setting(
        (),
        "Weights to leave dense, as a name pattern (fc.*); may be given several times.",
        kind=str,
        many=True,
    )
    prune_first: bool = setting(False, "Prune the first convolution too.")


AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ExecutionSettings(Settings):
    """How a run is computed and saved."""

    seed: int = setting(
        0, "The same seed gives the same result on the same CPU.", least=0, below=2**63
    )
    device: str = setting(AUTO, "auto, cpu, cuda or cuda:N.")
    precision: str = setting(
        "fp32",
        "fp32, bf16 (autocast), or auto: bf16 if a training step is clearly faster with it here.",
        choices=("fp32", "bf16", AUTO),
    )
    compile: bool = setting(False, "Compile the network with torch.compile.")
    save_every: float = setting(
        10.0,
        "Minutes between savepoints, from which an interrupted run resumes; 0: after each step.",
        metavar="MINUTES",
        least=0,
    )
