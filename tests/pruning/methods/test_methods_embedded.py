"""Every method on images of the embedded data, from its run to a file that ONNX Runtime opens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from killing import Quiet
from torch import nn

from fggp_deploy import ExportOptions, data, export_run
from fggp_deploy.checkpoints.checkpoint import Checkpoint
from fggp_deploy.models import MODELS
from fggp_deploy.models.resnet import thin
from fggp_deploy.pruning import methods
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.prune import prune
from fggp_deploy.training.train import train

pytestmark = pytest.mark.slow
COMMON = {"model": "small", "batch_size": 64, "device": "cpu", "data": "fashion-mnist-12k"}
OWN = {"lottery": {"share": 0.7, "rewind_epoch": 0.2}}  # else 7 rounds of 6 steps


def small(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, groups=2, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, num_classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A network that has seen 960 images for four epochs; the patches stay for the module."""
    whole = data.load()
    few = replace(
        whole,
        train=whole.train.at(slice(0, 960)),
        val=whole.val.at(slice(0, 200)),
        test=whole.test.at(slice(0, 500)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "small", small)
        patch.setattr(data, "load", lambda *_: few)
        made = train(
            TrainConfig(**COMMON, epochs=4), observer=Quiet(),
            out=tmp_path_factory.mktemp("parent") / "run",
        )  # fmt: skip
        yield made


@pytest.mark.parametrize("name", methods.BUILT_IN)
def test_from_images_to_a_file(tmp_path: Path, parent, name: str):
    info = methods.info(name)
    epochs = 0 if info.without_training else 3
    target = 0.7
    checkpoint = None if info.starts[0] == "random" else parent.checkpoint
    config = PruneConfig(
        **COMMON, checkpoint=checkpoint, target=target, method=name, epochs=epochs, updates=10,
        method_set=OWN.get(name, {}),
    )  # fmt: skip
    made = prune(config, observer=Quiet(), out=tmp_path / "run")
    assert made.n_removed == round(target * made.n_prunable)
    assert made.test_accuracy > 0.4  # chance is 0.1; the parent has about 0.75
    masks = Checkpoint.open(made.checkpoint).masks
    assert sum(int((~m).sum()) for m in masks.values()) == made.n_removed
    assert accuracy(export_run(made.checkpoint).path) == pytest.approx(made.test_accuracy, abs=0.01)


def accuracy(file: Path) -> float:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    few = data.load().test
    (logits,) = session.run(None, {"input": data.load().preprocessing(few.images)})
    return float(np.mean(logits.argmax(1) == few.labels))


def plain(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes),
    )  # fmt: skip


def test_drawn_filters_leave_the_file(tmp_path: Path, parent, monkeypatch):
    monkeypatch.setitem(MODELS, "plain", plain)
    config = PruneConfig(
        **{**COMMON, "model": "plain"}, start="random", target=0.6, method="dpp", epochs=4,
        method_set={"granularity": "filter"},
    )  # fmt: skip
    made = prune(config, observer=Quiet(), out=tmp_path / "run")
    assert made.n_removed == round(0.6 * made.n_prunable)
    exported = export_run(made.checkpoint, ExportOptions(compact=True))
    about = exported.compaction
    assert list(about.channels.values()) == [(32, 12), (64, 28)]  # of 12.8 and 25.6, in fours
    assert about.error < 1e-5
    assert accuracy(exported.path) == pytest.approx(made.test_accuracy, abs=0.01)


@pytest.mark.parametrize("name", ["greg-1", "greg-2"])
def test_filters_that_are_pruned_leave_the_file(tmp_path: Path, parent, monkeypatch, name: str):
    monkeypatch.setitem(MODELS, "thin", lambda n, c: thin(1)(n, c))
    dense = train(
        TrainConfig(**COMMON | {"model": "thin"}, epochs=2),
        observer=Quiet(),
        out=tmp_path / "dense",
    )
    config = PruneConfig(
        **COMMON | {"model": "thin"}, checkpoint=dense.checkpoint, target=0.5, method=name,
        method_set={"granularity": "filter"}, epochs=3, lr=0.05,
    )  # fmt: skip
    made = prune(config, observer=Quiet(), out=tmp_path / "run")
    assert made.n_removed == round(0.5 * made.n_prunable)
    masks = Checkpoint.open(made.checkpoint).masks
    dead = {n: int((~m.reshape(len(m), -1).any(1)).sum()) for n, m in masks.items()}
    assert sum(dead.values()) >= 50
    whole = export_run(made.checkpoint, ExportOptions(format="onnx-dense"))
    small = export_run(made.checkpoint, ExportOptions(format="onnx-dense", compact=True))
    n_gone = small.compaction.n_removed
    assert any(f"{n_gone} channels no longer affect the output" in n for n in whole.notes)
    graph = onnx.load(small.path).graph
    shapes = {t.name: t.dims for t in graph.initializer}
    for layer, n_dead in dead.items():
        n_left = len(masks[layer]) - n_dead
        assert shapes[layer][0] == min(len(masks[layer]), -(-n_left // 4) * 4)
    images = data.load().preprocessing(data.load().test.images)
    answers = [
        onnxruntime.InferenceSession(f.path, providers=["CPUExecutionProvider"]).run(
            None, {"input": images}
        )[0]
        for f in (whole, small)
    ]
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5 * np.abs(answers[0]).max())
    assert np.mean(answers[1].argmax(1) == data.load().test.labels) == pytest.approx(
        made.test_accuracy, abs=0.01
    )
    assert small.file_bytes < 0.6 * whole.file_bytes
