"""Damage of a delivered file, and of what it is fed, through the whole `verify` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Program
from nets import metadata, sparse_small
from onnx import numpy_helper
from verified import damage

from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters import onnx_dense
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.measure.network import load

pytestmark = pytest.mark.slow

N_IMAGES = 600
CHANNEL = 20  # one that is not dead
DATA = """
import numpy as np

def images(order):
    kept = np.load("images.npz")
    part = kept["x"][..., ::order], kept["y"]
    return {"train": part, "val": part, "test": part, "classes": "0123456789"}

def rgb():
    return images(1)

def bgr():
    return images(-1)
"""


@pytest.fixture
def delivered(program: Program) -> Program:
    """model.onnx, the trusted network, its dense model, and images that it predicts correctly."""
    net, meta = sparse_small(0.9), metadata()
    shape = meta.preprocessing.input_shape
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (N_IMAGES, 1, 1, 3))
    noise = rng.integers(-40, 40, (N_IMAGES, *shape[1:], 3))
    x = (colors + noise).clip(0, 255).astype(np.uint8)
    with torch.inference_mode():  # as a trained network has it: large logits, every class given
        net.fc.weight *= 30
        net.fc.bias -= net(torch.from_numpy(meta.preprocessing(x))).mean(0)
    trusted = to_onnx(net, meta)
    run = load("trusted", trusted.SerializeToString(), threads=1).logits
    meta = dataclasses.replace(meta, selftest=SelfTest.of_classifier(run, shape))
    packed_onnx.export(trusted, meta, program.cwd / "model.onnx")
    onnx_dense.export(trusted, meta, program.cwd / "reference.onnx")
    onnx.save(trusted, program.cwd / "trusted.onnx")
    np.savez(program.cwd / "images.npz", x=x, y=run(meta.preprocessing(x)).argmax(1))
    (program.cwd / "data.py").write_text(DATA)
    return program


def flip_a_channel(folder: Path) -> None:
    (weight,) = [
        t for t in onnx.load(folder / "trusted.onnx").graph.initializer
        if t.name == "strided.weight"
    ]  # fmt: skip
    counts = np.count_nonzero(numpy_helper.to_array(weight), axis=(1, 2, 3))
    start = int(counts[:CHANNEL].sum())

    def flip(values):
        values[start : start + counts[CHANNEL]] *= -1
        return values

    damage(folder / "model.onnx", "strided.weight.values", flip)


def shift_a_batch_norm(folder: Path) -> None:
    def shift(bias):
        bias[CHANNEL] += 1
        return bias

    damage(folder / "model.onnx", "strided.bias", shift)


def change_the_mean(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    for prop in model.metadata_props:
        if "mean" in prop.value:
            reported = json.loads(prop.value)
            (reported.get("preprocessing") or reported)["mean"] = [0.9, 0.9, 0.9]
            prop.value = json.dumps(reported)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("change", "data", "failed", "named"),
    [
        (None, "rgb", [], "all 5 checks passed; no gate is set"),
        (flip_a_channel, "rgb", ["self-test"], "layer strided (Conv), 1 channel(s): 20;"),
        (shift_a_batch_norm, "rgb", ["self-test"], "layer strided (Conv), 1 channel(s): 20;"),
        (change_the_mean, "rgb", ["preprocessing"], "Likely cause of a loss: the mean and std of"),
        (None, "bgr", ["preprocessing"], "Likely cause of a loss: the channels in reverse order"),
    ],
    ids=["none", "sign", "batch-norm", "mean", "bgr"],
)
def test_damage_is_caught_and_named(delivered, change, data, failed, named):
    if change is not None:
        change(delivered.cwd)
    ended = delivered(
        "verify", "model.onnx", "--data", f"data.py:{data}", "--trust-code", "--trusted",
        "trusted.onnx", "--threads", "1", "--batch", "1", "--seconds", "0.1", "--no-int8", "--json",
        FGGP_KERNELS="none",
    )  # fmt: skip
    assert ended.code == (1 if failed else 0), ended.err
    assert [v["name"] for v in ended.json["verdicts"] if not v["passed"]] == failed
    for name in ("report.html", "report.md"):
        text = (delivered.cwd / name).read_text()
        assert named in text
