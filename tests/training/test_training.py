"""The parts of a training run: its stages, its average, its statistics, its plan."""

from __future__ import annotations

import contextlib
import json
import warnings
from itertools import pairwise
from pathlib import Path

import killing
import pytest
import torch
from killing import Quiet, config, dense

from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.errors import ConfigError, FggpWarning
from fggp_deploy.pruning.pruner import weight_parameters
from fggp_deploy.pruning.schedules import Chain, Cubic
from fggp_deploy.training import savepoint
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.average import Average
from fggp_deploy.training.batches import open_batches
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.evaluation import accuracy, dense_accuracy
from fggp_deploy.training.final_averaging import ensemble_accuracy, final_model
from fggp_deploy.training.loop import training_steps
from fggp_deploy.training.loss import loss
from fggp_deploy.training.plan import plan
from fggp_deploy.training.prune import prepare_pruning, prune
from fggp_deploy.training.stages import Stage, learning_rate, pruning_schedule, stage_at, stages

SMALL = {"epochs": 3, "batch_size": 32, "updates": 3}


@pytest.fixture(autouse=True)
def _tiny_network_and_data(monkeypatch):
    monkeypatch.setitem(killing.MODELS, "tiny", killing.tiny)
    monkeypatch.setattr(killing.datasets, "load", killing.noise)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return dense(tmp_path_factory.mktemp("dense") / "dense.pt")


def test_stages_share_the_run_and_prune_in_their_first_80_percent():
    three = stages((0.9, 0.95, 0.98), 30, prunes=True)
    assert three == (Stage(0.9, 0, 8, 10), Stage(0.95, 10, 18, 20), Stage(0.98, 20, 28, 30))
    assert stages((0.9,), 10, prunes=True) == (Stage(0.9, 0, 8, 10),)
    assert stages((0.5,), 10, prunes=False) == (Stage(0.5, 0, 0, 10),)
    assert [stage_at(three, t).target for t in (1, 10, 11, 30)] == [0.9, 0.9, 0.95, 0.98]
    with pytest.raises(
        ConfigError, match="3 targets need at least 3 training steps, but the run has 2"
    ):
        stages((0.9, 0.95, 0.98), 2, prunes=True)


def test_the_schedule_of_several_targets_meets_each_and_then_stays():
    parts = stages((0.9, 0.95), 20, prunes=True)
    schedule = pruning_schedule(parts, start=0.5, updates=4)
    assert isinstance(schedule, Chain)
    assert schedule.update_steps == (2, 4, 6, 8, 12, 14, 16, 18)
    assert [schedule.sparsity(t) for t in (1, 8, 10, 11, 18, 20)] == [
        0.5, 0.9, 0.9, 0.9, 0.95, 0.95,
    ]  # fmt: skip
    assert [t for t in range(1, 21) if schedule.is_update(t)] == list(schedule.update_steps)
    assert all(schedule.sparsity(t) <= schedule.sparsity(t + 1) for t in range(1, 20))
    (one,) = stages((0.9,), 20, prunes=True)
    assert pruning_schedule((one,), start=0, updates=4) == Cubic(0.9, steps=20, updates=4, end=16)


def test_a_chain_must_hang_together():
    with pytest.raises(ConfigError, match="cannot be followed by"):
        Chain((Cubic(0.5, steps=10), Cubic(0.9, steps=20, start=0.6, begin=10, end=18)))
    with pytest.raises(ConfigError, match="cannot be followed by"):
        Chain((Cubic(0.5, steps=10, end=9), Cubic(0.9, steps=20, start=0.5, begin=8, end=18)))


def test_each_stage_has_its_own_cycle_of_the_learning_rate():
    c = PruneConfig(lr=1.0, warmup_epochs=1.0, target=(0.5, 0.9))
    a, b = Stage(0.5, 0, 16, 20), Stage(0.9, 20, 36, 40)
    first = [learning_rate(c, a, t, 2) for t in range(1, 21)]
    assert first == [learning_rate(c, b, t, 2) for t in range(21, 41)]
    assert first[:2] == [0.5, 1.0]  # two steps of warm-up
    assert first[10] == pytest.approx(0.5)  # half way down the cosine
    steps = PruneConfig(lr=1.0, warmup_epochs=0.0, lr_schedule="step")
    one = Stage(0.9, 0, 16, 20)
    rates = [learning_rate(steps, one, t, 2) for t in (1, 10, 11, 15, 16, 20)]
    assert rates == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_the_loss_by_hand():
    logits, y = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    half = torch.log(torch.tensor(2.0))
    assert loss(logits, y, None, distill=0, label_smoothing=0) == half
    assert loss(logits, y, logits, distill=0.5, label_smoothing=0) == half / 2  # teacher agrees
    sure = torch.tensor([[100.0, 0.0]])
    smooth = loss(sure, y, None, distill=0, label_smoothing=0.2)
    assert smooth == pytest.approx(10.0)  # 0.2 / 2 of the label is at the other class


