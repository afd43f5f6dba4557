"""Deliberate damage is caught, and the layer or the likely cause is named."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import metadata as small_metadata
from nets import sparse_small
from onnx import numpy_helper
from verified import PREPROCESSING, Original, damage, dataset, metadata, network

from fggp_deploy import kernels
from fggp_deploy.data.types import Preprocessing, Split
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters import onnx as packed_onnx
from fggp_deploy.exporters.torch_onnx import to_onnx
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.measure import evaluate
from fggp_deploy.measure.network import load
from fggp_deploy.report import sections
from fggp_deploy.report.markdown import markdown
from fggp_deploy.verification import locate
from fggp_deploy.verification.preprocessing_check import REVERSED, check_inputs

pytestmark = pytest.mark.usefixtures("shapes_in_process")


def failed(found) -> list[str]:
    return [v.name for v in found.verdicts if not v.passed]


def test_a_channel_with_its_sign_flipped(folder, quick):
    counts = np.count_nonzero(numpy_helper.to_array(network(0.95).graph.initializer[1]),
                              axis=(1, 2, 3))  # fmt: skip
    start, channel = int(counts[:20].sum()), 20  # one that the linear layer reads

    def flip(values):
        values[start : start + counts[channel]] *= -1
        return values

    damage(folder / "model.onnx", "b.weight.values", flip)
    found = quick(folder / "model.onnx", original=Original(onnx=network(0.95)))
    assert failed(found) == ["self-test"]
    assert (found.mismatch.layer, found.mismatch.channels) == ("b", (channel,))
    text = markdown(sections.page(found))
    assert "the first that differs is layer b (Conv), 1 channel(s): 20" in text


def test_a_shifted_batch_norm(tmp_path, quick):
    net = sparse_small(0.5)
    meta = small_metadata()
    trusted = to_onnx(net, meta)
    run = load("trusted", trusted.SerializeToString(), threads=1).logits
    meta = dataclasses.replace(
        meta, selftest=SelfTest.of_classifier(run, meta.preprocessing.input_shape)
    )
    net.bn2.bias.data[5] += 1
    path = packed_onnx.export(to_onnx(net, meta), meta, tmp_path / "model.onnx")
    found = quick(path, original=Original(onnx=trusted))
    assert failed(found) == ["self-test"]
    assert (found.mismatch.layer, found.mismatch.channels) == ("strided", (5,))
    assert found.mismatch.max_abs == pytest.approx(1, rel=1e-3)
    assert found.mismatch.tensors == ("strided.bias",)


def test_without_a_trusted_network_it_says_what_is_missing(folder, quick):
    damage(folder / "model.onnx", "fc.weight.values", lambda v: -v)
    found = quick(folder / "model.onnx")
    assert found.mismatch is None
    assert "--trusted" in found.notes[0]


def test_packed_that_differs_from_dense_names_the_layer(folder, quick, monkeypatch):
    wrong = network(0.95)
    tensor = wrong.graph.initializer[1]
    w = numpy_helper.to_array(tensor).copy()
    w[4] *= 2
    tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
    monkeypatch.setattr(SparseModel, "dense", lambda self: wrong)
    found = quick(folder / "model.onnx", data=dataset())
    assert (found.mismatch.layer, found.mismatch.channels) == ("b", (4,))
    assert "b.weight" not in found.mismatch.tensors  # packed in one, dense in the other


def answered_by_itself(preprocessing: Preprocessing):
    """Test images that the sparse network gets right when fed with `preprocessing`."""
    data = dataset()
    net = load("net", network(0.95).SerializeToString(), threads=1)
    y = evaluate.logits(net, data.test, preprocessing)
    test = Split(data.test.images, y.argmax(1))
    return dataclasses.replace(data, test=test, preprocessing=preprocessing)


def test_the_wrong_mean(folder, quick):
    data = answered_by_itself(PREPROCESSING)
    good = quick(folder / "model.onnx", data=data)
    assert good.inputs.passed
    assert good.accuracy.model.top1.value == 1
    wrong = dataclasses.replace(
        metadata(network(0.95)), preprocessing=Preprocessing(8, 8, (1.0,), (0.25,))
    )
    path = packed_onnx.export(network(0.95), wrong, folder / "wrong" / "model.onnx")
    found = quick(path, reference=folder / "reference.onnx", data=data)
    assert failed(found) == ["preprocessing"]
    assert found.inputs.best == "the mean and std of random"
    assert found.inputs.tried[found.inputs.best].value == 1
    assert "the mean and std of random would gain" in markdown(sections.page(found))


class Redness:
    """Class 0 if the first channel is brighter than the last."""

    name = "redness"

    def logits(self, x):
        return np.stack([x[:, 0].mean((1, 2)), x[:, 2].mean((1, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("swapped", [False, True])
def test_rgb_and_bgr_swapped(swapped):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (200, 4, 4, 3), dtype=np.uint8)
    plain = Preprocessing(4, 4, (0.0,) * 3, (1.0,) * 3)
    labels = Redness().logits(plain(images)).argmax(1)
    fed = images[..., ::-1].copy() if swapped else images
    found = check_inputs(Redness(), Split(fed, labels), plain, {})
    assert found.passed is not swapped
    assert found.best == (REVERSED if swapped else None)
    assert found.as_given.value == (0 if swapped else 1)


def test_a_small_gain_gets_a_second_look():
    images = np.zeros((2000, 4, 4, 3), np.uint8)  # gray, right in either order
    images[::25, ..., 0] = 9
    labels = np.zeros(2000, np.int64)
    labels[::25] = 1  # right in reverse only: 11 of 256, which may be chance, and 80 of 2,000
    plain = Preprocessing(4, 4, (0.0,) * 3, (1.0,) * 3)
    few = check_inputs(Redness(), Split(images[:256], labels[:256]), plain, {})
    assert (few.n, few.best, few.passed) == (256, REVERSED, True)
    assert few.gain_points == pytest.approx(100 * 11 / 256)
    found = check_inputs(Redness(), Split(images, labels), plain, {})
    assert (found.n, found.best, found.passed) == (2000, REVERSED, False)
    assert found.gain_points == 4
    good = np.zeros(2000, np.int64)
    assert check_inputs(Redness(), Split(images, good), plain, {}).n == 256  # one look is enough


class Brightness:
    """Class 1 for bright images, by a sum of pixels that half of the dark ones exceed a little."""

    name = "brightness"

    def logits(self, x):
        return np.stack([np.zeros(len(x)), x.mean((1, 2, 3)) + 0.01], axis=1).astype(np.float32)


def sorted_by_class() -> Split:
    """300 dark images, half of them just too bright for `Brightness`, then 300 bright ones."""
    levels = [*([100, 127] * 150), *([130] * 300)]
    images = np.array(levels, np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 1), np.uint8)
    return Split(images, np.repeat([0, 1], 300))


def test_images_sorted_by_class_fail_no_correct_file():
    given = Preprocessing(4, 4, (0.5,), (0.25,))
    darker = {"a larger mean": Preprocessing(4, 4, (0.7,), (0.25,))}  # all are class 0 then
    first = check_inputs(Brightness(), sorted_by_class().at(slice(0, 256)), given, darker)
    assert (first.best, first.gain_points, first.passed) == ("a larger mean", 50, False)
    found = check_inputs(Brightness(), sorted_by_class(), given, darker)
    assert found.passed
    assert found.as_given.value == pytest.approx(0.75, abs=0.05)
    assert found.tried["a larger mean"].value == pytest.approx(0.5, abs=0.01)


def test_only_the_whole_split_fails_a_file(monkeypatch):
    wrong_in_the_sample = np.arange(300) * 2
    monkeypatch.setattr(
        Split,
        "sample",
        lambda split, n, *, seed: split if n >= len(split) else split.at(wrong_in_the_sample[:150]),
    )
    given = Preprocessing(4, 4, (0.5,), (0.25,))
    darker = {"a larger mean": Preprocessing(4, 4, (0.7,), (0.25,))}
    split = sorted_by_class()
    images = split.images.copy()
    images[wrong_in_the_sample[:150]] = 127  # all that the sample shows is wrong
    found = check_inputs(Brightness(), Split(images, split.labels), given, darker)
    assert (found.n, found.passed) == (600, True)


def test_the_check_can_be_left_out(folder, quick):
    data = answered_by_itself(Preprocessing(8, 8, (1.0,), (0.25,)))
    assert failed(quick(folder / "model.onnx", data=data)) == ["preprocessing"]
    found = quick(folder / "model.onnx", data=data, check_preprocessing=False)
    assert found.passed
    assert found.inputs is None
    assert any("--no-preprocessing-check" in note for note in found.notes)


def test_a_gain_that_chance_explains_passes():
    images = np.zeros((10, 4, 4, 3), np.uint8)
    images[0, ..., 0] = 9  # one image of ten would be right in reverse
    labels = np.array([1] + [0] * 9)
    plain = Preprocessing(4, 4, (0.0,) * 3, (1.0,) * 3)
    found = check_inputs(Redness(), Split(images, labels), plain, {})
    assert (found.best, found.gain_points) == (REVERSED, 10)
    assert found.passed


def test_equal_networks_have_no_difference():
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    assert locate.first_difference(network(0.9), network(0.9), x, against="itself") is None


def test_networks_without_a_common_name_cannot_be_compared():
    other = network(0.9)
    for node in other.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if "." not in name and name != "input":
                    names[i] = f"other_{name}"
    x = np.zeros((1, 1, 8, 8), np.float32)
    with pytest.raises(ModelFileError, match="same name"):
        locate.first_difference(network(0.9), other, x, against="the other")


def test_nan_is_a_difference():
    bad = network(0.9)
    w = numpy_helper.to_array(bad.graph.initializer[0]).copy()
    w[2] = np.nan
    bad.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "a.weight"))
    x = np.ones((1, 1, 8, 8), np.float32)
    found = locate.first_difference(bad, network(0.9), x, against="the good one")
    assert (found.layer, found.channels[0]) == ("a", 2)
    assert np.isfinite(found.max_abs)


def test_a_wrong_kernel_is_found_by_cutting_the_network(monkeypatch):
    def wrong_in_b(model: bytes, **options):
        cut = onnx.load_model_from_string(model)
        for tensor in cut.graph.initializer:
            if tensor.name == "b.weight":
                w = numpy_helper.to_array(tensor).copy()
                w[7] += 1
                tensor.CopyFrom(numpy_helper.from_array(w, tensor.name))
        return ort.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])

    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    if kernels.library_path() is not None:
        assert locate.first_difference_on_kernels(network(0.95), x, threads=1) is None
    monkeypatch.setattr(locate.runtime, "session", wrong_in_b)
    found = locate.first_difference_on_kernels(network(0.95), x, threads=1)
    assert (found.layer, found.channels) == ("b", (7,))
