"""export_model with example inputs: networks that are no image classifiers."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from fggp_deploy import export_model, runtime
from fggp_deploy.errors import ConfigError, FggpWarning, ModelFileError
from fggp_deploy.exporters.parity import run_self_test
from fggp_deploy.exporters.signature import Names, Signature
from fggp_deploy.format.generated_inputs import Input, feeds
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import KEY, SelfTest

pytestmark = pytest.mark.usefixtures("shapes_in_process")


class Own(nn.Module):
    """A network whose forward() is a function of a few sparse layers and its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.to_three = nn.Linear(6, 40), nn.Linear(40, 3)
        self.embedding = nn.Embedding(50, 40)
        self.line = nn.Conv1d(2, 40, 3, padding=1)
        self.plane, self.to_five = nn.Conv2d(3, 40, 3, stride=2), nn.Conv2d(40, 5, 1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(generator=generator)
                if p.ndim > 1:
                    p.mul_(torch.rand(p.shape, generator=generator) < 0.1)


class TwoInputs(Own):
    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> tuple[Tensor, Tensor]:
        both = self.linear(x) + self.linear(y) * scale
        return self.to_three(both.relu()), both


class Dictionaries(Own):
    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        hidden = (self.linear(batch["x"]) + self.embedding(batch["ids"]).mean(1)).relu()
        return OrderedDict(logits=self.to_three(hidden), hidden=[hidden, hidden.sum(1)], none=None)


class Vector(Own):
    def forward(self, x: Tensor) -> Tensor:
        return self.to_three(self.linear(x).relu())


class Tokens(Own):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("causal", torch.full((7, 7), -torch.inf).triu(1))

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        shown = self.embedding(input_ids).masked_fill(~mask.unsqueeze(2), 0.0)
        read = (shown @ shown.mT + self.causal).softmax(2) @ shown
        return self.to_three(read.relu())


class Segmenter(Own):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        y = self.to_five(self.plane(image).relu())
        return {"out": nn.functional.interpolate(y, size=image.shape[2:], mode="nearest")}


@dataclass
class Found:
    boxes: list[Tensor]
    scores: Tensor | None
    labels: Tensor


class Detector(Own):
    def forward(self, images: list[Tensor]) -> Found:
        y = self.to_five(self.plane(torch.stack(images)).relu()).flatten(2)
        return Found([y[:, :4], y[:, 4:].sigmoid()], None, y.argmax(1))


class Signal(Own):
    def forward(self, *, wave: Tensor) -> Tensor:
        return self.line(wave).mean(2)


def image(*size: int) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(1))


IDS = torch.arange(14).reshape(2, 7) % 9
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str, str]] = {
    "two inputs": (
        TwoInputs,
        {"example_inputs": (image(1, 6), image(1, 6)), "dynamic": {"x": {0: "n"}, "y": {0: "n"}}},
        "x n 6, y n 6", "output_0 n 3, output_1 n 40",
    ),
    "dictionaries": (
        Dictionaries,
        {"example_inputs": ({"x": image(2, 6), "ids": IDS},), "dynamic": {"ids": [1]}},
        "x 2 6, ids 2 ids_1", "logits 2 3, hidden_0 2 40, hidden_1 2",
    ),
    "one axis": (Vector, {"example_inputs": image(6)}, "x 6", "output 3"),
    "token ids": (
        Tokens,
        {
            "example_inputs": {"input_ids": IDS, "mask": IDS > 0},
            "input_names": ["tokens", "shown"], "output_names": ["embedded"],
        },
        "tokens 2 7, shown 2 7", "embedded 2 7 3",
    ),
    "segmentation": (
        Segmenter,
        {"example_inputs": image(1, 3, 9, 9), "dynamic": {"image": {0: "n", 3: "w"}, "out": [0]}},
        "image n 3 9 w", "out n 5 9 w",
    ),
    "detector": (
        Detector,
        {"example_inputs": [image(3, 9, 9), image(3, 9, 9) * 2]},
        "images_0 3 9 9, images_1 3 9 9", "boxes_0 2 4 16, boxes_1 2 1 16, labels 2 16",
    ),
    "signal": (Signal, {"example_inputs": {"wave": image(2, 2, 20)}}, "wave 2 2 20", "output 2 40"),
}  # fmt: skip


