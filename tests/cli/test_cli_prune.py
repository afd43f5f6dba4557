"""Runs that start, plan and branch otherwise than the default one, through the program itself."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from conftest import QUICK, tiny

from fggp_deploy import models
from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.data import Dataset, Preprocessing, Split
from fggp_deploy.pruning.methods.parts.blocks import Blocking
from fggp_deploy.training.evaluation import warn_if_guessing


def test_a_sparse_checkpoint_goes_on_from_its_zeros(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar)]
    below = program(*args, "--target", 0.4, "--out", "x")
    assert below.code == 2
    assert "already 50.00% sparse but --target is 0.4" in below.err
    ended = program(*args, "--target", 0.9, "--out", "further", "--json")
    assert ended.code == 0, ended.err
    old = Checkpoint.open(half_sparse)
    new = Checkpoint.open(program.cwd / "further" / "pruned.safetensors")
    assert ended.json["n_removed"] == round(0.9 * ended.json["n_prunable"])
    assert len(old.masks) > 10
    assert all(not new.tensors[n][~m].any() for n, m in old.masks.items())


def test_whole_blocks_go_and_every_record_says_so(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", 0.9, "--out", "run"]
    made = program(*args, "--pattern", "1x4", "--json")
    assert made.code == 0, made.err
    assert made.json["pattern"] == "1x4"
    assert 0 <= round(0.9 * made.json["n_prunable"]) - made.json["n_removed"] < 4
    other = program(*args, "--pattern", "1x2")
    assert "pattern is '1x4' in that run, '1x2' now" in other.err
    same = program(*args)
    assert f"removed {made.json['n_removed']:,} of" in same.out
    assert "%, in blocks of 1x4)" in same.out
    old = Checkpoint.open(half_sparse).masks
    new = Checkpoint.open(program.cwd / "run" / "pruned.safetensors")
    assert new.info.provenance["config"]["pattern"] == "1x4"
    for name, kept in new.masks.items():
        blocks = Blocking(kept.shape, 1, 4, taps=kept[0, 0].size)
        lost = torch.from_numpy(old[name] & ~kept if name in old else ~kept)
        assert not (blocks.cut(torch.from_numpy(kept)).any(1) & blocks.cut(lost).any(1)).any()


def test_the_same_seed_gives_the_same_bits(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", 0.9, "--json"]
    a, b, other = (program(*args, "--out", f"r{i}", "--seed", i // 2).json for i in range(3))
    assert a["digest"] == b["digest"] != other["digest"]


def test_a_run_without_a_parent_exports_without_a_reference(program, half_sparse):
    exported = program("export", half_sparse, "--out", "half.onnx", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["reference"] is None
    checked = program(
        "verify",
        "half.onnx",
        "--no-data",
        *QUICK,
    )
    assert checked.code == 0, checked.err
    assert "No dense model" in checked.out


def test_a_plan_writes_nothing(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", "0.9,0.95"]
    args += ["--recipe", "fast", "--set", "updates=3", "--pattern", "1x4"]
    planned = program(*args, "--dry-run", "--json")
    assert planned.code == 0, planned.err
    made = planned.json
    assert [round(u["sparsity"], 2) for u in made["updates"]][-1] == 0.95
    assert len(made["updates"]) == 6
    assert all(u["n_drop"] % 4 == 0 for u in made["updates"])  # as full blocks allow
    assert made["config"]["pattern"] == "1x4"
    assert made["config"]["recipe"] == "fast"
    assert made["config"]["epochs"] == 1  # an option goes over the recipe
    assert list(program.cwd.iterdir()) == []


def test_several_targets_are_exported_one_by_one(program, cifar, half_sparse):
    args = ["prune", "--checkpoint", half_sparse, *tiny(cifar), "--target", "0.8,0.9"]
    made = program(*args, "--out", "run", "--json")
    assert made.code == 0, made.err
    n = made.json["n_prunable"]
    assert [r["n_removed"] for r in made.json["results"]] == [round(0.8 * n), round(0.9 * n)]
    exported = program("export", "run/pruned-0.80.safetensors", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["path"] == "run/model-0.80.onnx"
    again = program(*args, "--out", "run", "--json")  # the same command
    assert again.json == made.json
    assert "holds a finished run" in again.err


OWN = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 4))
"""


def test_the_data_set_in_use_is_named_and_that_it_is_the_default(program, cifar):
    (program.cwd / "net.py").write_text(OWN)
    own = ["--model", "net.py:make", "--trust-code"]
    for command in ("train", "prune"):
        weights = ["--method", "snip", "--start", "random"] if command == "prune" else []
        ended = program(command, *own, *weights)  # --data is forgotten
        assert ended.code == 2, ended.err
        assert "net.py:make does not run on the images of fashion-mnist-12k, 1×28×28" in ended.err
        assert ended.err.endswith(
            "The data set is fashion-mnist-12k, the default; if that is not yours, give --data\n"
        )
    torch.save(models.build("resnet20", num_classes=4, in_channels=1).state_dict(),
               program.cwd / "w.pt")  # fmt: skip
    ended = program("prune", "--model", "resnet20", "--checkpoint", "w.pt")
    assert ended.err.endswith("the default; if that is not yours, give --data\n")
    ended = program("prune", "--model", "resnet20", "--checkpoint", "w.pt", *tiny(cifar)[2:])
    assert "The data set is" not in ended.err


def test_a_result_that_is_a_guess_is_told(program, cifar):
    made = program("train", *tiny(cifar), "--lr", "1e-9", "--out", "run")
    assert made.code == 0, made.err
    assert "data: cifar10\n" in made.err
    assert "warning: the result is no better than guessing: " in made.err
    assert "and always predicting the most frequent class gives" in made.err


def test_the_bound_of_a_guess():
    prepare = Preprocessing(1, 1, (0.5,), (0.5,))
    pixels = np.zeros((100, 1, 1, 1), np.uint8)
    part = Split(pixels, np.repeat([0, 1, 2, 3], 25))
    data = Dataset("squares", tuple("abcd"), part, part, part, prepare)
    # a standard error of (1/4 · 3/4 / 100)^½ = 4.33 points: up to 33.66% is a guess
    for right, guess in ((0.25, True), (0.33, True), (0.34, False), (0.9, False)):
        with warnings.catch_warnings(record=True) as reported:
            warnings.simplefilter("always")
            warn_if_guessing(right, data)
        assert bool(reported) == guess
