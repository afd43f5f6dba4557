"""The dense int8 baseline: the dense model, quantized by ONNX Runtime's own static quantization."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import ModelProto

from fggp_deploy.common.files import scratch_folder
from fggp_deploy.errors import MachineError, ModelFileError
from fggp_deploy.graph.opset import with_opset
from fggp_deploy.measure.network import Floats
from fggp_deploy.runtime.dense import read_dense
from fggp_deploy.runtime.sessions import brief

MIN_OPSET = 13  # the first whose QuantizeLinear knows channels


def quantize_on(dense: bytes, images: Floats, *, batch: int = 1) -> bytes:
    """`quantize` for a serialized network of one input, calibrated on `images` [N, C, H, W]."""
    model = read_dense(dense)
    name = model.graph.input[0].name
    feeds = [{name: images[i : i + batch]} for i in range(0, len(images) - batch + 1, batch)]
    return quantize(model, feeds)


def quantize(dense: ModelProto, feeds: Sequence[dict[str, Any]]) -> bytes:
    """QDQ form with int8 weights per channel and uint8 activations, ranges calibrated on `feeds`.

    `dense` has its batch norms folded. Raises ModelFileError if ONNX Runtime cannot do it,
    MachineError if that part of it is not installed.
    """
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as e:  # it needs more than onnxruntime itself
        raise MachineError(f"onnxruntime's quantization tools are not installed: {e}") from e

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    dense = with_opset(dense, MIN_OPSET)
    with scratch_folder("fggp-int8-") as folder, _quiet():
        source, out = folder / "dense.onnx", folder / "int8.onnx"
        onnx.save(dense, source)
        try:
            quantize_static(
                source,
                out,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return out.read_bytes()
        except OSError:
            raise  # the folder for temporary files may be full
        except Exception as e:  # it raises whatever its parts raise
            raise ModelFileError(f"onnxruntime cannot quantize the network: {brief(e)}") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice on the root logger, which is not for our users."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
