"""Training with weights as `export --values int8` rounds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def rounded(w: Tensor) -> Tensor:
    """Integers of −127 to 127 times a scale per output channel, its largest magnitude over 127.

    Folding a batch norm scales an output channel as a whole, so export rounds to the same
    integers; only the scale may differ, because export may store it as float16.

    >>> rounded(torch.tensor([[127.0, 0.4, -0.6]])).tolist()
    [[127.0, 0.0, -1.0]]
    """
    largest = w.abs().amax(tuple(range(1, w.ndim)), keepdim=True)
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / 127)
    return (w / scale).round().clamp(-127, 127) * scale


@contextmanager
def rounded_weights(weights: Iterable[Tensor]) -> Iterator[None]:
    """Forward and backward inside see rounded weights; the weights are restored afterwards.

    The gradients are those at the rounded weights: the straight-through estimator. Source: Bengio,
    Léonard & Courville 2013, arXiv 1308.3432.
    """
    weights = list(weights)
    kept = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for w in weights:
            w.data.copy_(rounded(w))
    try:
        yield
    finally:
        for w, k in zip(weights, kept, strict=True):
            w.data.copy_(k)
