"""The dense model in int8 beside the file: what it is calibrated on, and what is said of it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from verified import CLASSES, N_TEST, SIDE, dataset, markdown

from fggp_deploy.common.progress import silent
from fggp_deploy.data.types import Preprocessing, Split
from fggp_deploy.errors import DataError, FggpWarning, ModelFileError
from fggp_deploy.measure.evaluation_data import (
    N_CALIBRATION,
    calibration_images,
    images_for,
    with_training_images,
)
from fggp_deploy.verification import model_under_test


def test_dense_int8_is_a_rival_with_its_own_accuracy(folder, quick):
    data = dataset()
    data = dataclasses.replace(data, train=data.test.at(slice(0, 100)))
    found = quick(folder / "model.onnx", data=data)
    rival = found.int8
    assert rival.n_calibration == 100
    assert rival.file_bytes < 0.5 * found.reference.file_bytes
    assert rival.scores.top1.n == rival.paired.n == N_TEST
    # the parent is its reference: with the file it shares nothing but the images
    lost_against_parent = found.accuracy.reference.top1.k - rival.scores.top1.k
    assert rival.paired.lost - rival.paired.gained == lost_against_parent
    assert rival.paired.agreement.value > 0.8
    assert {"model", "reference", "int8"} == set(found.latency.timings) == set(found.processes)
    text = markdown(found)
    assert "calibrated on 100 training images" in text
    assert "baseline: the dense model in int8" in text
    without = quick(folder / "model.onnx", data=data, int8=False)
    assert without.int8 is None
    assert "int8" not in without.latency.timings
    assert "Dense int8 was not measured: --no-int8." in without.notes


@pytest.mark.parametrize("labels", [np.repeat(np.arange(4), 320), np.tile(np.arange(4), 320)])
def test_every_class_calibrates_int8_whatever_the_order(labels):
    images = np.zeros((len(labels), SIDE, SIDE, 1), np.uint8) + labels[:, None, None, None]
    data = dataclasses.replace(dataset(), train=Split(images.astype(np.uint8), labels))
    chosen = calibration_images(data, Preprocessing(SIDE, SIDE, (0.0,), (1 / 255,)))
    classes = np.rint(chosen[:, 0, 0, 0]).astype(int)
    assert np.bincount(classes).tolist() == [N_CALIBRATION // 4] * 4


def test_int8_that_cannot_be_made_is_a_note(folder, quick, monkeypatch):
    def refuse(*_, **__):
        raise ModelFileError("onnxruntime cannot quantize the network: no")

    monkeypatch.setattr(model_under_test, "quantize_on", refuse)
    data = dataset()
    found = quick(folder / "model.onnx", data=dataclasses.replace(data, train=data.test))
    assert found.int8 is None
    assert (
        "Dense int8 was not measured: onnxruntime cannot quantize the network: no." in found.notes
    )


def test_training_images_for_int8_are_never_test_images(folder, tmp_path):
    def draw(where: Path, n: int) -> None:
        for c in range(CLASSES):
            (where / f"c{c}").mkdir(parents=True)
            for i in range(n):
                pixels = np.full((SIDE, SIDE), 20 * c + i, np.uint8)
                Image.fromarray(pixels).save(where / f"c{c}" / f"{i}.png")

    draw(tmp_path / "flat", 10)
    draw(tmp_path / "cut" / "train", 10)
    draw(tmp_path / "cut" / "test", 2)
    model = folder / "model.onnx"
    for name, n_test in (("flat", 60), ("cut", 12)):
        spec = f"folder:{tmp_path / name}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FggpWarning)  # that the flat one is all for testing
            found = images_for(model, spec, progress=silent)
        assert (len(found.train), len(found.test)) == (0, n_test)
        if name == "flat":  # all of them are for testing
            with pytest.raises(DataError, match="none can calibrate int8"):
                with_training_images(found, model, spec, None, progress=silent)
        else:
            more = with_training_images(found, model, spec, None, progress=silent)
            assert (len(more.train), len(more.test)) == (54, 12)
