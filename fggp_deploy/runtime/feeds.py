"""Random inputs for any network, on which a plan is timed if no images are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from fggp_deploy.errors import ModelFileError
from fggp_deploy.graph.constants import required_inputs

_NUMPY_TYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.INT16: np.int16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.BOOL: np.bool_,
}


def random_feeds(model: ModelProto, batch: int, *, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    """Normal random inputs; the first dimension is `batch` if the model leaves it open.

    `shape` gives the open ones after the first. Integers and booleans are all 0, which is a valid
    index and length. Raises ModelFileError for an input of another type or of unknown size.
    """
    rng = np.random.default_rng(0)
    feeds = {}
    given = dict(enumerate((batch, *shape)))
    for value in required_inputs(model.graph):
        kind = value.type.tensor_type
        dtype = _NUMPY_TYPES.get(kind.elem_type)
        if dtype is None:
            raise ModelFileError(f"its input {value.name!r} holds no numbers")
        dims = kind.shape.dim
        sides = [d.dim_value if d.dim_value > 0 else given.get(i, 0) for i, d in enumerate(dims)]
        if not kind.HasField("shape") or not all(sides):
            open_ = [d.dim_value or d.dim_param or "?" for d in dims]
            raise ModelFileError(
                f"the size of its input {value.name!r} is not known: [{', '.join(map(str, open_))}]"
            )
        real = np.issubdtype(dtype, np.floating)
        feeds[value.name] = (rng.standard_normal(sides) if real else np.zeros(sides)).astype(dtype)
    return feeds
