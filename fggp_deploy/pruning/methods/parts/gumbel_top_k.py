"""Gumbel top-k: sampling k of n without replacement by learned logits, with a gradient.

Rows are groups: logits Φ and Gumbel noise G [rows, n]; k int64 [rows], at least one of them > 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-30  # smallest remaining mass, relative to the largest entry


def gumbel(shape: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32, on the generator's device."""
    u = torch.rand(shape, generator=generator, device=generator.device)
    return u.clamp_min_(torch.finfo(u.dtype).tiny).log_().neg_().log_().neg_()


def draw_order(scores: Tensor, k: Tensor) -> Tensor:
    """Units in the order in which they are drawn: [rows, n] → int64 [rows, max(k)].

    The largest Φ + G first: sampling without replacement with probabilities ∝ e^Φ.
    """
    return scores.topk(int(k.max()), dim=1).indices


def drawn(order: Tensor, k: Tensor, n: int) -> Tensor:
    """The first k[r] of each row's order, bool [rows, n].

    >>> drawn(torch.tensor([[1, 2], [0, 1]]), torch.tensor([2, 1]), 3).tolist()
    [[False, True, True], [True, False, False]]
    """
    first = torch.arange(order.shape[1], device=k.device) < k.unsqueeze(1)
    out = torch.zeros(len(order), n, dtype=torch.bool, device=order.device)
    return out.scatter_(1, order, first)


def likeliest(logits: Tensor, k: Tensor) -> Tensor:
    """The k[r] largest logits of each row, bool [rows, n]; ties go to the first."""
    order = logits.sort(dim=1, descending=True, stable=True).indices
    return drawn(order, k, logits.shape[1])


def relaxed_gradient(
    scores: Tensor, order: Tensor, k: Tensor, pull: Tensor, temperature: float
) -> Tensor:
    """The gradient of Σ_j pull_j·soft_j with respect to Φ, where soft = Σ_{i≤k} soft_i.

    soft_i is the softmax of (Φ + G)/τ over the units that are left before draw i: the k-fold
    relaxation without replacement, in the limit ε → 0. With units ranked in the order of drawing,
    e_j = exp((Φ_j + G_j)/τ) and Z_i = Σ of e_j over ranks ≥ i,

        ∂/∂Φ_j = e_j/τ · (pull_j·A_j − B_j),
        A_j = Σ 1/Z_i,  B_j = Σ ū_i/Z_i  over i ≤ min(rank_j, k),  ū_i = Σ_j pull_j·soft_i,j,

    so cumulative sums over the k drawn units give all k terms, and no k × n tensor is needed.

    scores Φ + G and pull [rows, n], order from draw_order → [rows, n].
    Source: Gonzalez-Carabarin et al. 2021 (arXiv 2105.12686), after Xie & Ermon 2019
    (arXiv 1901.10517); the closed form of the sums is ours.
    """
    scaled = scores / temperature
    e = (scaled - scaled.gather(1, order[:, :1])).exp_()
    pulled = pull * e
    mass, pulled_mass = (_left(t, order) for t in (e, pulled))
    mass.clamp_min_(_LEAST)
    share = (torch.arange(order.shape[1], device=k.device) < k.unsqueeze(1)) / mass
    a, b = share.cumsum(1), (share * pulled_mass / mass).cumsum(1)
    a, b = (t[:, -1:].expand_as(e).scatter(1, order, t) for t in (a, b))
    return pulled.mul_(a).sub_(e.mul_(b)).div_(temperature)


def _left(t: Tensor, order: Tensor) -> Tensor:
    """Sums over the units not yet drawn at each draw: t [rows, n], order [rows, k] → [rows, k]."""
    never = t.scatter(1, order, 0).sum(1, keepdim=True)
    return never + t.gather(1, order).flip(1).cumsum(1).flip(1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row's softmax, [rows, n] → [rows]."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def entropy_gradient(logits: Tensor) -> Tensor:
    """The gradient of Σ_rows entropy: −p·(log p + H), [rows, n]."""
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    return -p * (log_p - (p * log_p).sum(1, keepdim=True))


def confidence(logits: Tensor) -> float:
    """1 − mean_rows H(softmax Φ_row)/log n: 0 if all are equal, 1 if one has all; our own."""
    n = logits.shape[1]
    if n == 1:
        return 1.0
    return float(1 - entropy(logits).mean() / torch.tensor(float(n)).log())


def diversity(logits: Tensor) -> float:
    """H(mean_r p_r) − mean_r H(p_r) in nats: 0 if all rows choose alike. Our definition.

    The generalized Jensen–Shannon divergence of the rows' softmax.
    """
    mean = logits.softmax(1).mean(0, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    return max(0.0, float(entropy(mean.log()).squeeze() - entropy(logits).mean()))
