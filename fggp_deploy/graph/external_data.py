"""Reads the tensors that an ONNX file keeps in other files, within strict bounds.

`torch.onnx.export(model, args, "m.onnx")` writes the weights to `m.onnx.data`. A data file must lie
in the same folder as the model, as a file of its own: no path, and no link that leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from fggp_deploy.common.files import check_readable
from fggp_deploy.errors import ModelFileError

MAX_BYTES = 2 << 30  # the limit of a protobuf
DATA_FILE = b"location"  # each file with external data contains this key
_MAX_SHARED = 4  # how often a byte of a data file may be part of a tensor, on average
_HALF_BYTES = ("INT4", "UINT4", "FLOAT4E2M1")  # two elements in a byte


def embed_(model: ModelProto, tensors: Iterable[TensorProto], folder: Path) -> bool:
    """Read the external tensors among `tensors` from `folder`; returns whether there were any.

    Raises ModelFileError for a data file that is missing, lies elsewhere or does not hold what the
    model says, and for a model that is larger than 2 GiB with its data.
    """
    external = [t for t in tensors if t.data_location == TensorProto.EXTERNAL]
    sizes: dict[str, int] = {}
    own = total = model.ByteSize() if external else 0
    for tensor in external:
        name, start, length = _place(tensor)
        path = folder / name
        if name not in sizes:
            sizes[name] = _size_of(path, folder, tensor.name)
        if length is None:
            length = sizes[name] - start
        if start + length > sizes[name]:
            raise ModelFileError(
                f"{path} has {sizes[name]:,} bytes, but tensor {tensor.name!r:.60} ends at byte "
                f"{start + length:,}; the file is cut off or belongs to another model"
            )
        wanted = _stored_bytes(tensor)
        if length != wanted:
            raise ModelFileError(
                f"tensor {tensor.name!r:.60} has {length:,} bytes in {path}; its shape and type "
                f"need {wanted:,}"
            )
        total += length
        if total > MAX_BYTES:
            raise ModelFileError("with its data it is larger than 2 GiB, which is not supported")
        if total > own + _MAX_SHARED * sum(sizes.values()):
            raise ModelFileError(f"its tensors share the same bytes of {path} too often")
        _fill_(tensor, path, start, length)
    return bool(external)


def _place(tensor: TensorProto) -> tuple[str, int, int | None]:
    """The data file's name, the first byte and the length of a tensor, None for "to the end"."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    name = fields.get("location", "")
    if not isinstance(name, str) or not name or name in (".", "..") or {*name} & {*"/\\\0:"}:
        raise ModelFileError(
            f"tensor {tensor.name!r:.60} lies in {name!r:.80}; a data file must lie in the same "
            "folder as the model"
        )
    try:
        start, length = int(fields.get("offset", "0")), int(fields.get("length", "-1"))
    except ValueError as e:
        raise ModelFileError(
            f"tensor {tensor.name!r:.60} has an offset or length that is not a number"
        ) from e
    if start < 0 or length < -1 or ("length" in fields and length < 0):
        raise ModelFileError(f"tensor {tensor.name!r:.60} has a negative offset or length")
    return name, start, length if "length" in fields else None


def _size_of(path: Path, folder: Path, tensor: str) -> int:
    if not path.exists():
        raise ModelFileError(
            f"tensor {tensor!r:.60} is stored in the data file {path}, which does not exist; copy "
            "it there from where the model was made"
        )
    if path.resolve().parent != folder.resolve():
        raise ModelFileError(
            f"the data file {path} is a link to another folder; copy the file itself there"
        )
    return check_readable(path, ModelFileError)


def _stored_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor of this shape and type takes."""
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
        bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError) as e:
        raise ModelFileError(f"tensor {tensor.name!r:.60} has an unknown type") from e
    if kind == "STRING":
        raise ModelFileError(
            f"tensor {tensor.name!r:.60} holds strings, which a data file cannot store"
        )
    if any(d < 0 for d in tensor.dims):
        raise ModelFileError(f"tensor {tensor.name!r:.60} has a negative size")
    return -(-prod(tensor.dims) * (4 if kind in _HALF_BYTES else bits) // 8)


def _fill_(tensor: TensorProto, path: Path, start: int, length: int) -> None:
    try:
        with path.open("rb") as f:
            f.seek(start)
            content = f.read(length)
    except OSError as e:
        raise ModelFileError(f"{path} cannot be read ({e.strerror or e})") from e
    if len(content) < length:
        raise ModelFileError(f"{path} became shorter while it was read")
    tensor.raw_data = content
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
