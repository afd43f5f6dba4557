"""SparseGPT: one-shot pruning by second-order cost, without training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fggp_deploy.pruning.criteria import smallest
from fggp_deploy.pruning.methods.method import MethodInfo
from fggp_deploy.pruning.methods.options import setting
from fggp_deploy.pruning.methods.parts.calibration import Gram
from fggp_deploy.pruning.methods.parts.one_shot import NEEDS_DENSE, OneShotOptions


@dataclass(frozen=True)
class SecondOrder:
    """Drop the weights with the lowest second-order cost, and update the rest to compensate.

    With H = XᵀX + `damping`·mean diagonal and U the upper Cholesky factor of H⁻¹, dropping w_j of
    an output costs (w_j/U_jj)², and the later weights of that output change by −w_j/U_jj·U_j:.
    Masks are chosen for `block` columns at a time, among all outputs; weights of earlier blocks no
    longer change. A weight whose input is always 0 costs nothing.

    Source: Frantar & Alistarh 2023, SparseGPT (arXiv 2301.00774), algorithm 1, after Hassibi &
    Stork 1993 (OBS); the public code uses block 128 and damping 0.01.
    """

    block: int = 128
    damping: float = 0.01

    def __call__(self, weight: Tensor, gram: Gram, n_drop: int) -> tuple[Tensor, Tensor]:
        """See LayerRule."""
        k = weight.shape[2]
        w = weight.double().clone()
        kept = torch.ones_like(weight, dtype=torch.bool)
        factors = torch.stack([_inverse_factor(a, self.damping) for a in gram.inputs])
        for begin in range(0, k, self.block):
            part = slice(begin, min(begin + self.block, k))
            # proportional to the columns of this block
            quota = n_drop * part.stop // k - n_drop * begin // k
            cost = (w[:, :, part] / _diagonal(factors)[:, None, part]) ** 2
            cost *= _diagonal(gram.inputs)[:, None, part] != 0
            flat = torch.ones(cost.numel(), dtype=torch.bool, device=w.device)
            flat[smallest(cost.reshape(-1), quota)] = False
            kept[:, :, part] = flat.view(cost.shape)
            gone = torch.zeros_like(w[:, :, part])  # the errors that later columns compensate
            for i, j in enumerate(range(part.start, part.stop)):
                cut = torch.where(kept[:, :, j], 0.0, w[:, :, j] / factors[:, None, j, j])
                w[:, :, j : part.stop] -= cut.unsqueeze(2) * factors[:, None, j, j : part.stop]
                gone[:, :, i] = cut
            w[:, :, part.stop :] -= gone @ factors[:, part, part.stop :]
        return kept, (w * kept).to(weight.dtype)


def _inverse_factor(a: Tensor, damping: float) -> Tensor:
    """Upper U with UᵀU = (a + damping)⁻¹, [K, K]; inputs that are always 0 stay separate."""
    diagonal = a.diagonal()
    dead = diagonal == 0
    h = a + torch.diag(damping * diagonal.mean() + dead.to(a.dtype))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, kw_only=True)
class SecondOrderOptions(OneShotOptions):
    """The options of second-order."""

    block: int = setting(128, "Columns whose masks are chosen together.", least=1)
    damping: float = setting(
        0.01, "Fraction of H's mean diagonal that is added to the diagonal.", above=0
    )


METHOD = MethodInfo(
    title="one shot by second-order cost, then the closed-form re-fit",
    source="Frantar & Alistarh 2023, arXiv 2301.00774; re-fit: ours",
    make=lambda o, task: o.one_shot(SecondOrder(o.block, o.damping), task),
    options=SecondOrderOptions,
    starts=("dense",),
    because=NEEDS_DENSE,
    without_training=True,
)
