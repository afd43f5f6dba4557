"""The layer that localization names is the first that does not agree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graphs import Builder, plain_run
from onnx import ModelProto, helper, numpy_helper

from fggp_deploy.graph.comparison import parity_of
from fggp_deploy.verification import locate
from fggp_deploy.verification.locate import first_difference

pytestmark = pytest.mark.usefixtures("shapes_in_process")

LAYERS = {"v0": "t0", "v1": "t0", "v2": "t2", "v3": "t2"}  # output → weight of its layer
X = np.random.default_rng(1).standard_normal((1, 3, 4, 4)).astype(np.float32)


def network() -> ModelProto:
    """Conv → Relu → Conv → Sigmoid; what the Sigmoid makes is all below 1e-6."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 4, 3, density=1.0))
    small = b.tensor(np.full((2, 4, 1, 1), 1e-3, np.float32))
    bias = b.tensor(np.full(2, -16, np.float32))
    return b.model(b.op("Sigmoid", b.op("Conv", x, small, bias)), size=4)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> ModelProto:
    model = network()
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return model


def first_that_disagrees(suspect: ModelProto, trusted: ModelProto) -> str | None:
    """The weight of the first layer whose outputs `parity_of` refuses."""
    values = []
    for model in (suspect, trusted):
        shown = ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in LAYERS)
        values.append(plain_run(shown, X))
    pairs = zip(LAYERS.values(), *values, strict=True)
    return next((layer for layer, y, want in pairs if not parity_of([y], [want]).passed), None)


@pytest.mark.parametrize(
    ("tensor", "change", "layer"),
    [
        ("t0", lambda w: w, None),
        ("t1", lambda b: b + np.float32(1e-5), None),  # the largest value is above 1
        ("t1", lambda b: b + np.float32(1e-2), "t0"),
        ("t0", lambda w: w * np.float32(np.nan), "t0"),
        ("t3", lambda b: b + np.float32(0.01), "t2"),
        ("t3", lambda b: b + np.float32(1e-3), None),  # the Sigmoid's 1e-7 become 1.001e-7
    ],
)
def test_localization_and_agreement_name_one_layer(tensor, change, layer) -> None:
    suspect = changed(tensor, change)
    assert first_that_disagrees(suspect, network()) == layer
    found = first_difference(suspect, network(), X, against="the other")
    assert (found and found.layer) == layer


def test_nan_in_both_networks_is_no_difference() -> None:
    both = changed("t1", lambda b: np.where(np.arange(4) == 1, np.float32(np.nan), b))
    assert first_difference(both, both, X, against="itself") is None
    worse = ModelProto.FromString(both.SerializeToString())
    bias = numpy_helper.to_array(both.graph.initializer[1]) + np.float32([0, 0, 0, 1])
    worse.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "t1"))
    found = first_difference(worse, both, X, against="the other")
    assert found is not None
    assert (found.layer, found.channels) == ("t0", (3,))


def test_a_layer_may_differ_as_far_as_stock_differs_from_itself(monkeypatch) -> None:
    suspect = changed("t1", lambda b: b + np.float32(1e-2))
    values = locate._values

    def unsteady(model, outputs, x, *, optimize=False):
        found = values(model, outputs, x)
        return {n: y + np.float32(3e-3) for n, y in found.items()} if optimize else found

    assert first_difference(suspect, network(), X, against="the other") is not None
    monkeypatch.setattr(locate, "_values", unsteady)
    assert first_difference(suspect, network(), X, against="the other") is None