def shapes(values: Any) -> str:
    """The names and sizes of a graph's inputs or outputs in one line."""
    return ", ".join(
        " ".join([v.name, *(d.dim_param or str(d.dim_value) for d in v.type.tensor_type.shape.dim)])
        for v in values
    )


@pytest.mark.parametrize("case", CASES)
def test_any_network_is_exported_and_checked(case: str, tmp_path: Path) -> None:
    make, options, inputs, outputs = CASES[case]
    network = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FggpWarning)
        path = export_model(network, tmp_path / "m.onnx", **options)
    graph = onnx.load(path).graph
    assert shapes(graph.input) == inputs
    assert shapes(graph.output) == outputs
    opened = SparseModel.open(path)
    assert any(layer.encoding != "dense" for layer in opened.layers)
    assert opened.metadata.preprocessing is None
    test = opened.metadata.selftest
    assert test is not None
    assert {o.name for o in test.outputs} == {v.name for v in graph.output}
    assert set(run_self_test(path).values()) == {True}
    session = runtime.session(path, threads=1, measure=False, cache=False)
    names = [v.name for v in graph.output]
    assert test.passes(dict(zip(names, session.run(None, test.feeds()), strict=True)))


@pytest.mark.parametrize("values", ["fp16", "int8"])
def test_rounded_values_have_a_self_test_of_their_own(values: str, tmp_path: Path) -> None:
    notes: list[str] = []
    path = export_model(
        Signal(), tmp_path / "m.onnx", example_inputs={"wave": image(2, 2, 20)}, values=values,
        note=notes.append,
    )  # fmt: skip
    meta = SparseModel.open(path).metadata
    assert meta.selftest is not None
    assert meta.unrounded is not None
    assert meta.selftest.outputs[0].values != meta.unrounded.outputs[0].values
    assert f"{values} values change the outputs by up to" in notes[0]
    assert set(run_self_test(path).values()) == {True}


class Text(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x, "x"


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, training=True)


class Grows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x.repeat(self.n)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


