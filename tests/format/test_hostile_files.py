"""No file gets more out of a reader than one clear error: no crash, no hang, no gigabytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import fuzz_files
import golden_files as golden
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.encodings import Bitmask, Gaps
from fggp_deploy.format.encodings.base import ELEMENTS_PER_BYTE, FREE_ELEMENTS, check_expansion
from fggp_deploy.format.encodings.coo import Coo
from fggp_deploy.format.encodings.csr import Csr
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import MAX_BATCH, SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.reading import MAX_DEPTH, MAX_NODES, check_functions, read_model
from fggp_deploy.kernels.program import Program


def fuzz(count: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, fuzz_files.__file__, "--count", str(count), "--seed", str(seed)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_mutated_files():
    found = fuzz(600, seed=0)
    for kind in ("onnx", "csr", "unpack", "compact"):
        assert found[f"{kind} refused"] > 50
        assert found[f"{kind} read"] > 0
    assert found["plan refused"] > 50
    assert found["distinct_messages"] > 50


@pytest.mark.slow
def test_twelve_thousand_mutated_files():
    found = fuzz(12_000, seed=1)
    assert found["files"] == 12_000
    assert found["distinct_messages"] > 200
    print(found)


def one_value(*shape: int) -> Gaps:
    return Gaps(np.ones(1, np.float32), np.ones(1, np.uint8), shape)


def test_expansion_is_bounded_by_what_is_stored():
    check_expansion([one_value(2**12, 2**12)])
    check_expansion([one_value(2**12, 2**12), one_value(1, 5 * ELEMENTS_PER_BYTE)])
    with pytest.raises(ModelFileError, match="5 bytes decode to"):
        check_expansion([one_value(2**12, 2**12 + 2)])
    with pytest.raises(ModelFileError, match="10 bytes decode to"):
        check_expansion([one_value(2**12, 2**12), one_value(1, 10 * ELEMENTS_PER_BYTE + 1)])


def test_a_network_at_99_9_percent_is_within_it():
    size = 140_000_000  # VGG-16's
    stored = 6 * size // 1000
    assert size < FREE_ELEMENTS + ELEMENTS_PER_BYTE * stored


def packed_asking(*shape: int) -> onnx.ModelProto:
    """The golden file with another shape for its first weight."""
    model = onnx.load(golden.ONNX)
    node = next(n for n in model.graph.node if n.op_type == "SparseConv")
    (attribute,) = [a for a in node.attribute if a.name == "weight_shape"]
    attribute.CopyFrom(helper.make_attribute("weight_shape", shape))
    return model


def standard_asking(dims: list[int]) -> onnx.ModelProto:
    """The golden network with a node that makes a tensor of zeros."""
    model = onnx.load(golden.ONNX)
    model.graph.initializer.append(numpy_helper.from_array(np.array(dims), "dims"))
    node = helper.make_node("ConstantOfShape", ["dims"], ["huge"])
    model.graph.node.insert(0, node)
    return model


def many_inputs() -> onnx.ModelProto:
    model = onnx.load(golden.ONNX)
    props = {p.key: p.value for p in model.metadata_props}
    image = {"height": 16384, "width": 16384, "mean": [0.5], "std": [0.25]}
    helper.set_model_props(model, props | {"fggp.preprocessing": json.dumps(image)})
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 16384
    return model


GREEDY = {
    "weight": (lambda: packed_asking(2**14, 2**14, 1, 1), "decode to"),
    "weight_past_int64": (lambda: packed_asking(2**29, 2**29, 2**29, 2**29), "exceeds"),
    "standard_node": (lambda: standard_asking([2**20, 2**20]), "huge"),
    "self_test": (many_inputs, "self-test"),
}


@pytest.mark.parametrize("case", GREEDY)
def test_a_tiny_file_that_asks_for_gigabytes(tmp_path, case):
    make, says = GREEDY[case]
    path = tmp_path / "greedy.onnx"
    path.write_bytes(make().SerializeToString())
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=says):
        SparseModel.open(path).dense()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_weight_file_that_inflates_too_much(tmp_path):
    from scipy.sparse import csr_array, save_npz

    from fggp_deploy.format.csr_folder import FREE_BYTES, _npz

    n = FREE_BYTES // 4 + 1000
    weight = csr_array((np.ones(n, np.float32), np.zeros(n, np.int32), [0, n]), shape=(1, n))
    save_npz(tmp_path / "w.npz", weight)
    content = (tmp_path / "w.npz").read_bytes()
    assert len(content) < n // 50
    with pytest.raises(ModelFileError, match="more bytes"):
        _npz(content, FREE_BYTES)


def sparse(values: np.ndarray, indices: np.ndarray, dims: list[int]) -> onnx.ModelProto:
    """The dense golden network whose conv.weight is a sparse initializer."""
    model = golden.dense()
    kept = [t for t in model.graph.initializer if t.name != "conv.weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    out = model.graph.sparse_initializer.add(dims=dims)
    out.values.CopyFrom(numpy_helper.from_array(values, "conv.weight"))
    out.indices.CopyFrom(numpy_helper.from_array(indices, ""))
    return model


VALUES, DIMS = np.float32([2, 3]), [16, 1, 5, 5]


@pytest.mark.parametrize("indices", [[7, 399], [[0, 0, 1, 2], [15, 0, 4, 4]]])
def test_sparse_initializer_is_read(indices):
    model = unpack(sparse(VALUES, np.array(indices), DIMS))
    assert not model.graph.sparse_initializer
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert weights["conv.weight"].reshape(-1)[[7, 399]].tolist() == [2, 3]
    assert np.count_nonzero(weights["conv.weight"]) == 2


HOSTILE_COO = {
    "past_end": lambda: sparse(VALUES, np.array([7, 400]), DIMS),
    "negative": lambda: sparse(VALUES, np.array([-1, 7]), DIMS),
    "twice": lambda: sparse(VALUES, np.array([7, 7]), DIMS),
    "one_index": lambda: sparse(VALUES, np.array([7]), DIMS),
    "axis_past_end": lambda: sparse(VALUES, np.array([[0, 0, 1, 2], [15, 0, 5, 0]]), DIMS),
    "doubles": lambda: sparse(VALUES.astype(float), np.array([7, 399]), DIMS),
    "huge": lambda: sparse(VALUES, np.array([7, 399]), [2**14, 1, 2**14, 1]),
    "stored_twice": lambda: stored_twice(),
}


def stored_twice() -> onnx.ModelProto:
    model = sparse(VALUES, np.array([7, 399]), DIMS)
    model.graph.sparse_initializer.add().CopyFrom(model.graph.sparse_initializer[0])
    return model


@pytest.mark.parametrize("case", HOSTILE_COO)
def test_hostile_sparse_initializer(case):
    with pytest.raises(ModelFileError):
        unpack(HOSTILE_COO[case]())


def swapped_parts() -> onnx.ModelProto:
    """A bitmask where gaps must be: its bytes are valid gaps, but mean something else."""
    model = onnx.load(golden.ONNX)
    for t in model.graph.initializer:
        if t.name == "conv.weight.gaps":
            bits = np.zeros(50, np.uint8)
            bits[:10] = 1
            t.CopyFrom(numpy_helper.from_array(bits, "conv.weight.bits"))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "conv.weight.bits" if name == "conv.weight.gaps" else name
    return model


def test_a_bitmask_in_place_of_gaps():
    with pytest.raises(ModelFileError, match="not the parts of a single weight"):
        unpack(swapped_parts())


def test_every_encoding_knows_its_bytes():
    shape = (2, 8)
    one, at = np.ones(1, np.float32), np.zeros(1, np.int32)
    assert one_value(*shape).stored_bytes == 5
    assert Bitmask(one, np.uint8([1, 0]), shape).stored_bytes == 6
    assert Coo(one, np.zeros(1, np.int64), shape).stored_bytes == 12
    assert Csr(one, at, np.int32([0, 1, 1]), shape).stored_bytes == 4 + 4 + 12


def with_slice_of_nothing() -> onnx.ModelProto:
    """ONNX's shape inference aborts the process on it: a side is 2 - 5 + 1."""
    model = onnx.load(golden.ONNX)
    bounds = {"start": 1, "end": 5, "axis": 2}
    for name, value in bounds.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    kernel = numpy_helper.from_array(np.zeros((1, 1, 5, 5), np.float32), "kernel")
    small = numpy_helper.from_array(np.zeros((1, 1, 2, 2), np.float32), "small")
    model.graph.initializer.extend([kernel, small])
    nodes = [
        helper.make_node("Conv", ["small", "kernel"], ["negative"]),
        helper.make_node("Slice", ["negative", *bounds], ["sliced"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    return model


def with_functions(calls: dict[str, list[str]]) -> onnx.ModelProto:
    """The golden network with functions of one input, each of which calls others in turn."""
    model = onnx.load(golden.ONNX)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for name, called in calls.items():
        values = ["x", *(f"v{i}" for i in range(len(called)))]
        nodes = [
            helper.make_node(c, [values[i]], [values[i + 1]], domain="own" if c in calls else "")
            for i, c in enumerate(called)
        ]
        f = helper.make_function("own", name, ["x"], [values[-1]], nodes, opsets)
        model.functions.append(f)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("F0", ["input"], ["unused"], domain="own"))
    return model


def doubling(depth: int) -> dict[str, list[str]]:
    inner = {f"F{i}": [f"F{i + 1}"] * 2 for i in range(depth)}
    return inner | {f"F{depth}": ["Relu"]}


def chained(depth: int) -> dict[str, list[str]]:
    return {f"F{i}": [f"F{i + 1}"] for i in range(depth)} | {f"F{depth}": ["Relu"]}


UNFOLDING = {
    "doubling": (doubling(40), "unfold to 1.1e\\+12 nodes"),
    "itself": ({"F0": ["F0"]}, "in a circle"),
    "circle": ({"F0": ["F1"], "F1": ["F0"]}, "in a circle"),
    "deep": (chained(MAX_DEPTH), "more than 64 deep"),
}


@pytest.mark.parametrize("case", UNFOLDING)
def test_functions_that_unfold_without_end(tmp_path, case):
    calls, says = UNFOLDING[case]
    (tmp_path / "f.onnx").write_bytes(with_functions(calls).SerializeToString())
    with pytest.raises(ModelFileError, match=says):
        SparseModel.open(tmp_path / "f.onnx")
    with pytest.raises(ModelFileError, match=says):
        read_model(tmp_path / "f.onnx")


def test_functions_within_the_limit_are_counted_exactly():
    check_functions(with_functions(chained(MAX_DEPTH - 1)))
    fits = doubling(10) | {"F10": ["Relu"] * ((MAX_NODES >> 10) - 1)}
    check_functions(with_functions(fits))
    with pytest.raises(ModelFileError, match="unfold to"):
        check_functions(with_functions(fits | {"F10": ["Relu"] * ((MAX_NODES >> 10) + 1)}))


def test_a_function_in_no_alphabet(tmp_path):
    content = with_functions({"F0": ["Relu"]}).SerializeToString().replace(b"F0", b"F\xd3")
    (tmp_path / "f.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="not UTF-8"):
        read_model(tmp_path / "f.onnx")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork the abort ends the process")
def test_a_crash_of_shape_inference(tmp_path):
    path = tmp_path / "abort.onnx"
    path.write_bytes(with_slice_of_nothing().SerializeToString())
    with pytest.raises(ModelFileError, match=r"shape inference crashed \(SIGABRT\)"):
        SparseModel.open(path)


def endless(tmp_path) -> Path:
    """A network of one image whose Loop has 2^62 steps."""
    image = helper.make_tensor_value_info("input", 1, [1, 3, 4, 4])
    keep = helper.make_node("Identity", ["go_on"], ["going_on"])
    body = helper.make_graph(
        [keep, helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go_on", 9, []),
            helper.make_tensor_value_info("v", 1, [1, 3, 4, 4]),
        ],
        [
            helper.make_tensor_value_info("going_on", 9, []),
            helper.make_tensor_value_info("w", 1, [1, 3, 4, 4]),
        ],
    )
    loop = helper.make_node("Loop", ["steps", "", "input"], ["y"], body=body)
    output = helper.make_tensor_value_info("y", 1, [1, 3, 4, 4])
    steps = numpy_helper.from_array(np.array(2**62), "steps")
    graph = helper.make_graph([loop], "endless", [image], [output], [steps])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path / "endless.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork there is no limit")
@pytest.mark.parametrize("command", ["explain", "pack", "bench"])
def test_a_loop_without_end_is_ended(program, command):
    ended = program(command, endless(program.cwd), FGGP_TRIAL_SECONDS="1", COLUMNS="500")
    assert ended.code == (0 if command == "explain" else 2)  # explain says why it timed nothing
    assert "a first run of endless.onnx did not end within 1 s" in ended.out + ended.err


def test_the_rows_of_a_self_test_are_run_in_batches():
    test = SelfTest.of_logits(7, np.ones((2 * MAX_BATCH + 3, 2), np.float32), (1, 2, 3))
    whole, seen = test.images(), []

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (x,) = feeds.values()
        seen.append(x)
        return {"logits": x.reshape(len(x), -1)[:, :2]}

    answers = test.outputs_of(run)["logits"]
    assert [len(x) for x in seen] == [MAX_BATCH, MAX_BATCH, 3]
    assert np.array_equal(np.concatenate(seen), whole)
    assert np.array_equal(answers, whole.reshape(len(whole), -1)[:, :2])
    assert np.array_equal(test.first_batch().images(), whole[:MAX_BATCH])


def test_a_program_number_past_64_bits():
    with pytest.raises(ModelFileError, match="64 bits"):
        Program([2**63], [])
