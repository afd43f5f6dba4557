"""Calibration data: layers as linear maps, with inputs X and outputs X·Wᵀ.

For Linear, Conv1d and Conv2d. A row of X is what the weight's window sees at one position of one
image, per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fggp_deploy.distributed.ranks import Ranks
from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.methods.method import Batch
from fggp_deploy.pruning.methods.state import PruningState

LinearOrConv = nn.Linear | nn.Conv1d | nn.Conv2d
_KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d)
_ROUNDING = 0.01  # relative to the output's norm; TF32 convolutions are within 0.001


@dataclass
class Gram:
    """Second moments of a layer's inputs, float64, summed over calibration data.

    `inputs` [groups, K, K] is XᵀX of the network being pruned; `cross` [groups, K, out/groups] is
    XᵀY with the outputs Y of the dense network; `energy` [groups, out/groups] is ΣY².
    """

    inputs: Tensor
    cross: Tensor
    energy: Tensor

    def error(self, weight: Tensor) -> Tensor:
        """‖Y − X·Wᵀ‖² of each output for weight [groups, out/groups, K] → [groups, out/groups]."""
        w = weight.double()
        quadratic = ((w @ self.inputs) * w).sum(2)
        return self.energy - 2 * (w * self.cross.transpose(1, 2)).sum(2) + quadratic


def by_group(module: LinearOrConv, weight: Tensor) -> Tensor:
    """A weight of the module's shape as [groups, out/groups, K]."""
    return weight.reshape(_groups(module), weight.shape[0] // _groups(module), -1)


def windows(module: LinearOrConv, x: Tensor) -> Tensor:
    """The windows of a module's input that its weight sees, [groups, positions, K]."""
    if isinstance(module, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    flat = isinstance(module, nn.Conv1d)
    padding = _padding(module)
    x = F.pad(
        x, padding, mode="constant" if module.padding_mode == "zeros" else module.padding_mode
    )
    if flat:
        x = x.unsqueeze(2)
    one = (1,) if flat else ()
    columns = F.unfold(
        x, (*one, *module.kernel_size), dilation=(*one, *module.dilation),
        stride=(*one, *module.stride),
    )  # fmt: skip
    n, _, positions = columns.shape
    columns = columns.view(n, module.groups, -1, positions)
    return columns.permute(1, 0, 3, 2).reshape(module.groups, n * positions, -1)


def in_order(state: PruningState, batches: Sequence[Batch]) -> list[tuple[str, list[LinearOrConv]]]:
    """Prunable weights and the modules that use them, in the order of the forward pass.

    Raises ConfigError that names every weight whose module is not called, is not a Linear, Conv1d
    or Conv2d, or computes anything else than windows times weight plus bias on the first batch.
    """
    names = {id(p): n for n, p in state.params.items()}
    users: dict[str, list[LinearOrConv]] = {}
    unfit: dict[str, str] = {}
    handles = []

    def note(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        name = names[id(module.weight)]
        if not isinstance(module, _KNOWN):
            unfit[name] = f"{name} belongs to a {type(module).__name__}"
        elif not _is_its_map(module, args[0], out):
            unfit[name] = f"the {type(module).__name__} of {name} computes something else"
        elif module not in users.setdefault(name, []):
            users[name].append(module)

    for module in state.model.modules():
        if id(getattr(module, "weight", None)) in names:
            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad(), evaluating(state.model):
            state.model(batches[0][0])
    finally:
        for handle in handles:
            handle.remove()
    for name in state.params.keys() - users.keys() - unfit.keys():
        unfit[name] = f"the module of {name} is not called"
    if unfit := {n: unfit[n] for n in state.params if n in unfit}:
        raise ConfigError(
            f"only Linear, Conv1d and Conv2d can be pruned or re-fitted without training, but "
            f"{', '.join(unfit.values())}; give {' '.join(f'--keep-dense {n}' for n in unfit)}, or "
            f"--method magnitude --method-set ridge=0, which accepts any layer"
        )
    return list(users.items())


def _is_its_map(module: LinearOrConv, x: Tensor, out: Tensor) -> bool:
    """True if an output is the windows of the input times the weight, within rounding.

    Subclasses may pad or standardize in their own forward.
    """
    mine = windows(module, x) @ by_group(module, module.weight).transpose(1, 2)
    if mine.numel() != out.numel():
        return False
    theirs = out.movedim(-1 if isinstance(module, nn.Linear) else 1, -1)
    mine = mine.transpose(0, 1).reshape(theirs.shape)
    if module.bias is not None:
        mine = mine + module.bias
    return bool((mine - theirs).norm() <= _ROUNDING * theirs.norm())


@torch.no_grad()
def gram(
    module: LinearOrConv,
    model: nn.Module,
    dense_module: LinearOrConv,
    dense: nn.Module,
    batches: Sequence[Batch],
) -> Gram:
    """The moments of one layer over all batches, averaged over processes, in eval mode.

    `module` belongs to `model`, the network being pruned; `dense_module` is the same layer of the
    dense model `dense`.
    """
    seen: dict[str, list[Tensor]] = {"x": [], "y": []}
    handles = [
        module.register_forward_pre_hook(lambda _, args: seen["x"].append(args[0])),
        dense_module.register_forward_pre_hook(lambda _, args: seen["y"].append(args[0])),
    ]
    w = by_group(dense_module, dense_module.weight.detach())
    groups, outputs, k = w.shape
    total = [w.new_zeros(s, dtype=torch.float64) for s in
             ((groups, k, k), (groups, k, outputs), (groups, outputs))]  # fmt: skip
    try:
        with evaluating(model), evaluating(dense):
            for images, _ in batches:
                model(images)
                dense(images)
                for x, x_dense in zip(seen["x"], seen["y"], strict=True):
                    a, y = windows(module, x), windows(dense_module, x_dense) @ w.transpose(1, 2)
                    for sum_, part in zip(
                        total, (a.transpose(1, 2) @ a, a.transpose(1, 2) @ y, (y * y).sum(1)),
                        strict=True,
                    ):  # fmt: skip
                        sum_ += part
                seen["x"].clear()
                seen["y"].clear()
    finally:
        for handle in handles:
            handle.remove()
    Ranks.current().mean_(total)
    return Gram(*total)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in eval mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _groups(module: LinearOrConv) -> int:
    return 1 if isinstance(module, nn.Linear) else module.groups


def _padding(module: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Padding in the form of F.pad, the last dimension first."""
    out: list[int] = []
    for i in reversed(range(len(module.kernel_size))):
        if isinstance(module.padding, str):
            span = module.dilation[i] * (module.kernel_size[i] - 1)
            total = span if module.padding == "same" else 0
            out += [total // 2, total - total // 2]
        else:
            out += [module.padding[i], module.padding[i]]
    return out
