"""Weights in blocks that share one |w|: stored once, decoded by standard operators, checked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fggp_deploy import kernels, runtime
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.choice import choose
from fggp_deploy.format.encodings.blocks import SHAPES, Blocks, block_bytes
from fggp_deploy.format.functions import function
from fggp_deploy.format.packing import Packing, flatten, pack
from fggp_deploy.format.unpacking import split, unpack
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.sessions import SessionConfig

F = np.float32


def unified(
    shape: tuple[int, ...],
    block: tuple[int, int],
    *,
    kept: float,
    alike: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """A random weight with that share of blocks kept, and of those that share sharing one |w|."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    grid = (rows // block[0], 1, columns // block[1], 1)
    sides = (rows // block[0], block[0], columns // block[1], block[1])
    own = rng.uniform(0.5, 1, sides)
    one = np.broadcast_to(rng.uniform(0.5, 1, grid), sides)
    w = np.where(rng.random(grid) < alike, one, own) * (rng.random(grid) < kept)
    return (w * rng.choice([-1, 1], sides)).astype(F).reshape(shape)


def test_what_is_stored():
    w = np.array([[0, 0, 2, -2], [0, 0, -2, -2], [3, 1, 0, 0], [-1, 2, 0, 0]], F)
    b = Blocks.encode_in(w, (2, 2))
    assert b.gaps.tolist() == [2, 1]  # the second and the third of four
    assert b.values.tolist() == [2, 3, 1, 1, 2]
    assert b.free.tolist() == [0b10]
    assert b.signs.tolist() == [0b01001110]  # + − − −, then + + − +
    assert b.nnz == 8
    assert b.stored_bytes == 20 + 2 + 1 + 1
    assert b.decode().tolist() == w.tolist()


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(SHAPES), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 99),
)  # fmt: skip
def test_decoding_undoes_encoding(block, rows, columns, kept, alike, seed):
    shape = (rows * block[0], columns * block[1], 1, 1)
    w = unified(shape, block, kept=kept, alike=alike, seed=seed)
    b = Blocks.encode_in(w, block)
    assert np.array_equal(b.decode(), w)
    assert b.nnz == np.count_nonzero(w)
    sizes = block_bytes(w, block, values=F)
    assert sizes[np.uint8] == b.stored_bytes
    assert sizes[np.uint16] == Blocks.encode_in(w, block, np.uint16).stored_bytes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_far_blocks_are_bridged(dtype):
    w = np.zeros((1, 4 * 1000), F)
    w[0, 4 * 600 : 4 * 601] = 5
    b = Blocks.encode_in(w, (1, 4), dtype)
    assert b.gaps.tolist() == ([255, 255, 91] if dtype is np.uint8 else [601])
    assert np.array_equal(b.decode(), w)


def test_the_smallest_block_shape_is_chosen():
    w = unified((64, 64, 3, 3), (4, 4), kept=0.1)
    gaps = choose(w)
    b = Blocks.encode(w)
    assert b.block == (4, 4)
    assert b.stored_bytes == Blocks.encoded_bytes(w)
    assert b.stored_bytes < gaps.stored_bytes / 8  # 16 times 5 bytes, or 4 + 1 + 2 and an eighth
    halves = Blocks.encode(w, values=np.float16)
    assert halves.values.dtype == np.float16
    assert halves.stored_bytes == Blocks.encoded_bytes(w, values=np.float16)
    sparse = unified((512, 4096), (1, 4), kept=0.002)
    assert Blocks.encode(sparse).gaps.dtype == np.uint16
    random = np.random.default_rng(0).standard_normal((64, 64)).astype(F)
    random[np.random.default_rng(1).random((64, 64)) < 0.95] = 0
    assert Blocks.encoded_bytes(random) >= choose(random).stored_bytes
    assert Blocks.encoded_bytes(np.ones((5, 7), F)) is None  # no shape fills it
    assert Blocks.encoded_bytes(np.ones(8, F)) is None


