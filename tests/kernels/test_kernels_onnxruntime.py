"""One file, two speeds: registered kernels and function bodies give the same outputs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import kernels
from fggp_deploy.format.encodings import Gaps
from fggp_deploy.format.functions import DOMAIN, VERSION, function

if kernels.library_path() is None:
    pytest.skip("no kernel library", allow_module_level=True)


def session(model: ModelProto, *, registered: bool, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if registered:
        options.register_custom_ops_library(str(kernels.library_path()))
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def model(
    op: str,
    w: np.ndarray,
    x_shape: list[object],
    *,
    gap: type = np.uint8,
    value: type = np.float32,
    **attributes: object,
) -> ModelProto:
    packed = Gaps.encode(w, gap_type=gap)
    bias = np.linspace(-1, 1, w.shape[0], dtype=np.float32)
    constants = {
        "values": packed.values.astype(value),
        "gaps": packed.gaps,
        "bias": bias,
    }
    node = helper.make_node(
        op,
        ["x", *constants],
        ["y"],
        domain=DOMAIN,
        weight_shape=list(w.shape),
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[function(op)],
        ir_version=9,
    )


def conv_model(w: np.ndarray, **more: object) -> ModelProto:
    attributes = {"pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1} | more
    return model("SparseConv", w, ["n", "c", "h", "w"], **attributes)


def sparse(shape: tuple[int, ...], density: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape).astype(np.float32)
    w[rng.random(shape) > density] = 0
    return w


def both(m: ModelProto, *xs: np.ndarray, threads: int = 1) -> None:
    plain, fast = session(m, registered=False), session(m, registered=True, threads=threads)
    for x in xs:
        (want,) = plain.run(None, {"x": x})
        (got,) = fast.run(None, {"x": x})
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("value", [np.float32, np.float16])
@pytest.mark.parametrize("gap", [np.uint8, np.uint16])
def test_sparse_conv(gap: type, value: type) -> None:
    m = conv_model(sparse((24, 16, 3, 3), 0.01), gap=gap, value=value)
    # One session, changing batch and size.
    both(m, rand(1, 16, 14, 14), rand(3, 16, 14, 14), rand(2, 16, 9, 30), rand(0, 16, 8, 8))


def test_more_input_sizes_than_are_remembered() -> None:
    sizes = [(1, 8, 5 + i % 20, 9) for i in range(30)]
    both(conv_model(sparse((24, 8, 3, 3), 0.3)), *(rand(*size) for size in sizes), threads=2)


def test_sparse_conv_attributes() -> None:
    m = conv_model(
        sparse((12, 2, 3, 2), 0.5), group=4, strides=[2, 1], dilations=[1, 3], pads=[1, 3, 0, 2]
    )
    both(m, rand(2, 8, 17, 13))


def test_a_stride_past_the_plane() -> None:
    """With one output, the tiles must not be as large as the stride."""
    m = conv_model(sparse((64, 64, 1, 1)), strides=[1_000_000, 1], pads=[0] * 4)
    both(m, rand(1, 64, 4, 4))


def test_threads_agree() -> None:
    both(conv_model(sparse((96, 64, 3, 3))), rand(1, 64, 28, 28), threads=2)


def test_all_zero_weight() -> None:
    both(conv_model(np.zeros((4, 3, 3, 3), np.float32)), rand(1, 3, 8, 8))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "shape", [(1, 40), (5, 40), (2, 3, 40), (40,), (2, 0, 40), (1, 196, 40), (700, 40)]
)
def test_sparse_gemm(shape: tuple[int, ...], threads: int) -> None:
    w = sparse((17, 40))
    both(model("SparseGemm", w, [None] * len(shape)), rand(*shape), threads=threads)


def test_weights_that_are_no_initializers() -> None:
    m = conv_model(sparse((8, 4, 3, 3)))
    (bias,) = [t for t in m.graph.initializer if t.name == "bias"]
    m.graph.initializer.remove(bias)
    m.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [8]))
    feeds = {"x": rand(1, 4, 6, 6), "bias": rand(8)}
    (want,) = session(m, registered=False).run(None, feeds)
    (got,) = session(m, registered=True).run(None, feeds)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("isa", kernels.isas())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values(value: float, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removed weight is a zero, and 0 x NaN is NaN: the same outputs are not finite."""
    monkeypatch.setenv("FGGP_ISA", isa)
    x = rand(2, 16, 14, 14)
    x[1, 3, 5, 6] = value
    both(conv_model(sparse((24, 16, 3, 3), 0.05)), x)
    tokens = rand(7, 40)
    tokens[2, 11] = value
    m = model("SparseGemm", sparse((17, 40)), [None, None])
    both(m, tokens, tokens[2:3])


def replace(m: ModelProto, name: str, array: np.ndarray) -> ModelProto:
    for t in m.graph.initializer:
        if t.name == name:
            t.CopyFrom(numpy_helper.from_array(array, name))
    return m


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("gaps", np.full(9, 255, np.uint8), "values but 9 gaps"),
        ("gaps", np.zeros(3, np.uint8), "gap 0 is 0"),
        ("gaps", np.full(3, 65535, np.uint16), "lead to element"),
        ("gaps", np.ones(3, np.float32), "uint8 or uint16"),
        ("values", np.ones(3, np.uint8), "float or float16"),
        ("values", np.ones(3, np.int64), "element type 7"),
        ("bias", np.ones(7, np.float32), "a bias has 7 elements"),
    ],
)
def test_damaged_tensors(name: str, array: np.ndarray, message: str) -> None:
    w = np.zeros((8, 4, 3, 3), np.float32)
    w.flat[[5, 9, 250]] = 1
    m = replace(conv_model(w), name, array)
    with pytest.raises(Exception, match=message):
        session(m, registered=True)


@pytest.mark.parametrize(
    "change",
    [
        {"group": 0},
        {"group": -1},
        {"strides": [0, 1]},
        {"pads": [1, 1]},
        {"dilations": [1 << 40, 1]},
        {"pads": [-5, 0, 0, 0]},
    ],
)
def test_damaged_attributes(change: dict[str, object]) -> None:
    with pytest.raises(Exception, match="SparseConv"):
        session(conv_model(sparse((8, 4, 3, 3)), **change), registered=True)


def test_wrong_input_is_an_error_not_a_read() -> None:
    s = session(conv_model(sparse((8, 4, 3, 3))), registered=True)
    with pytest.raises(Exception, match="takes 4 channels but is given 5"):
        s.run(None, {"x": rand(1, 5, 6, 6)})


@pytest.mark.slow
def test_an_older_onnxruntime() -> None:
    """FGGP_OLD_ORT is the python of an environment with another onnxruntime (and onnx, pytest)."""
    python = os.environ.get("FGGP_OLD_ORT")
    if not python:
        pytest.skip("set FGGP_OLD_ORT")
    environment = os.environ | {"FGGP_KERNELS": str(kernels.library_path()), "PYTHONPATH": "."}
    command = [python, "-m", "pytest", "-q", "--noconftest", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stdout.write(done.stdout)


def test_registering_twice_says_whose_domain_it_is():
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels.library_path()))
    with pytest.raises(Exception, match=r"domain ai\.fggp is registered in these session options"):
        options.register_custom_ops_library(str(kernels.library_path()))
    others = ort.SessionOptions()
    others.register_custom_ops_library(str(kernels.library_path()))
