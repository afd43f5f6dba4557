"""A folder of images through the whole pipeline, as a user has it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import QUICK
from PIL import Image

from fggp_deploy import data
from fggp_deploy.data.splits import HeldOut
from fggp_deploy.errors import DataError, FggpWarning
from fggp_deploy.exporters.run import export_run
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.evaluation_data import images_for
from fggp_deploy.measure.network import load
from fggp_deploy.training.config import PruneConfig, TrainConfig
from fggp_deploy.training.prune import prune
from fggp_deploy.training.train import train


def quiet(*_) -> None:
    pass


@pytest.fixture(scope="module")
def shirts(tmp_path_factory) -> Path:
    """200 of the embedded images in class folders, with nothing held out."""
    root = tmp_path_factory.mktemp("data") / "shirts"
    d = data.load()
    for i in range(200):
        folder = root / d.classes[d.train.labels[i]].replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(d.train.images[i, ..., 0]).save(folder / f"{i}.png")
    return root


def test_prune_export_and_measure(tmp_path: Path, shirts: Path):
    config = PruneConfig(data=f"folder:{shirts}", target=0.9, epochs=1, augment="strong",
                         stream=True, workers=0, device="cpu")  # fmt: skip
    made = prune(config, observer=Mock(), out=tmp_path / "run")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    n_test = len(split["test"])
    assert 15 <= n_test <= 25
    assert made.n_test == n_test
    # the embedded network knows these images, and their classes by name
    assert made.parent_accuracy > 0.8
    packed = export_run(made.checkpoint).path
    assert str(shirts.parent).encode() not in packed.read_bytes()

    # without a name: the folder from config.yaml, the test images from split.json
    new = shirts / "bag" / "new.png"
    new.write_bytes((shirts / split["test"][0]).read_bytes())
    found = images_for(packed, progress=quiet)
    new.unlink()
    assert found.name == "folder:shirts"
    in_run = found.test
    assert len(in_run) == n_test
    y = evaluate.logits(load("model", packed, threads=1), in_run, found.preprocessing)
    top1 = evaluate.scores(y, in_run.labels).top1.value
    assert top1 == pytest.approx(made.test_accuracy)

    (tmp_path / "alone").mkdir()
    alone = packed.rename(tmp_path / "alone" / "model.onnx")
    # without config.yaml and split.json: the same images, by seed
    by_seed = images_for(alone, f"folder:{shirts}", progress=quiet).test
    assert np.array_equal(by_seed.images, in_run.images)
    # under another name it is another data set, all of it for testing
    renamed = shirts.rename(shirts.with_name("renamed"))
    with pytest.warns(FggpWarning, match="all of its 200 images are used for testing"):
        assert len(images_for(alone, f"folder:{renamed}", progress=quiet).test) == 200
    renamed.rename(shirts)
    with pytest.raises(
        DataError, match=r"'folder:shirts', which is opened only if you name it; give --data"
    ):
        images_for(alone, progress=quiet)


@pytest.mark.slow
def test_the_three_commands(program, shirts: Path):
    made = program("prune", "--data", f"folder:{shirts}", "--target", 0.9, "--epochs", 1,
                   "--augment", "strong", "--out", "run", "--json")  # fmt: skip
    assert made.code == 0, made.err
    exported = program("export", "run")
    assert exported.code == 0, exported.err
    checked = program("verify", "run", *QUICK, "--json")
    assert checked.code == 0, checked.err
    report = checked.json["accuracy"]
    assert (report["data"], report["n"]) == ("folder:shirts", made.json["n_test"])
    assert report["model"]["top1"]["value"] == pytest.approx(made.json["test_accuracy"])


def test_pruning_a_trained_network_keeps_its_split(tmp_path: Path, shirts: Path):
    options = {"data": f"folder:{shirts}", "epochs": 1, "image_size": 8, "device": "cpu"}
    first = train(TrainConfig(split_seed=3, **options), observer=Mock(), out=tmp_path / "first")
    held_out = HeldOut.open(tmp_path / "first" / "split.json")
    assert held_out.seed == 3
    config = PruneConfig(target=0.5, batch_size=32, **options)
    prune(dataclasses.replace(config, checkpoint=first.checkpoint), observer=Mock(),
          out=tmp_path / "second")  # fmt: skip
    assert HeldOut.open(tmp_path / "second" / "split.json") == held_out


def test_an_announcement_and_one_line_without_a_network(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(DataError, match=r"mnist cannot be downloaded .*; fetch train-images"):
        data.load("mnist")
    announced = capsys.readouterr().err.splitlines()
    assert announced == [f"downloading MNIST (12 MB) to {tmp_path / 'fggp-deploy' / 'data'}"]