X = image(6)
PAIR = (image(1, 6), image(1, 6))
MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no module": (len, {"example_inputs": X}, "takes a torch.nn.Module, got builtin_function"),
    "no description": (Vector(), {}, "give example_inputs, or a classifier's preprocessing"),
    "two descriptions": (Vector(), {"example_inputs": X, "classes": ["a"]}, "give one of the two"),
    "names alone": (
        Vector(), {"dynamic": {}, "classes": ["a"], "preprocessing": 1}, "belong to example_inputs",
    ),
    "one argument too few": (
        TwoInputs(), {"example_inputs": X},
        r"do not fit TwoInputs.forward\(x.*missing a required argument: 'y'",
    ),
    "unknown argument": (
        Vector(), {"example_inputs": {"z": X}}, r"do not fit Vector.forward.*a tuple of its arg",
    ),
    "wrong shape": (Vector(), {"example_inputs": image(7)}, r"Vector does not run on example_inp"),
    "array": (Vector(), {"example_inputs": np.ones(6)}, "'x' is a NumPy array; give a torch"),
    "complex": (Vector(), {"example_inputs": X * 1j}, "'x' is torch.complex64; a file takes"),
    "empty": (Vector(), {"example_inputs": X[:0]}, r"'x' is empty, \(0,\)"),
    "no tensor": (Vector(), {"example_inputs": 3}, "example_inputs must hold tensors"),
    "input names": (
        TwoInputs(), {"example_inputs": PAIR, "input_names": ["a"]},
        "input_names has 1 entries, but the network has 2 inputs: x, y",
    ),
    "output names": (
        Vector(), {"example_inputs": X, "output_names": ["a", "b"]},
        "output_names has 2 entries, but the network has 1 outputs: output",
    ),
    "a name for a list": (Vector(), {"example_inputs": X, "input_names": "x"}, "a list of names"),
    "a name twice": (
        TwoInputs(), {"example_inputs": PAIR, "input_names": ["a", "a"]}, "two inputs are called",
    ),
    "a name on both sides": (
        Vector(), {"example_inputs": X, "output_names": ["x"]}, "'x' names an input and an output",
    ),
    "unknown in dynamic": (
        Vector(), {"example_inputs": X, "dynamic": {"y": [0]}}, "unknown input in dynamic 'y'",
    ),
    "axis": (Vector(), {"example_inputs": X, "dynamic": {"x": [1]}}, r"axis 1 of 'x', whose exam"),
    "axis name": (Vector(), {"example_inputs": X, "dynamic": {"x": {0: "a b"}}}, "a name such as"),
    "two sizes": (
        TwoInputs(), {"example_inputs": PAIR, "dynamic": {"x": {0: "n", 1: "n"}}},
        "whose size is 1 elsewhere and 6 here",
    ),
    "dynamic is a list": (
        Vector(), {"example_inputs": X, "dynamic": ["x"]}, "dynamic must be a dictionary",
    ),
    "no tensor comes out": (Text(), {"example_inputs": X}, "returns str in 'output_1'; a file can"),
    "nothing comes out": (Nothing(), {"example_inputs": X}, "Nothing returns no tensor"),
    "random": (Random(), {"example_inputs": X}, "'output' changes by .* turn off dropout"),
    "growing": (Grows(), {"example_inputs": X}, r"has the shape \(12,\) in one run and \(18,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(case: str, tmp_path: Path) -> None:
    model, options, says = MISTAKES[case]
    with pytest.raises(ConfigError, match=says) as error:
        export_model(model, tmp_path / "m.onnx", **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_open_axes_of_size_one_are_doubled() -> None:
    signature = Signature.of(
        TwoInputs().eval(), PAIR, Names(dynamic={"x": {0: "n"}, "y": {-2: "n"}})
    )
    assert [x.shape for x in signature.feeds().values()] == [(2, 6), (2, 6)]


def test_the_values_of_inputs_lie_in_their_range() -> None:
    made = feeds(
        5,
        [
            Input("ids", "int64", (500,), (3, 7)),
            Input("mask", "bool", (500,), (0, 1)),
            Input("ones", "int32", (500,), (1, 1)),
            Input("x", "float32", (500,), (0.5, 2.5)),
            Input("noise", "float32", (500,)),
        ],
    )
    assert set(made["ids"]) == {3, 4, 5, 6, 7}
    assert set(made["mask"]) == {False, True}
    assert set(made["ones"]) == {1}
    assert 0.5 <= made["x"].min() < 0.6
    assert 2.4 < made["x"].max() < 2.5
    assert made["noise"].min() < -0.9
    alone = feeds(5 + 1500, [Input("noise", "float32", (500,))])  # ones take nothing
    assert np.array_equal(alone["noise"], made["noise"])


GOOD = {
    "seed": 0,
    "inputs": [{"name": "x", "dtype": "int64", "shape": [2], "range": [0, 5]}],
    "outputs": [{"name": "y", "shape": [2], "at": [0, 1], "values": [1, 2], "atol": 0.1}],
    "rtol": 0.001,
}


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("inputs", "range", [5, 0]),
        ("inputs", "range", [0, float("nan")]),
        ("inputs", "range", [0, 2**40]),
        ("inputs", "range", [0]),
        ("inputs", "range", 3),
        ("inputs", "shape", [2**27]),
        ("inputs", "shape", [2**20, 2**20]),
        ("inputs", "shape", ["n"]),
        ("inputs", "dtype", "complex64"),
        ("outputs", "at", [0, 2]),
        ("outputs", "at", [0]),
        ("outputs", "at", []),
        ("outputs", "at", None),
        ("outputs", "values", [1, float("inf")]),
        ("outputs", "shape", [0]),
        ("outputs", "atol", -1),
        ("outputs", "atol", "x"),
    ],
)
def test_a_hostile_self_test_is_refused(part: str, key: str, value: Any) -> None:
    assert SelfTest.from_dict(GOOD).feeds()["x"].shape == (2,)
    bad = json.loads(json.dumps(GOOD))
    bad[part][0][key] = value
    if (key, value) == ("at", None):
        assert SelfTest.from_dict(bad).outputs[0].at is None  # all of them
        return
    with pytest.raises(ModelFileError, match="self-test"):
        SelfTest.from_dict(bad)


def test_older_files_have_one_tolerance_for_all_outputs() -> None:
    old = json.loads(json.dumps(GOOD)) | {"atol": 0.5}
    del old["outputs"][0]["atol"]
    test = SelfTest.from_dict(old)
    assert KEY != "fggp.outputs_test"
    assert test.outputs[0].atol == 0.5
