"""A torch module with the interface of an ONNX Runtime session, for comparing the two."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import nn

from fggp_deploy.measure.network import Floats, Network


class _Session:
    """The three methods of a session that Network calls."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="input", type="tensor(float)", shape=[None] * 4)]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="logits")]

    @torch.inference_mode()
    def run(self, _: object, feed: Mapping[str, Floats]) -> list[Floats]:
        return [self.module(torch.from_numpy(feed["input"])).numpy()]


def in_torch(module: nn.Module) -> Network:
    """A module on the CPU in eval mode, from images [N, C, H, W] to logits [N, classes]."""
    return Network("torch", _Session(module))
