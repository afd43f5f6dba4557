"""The methods' registry, their options, and what a run makes of them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import killing
import pytest
import torch
import typer
import yaml
from killing import Quiet, config, dense
from torch import nn

from fggp_deploy import Cubic, Magnitude, MaskSet, Pruner
from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.cli.exit_codes import with_exit_codes
from fggp_deploy.errors import ConfigError, FggpWarning, ResumeRefused, UnknownName
from fggp_deploy.pruning import methods
from fggp_deploy.pruning.methods import Options, setting
from fggp_deploy.pruning.methods.gradual import Gradual
from fggp_deploy.training import run as runs
from fggp_deploy.training import savepoint
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.evaluation import warn_if_missed
from fggp_deploy.training.plan import plan
from fggp_deploy.training.prune import prepare_pruning, prune
from fggp_deploy.training.recipes import resolve

SMALL = {"epochs": 2, "batch_size": 32, "updates": 3, "target": 0.8}  # 10 steps


@pytest.fixture(autouse=True)
def _tiny_network_and_data(monkeypatch):
    monkeypatch.setitem(killing.MODELS, "tiny", killing.tiny)
    monkeypatch.setattr(killing.datasets, "load", killing.noise)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return dense(tmp_path_factory.mktemp("dense") / "dense.pt")


@dataclass(frozen=True, kw_only=True)
class Some(Options):
    share: float = setting(0.5, "A share.", above=0, most=1)
    kind: str = setting("a", "A kind.", choices=("a", "b"))


def test_options_are_read_in_their_own_types():
    assert Some.read("some", {"share": 1, "kind": "b"}) == Some(share=1.0, kind="b")
    assert Some.read("some", {"share": "1e-2"}).share == 0.01
    assert Some.defaults() == {"share": 0.5, "kind": "a"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"share": 0}, r"--method-set share must be in \(0, 1\], got 0"),
        ({"share": "much"}, "--method-set share must be a number, got 'much'"),
        ({"shear": 1}, "unknown option of --method some 'shear'; did you mean 'share'"),
        ({"kind": "c"}, "unknown method-set kind 'c'"),
    ],
)
def test_wrong_options_name_the_rule(values: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        Some.read("some", values)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_says_what_it_is(name: str):
    info = methods.info(name)
    assert info.title
    assert info.source
    assert info.starts
    assert set(info.starts) == {"dense", "sparse", "random"} or info.because
    assert set(info.reads) <= {"updates", "rate", "pattern"}
    assert all(rule.help.endswith(".") for rule in info.options.rules().values())


def test_what_a_method_measures_goes_to_the_metrics(tmp_path: Path, parent: Path):
    values = {**SMALL, "method": "dpp", "distill": 0.0}
    prune(config(parent, **values), observer=Quiet(), out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    measured = json.loads(lines[-1])["method"]
    assert list(measured) == ["confidence", "diversity"]
    assert list(measured["confidence"]) == ["3.weight", "8.weight"]
    assert all(0 < v < 1 for v in measured["confidence"].values())


def test_averaged_blocks_still_share_one_magnitude(tmp_path: Path, parent: Path):
    values = {**SMALL, "method": "unification", "target": 0.5, "ema": 0.8}
    made = prune(config(parent, **values), observer=Quiet(), out=tmp_path / "run")
    w = Checkpoint.open(made.checkpoint).tensors["3.weight"].reshape(-1, 4)
    alike = [len(set(abs(row).tolist())) == 1 for row in w]
    assert sum(alike) >= len(w) - 1  # one block may be cut
    assert len({abs(row[0]) for row in w}) > 10


def test_the_methods_options_are_options_of_the_run(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("method: gmp\nmethod_set: {allocation: erk}\n")
    made = resolve(PruneConfig, file=file, explicit={})
    assert made.method_set == {"allocation": "erk"}
    assert made.to_dict()["method_set"] == {"allocation": "erk", "reinit": "none"}
    assert PruneConfig().to_dict()["method_set"] == {"allocation": "global", "reinit": "none"}
    later = resolve(
        PruneConfig, file=file, settings=["method_set={allocation: uniform}"], explicit={}
    )
    assert later.method_set == {"allocation": "uniform"}
    file.write_text(yaml.safe_dump(made.to_dict()))
    assert resolve(PruneConfig, file=file, explicit={}) == made


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method_set": {"allocation": "egal"}}, "unknown method-set allocation 'egal'"),
        ({"method_set": {"depth": 1}}, "unknown option of --method fggp 'depth'"),
        ({"epochs": 0}, "--epochs must be at least 1 for --method fggp, which needs training"),
        ({"start": "fresh"}, "unknown start 'fresh'"),
    ],
)
def test_a_run_with_options_that_do_not_fit_is_refused(values: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        PruneConfig(**values)
    with pytest.raises(ConfigError, match="--epochs must be at least 1 to train"):
        TrainConfig(epochs=0)


def test_other_options_of_the_method_are_another_run(tmp_path: Path, parent: Path):
    options = config(parent, **SMALL, method="gmp", method_set={"allocation": "erk"})
    prune(options, observer=Quiet(), out=tmp_path / "run")
    same = {"method": "gmp", "method_set": {"allocation": "erk"}}
    assert (
        resolve(PruneConfig, explicit=same, out=tmp_path / "run").method_set == same["method_set"]
    )
    assert resolve(PruneConfig, explicit={}, out=tmp_path / "run").method_set == same["method_set"]
    with pytest.raises(
        ResumeRefused, match="method_set allocation is 'erk' in that run, 'uniform' now"
    ):
        resolve(
            PruneConfig, explicit={"method_set": {"allocation": "uniform"}}, out=tmp_path / "run"
        )


def test_random_weights_need_no_checkpoint(tmp_path: Path):
    options = config(None, **SMALL, start="random")
    results = [prune(options, observer=Quiet(), out=tmp_path / f"run{i}").digest for i in range(2)]
    assert results[0] == results[1]
    with pytest.raises(ConfigError, match="--model tiny needs --checkpoint or --weights"):
        prune(config(None, **SMALL), observer=Quiet(), out=tmp_path / "none")


class Cut(BaseException):
    pass


TRAINING = [n for n in methods.BUILT_IN if not methods.info(n).without_training]
HALF = {"granet": {"start_sparsity": 0.5}}
FILTERS = {"granularity": "filter"}
RUNS = [
    *((n, 0.8, HALF.get(n, {})) for n in TRAINING),
    ("greg-1", 0.6, FILTERS),
    ("greg-2", 0.6, FILTERS | {"reinit": "rewind"}),
    ("gmp", 0.8, {"reinit": "orthp"}),
    ("mean-gradient", 0.8, {"reinit": "rewind"}),
    ("lottery", 0.8, {"share": 0.5, "rewind_epoch": 0.2}),
    ("lottery", 0.8, {"reinit": "orthp", "allocation": "erk"}),
    *((n, 0.6, {"images": 64}) for n in methods.without_training()),
]


@pytest.mark.parametrize(("name", "target", "own"), RUNS)
def test_every_method_is_exact_and_goes_on_where_it_was_cut(
    tmp_path: Path, parent: Path, monkeypatch, name: str, target: float, own: dict
):
    values = {**SMALL, "target": target}
    options = config(parent, **values, method=name, method_set=own, prune_first=True, distill=0.0)
    whole = prune(options, observer=Quiet(), out=tmp_path / "whole")
    assert whole.n_removed == round(target * whole.n_prunable)
    write = savepoint.write

    def and_end(folder: Path, at: int, *rest: object) -> Path:
        path = write(folder, at, *rest)
        if at == 5:
            raise Cut
        return path

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(runs.savepoint, "write", and_end)
        prune(options, observer=Quiet(), out=tmp_path / "cut")
    again = prune(options, observer=Quiet(), out=tmp_path / "cut")
    assert again.digest == whole.digest


@pytest.mark.parametrize("name", methods.without_training())
@pytest.mark.parametrize("epochs", [0, 1])
def test_what_needs_no_training(tmp_path: Path, parent: Path, name: str, epochs: int):
    options = {**SMALL, "epochs": epochs, "target": 0.6, "method": name, "bn_images": 0}
    results = [
        prune(config(parent, **options), observer=Quiet(), out=tmp_path / f"run{i}")
        for i in range(2)
    ]
    assert results[0].n_removed == round(0.6 * results[0].n_prunable)
    assert results[0].digest == results[1].digest
    assert results[0].parent_accuracy is not None
    planned = plan(config(parent, **options))
    assert planned.updates == ()
    assert planned.n_steps == 5 * epochs


def test_each_round_has_its_own_cycle_of_the_learning_rate(parent: Path):
    own = {"method": "lottery", "method_set": {"share": 0.6, "rewind_epoch": 0.4}}
    options = config(parent, **{**SMALL, **own, "lr": 1.0, "warmup_epochs": 0.0})
    session = prepare_pruning(options).session
    rates = []
    for session.position.step in range(1, 11):
        rates.append(session.learning_rate)
    assert session.pruner.method.rounds.update_steps == (5, 7)
    assert rates[0] == 1.0
    assert rates[5:7] == [pytest.approx((1 + math.cos(math.pi * i / 4)) / 2) for i in (2, 3)]
    assert rates[7:] == [pytest.approx((1 + math.cos(math.pi * i / 5)) / 2) for i in (2, 3, 4)]


def test_orthogonal_weights_before_training(tmp_path: Path, parent: Path):
    values = {**SMALL, "method": "magnitude", "method_set": {"reinit": "orthp"}, "distill": 0.0}
    made = prune(config(parent, **values), observer=Quiet(), out=tmp_path / "run")
    assert made.n_removed == round(0.8 * made.n_prunable)
    session = prepare_pruning(config(parent, **values)).session
    kept = session.pruner.masks["3.weight"]
    weight = session.model.get_parameter("3.weight").detach()
    before = torch.load(parent)["3.weight"]
    assert not torch.allclose(weight, before * kept, atol=1e-3)
    assert float(weight.norm()) == pytest.approx(float((before * kept).norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"method": "wanda", "start": "random"},
            "cannot start from random weights: it preserves what",
        ),
        (
            {"method": "magnitude", "epochs": 0, "start": "random"},
            "--epochs 0 with --start random would give an untrained network",
        ),
        ({"epochs": 0}, "these methods need none: magnitude, wanda, second-order"),
        ({"method": "random", "start": "trained"}, "would discard what a trained network has"),
        ({"method": "rigl", "start": "trained"}, "cannot start from a trained dense network: it"),
        (
            {"method": "rigl", "target": (0.5, 0.8)},
            "makes one network per run, got 2 targets: its mask",
        ),
        ({"method": "granet", "method_set": {"start_sparsity": 0.9}}, "0.9 is above --target 0.8"),
        (
            {"method": "greg-1", "method_set": {"literal": True}},
            "may change only in the first 8 steps",
        ),
        ({"method": "greg-2", "start": "random"}, "chooses by the magnitude of trained weights"),
        ({"method": "greg-1", "method_set": FILTERS}, "Give a target below 0.7"),
        ({"method": "lottery", "method_set": {"share": 0.1}}, "17 rounds of training after step 0"),
        (
            {"method": "magnitude", "epochs": 0, "method_set": {"reinit": "orthp"}},
            "reinit=orthp replaces the trained weights, so training must follow",
        ),
        (
            {"method": "greg-1", "method_set": {**FILTERS, "allocation": "erk"}},
            "granularity filter needs allocation global, got erk",
        ),
    ],
)
def test_what_does_not_go_together_says_why(tmp_path, parent: Path, values: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        prune(config(parent, **{**SMALL, **values}), observer=Quiet(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "gmp", "rate": 0.3}, "--method gmp has no use for --rate; leave it out"),
        ({"method": "synflow", "updates": 7}, "--method synflow has no use for --updates"),
        ({"method": "greg-1", "updates": 7}, "--method greg-1 has no use for --updates"),
        ({"sparsity": 0.5}, "sparsity is an option of `fggp-deploy train` only; give --target"),
        (
            {"allocation": "uniform"},
            "is an option of `fggp-deploy train` only; give --method-set allocation",
        ),
        ({"method": "wanda", "epochs": 0, "ema": 0.9}, "--ema averages over training steps, and"),
        (
            {"method": "wanda", "epochs": 0, "average_epochs": 1, "bn_images": 9, "ensemble": 3},
            "--average-epochs averages over training steps, and --epochs 0 has none; leave it out",
        ),
        (
            {"method": "wanda", "method_set": {"reinit": "orthp", "ridge": 0.5}},
            "ridge has no effect with reinit=orthp, which replaces the re-fit",
        ),
        (
            {"method": "lottery", "method_set": {"reinit": "none", "rewind_epoch": 2}},
            "rewind_epoch has no effect with reinit=none, which does not rewind",
        ),
        (
            {"method": "granet", "method_set": {"start_sparsity": 0.5}},
            "would discard what a trained network has learned; add --start random",
        ),
        (
            {"method": "rigl", "method_set": {"regrow": 0.1, "regrow_to": 0.3}},
            "regrow_to 0.3 is above regrow 0.1",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(tmp_path: Path, values: dict, says: str):
    settings = [f"{k}={yaml.safe_dump(v, default_flow_style=True)}" for k, v in values.items()]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    for given in (
        {"explicit": values},
        {"settings": settings, "explicit": {}},
        {"file": tmp_path / "c.yaml", "explicit": {}},
    ):
        with pytest.raises(ConfigError, match=says):
            resolve(PruneConfig, **given)
    run = tmp_path / "run"  # of a version that took it
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(PruneConfig(**values).to_dict()))
    assert resolve(PruneConfig, explicit={}, out=run) == PruneConfig(**values)
    assert resolve(PruneConfig, explicit=values, out=run) == PruneConfig(**values)


@pytest.mark.parametrize("name", methods.names())
def test_what_a_user_did_not_ask_for_is_not_refused(tmp_path: Path, name: str):
    file = tmp_path / "config.yaml"
    epochs = 0 if methods.info(name).without_training else 3
    for recipe in (None, "best", "paper"):
        made = resolve(PruneConfig, recipe=recipe, explicit={"method": name, "epochs": epochs})
        file.write_text(yaml.safe_dump(made.to_dict()))
        assert resolve(PruneConfig, file=file, explicit={}) == made


def test_without_regrowth_needs_one_option():
    share = partial(resolve, PruneConfig, settings=["method=granet"])
    for own, ends in (
        ({}, (0.5, 0.005)),
        ({"regrow": 0.0}, (0.0, 0.0)),
        ({"regrow": 0.001}, (0.001, 0.001)),
        ({"regrow": 0.3, "regrow_to": 0.2}, (0.3, 0.2)),
    ):
        made = share(explicit={"method_set": own}).method_options.share(10)
        assert (made.at(0), made.at(10)) == pytest.approx(ends)
    start = {"start": "random", "method_set": {"start_sparsity": 0.5}}
    assert share(explicit=start).method_set == start["method_set"]


def packaged(folder: Path, value: str, name: str = "mine") -> None:
    """A package of someone else's, as an installer leaves it, that offers a method."""
    about = folder / "theirs-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[fggp_deploy.methods]\n{name} = {value}\n")


