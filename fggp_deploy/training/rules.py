"""What each option of a run may be: one table for the checks, the JSON Schema and the help."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fggp_deploy.common.option_rules import Rule
from fggp_deploy.errors import ConfigError, UnknownName
from fggp_deploy.pruning.allocation import ALLOCATIONS
from fggp_deploy.pruning.patterns import PATTERNS

RULES: Mapping[str, Rule] = {
    "recipe": Rule(kind=str, optional=True, help="The recipe that the values come from."),
    "model": Rule(
        kind=str,
        help="Network: one that `fggp-deploy models` lists, as resnet20 or torchvision:resnet50, "
        "or FILE.py:FACTORY, your own function (num_classes, in_channels) -> nn.Module.",
    ),
    "checkpoint": Rule(
        kind=Path, optional=True,
        help="Weights to start from: a state dict in .safetensors, .pt, .pth, .th or .ckpt, from "
        "any training code. No code in it is run.",
    ),
    "weights": Rule(
        kind=str, optional=True,
        help="Published weights of torchvision:NAME or timm:NAME: DEFAULT, a name as "
        "IMAGENET1K_V1, or the file fetched by hand. Their mean and std are used.",
    ),
    "new_head": Rule(
        kind=bool, help="Start the last layer afresh where the classes are other ones."
    ),
    "trust_code": Rule(kind=bool, help="Run the Python of a FILE.py:FUNCTION."),
    "data": Rule(
        kind=str,
        help="folder:PATH (one folder of images a class), hf:NAME_OR_PATH, FILE.py:FUNCTION, or "
        "fashion-mnist-12k, fashion-mnist, mnist, cifar10, cifar100, svhn.",
    ),
    "data_dir": Rule(
        kind=Path, optional=True,
        help="Folder that holds a named data set, as torchvision has it (cifar-10-batches-py). "
        "Default: a cache, into which it is downloaded.",
    ),
    "mean": Rule(
        kind=float, many=True, optional=True,
        help="Per channel, as 0.485,0.456,0.406: what the checkpoint was trained with.",
    ),
    "std": Rule(
        kind=float, many=True, optional=True, above=0,
        help="Per channel, as 0.229,0.224,0.225: what the checkpoint was trained with.",
    ),
    "image_size": Rule(
        kind=int, least=1, most=16384, optional=True,
        help="Side in pixels that images get. Default: the network's, else that of the images "
        "where all have one of at most 96, else 64.",
    ),
    "resize": Rule(
        kind=int, least=1, optional=True,
        help="Shorter side before the crop in the centre, as 256 for an --image-size 224.",
    ),
    "augment": Rule(
        kind=str, choices=("none", "basic", "strong"),
        help="none; basic (shift, mirror); strong (and TrivialAugmentWide, random erasing).",
    ),
    "flip": Rule(
        kind=bool, optional=True,
        help="Mirror images; not for digits, text or traffic signs.",
    ),
    "stream": Rule(
        kind=bool, optional=True,
        help="Decode images each time they are needed, or once. Default: once if 1 GiB suffices.",
    ),
    "workers": Rule(
        kind=int, least=0, optional=True,
        help="Processes that decode images. Default: the cores less one, at most 8.",
    ),
    "skip_unreadable": Rule(
        kind=bool, help="Leave out images that cannot be decoded; count them."
    ),
    "split_seed": Rule(
        kind=int, least=0,
        help="Chooses the tenths held out for val and test where the data have none.",
    ),
    "target": Rule(
        kind=float, many=True, single=True, above=0, below=1,
        hint="0.98 means 98% of weights removed",
        help="Fraction of prunable weights to remove, in (0, 1). Several, as 0.90,0.95,0.98: "
        "one run that stops at each, the masks nested; repeating the option adds targets too.",
    ),
    "target_latency": Rule(
        kind=float, above=0, optional=True,
        help="Milliseconds an image on one thread here, in place of --target: each layer's density "
        "is chosen by what it costs on the sparse kernels, measured first.",
    ),
    "densities": Rule(
        kind=dict,
        help="The share of its weights that a layer keeps at the target, by the weight's name; "
        "the others stay dense. What --target-latency found stands here in a run's config.yaml.",
    ),
    "method": Rule(kind=str, help="What goes and when: `fggp-deploy methods` lists them."),
    "method_set": Rule(
        kind=dict, help="An option of the method's own; `fggp-deploy methods` lists them."
    ),
    "start": Rule(
        kind=str, choices=("trained", "random"), optional=True,
        help="Begin with trained or with random weights. Default: what the method is made for.",
    ),
    "updates": Rule(
        kind=int, least=1, help="Mask updates, over the first 80% of the run (of each target's)."
    ),
    "rate": Rule(
        kind=float, above=0, most=1,
        help="FGGP and its kin: share of alive weights that may go, by what is looked at first.",
    ),
    "pattern": Rule(
        kind=str, choices=tuple(PATTERNS), optional=True,
        help="Let blocks of input channels go whole: with 1x4 the inputs 4q to 4q+3 of an output "
        f"at a kernel position, which an int8 dot product takes at once. Of {', '.join(PATTERNS)}. "
        "Default: single weights.",
    ),
    "min_layer_density": Rule(
        kind=float, least=0, below=1,
        help="Least share of its weights that each layer keeps, and at least one weight per "
        "output, so that no layer is emptied; 0: no floor.",
    ),
    "int8_aware": Rule(
        kind=bool,
        help="From the last mask update on, compute with weights rounded as `export --values int8` "
        "rounds them, so that the network gets used to it.",
    ),
    "epochs": Rule(
        kind=int, least=0,
        help="Passes over the training images, in the whole run; 0 with methods that need none.",
    ),
    "batch_size": Rule(kind=int, least=2, help="Images in a training step, over all devices."),
    "lr": Rule(kind=float, above=0, help="Peak learning rate."),
    "lr_schedule": Rule(
        kind=str, choices=("cosine", "step"), help="cosine, or step (x0.1 at 50% and 75%)."
    ),
    "warmup_epochs": Rule(kind=float, least=0, help="Epochs of linear learning-rate growth."),
    "momentum": Rule(kind=float, least=0, below=1, help="Nesterov momentum."),
    "weight_decay": Rule(kind=float, least=0, help="Weight decay."),
    "distill": Rule(
        kind=float, least=0, most=1, help="Weight of the parent's soft labels in the loss, 0 to 1."
    ),
    "label_smoothing": Rule(
        kind=float, least=0, below=1, help="Share of the label spread over all classes."
    ),
    "ema": Rule(
        kind=float, least=0, below=1,
        help="Decay of the weights' moving average from the last mask update on, which is then "
        "the result; 0 for none.",
    ),
    "average_epochs": Rule(
        kind=float, least=0,
        help="Last epochs over which the weights are averaged, all steps alike, as far as masks "
        "have settled; the average is then the result. 0: none.",
    ),
    "ensemble": Rule(
        kind=int, least=0,
        help="Networks to draw from the weights' distribution over --average-epochs; their common "
        "test accuracy is reported beside the result's. 0: none.",
    ),
    "bn_images": Rule(
        kind=int, least=0,
        help="Training images over which batch-norm statistics are taken anew at the end; 0: none.",
    ),
    "sparsity": Rule(
        kind=float, least=0, below=1,
        help="Train under a fixed random mask of this sparsity; 0 is dense.",
    ),
    "allocation": Rule(
        kind=str, choices=tuple(ALLOCATIONS),
        help="Who gets the random mask's weights: erk or uniform.",
    ),
    "prune_first": Rule(kind=bool, help="Prune the first convolution too."),
    "keep_dense": Rule(
        kind=str, many=True,
        help="Weights to leave dense, by name pattern (fc.*); may be given repeatedly.",
    ),
    "seed": Rule(
        kind=int, least=0, below=2**63, help="The same seed gives the same result on the same CPU."
    ),
    "device": Rule(kind=str, help="auto, cpu, cuda or cuda:N."),
    "precision": Rule(kind=str, choices=("fp32", "bf16"), help="fp32 or bf16 (autocast)."),
    "compile": Rule(kind=bool, help="Compile the network with torch.compile."),
    "save_every": Rule(
        kind=float, least=0,
        help="Minutes between savepoints, from which a killed run goes on; 0: after each step.",
    ),
}  # fmt: skip


def plain(value: Any) -> Any:
    """An option's value in YAML's and JSON's types."""
    if isinstance(value, Path):
        return str(value).encode(errors="backslashreplace").decode()  # a name may be no UTF-8
    return list(value) if isinstance(value, tuple) else value


def read_keys(values: Mapping[str, Any], known: type, *, where: str) -> dict[str, Any]:
    """Values by key in the options' own types; `known` is the configuration's class.

    Raises ConfigError, which names the key, the rule, and for an unknown key the nearest one.
    """
    keys = [f.name for f in dataclasses.fields(known)]
    read = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in keys:
            raise UnknownName(f"key in {where}", str(key), keys)
        try:
            read[name] = RULES[name].read(name, value)
            RULES[name].check(name, read[name])
        except ConfigError as e:
            raise ConfigError(f"{where}: {e}") from e
    return read


def schema(config: type) -> dict[str, Any]:
    """The JSON Schema of a configuration file for that class of options."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": config.__name__,
        "type": "object",
        "additionalProperties": False,
        "properties": {f.name: RULES[f.name].schema() for f in dataclasses.fields(config)},
    }
