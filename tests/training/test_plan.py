"""What `prune --dry-run` prints."""

from __future__ import annotations

import pytest

from fggp_deploy.cli.plan import show_plan
from fggp_deploy.training import plan as planning
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.plan import PruningPlan, Update


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **of: object) -> str:
    values: dict[str, object] = {
        "n_steps": 140, "steps_per_epoch": 70, "n_prunable": 1000, "start_sparsity": 0.0,
        "targets": (0.9,), "target_steps": (140,), "updates": (), "remark": None,
        "parent_val_accuracy": 0.94, "images_per_second": 200.0, "update_seconds": 0.0,
        "seconds": 42.0,
    }  # fmt: skip
    made = PruningPlan(**(values | of))  # type: ignore[arg-type]
    monkeypatch.setattr(planning, "plan", lambda *_, **__: made)
    show_plan(PruneConfig(method="snip"), json=False)
    return capsys.readouterr().out


def test_all_at_the_start(capsys, monkeypatch):
    out = shown(capsys, monkeypatch, start_sparsity=0.9)
    assert out.splitlines() == [
        "snip starts with 90.00% removed and keeps that for 140 steps (70 per epoch)",
        "dense model: val 94.00%",
        "keeps the network of target 0.9 at step 140",
        "about 42 s of training on this machine (200 images/s), validation not counted",
    ]


def test_by_a_rule_of_its_own(capsys, monkeypatch):
    first, *_ = shown(capsys, monkeypatch).splitlines()
    assert first == (
        "snip follows no schedule of mask updates: its own rule leads from 0.00% to "
        "90.00% in 140 steps (70 per epoch)"
    )


def test_without_training(capsys, monkeypatch):
    out = shown(capsys, monkeypatch, n_steps=0, start_sparsity=0.9, seconds=0.0)
    assert out.splitlines() == [
        "snip removes 90.00% at once, without training (--epochs 0)",
        "dense model: val 94.00%",
    ]


def test_a_schedule_is_a_table(capsys, monkeypatch):
    update = Update(7, 0.9, 1000, 900)
    out = shown(capsys, monkeypatch, updates=(update,), update_seconds=0.02, seconds=90)
    assert "1 mask update in 140 steps" in out
    assert "largest drop: 90.0% of the alive weights, at step 7" in out
    assert "about 1 min of training on this machine (200 images/s, 20 ms per update)" in out
