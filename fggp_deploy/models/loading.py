"""Loading weights into a network: names and shapes must match; errors say what would match."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from fggp_deploy.errors import CheckpointError
from fggp_deploy.models import torchvision_models
from fggp_deploy.models.search import fitting
from fggp_deploy.pruning.pruner import weight_parameters

_HEADS = ("fc.", "linear.", "classifier.", "head.")
# Other names of the same parts: those of SparseML's ResNet, and the two usual names of a shortcut.
_PARTS = (
    {
        "input.conv.": "conv1.", "input.bn.": "bn1.", "classifier.fc.": "fc.",
        "identity.conv.": "downsample.0.", "identity.bn.": "downsample.1.",
        **{f"sections.{i}.": f"layer{i + 1}." for i in range(4)},
    },
    {"shortcut.": "downsample."},
    {"downsample.": "shortcut."},
)  # fmt: skip
_SHOWN = 3


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    new_head: bool = False,
) -> dict[str, str]:
    """Load `state` into `model`; returns the network's names → the file's names that differ.

    `what` names both in errors. Heads and shortcuts may have the names of other common sources, and
    all names may share a prefix. With `new_head`, a last layer for another number of classes is not
    loaded. Raises CheckpointError with the first differing keys, their shapes, and the likely fix.
    """
    own = model.state_dict()
    theirs = translate(state, own)
    found = {ours: state[n] for n, ours in theirs.items() if ours is not None}
    missing = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    extra = [n for n, ours in theirs.items() if ours not in own]
    if missing or extra:
        raise CheckpointError(
            f"{what}: the names of the weights differ; missing {_few(missing)}; unexpected "
            f"{_few(extra)}. {_cure_of_names(state, own)}"
        )
    differ = [n for n, t in found.items() if t.shape != own[n].shape]
    if new_head and set(differ) <= head_names(model):
        found = {n: t for n, t in found.items() if n not in differ}
    elif differ:
        shapes = [
            f"{n} is {tuple(found[n].shape)} in the checkpoint but {tuple(own[n].shape)} in the "
            f"network" for n in differ[:_SHOWN]
        ]  # fmt: skip
        raise CheckpointError(
            f"{what}: {'; '.join(shapes)}. {_cure_of_shapes(model, differ, state)}"
        )
    for n, t in found.items():
        if own[n].is_floating_point() and not t.is_floating_point():
            raise CheckpointError(
                f"{what}: {n} holds {t.dtype}, not floating-point numbers; is it quantized? Give "
                f"the float weights that it was made from"
            )
    model.load_state_dict(found, strict=False)
    return {ours: n for n, ours in theirs.items() if ours is not None and ours != n}


def head_names(model: nn.Module) -> set[str]:
    """Parameter names of the last convolution or linear layer, which depends on the classes."""
    last = list(weight_parameters(model))[-1].rpartition(".")[0]
    return {n for n, _ in model.named_parameters() if n.rpartition(".")[0] == last}


def translate(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Each name in the file → the network's name, or the same name if the network has none.

    None marks parts that the network does not have: auxiliary classifiers.
    """
    names = {n: n for n in state}
    for rule in (_prefix, *_PARTS, _head):
        change = rule(names.values(), own) if callable(rule) else rule
        tried = {n: _replaced(now, change) for n, now in names.items()}
        if sum(n in own for n in {*tried.values()}) > sum(n in own for n in {*names.values()}):
            names = tried
    return {
        n: None if now not in own and torchvision_models.is_auxiliary(now, own) else now
        for n, now in names.items()
    }


def _replaced(name: str, rule: Mapping[str, str]) -> str:
    for old, new in rule.items():
        if name.startswith(old):
            name = new + name[len(old) :]
        name = name.replace(f".{old}", f".{new}")
    return name


def _prefix(names: Iterable[str], _: Mapping[str, Tensor]) -> dict[str, str]:
    """The prefix that all names share, in whole parts."""
    levels = zip(*(n.split(".") for n in names), strict=False)
    shared = [level[0] for level in itertools.takewhile(lambda level: len({*level}) == 1, levels)]
    return {f"{'.'.join(shared)}.": ""} if shared else {}


def _head(names: Iterable[str], own: Mapping[str, Tensor]) -> dict[str, str]:
    theirs = {h for h in _HEADS for n in names if n.startswith(h)}
    ours = {h for h in _HEADS for n in own if n.startswith(h)}
    if len(theirs) == len(ours) == 1 and theirs != ours:
        return {theirs.pop(): ours.pop()}
    return {}


def _cure_of_shapes(model: nn.Module, differ: list[str], state: Mapping[str, Tensor]) -> str:
    if set(differ) <= head_names(model):
        return (
            "It has another number of classes: give its own --data, or add a new head with "
            "`fggp-deploy train --checkpoint … --new-head` and prune that"
        )
    first = next((n for n, p in weight_parameters(model).items() if p.ndim == 4), None)
    if differ == [first]:
        return (
            "It was trained on images of another number of channels: give --data of its kind, "
            "with as many numbers in --mean and --std"
        )
    return _cure_of_names(state, model.state_dict())


def _cure_of_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    parts = sorted({n.partition(".")[0] for n in state})
    within = [p for p in parts if all(f"{p}.{n}" in state or "num_batches" in n for n in own)]
    if within:
        return (
            f"The network is under {' and '.join(repr(f'{p}.') for p in within)}, next to other "
            f"tensors; save only that part"
        )
    if fits := fitting(state, translate):
        named = " or ".join(f"--model {f.name}" for f in fits[:_SHOWN])
        channels = "color" if fits[0].in_channels == 3 else f"{fits[0].in_channels}-channel"
        return f"It fits {named}, with {fits[0].num_classes} classes and {channels} images"
    return (
        "No network that `fggp-deploy models` lists fits it; give your own: "
        "--model FILE.py:FACTORY --trust-code"
    )


def _few(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