GOOD = Blocks.encode_in(unified((8, 16), (1, 4), kept=0.5, alike=0.5), (1, 4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"block": (3, 4)}, "do not fill"),
        ({"block": (0, 4)}, "two sides of at least 1"),
        ({"block": (-1, -4)}, "two sides"),
        ({"block": (4,)}, "two sides"),
        ({"block": (1, 2**40)}, "two sides"),
        ({"shape": (128,)}, "do not fill"),
        ({"shape": (8, 0)}, "positive sides"),
        ({"gaps": GOOD.gaps.astype(np.int32)}, "gaps must be"),
        ({"gaps": GOOD.gaps * 0}, "a gap is 0"),
        ({"gaps": GOOD.gaps * 0 + 200}, "past the weight's 32 blocks"),
        ({"gaps": GOOD.gaps[:0]}, "gaps must be"),
        ({"gaps": GOOD.gaps.reshape(1, -1)}, "gaps must be"),
        ({"free": GOOD.free[:-1]}, "free must be uint8"),
        ({"free": GOOD.free ^ np.eye(1, len(GOOD.free), dtype=np.uint8)[0]}, "values, got"),
        ({"signs": np.append(GOOD.signs, GOOD.signs)}, "signs must be uint8"),
        ({"values": GOOD.values[:-1]}, "values, got"),
        ({"values": GOOD.values.astype(np.float64)}, "values must be one-dimensional"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(ModelFileError, match=says):
        replace(GOOD, **changes)


def test_bits_past_the_end_are_refused():
    w = np.zeros((1, 12), F)
    w[0, :4] = 1
    one = Blocks.encode_in(w, (1, 4))
    with pytest.raises(ModelFileError, match="signs has bits past its 4"):
        replace(one, signs=np.array([16], np.uint8))
    with pytest.raises(ModelFileError, match="free has bits past its 1"):
        replace(one, free=np.array([2], np.uint8))


def network(alike: float = 1.0) -> ModelProto:
    """A convolution in blocks of 1x4, one in 4x4, and a linear layer in 4x1."""
    g = Builder()
    x = g.conv("x", 16, 3, density=1.0)
    x = g.op("Conv", x, g.tensor(unified((32, 16, 3, 3), (1, 4), kept=0.2, alike=alike)))
    x = g.op("Conv", g.op("Relu", x), g.tensor(unified((64, 32, 3, 3), (4, 4), kept=0.2, seed=1)))
    y = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", x)))
    y = g.op("Gemm", y, g.tensor(unified((1000, 64), (4, 1), kept=0.2, alike=alike)), transB=1)
    return g.model(y)


@pytest.mark.parametrize("alike", [1.0, 0.7])
@pytest.mark.parametrize("form", [pack, lambda m: flatten(pack(m))], ids=["functions", "flat"])
def test_every_runtime_decodes_it(form, alike: float):
    model = network(alike)
    packed = form(model)
    assert packed.ByteSize() < model.ByteSize() / 4
    onnx.checker.check_model(packed, full_check=True)
    x = np.random.default_rng(3).standard_normal((2, 3, 16, 16)).astype(F)
    (want,) = session(model).run(None, {"x": x})
    assert np.array_equal(session(packed).run(None, {"x": x})[0], want)
    (got,) = ReferenceEvaluator(packed).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    weights = split(packed).weights
    assert [w.name for w in weights.values()] == ["blocks"] * 3
    assert sorted(w.block for w in weights.values()) == [(1, 4), (4, 1), (4, 4)]
    again = {t.name: numpy_helper.to_array(t) for t in unpack(packed).graph.initializer}
    for t in model.graph.initializer:
        assert np.array_equal(again[t.name], numpy_helper.to_array(t))


def session(model: ModelProto, path: str | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if path:
        options.optimized_model_filepath = path
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def test_ort_folds_it_away(tmp_path):
    path = str(tmp_path / "folded.onnx")
    session(pack(network()), path)
    assert {n.op_type for n in onnx.load(path).graph.node} <= {
        "Conv", "Relu", "Flatten", "GlobalAveragePool", "Gemm", "FusedConv",
    }  # fmt: skip


def test_values_may_be_halves():
    packed = Packing.of(network(), values=np.float16).model
    assert {t.data_type for t in packed.graph.initializer if t.name.endswith(".values")} == {
        TensorProto.FLOAT16
    }
    again = {t.name: numpy_helper.to_array(t) for t in unpack(packed).graph.initializer}
    for t in network().graph.initializer:
        if f"{t.name}.values" in {v.name for v in packed.graph.initializer}:
            w = numpy_helper.to_array(t)
            assert np.array_equal(again[t.name], w.astype(np.float16).astype(F))


def test_a_small_saving_does_not_pay_for_the_operator():
    g = Builder()
    w = unified((32, 16, 3, 3), (1, 4), kept=0.1)
    model = g.model(g.op("Conv", g.conv("x", 16, 3, density=1.0), g.tensor(w)))
    assert (
        choose(w).stored_bytes - Blocks.encode_in(w, (1, 4)).stored_bytes
        < function("Unblock").ByteSize()
    )
    assert [w.name for w in split(pack(model)).weights.values()] == ["gaps8"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no block", "must have an attribute block of integers"),
        ("wrong block", "do not fill"),
        ("other name", "are not the parts of a single weight"),
        ("a part less", "must have inputs"),
        ("other definition", "differently from version 1"),
        ("two shapes", "must compute the weight that its name states"),
    ],
)
def test_a_hostile_graph(what: str, says: str):
    model = pack(network())
    node = next(n for n in model.graph.node if n.op_type == "Unblock")
    if what == "no block":
        del node.attribute[[a.name for a in node.attribute].index("block")]
    elif what == "wrong block":
        next(a for a in node.attribute if a.name == "block").ints[:] = [1, 5]
    elif what == "other name":
        other = [n for n in model.graph.node if n.op_type == "Unblock"][1]
        node.input[3] = other.input[3]
    elif what == "a part less":
        del node.input[3]
    elif what == "other definition":
        body = next(f for f in model.functions if f.name == "Unblock")
        next(n for n in body.node if n.op_type == "Neg").op_type = "Abs"
    else:
        twin = helper.make_node("Unblock", node.input, ["other"], domain=node.domain)
        twin.attribute.extend(node.attribute)
        next(a for a in twin.attribute if a.name == "weight_shape").ints[:] = [16, 32, 3, 3]
        model.graph.node.insert(0, twin)
    with pytest.raises(ModelFileError, match=says):
        split(model)


def test_random_bytes_never_crash_the_reader():
    """Parts of any content are read right or refused."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        parts = {f: getattr(GOOD, f).copy() for f in ("gaps", "free", "signs")}
        part = parts[rng.choice(list(parts))]
        part[rng.integers(len(part))] = rng.integers(256)
        try:
            made = replace(GOOD, **parts)
        except ModelFileError:
            refused += 1
        else:
            assert made.decode().shape == GOOD.shape
    assert 30 < refused < 300


def test_kernels_compute_what_it_says(tmp_path):
    """Registered alone they leave it to dense layers; regions and compiled files take it in."""
    if kernels.library_path() is None:
        pytest.skip("no kernel library")
    path = tmp_path / "m.onnx"
    onnx.save(pack(network()), path)
    x = np.random.default_rng(3).standard_normal((2, 3, 16, 16)).astype(F)
    (want,) = session(network()).run(None, {"x": x})
    bound = 1e-5 * np.abs(want).max()
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels.library_path()))
    bare = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fast = runtime.session(path, threads=1, measure=False, cache=False)
    assert runtime.uses_kernels(fast)
    made = compile_file(path, measure=False)
    assert made.layers == 4  # all, the dense first one too
    compiled = SessionConfig(1).open(made.path, on_kernels=True)
    for any_session in (bare, fast, compiled):
        assert np.abs(any_session.run(None, {"x": x})[0] - want).max() <= bound
