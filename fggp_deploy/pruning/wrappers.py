"""Unwrapping networks from torch.compile, DataParallel, DDP and AveragedModel."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def unwrapped(model: nn.Module) -> nn.Module:
    """The inner network, with its own parameter names; a network without a wrapper as it is.

    >>> net = nn.Linear(2, 2)
    >>> unwrapped(AveragedModel(DataParallel(net))).state_dict().keys() == net.state_dict().keys()
    True
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def unwrap_parts_(model: nn.Module) -> nn.Module:
    """Unwrap every part of a network in place; returns `model`."""
    for name, part in model.named_children():
        setattr(model, name, unwrap_parts_(unwrapped(part)))
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, (DataParallel, DistributedDataParallel, AveragedModel)):
        return model.module
    compiled = dict(model.named_children()).get("_orig_mod")  # importing its class is slow
    return compiled
