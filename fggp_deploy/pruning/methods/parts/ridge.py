"""The closed-form re-fit: ridge regression of the kept weights to the dense layer's outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from fggp_deploy.pruning.methods.parts.calibration import Gram

_TOLERANCE = 1e-5  # relative to the norm of the right-hand side


def refit(
    weight: Tensor, kept: Tensor, gram: Gram, *, ridge: float, iterations: int = 30
) -> Tensor:
    """min over Ŵ of ‖Y − X·Ŵᵀ‖² + λ‖Ŵ‖² with Ŵ = 0 where not kept, separately for each output.

    weight, kept (bool): [groups, out/groups, K] → the same. λ = ridge · mean diagonal of XᵀX. The
    normal equations (A + λI)·ŵ = XᵀY, with A = XᵀX of the kept weights, are solved for all outputs
    at once by at most `iterations` conjugate-gradient steps from the pruned weights. Each step
    lowers the sum. A direct solution would need one matrix per mask and output, which is too much
    for wide layers. If the error of an output on the calibration data would not fall, because λ
    costs more than the fit gains, that output keeps its weights.

    This is our adaptation to single layers of closed-form training of whole networks.
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
    """a / b, and 0 where b is not positive."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)