MINE = """
from fggp_deploy import Magnitude
from fggp_deploy.pruning.methods import MethodInfo, Options
from fggp_deploy.pruning.methods.gradual import Gradual

METHOD = MethodInfo(
    title="mine",
    source="nowhere",
    make=lambda options, task: Gradual(Magnitude(), task.schedule),
    several_targets=True,
)
"""


def test_a_method_from_another_package(tmp_path: Path, parent: Path, monkeypatch):
    packaged(tmp_path / "site", "theirs_module:METHOD")
    (tmp_path / "site" / "theirs_module.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert methods.names()[-1] == "mine"
    mine = prune(config(parent, method="mine"), observer=Quiet(), out=tmp_path / "mine")
    gmp = prune(config(parent, method="gmp"), observer=Quiet(), out=tmp_path / "gmp")
    assert mine.digest == gmp.digest
    with pytest.raises(ConfigError, match="--method mine has no options of its own, got a=1"):
        config(parent, method="mine", method_set={"a": 1})
    with pytest.raises(ConfigError, match="no options of its own, got share=1; it is an option of"):
        config(parent, method="mine", method_set={"share": 1})
    with pytest.raises(UnknownName, match="did you mean 'mine'"):
        config(parent, method="mien")


def test_a_sparse_network_is_refused_where_it_does_not_fit(
    tmp_path: Path, parent: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    half = prune(config(parent, **{**SMALL, "target": 0.5}), observer=Quiet(), out=tmp_path / "a")
    options = {**SMALL, "epochs": 0}
    with pytest.raises(ConfigError, match="wanda cannot start from a trained network that is spar"):
        prune(config(half.checkpoint, **options, method="wanda"), observer=Quiet())
    further = prune(config(half.checkpoint, **options, method="magnitude"), observer=Quiet())
    assert further.n_removed == round(0.8 * further.n_prunable)
    before, after = (Checkpoint.open(r.checkpoint).masks for r in (half, further))
    assert all(not (after[n] & ~m).any() for n, m in before.items())
    moving = {**SMALL, "target": 0.5, "method": "rigl", "start": "trained"}
    moved = prune(config(half.checkpoint, **moving), observer=Quiet(), out=tmp_path / "c")
    assert moved.n_removed == half.n_removed
    assert moved.digest != half.digest


def test_a_sparse_parent_is_not_thrown_away(tmp_path: Path, parent: Path):
    half = prune(config(parent, **{**SMALL, "target": 0.5}), observer=Quiet(), out=tmp_path / "a")
    with pytest.raises(ConfigError, match="is sparse, and --method rigl would start from random"):
        prune(config(half.checkpoint, **SMALL, method="rigl"), observer=Quiet())


def test_a_name_of_ours_in_another_package_is_told(tmp_path: Path, monkeypatch):
    packaged(tmp_path / "site", "os:sep", name="gmp")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.warns(FggpWarning, match="method 'gmp' of theirs is ignored"):
        methods.info("gmp")


HALF = """
from fggp_deploy.pruning.methods import MethodInfo
from fggp_deploy.pruning.methods.parts.at_start import AtStart, flat, without_smallest


class Half(AtStart):
    def choose(self, state, n_drop):
        if self.target == 0.8:
            raise ValueError("my own bug")
        return without_smallest(state.masks, flat(state.masks, state.params).abs(), n_drop // 2)


METHOD = MethodInfo(title="mine", source="nowhere", make=lambda options, task: Half(task.target))
"""


def test_what_another_package_does_wrong_is_told(tmp_path: Path, parent, monkeypatch, capsys):
    packaged(tmp_path / "site", "their_half:METHOD")
    (tmp_path / "site" / "their_half.py").write_text(HALF)
    monkeypatch.syspath_prepend(tmp_path / "site")
    short = config(parent, **{**SMALL, "target": 0.6}, method="mine")
    with pytest.raises(ConfigError, match=r"Half removes 422 of 1408 weights, but the target 0\.6"):
        prune(short, observer=Quiet(), out=tmp_path / "short")
    fails = with_exit_codes(prune)
    with pytest.raises(typer.Exit):
        fails(config(parent, **SMALL, method="mine"), observer=Quiet())
    reported = capsys.readouterr().err
    assert "ValueError: my own bug; this is a bug in method 'mine' of theirs (" in reported
    assert "their_half.py:9)" in reported


def test_a_target_that_is_missed_is_told(recwarn):
    masks = MaskSet({"w": torch.arange(10_000) % 10 == 0})  # 90% removed
    warn_if_missed(0.9001, masks)
    assert not recwarn
    warn_if_missed(0.9003, masks)
    assert "90.00% of the weights are removed, not 90.03%" in str(recwarn.pop().message)


def test_the_method_of_the_docs(tmp_path: Path, parent: Path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()
    assert all(f"`{name}`" in page for name in methods.BUILT_IN)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "my_package.py").write_text(page.split("```python\n")[1].split("```")[0])
    packaged(tmp_path / "site", "my_package:METHOD")
    monkeypatch.syspath_prepend(tmp_path / "site")
    options = config(parent, **SMALL, method="mine", method_set={"power": 2})
    made = prune(options, observer=Quiet(), out=tmp_path / "run")
    assert made.n_removed == round(0.8 * made.n_prunable)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no_such_module:METHOD", "of theirs cannot be loaded"),
        ("os:sep", "is a str; os:sep must be a fggp_deploy.pruning.methods.MethodInfo"),
    ],
)
def test_a_broken_method_of_another_package(tmp_path: Path, monkeypatch, value: str, says: str):
    packaged(tmp_path / "site", value)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ConfigError, match=f"method 'mine' .*{says}"):
        methods.info("mine")


