"""The closed-form re-fit: kept weights by ridge regression to the dense layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fggp_deploy.pruning.methods.parts.calibration import Gram

_TOLERANCE = 1e-5  # of the right-hand side's norm


def refit(
    weight: Tensor, kept: Tensor, gram: Gram, *, ridge: float, iterations: int = 30
) -> Tensor:
    """min over Ŵ of ‖Y − X·Ŵᵀ‖² + λ‖Ŵ‖² with Ŵ = 0 where not kept, for each output alone.

    weight, kept (bool): [groups, out/groups, K] → the same. λ = ridge · mean diagonal of XᵀX. The
    normal equations (A + λI)·ŵ = XᵀY, with A = XᵀX of the kept, are solved for all outputs at once
    by conjugate gradients from the pruned weights, at most `iterations` of them, each of which
    lowers the sum; a matrix a mask and output, as a direct solution needs, is too much for wide
    layers. An output whose error on the calibration data would not fall keeps its
    weights: λ may cost more than the fit gains.

    Our adaptation to single layers of a line of work that trains whole networks by closed forms.
    """
    pruned = weight * kept
    a, right = gram.inputs.to(weight.dtype), gram.cross.transpose(1, 2).to(weight.dtype) * kept
    diagonal = a.diagonal(dim1=1, dim2=2)
    damping = ridge * diagonal.mean(1).clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    scale = kept / (diagonal.unsqueeze(1) + damping)  # Jacobi's preconditioner, under the mask
    x = pruned.clone()
    residual = right - (x @ a + damping * x) * kept
    z = scale * residual
    direction, rz = z.clone(), (residual * z).sum(2, keepdim=True)
    enough = _TOLERANCE * right.norm(dim=2, keepdim=True)
    for _ in range(iterations):
        going = residual.norm(dim=2, keepdim=True) > enough
        if not bool(going.any()):
            break
        moved = (direction @ a + damping * direction) * kept
        length = _ratio(rz, (direction * moved).sum(2, keepdim=True)) * going
        x += length * direction
        residual -= length * moved
        z = scale * residual
        rz, before = (residual * z).sum(2, keepdim=True), rz
        direction = z + _ratio(rz, before) * direction
    better = gram.error(x) < gram.error(pruned)
    return torch.where(better.unsqueeze(2), x, pruned)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, zero where b is not above zero."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)