def test_nested_targets_are_exact_and_nested(tmp_path, parent):
    options = config(parent, **{**SMALL, "target": (0.5, 0.7, 0.9)})
    result = prune(options, observer=Quiet(), out=tmp_path / "run")
    n = result.n_prunable
    assert [r.n_removed for r in result.results] == [round(t * n) for t in (0.5, 0.7, 0.9)]
    names = [r.checkpoint.name for r in result.results]
    assert names == [f"pruned-{t}.safetensors" for t in ("0.50", "0.70", "0.90")]
    kept = [Checkpoint.open(r.checkpoint) for r in result.results]
    for loose, tight in pairwise(kept):
        assert all(not (m & ~loose.masks[name]).any() for name, m in tight.masks.items())
    assert [c.info.target for c in kept] == [0.5, 0.7, 0.9]
    assert result.checkpoint.name == "pruned.safetensors"
    last = Checkpoint.open(result.checkpoint)
    assert all((last.tensors[k] == v).all() for k, v in kept[-1].tensors.items())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [r["target"] for r in summary["results"]] == [0.5, 0.7, 0.9]
    assert summary["n_removed"] == round(0.9 * n)


def test_the_average_begins_after_the_last_mask_update(parent):
    s = prepare_pruning(config(parent, **{**SMALL, "target": 0.8, "ema": 0.5})).session
    seen = []
    for step in training_steps(s, Quiet()):
        if step <= 12:  # 80% of 15 steps
            assert s.average is None
        else:
            seen.append(s.model[8].weight.detach().clone())
    a, b, c = seen
    want = 0.5 * (0.5 * a + 0.5 * b) + 0.5 * c
    torch.testing.assert_close(s.average.mean["8.weight"], want)
    model = final_model(s, s.batches(s.data.train))
    torch.testing.assert_close(model[8].weight, want)
    assert not model[8].weight[~s.pruner.masks["8.weight"]].any()
    assert torch.equal(s.model[8].weight, c)  # what trains is left alone


def test_the_average_of_the_last_epochs_counts_all_steps_alike(parent):
    own = {"average_epochs": 0.4, "ensemble": 2, "bn_images": 32}
    s = prepare_pruning(config(parent, **{**SMALL, "target": 0.8, "ema": 0.0, **own})).session
    seen = []
    for step in training_steps(s, Quiet()):
        if step <= 13:  # 0.4 of 5 steps are 2
            assert s.average is None
        else:
            seen.append(s.model[8].weight.detach().clone())
    assert len(seen) == s.average.n == 2
    torch.testing.assert_close(s.average.mean["8.weight"], (seen[0] + seen[1]) / 2)
    drawn = s.average.sample(torch.Generator().manual_seed(0))["8.weight"]
    model = final_model(s, s.batches(s.data.train), {**s.average.mean, "8.weight": drawn})
    masks = s.pruner.masks["8.weight"]
    assert torch.equal(model[8].weight, drawn * masks)
    assert not torch.equal(drawn * masks, s.average.mean["8.weight"])