def test_an_option_of_other_methods_says_of_which():
    for key, has in (("granularity", "greg-1, greg-2, dpp"), ("rewind-epoch", "lottery")):
        with pytest.raises(UnknownName, match=f"'{key}'; .*; it is an option of {has}$"):
            PruneConfig(method_set={key: 1})
    with pytest.raises(ConfigError, match=r"no options of its own, got share=1$"):
        Options.read("plain", {"share": 1})
    with pytest.raises(UnknownName, match=r"'depth'; known: allocation, reinit$"):
        PruneConfig(method_set={"depth": 1})


def test_the_program_lists_the_methods(program):
    reported = program("methods", "--json").json
    assert [m["name"] for m in reported] == list(methods.BUILT_IN)
    rigl = next(m for m in reported if m["name"] == "rigl")
    assert rigl["starts"] == ["random", "sparse"]
    assert {o["name"]: o["default"] for o in rigl["options"]}["regrow"] == 0.5
    shown = program("methods").out
    assert all(f"\n{name}: " in f"\n{shown}" for name in methods.BUILT_IN)
    assert "starts from random or sparse; one target per run; state: the random generator" in shown
    one = program("methods", "granet", COLUMNS="160")
    assert "--method-set start_sparsity=" in one.out
    wrong = program("methods", "rigel")
    assert wrong.code == 2
    assert "unknown method 'rigel'; did you mean 'rigl'?" in wrong.err


