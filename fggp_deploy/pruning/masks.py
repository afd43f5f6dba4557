"""Masks: one bool tensor per parameter, True means kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from fggp_deploy.errors import ConfigError
from fggp_deploy.pruning.wrappers import unwrapped


class MaskSet(Mapping[str, Tensor]):
    """An ordered mapping of parameter name → bool mask of the parameter's shape, True = kept.

    Immutable by convention: pruning creates a new MaskSet. Masks are on the device of the
    parameters that they belong to.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ConfigError(f"mask of {name} must be bool, got {mask.dtype}")
        self._masks = dict(masks)

    @classmethod
    def ones(cls, params: Mapping[str, Tensor]) -> MaskSet:
        """Masks that keep everything."""
        return cls({n: torch.ones_like(p, dtype=torch.bool) for n, p in params.items()})

    @classmethod
    def of_nonzeros(cls, params: Mapping[str, Tensor]) -> MaskSet:
        """Masks that keep the non-zero weights, as when a sparse checkpoint is loaded."""
        return cls({n: p.detach() != 0 for n, p in params.items()})

    @classmethod
    def unflatten(cls, flat: Tensor, like: MaskSet) -> MaskSet:
        """Split a flat bool [P] into masks with the names, order, shapes and layouts of `like`."""
        parts = flat.split([m.numel() for m in like.values()])
        named = zip(like.items(), parts, strict=True)
        return cls({n: torch.empty_like(m).copy_(v.view_as(m)) for (n, m), v in named})

    def flatten(self) -> Tensor:
        """All masks, concatenated in order: bool [P]."""
        return torch.cat([m.reshape(-1) for m in self._masks.values()])

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def n_total(self) -> int:
        """Number of weights that the masks cover."""
        return sum(m.numel() for m in self._masks.values())

    @cached_property
    def n_removed(self) -> int:
        """Number of weights removed."""
        return sum(self.removed_by_layer.values())

    @cached_property
    def removed_by_layer(self) -> dict[str, int]:
        """Number of weights removed from each parameter."""
        if not self._masks:
            return {}
        counts = torch.stack([m.count_nonzero() for m in self._masks.values()]).tolist()
        return {n: m.numel() - c for (n, m), c in zip(self._masks.items(), counts, strict=True)}

    @property
    def n_alive(self) -> dict[str, int]:
        """Number of weights kept of each parameter."""
        return {n: m.numel() - self.removed_by_layer[n] for n, m in self._masks.items()}

    @cached_property
    def removed(self) -> dict[str, Tensor]:
        """The complements of the masks, True means removed, of parameters that lose a weight."""
        return {n: ~m for n, m in self._masks.items() if self.removed_by_layer[n]}

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return self.n_removed / self.n_total if self.n_total else 0.0

    @torch.no_grad()
    def apply_(self, params: Mapping[str, Tensor] | nn.Module) -> None:
        """Set removed weights to zero in place, in tensors by name or in a network.

        The network may be wrapped, see wrappers.unwrapped. Raises ConfigError for a missing name.
        """
        tensors = named_tensors(params)
        for name, removed in self.removed.items():
            if name not in tensors:
                raise ConfigError(
                    f"the network has no weight {name!r}, which the masks name; pass the network "
                    "that was pruned"
                )
            tensors[name].masked_fill_(removed.to(tensors[name].device), 0)

    def dropped_since(self, older: MaskSet) -> dict[str, Tensor]:
        """The weights that `older` kept and these masks remove, bool per parameter."""
        return {n: older[n] & ~m for n, m in self._masks.items()}

    def is_subset_of(self, older: MaskSet) -> bool:
        """True if these masks keep no weight that `older` removed."""
        return all(not bool((m & ~older[n]).any()) for n, m in self._masks.items())

    def empty_layers(self) -> list[str]:
        """Names of parameters with no weight left."""
        return [n for n, m in self._masks.items() if self.removed_by_layer[n] == m.numel()]

    def digest(self) -> str:
        """Hex SHA-256 over (name, dtype, shape, bytes) of every mask, in order."""
        return tensor_digest(self._masks)


def named_tensors(of: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    """Tensors by name: a mapping unchanged, or the parameters of a network."""
    return dict(unwrapped(of).named_parameters()) if isinstance(of, nn.Module) else of


def random_masks(
    params: Mapping[str, Tensor], keep: Mapping[str, int], *, generator: torch.Generator
) -> MaskSet:
    """Random masks that keep exactly `keep[name]` weights of each parameter.

    `generator` is on the CPU, so that a seed gives the same masks on every device.
    """
    masks = {}
    for name, p in params.items():
        flat = torch.zeros(p.numel(), dtype=torch.bool)
        flat[torch.randperm(p.numel(), generator=generator)[: keep[name]]] = True
        masks[name] = flat.view(p.shape).to(p.device)
    return MaskSet(masks)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over (name, dtype, shape, bytes) of every tensor, in order of iteration."""
    h = hashlib.sha256()
    for name, t in tensors.items():
        a = t.detach().contiguous().cpu()
        h.update(f"{name}|{a.dtype}|{tuple(a.shape)}|".encode())
        h.update(a.view(-1).view(torch.uint8).numpy().tobytes() if a.numel() else b"")
    return h.hexdigest()