def test_mean_and_variance_of_some_steps_by_hand():
    def of(*values: float) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor(values)}

    average = Average.begin(of(1.0, 5.0), spread=True)
    for step in (of(3.0, 5.0), of(8.0, 5.0)):
        average.take(step)
    assert average.mean["w"].tolist() == [4, 5]
    assert average.squares["w"].tolist() == [9 + 1 + 16, 0]
    draws = [average.sample(torch.Generator().manual_seed(i))["w"] for i in range(2000)]
    assert float(torch.stack(draws)[:, 0].mean()) == pytest.approx(4, abs=0.3)
    assert float(torch.stack(draws)[:, 0].var()) == pytest.approx(13, rel=0.1)  # 26 over n − 1
    assert {float(d[1]) for d in draws} == {5.0}
    moving = Average.begin(of(1.0), spread=False)
    moving.take(of(3.0), decay=0.75)
    assert moving.mean["w"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"average_epochs": 1, "ema": 0.9}, "both average the weights; give one"),
        ({"average_epochs": 1}, "--average-epochs needs --bn-images, such as 2000"),
        ({"ensemble": 3}, "give --average-epochs too, such as 2, and --bn-images"),
    ],
)
def test_averages_that_do_not_go_together(values: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        PruneConfig(**values)


def test_the_ensemble_is_reported_beside_the_result(tmp_path, parent, monkeypatch):
    own = {"average_epochs": 0.6, "ensemble": 3, "ema": 0.0, "bn_images": 32, "target": 0.8}
    options = config(parent, **{**SMALL, **own})
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    (result,) = whole.results
    assert 0 <= result.ensemble_test_accuracy <= 1
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["results"][0]["ensemble_test_accuracy"] == result.ensemble_test_accuracy

    def cut(folder: Path, at: int, *rest: object) -> None:
        write(folder, at, *rest)
        if at == 14:  # the average has begun
            raise KeyboardInterrupt

    write = savepoint.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(savepoint, "write", cut)
        prune(options, observer=Quiet(), out=tmp_path / "cut")
    again = prune(options, observer=Quiet(), out=tmp_path / "cut")
    assert again.digest == whole.digest
    assert again.results[0].ensemble_test_accuracy == result.ensemble_test_accuracy
    plain = prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "plain")
    assert plain.results[0].ensemble_test_accuracy is None


def test_networks_drawn_without_variance_vote_as_one(parent):
    own = {"average_epochs": 1, "ensemble": 2, "ema": 0.0, "bn_images": 32, "target": 0.8}
    s = prepare_pruning(config(parent, **{**SMALL, **own})).session
    for _ in training_steps(s, Quiet()):
        pass
    for squares in s.average.squares.values():
        squares.zero_()
    train, test = s.batches(s.data.train), s.batches(s.data.test)
    one = accuracy(final_model(s, train), test)
    assert ensemble_accuracy(s, train, test) == one


def rounded_in_training(s, monkeypatch) -> list[int]:
    """How many weights each step of the session sees rounded; the session is trained."""
    seen = []

    def noted(weights):
        seen.append(len(list(weights)))
        return contextlib.nullcontext()

    monkeypatch.setattr("fggp_deploy.training.loop.rounded_weights", noted)
    for _ in training_steps(s, Quiet()):
        pass
    return seen


def test_int8_awareness_begins_after_the_last_mask_update(parent, monkeypatch):
    s = prepare_pruning(config(parent, **{**SMALL, "target": 0.8, "int8_aware": True})).session
    seen = rounded_in_training(s, monkeypatch)
    n_weights = len(weight_parameters(s.model))
    assert seen == [0] * 12 + [n_weights] * 3  # 80% of 15 steps


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("rigl", {}),
        ("set", {}),
        ("granet", {}),
        ("lottery", {}),
        ("dpp", {"until": 0.9}),
        ("unification", {"until": 0.9}),
        ("greg-1", {}),
        ("snip", {}),
    ],
)
def test_int8_awareness_waits_for_the_last_update_of_any_method(parent, monkeypatch, method, own):
    options = {"method": method, "method_set": own, "target": 0.8, "updates": 10, "ema": 0.0}
    start = {"start": "random"} if method in ("rigl", "set", "snip") else {}
    s = prepare_pruning(config(parent, **{**SMALL, **options, **start, "int8_aware": True})).session
    rounded = [n > 0 for n in rounded_in_training(s, monkeypatch)]
    begins = max(12, s.pruner.changed_at)
    assert rounded == [step > begins for step in range(1, 16)]
    assert rounded[-1]


def test_int8_awareness_that_would_have_no_step_is_refused(parent):
    for values in (
        {"method": "dpp", "method_set": {"until": 1.0}},
        {"method": "magnitude", "epochs": 0},
    ):
        with pytest.raises(ConfigError, match="--int8-aware rounds weights after the last mask"):
            prepare_pruning(
                config(parent, **{**SMALL, "target": 0.8, "int8_aware": True, **values})
            )