def test_the_program_refuses_options_that_the_method_has_not(program):
    wrong = program("prune", "--method", "gmp", "--method-set", "regrow=0.5")
    assert wrong.code == 2
    assert "unknown option of --method gmp 'regrow'; known: allocation" in wrong.err
    assert wrong.err.endswith("; it is an option of granet, rigl, set\n")
    half = program("prune", "--method-set", "allocation")
    assert "--method-set takes key=value, got 'allocation'" in half.err


class Two(nn.Module):
    """A small layer with large weights, a large one with small weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, bias=False), nn.Linear(10, 8, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.arange(1.0, 21).view(5, 4) + 100)
            self.b.weight.copy_(torch.arange(1.0, 81).view(8, 10))


@pytest.mark.parametrize(
    ("allocation", "removed"),
    [
        ("global", {"a": 0, "b": 50}),
        ("uniform", {"a": 10, "b": 40}),
        ("erk", {"a": 3, "b": 47}),
    ],  # 50 kept as 4 + 5 to 8 + 10
)
def test_who_loses_how_much(allocation: str, removed: dict[str, int]):
    net = Two()
    method = Gradual(Magnitude(), Cubic(0.5, steps=1), allocation=allocation)
    pruner = Pruner(net, method, optimizer=None)
    pruner.after_backward()
    pruner.after_step()
    masks = pruner.finish()
    assert masks.removed_by_layer == {f"{n}.weight": k for n, k in removed.items()}
    assert not masks["b.weight"].view(-1)[: removed["b"]].any()  # the smallest of the layer


def test_a_layer_cannot_keep_more_than_it_has():
    net = Two()
    masks = MaskSet.ones({"a.weight": net.a.weight, "b.weight": net.b.weight})
    masks["a.weight"].view(-1)[:16] = False  # 4 of 20 are left, and 16 of 100 removed
    method = Gradual(Magnitude(), Cubic(0.5, steps=1, start=0.16), allocation="uniform")
    pruner = Pruner(net, method, optimizer=None, masks=masks)
    pruner.after_backward()
    assert pruner.masks.removed_by_layer == {"a.weight": 16, "b.weight": 34}
