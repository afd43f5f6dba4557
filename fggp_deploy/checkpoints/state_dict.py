"""Extracts plain weights, and masks if there are any, from what a training script saved."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fggp_deploy.errors import CheckpointError, FggpWarning

# Keys under which scripts save the state dict. The first match is used, so averaged weights are
# used only if there are no others.
_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params",
)  # fmt: skip
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "swa")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "nncf_module.")
_MAX_DEPTH = 4  # wrappers in wrappers
_MAX_TIED = 4  # a weight has few names; beyond this, a tensor is expanded from few bytes
_NNCF_OLD = re.compile(r"(.*)\.pre_ops\.\d+\.op\.(_binary_mask|_mask|uniform)")
_NNCF_NEW = re.compile(r"(?:.*\.)?__nncf_hooks\.\w+\.(.+)__\d+\.\d+\.(binary_mask|mask)")
_PARAMETRIZED = re.compile(r"(?:(.*)\.)?parametrizations\.(\w+)\.(.+)")
_QUANTIZED = re.compile(
    r"fake_quant|quant_node|weight_scale|_packed_params|zero_point|\.op\._num_bits|signed_tensor"
)


@dataclass(frozen=True)
class StateDict:
    """Weights under the names of the network's own class, and masks (bool, True = kept)."""

    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]


def unwrap(path: Path, content: Any, size: int) -> StateDict:
    """Find the state dict in a file's content, check it, and remove the wrappers of training.

    `size`: bytes of the file, more than which no honest content can hold. Raises CheckpointError.
    """
    state = _plain(path, _inside(path, content), size)
    for name in state:
        if _QUANTIZED.search(name):
            raise CheckpointError(
                f"{path} is a quantized network ({name}); give the float weights that it was made "
                "from"
            )
    state.pop("n_averaged", None)  # torch's AveragedModel
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None):
        state = {n.removeprefix(prefix): t for n, t in state.items()}
    state, masks = _masks(path, state)
    for name, t in state.items():
        if t.is_floating_point() and not bool(torch.isfinite(t.float()).all()):
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinity; its training diverged, so use an earlier "
                "checkpoint"
            )
    return StateDict(state, masks)


def _inside(path: Path, content: Any) -> Mapping[Any, Any]:
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        found = [k for k in (*_WRAPPERS, *_AVERAGED) if isinstance(content.get(k), Mapping)]
        found = [k for k in found if content[k]]
        if not found:
            break
        averaged = [k for k in found if k in _AVERAGED and k != found[0]]
        if averaged:
            warnings.warn(
                f"{path} also holds averaged weights ({averaged[0]}); {found[0]} is used. To use "
                "the averaged weights, save a file that holds only them",
                FggpWarning,
                stacklevel=2,
            )
        content = content[found[0]]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds no state dict: expected a mapping from names to tensors"
        )
    return content


def _plain(path: Path, content: Mapping[Any, Any], size: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, t in content.items():
        if not isinstance(t, Tensor):
            continue
        if hidden := sorted(a for a in vars(t) if hasattr(Tensor, a)):
            raise CheckpointError(
                f"{path}: {str(name)!r:.100} brings its own {hidden[0]!r:.40}, which hides a "
                "tensor's; save model.state_dict()"
            )
        state[str(name)] = t.detach()
    if not state:
        raise CheckpointError(f"{path} holds no tensors; save model.state_dict()")
    for name, t in state.items():
        if t.layout != torch.strided or t.device.type != "cpu" or t.is_complex():
            raise CheckpointError(
                f"{path}: {name} is not a dense real tensor ({t.layout}, {t.dtype}, {t.device}); "
                "save t.to_dense().cpu() of it"
            )
    if sum(t.numel() * t.element_size() for t in state.values()) > _MAX_TIED * size + 2**20:
        raise CheckpointError(
            f"{path} claims more weights than it has bytes; save it again with contiguous tensors"
        )
    return state


def _masks(path: Path, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split off the masks that pruning tools keep beside the weights, under the weights' names.

    torch.nn.utils.prune: `w_orig`, `w_mask`. torch.ao.pruning: `parametrizations.w.original` and
    `parametrizations.w.0.mask`. NNCF 1 and 2: `pre_ops.0.op._binary_mask` in the layer. NNCF 3:
    `__nncf_hooks.post_hooks.layer:weight__0.0.binary_mask`. If NNCF has only the logits of a
    regularized mask, what is above 0 is kept.
    """
    weights: dict[str, Tensor] = {}
    raw: dict[str, Tensor] = {}
    parametrized: set[str] = set()
    for name, t in state.items():
        if m := _NNCF_OLD.fullmatch(name):
            if m[2] == "_binary_mask":
                raw[f"{m[1]}.weight"] = t
            elif m[2] == "_mask":
                raw.setdefault(f"{m[1]}.weight", t > 0)
        elif m := _NNCF_NEW.fullmatch(name):
            raw[m[1].replace(":", ".")] = t if m[2] == "binary_mask" else t > 0
        elif m := _PARAMETRIZED.fullmatch(name):
            own = f"{m[1]}.{m[2]}" if m[1] else m[2]
            parametrized.add(own)
            if m[3] == "original":
                weights[own] = t
            elif m[3] == "0.mask":
                raw[own] = t
            else:
                _refuse_parametrization(path, own)
        elif name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in state:
            weights[name.removesuffix("_orig")] = t
        elif name.endswith("_mask") and _weight_of(name, state):
            raw[name.removesuffix("_mask")] = t
        else:
            weights[name] = t
    for own in sorted(parametrized - raw.keys()):
        _refuse_parametrization(path, own)
    masks = {n: _mask(path, n, t, weights) for n, t in raw.items()}
    return {n: t.masked_fill(~masks[n], 0) if n in masks else t for n, t in weights.items()}, masks


def _weight_of(mask: str, state: Mapping[str, Tensor]) -> bool:
    base = mask.removesuffix("_mask")
    return any(n in state and state[n].shape == state[mask].shape for n in (base, f"{base}_orig"))


def _mask(path: Path, name: str, mask: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    if name not in weights or mask.shape != weights[name].shape:
        raise CheckpointError(
            f"{path}: the mask of {name} does not match the shape of any weight; save the state "
            "dict again"
        )
    kept = mask != 0
    if not bool((mask == kept).all()):
        raise CheckpointError(f"{path}: the mask of {name} has values other than 0 and 1")
    return kept


def _refuse_parametrization(path: Path, name: str) -> None:
    module, _, parameter = name.rpartition(".")
    raise CheckpointError(
        f"{path}: {name} is hidden behind a parametrization; before saving, call "
        f"torch.nn.utils.parametrize.remove_parametrizations(model.{module}, {parameter!r})"
    )