def test_the_dense_accuracy_is_reported_and_a_guess_warns(tmp_path, parent):
    class Listening(Quiet):
        seen: list[float]

        def on_dense_accuracy(self, val_accuracy: float) -> None:
            self.seen = [val_accuracy]

    listening = Listening()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prune(config(parent, **SMALL), observer=listening, out=tmp_path / "run")
    found = listening.seen[0]
    near = [w for w in caught if "the dense model has a validation accuracy of" in str(w.message)]
    assert bool(near) == (found < 0.25 + 0.1 * 0.75)  # four classes
    s = prepare_pruning(config(parent, **SMALL)).session
    counts = torch.tensor(s.data.val.labels).bincount(minlength=4)
    s.teacher = lambda x: torch.eye(4)[counts.argmin()].repeat(len(x), 1)  # always the rarest
    s.teacher.eval = lambda: None
    with pytest.warns(
        FggpWarning,
        match="guessing has 25.0%: check whether it was trained with --mean 0.5 --std 0.25",
    ):
        guessed = dense_accuracy(s)
    assert guessed == counts.min() / counts.sum()
    s.teacher = None
    assert dense_accuracy(s) is None


def test_statistics_taken_anew_are_those_of_the_training_images(parent):
    s = prepare_pruning(config(parent, **{**SMALL, "bn_images": 160})).session
    before = s.model[1].running_mean.clone()
    model = final_model(s, s.batches(s.data.train))
    # as training sees them: the same draws, since the seed is the run's
    drawn = s.batches(s.data.train).shuffled(torch.Generator().manual_seed(0), s.augmentation)
    y = s.model[0](torch.cat([x for x, _ in drawn]))
    torch.testing.assert_close(model[1].running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.equal(s.model[1].running_mean, before)
    assert not model.training


def test_a_skipped_batch_changes_nothing_after_it():
    data = killing.noise()
    batches = open_batches(
        data.train, data.preprocessing, batch_size=32, device=torch.device("cpu")
    )

    def epoch(skip: int) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(1)
        drawn = batches.shuffled(g, Augmentation("strong", True, 2), skip=skip)
        return [x for x, _ in drawn] + [torch.rand(3, generator=g)]

    whole = epoch(0)
    assert len(whole) == 6
    for skip in range(6):
        rest = epoch(skip)
        assert len(rest) == 6 - skip
        assert all(torch.equal(a, b) for a, b in zip(whole[skip:], rest, strict=True))


def test_the_plan_is_what_the_run_then_does(tmp_path, parent, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = config(parent, **{**SMALL, "target": (0.5, 0.9)})
    made = plan(options)
    assert list(tmp_path.iterdir()) == []  # nothing is written
    s = prepare_pruning(options).session
    removed = [s.pruner.masks.n_removed]
    done = []
    for step in training_steps(s, Quiet()):
        n = s.pruner.masks.n_removed
        if n != removed[-1]:
            done.append((step, n - removed[-1]))
            removed.append(n)
    assert done == [(u.step, u.n_drop) for u in made.updates]
    assert made.n_steps == 15
    assert made.target_steps == (8, 15)
    alive = [s.pruner.masks.n_total - r for r in removed[:-1]]
    largest = max((n / a, n) for (_, n), a in zip(done, alive, strict=True))
    assert (made.largest.share, made.largest.n_drop) == largest
    assert made.seconds > 0
    assert "the gradient alone decides" in made.remark


def test_metrics_hold_each_layers_sparsity(tmp_path, parent):
    prune(config(parent, **SMALL), observer=Quiet(), out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    kept = Checkpoint.open(tmp_path / "run" / "pruned.safetensors")
    assert last["layers"] == {n: pytest.approx(1 - m.mean()) for n, m in kept.masks.items()}


@pytest.mark.slow
def test_a_compiled_network_trains(tmp_path, parent):
    result = prune(config(parent, **SMALL, compile=True), observer=Quiet(), out=tmp_path / "run")
    assert result.n_removed == round(0.8 * result.n_prunable)


def test_bf16_trains(tmp_path, parent):
    options = config(parent, **SMALL, precision="bf16")
    result = prune(options, observer=Quiet(), out=tmp_path / "run")
    assert result.n_removed == round(0.8 * result.n_prunable)
