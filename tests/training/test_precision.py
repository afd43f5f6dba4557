from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fggp_deploy.distributed.ranks import ALONE
from fggp_deploy.training import precision
from fggp_deploy.training.config import PruneConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "fp32", "bf16", "chosen"),
    [
        ("auto", 1.1, 1.0, "bf16"),
        ("auto", 1.09, 1.0, "fp32"),  # too little for the rounding
        ("auto", 1.0, 4.0, "fp32"),
        ("fp32", 9.0, 1.0, "fp32"),
        ("bf16", 1.0, 9.0, "bf16"),
    ],
)
def test_bf16_is_chosen_if_it_is_clearly_faster(monkeypatch, asked, fp32, bf16, chosen):
    monkeypatch.setattr(precision, "step_seconds", lambda *_, **__: (fp32, bf16))
    given = PruneConfig(precision=asked)
    found = precision.with_measured_precision(
        given, nn.Identity(), (1, 4, 4), device=CPU, ranks=ALONE
    )
    assert found == PruneConfig(precision=chosen)


def test_measuring_leaves_the_model_and_the_random_state_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten()).eval()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    both = precision.step_seconds(net, (3, 8, 8), batch=1, device=CPU)
    assert min(both) > 0
    assert not net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
