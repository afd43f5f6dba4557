"""Whole filters: which filters a network can lose, and which ones only together.

A filter can be removed only with everything that writes to the same channel: both sides of a sum,
or the depthwise convolution after it. One recorded forward pass finds these groups. Every output
channel gets a label; sums unite labels, and activations, norms and poolings pass them on. Any other
operator keeps all channels that it reads, and so does the network's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.criteria import smallest
from fggp_deploy.pruning.masks import MaskSet

_CHANNELWISE = frozenset(  # operators that work on each channel by itself
    """relu relu6 leaky_relu prelu elu silu mish gelu sigmoid tanh hardtanh hardswish hardsigmoid
    softplus clamp dropout dropout2d batch_norm contiguous clone to float detach identity
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d mean amax squeeze getitem interpolate
    add iadd radd sub isub mul imul rmul""".split()  # noqa: SIM905
)
_CONVS = ("conv1d", "conv2d", "conv3d")


@dataclass(frozen=True)
class Channels:
    """Groups of filters that can only be removed together.

    `of_filters`: prunable weight → the group of each of its filters, int64 [out], −1 for a filter
    that must stay. `of_others`: the same for biases and batch-norm parameters, which are set to
    zero together with their group.
    """

    of_filters: Mapping[str, Tensor]
    of_others: Mapping[str, Tensor]
    n_groups: int

    def without_smallest(self, masks: MaskSet, weights: Tensor, n_drop: int) -> MaskSet:
        """Masks without the groups of the smallest mean |w|, with exactly n_drop fewer weights.

        weights: [P] in the masks' order. The last group may be removed only in part, smallest
        weights first. Each layer keeps its largest filter. Ties go to the lower group. Raises
        ConfigError if too few filters can be removed.
        """
        alive, size = masks.flatten().cpu(), weights.abs().double().cpu()
        group = torch.cat(
            [self.of_filters[n].repeat_interleave(m[0].numel()) for n, m in masks.items()]
        )
        free = group >= 0
        every = torch.bincount(group[free], minlength=self.n_groups)
        n_alive = torch.bincount(group[free & alive], minlength=self.n_groups)
        total = torch.zeros(self.n_groups, dtype=torch.float64)
        total.index_add_(0, group[free], size[free])
        score = total / every.clamp_min(1)
        stays = every == 0
        for groups in self.of_filters.values():
            if len(groups) and bool((groups >= 0).all()):
                stays[groups[score[groups].argmax()]] = True
        order = score.masked_fill(stays, float("inf")).argsort(stable=True)
        order = order[: int((~stays).sum())]
        sums = n_alive[order].cumsum(0)
        can = int(sums[-1]) if len(sums) else 0
        if n_drop > can:
            most = (masks.n_removed + can) / masks.n_total
            raise ConfigError(
                f"{n_drop:,} more of the {masks.n_total:,} prunable weights must be removed, but "
                f"the removable filters hold only {can:,}. A filter cannot be removed if its "
                "output is added to that of the first convolution, if it computes the network's "
                "output, or if an operator needs all its channels. Give a target below "
                f"{most:.4f}, give --prune-first, or prune weights instead of filters"
            )
        whole = int((sums <= n_drop).sum())
        gone = torch.zeros(self.n_groups, dtype=torch.bool)
        gone[order[:whole]] = True
        alive &= ~(free & gone[group.clamp_min(0)])
        rest = n_drop - (int(sums[whole - 1]) if whole else 0)
        if rest:
            part = (alive & (group == order[whole])).nonzero().squeeze(1)
            alive[part[smallest(size[part], rest)]] = False
        return MaskSet.unflatten(alive, masks)

    def silent(self, masks: MaskSet) -> dict[str, Tensor]:
        """For every bias and batch-norm parameter: the entries of groups without weights, bool."""
        dead = torch.ones(self.n_groups, dtype=torch.bool)
        for name, groups in self.of_filters.items():
            some = masks[name].flatten(1).any(1).cpu() & (groups >= 0)
            dead[groups[some]] = False
        return {n: dead[g.clamp_min(0)] & (g >= 0) for n, g in self.of_others.items()}


def channels(
    model: nn.Module, prunable: Mapping[str, Tensor], input_shape: tuple[int, ...]
) -> Channels:
    """The groups of a network's filters, from a forward pass of two zero images [C, H, W].

    Raises ConfigError if none of the prunable filters can be removed.
    """
    watch = _Watch(model)
    parameter = next(model.parameters())
    x = torch.zeros(2, *input_shape, device=parameter.device, dtype=parameter.dtype)
    with _in_eval(model), torch.no_grad():
        with watch:
            out = model(x)
        watch.keep(out)
    return watch.channels(prunable)


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = {m: m.training for m in model.modules()}
    model.eval()
    yield
    for m, training in modes.items():
        m.training = training


class _Watch(TorchFunctionMode):
    """Gives every channel of every value a label, and unites labels that belong together."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
        weights = {id(m.weight) for m in model.modules() if isinstance(m, layers)}
        self.names = {id(p): n for n, p in model.named_parameters()}
        self.weights = {i: n for i, n in self.names.items() if i in weights}
        self.parent: list[int] = []
        self.kept: set[int] = set()
        self.labels: dict[int, list[int]] = {}
        self.alive: list[Tensor] = []  # so that no id is used twice
        self.filters: dict[str, list[int]] = {}
        self.others: dict[str, list[int]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the protocol's own signature
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [t for t in _flat(out) if isinstance(t, Tensor)]
        given = [t for t in _flat((args, kwargs)) if isinstance(t, Tensor)]
        if results and given:
            self._look(getattr(func, "__name__", "").strip("_"), args, kwargs, given, results)
        return out

    def keep(self, values: Any) -> None:
        """Nothing of these values may go."""
        for value in _flat(values):
            self.kept.update(self.labels.get(id(value), ()))

    def channels(self, prunable: Mapping[str, Tensor]) -> Channels:
        """What was seen, for the prunable weights."""
        stay = {self._root(label) for label in self.kept}
        for name, labels in self.filters.items():
            if name not in prunable:
                stay |= {self._root(label) for label in labels}
        number: dict[int, int] = {}
        of_filters = {
            name: torch.tensor(
                [
                    -1 if (r := self._root(label)) in stay else number.setdefault(r, len(number))
                    for label in self.filters.get(name, ())
                ]
                or [-1] * p.shape[0]
            )
            for name, p in prunable.items()
        }
        of_others = {
            name: torch.tensor([number.get(self._root(label), -1) for label in labels])
            for name, labels in self.others.items()
        }
        if not number:
            raise ConfigError(
                "no filter of this network can be removed: the output of each is added to that "
                "of a layer that is not prunable, is the network's output, or is read by an "
                "operator that needs all channels; prune weights instead of filters"
            )
        return Channels(of_filters, of_others, len(number))

    def _look(
        self, name: str, args: Any, kwargs: Any, given: list[Tensor], results: list[Tensor]
    ) -> None:
        out = results[0]
        labels: list[int] | None = None
        weight = next((t for t in given if id(t) in self.weights), None)
        if len(results) == 1 and out.ndim >= 2:
            if weight is not None and name in (*_CONVS, "linear"):
                labels = self._layer(name, args, kwargs, weight, out)
            elif weight is None:
                labels = self._between(name, args, kwargs, given, out)
        if labels is None:
            self.keep(given)
            return
        self.labels[id(out)] = labels
        self.alive.append(out)
        for t in given:
            if isinstance(t, nn.Parameter) and t.shape == (len(labels),):
                self.others[self.names[id(t)]] = labels

    def _layer(
        self, name: str, args: Any, kwargs: Any, weight: Tensor, out: Tensor
    ) -> list[int] | None:
        key, x = self.weights[id(weight)], kwargs.get("input", args[0] if args else None)
        made = self.filters.setdefault(key, self._fresh(weight.shape[0]))
        if (name == "linear" and out.ndim != 2) or out.shape[1] != len(made):
            self.kept.update(made)
            return None
        groups = 1
        if name in _CONVS:
            groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
        if groups == 1:
            return made
        read = self.labels.get(id(x))
        if read is None or groups != len(made) or groups != len(read):
            self.kept.update(made)  # a grouped convolution keeps the widths of its groups
            return None
        self._unite(read, made)  # depthwise
        return made

    def _between(
        self, name: str, args: Any, kwargs: Any, given: list[Tensor], out: Tensor
    ) -> list[int] | None:
        read = [(t, self.labels[id(t)]) for t in given if id(t) in self.labels]
        if not read:
            return None
        x, first = read[0]
        if name in ("cat", "concat", "concatenate"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            if dim not in (1, 1 - out.ndim):
                return None
            return [label for t in given for label in self.labels.get(id(t)) or self._live(t)]
        if name == "pad" and len(read) == 1:
            sides = kwargs.get("pad", args[1] if len(args) > 1 else ())
            before, behind = tuple(sides[2 * (x.ndim - 2) : 2 * (x.ndim - 1)]) or (0, 0)
            if min(before, behind) < 0 or before + len(first) + behind != out.shape[1]:
                return None
            return [*self._fresh(before), *first, *self._fresh(behind)]
        if name in ("flatten", "view", "reshape") and out.ndim == 2 and len(read) == 1:
            places, left = divmod(out.shape[1], len(first))
            if left or out.shape[0] != x.shape[0]:
                return None
            return [label for label in first for _ in range(places)]
        if name not in _CHANNELWISE or out.ndim not in (x.ndim, 2):
            return None
        live = [t for t in given if t.ndim > 1 and not isinstance(t, nn.Parameter)]
        if len(live) != len(read) or any(len(labels) != out.shape[1] for _, labels in read):
            return None
        for _, others in read[1:]:
            self._unite(first, others)
        return first

    def _fresh(self, n: int) -> list[int]:
        first = len(self.parent)
        self.parent.extend(range(first, first + n))
        return list(range(first, first + n))

    def _live(self, t: Tensor) -> list[int]:
        """Labels for channels that no filter computes, which must stay."""
        labels = self._fresh(t.shape[1])
        self.kept.update(labels)
        return labels

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def _unite(self, some: list[int], others: list[int]) -> None:
        for a, b in zip(some, others, strict=True):
            a, b = sorted((self._root(a), self._root(b)))
            self.parent[b] = a


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        yield tree
        return
    for value in tree:
        yield from _flat(value)
