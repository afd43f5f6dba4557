"""Reads files of torch.save without running code that they may hold.

torch.load with weights_only is the reader. Before it runs, the file is checked: which Python
objects it names, and whether its parts can be as large as it states.
"""

from __future__ import annotations

import io
import itertools
import pickletools
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fggp_deploy.checkpoints.file_type import ZIP, is_checkpoint
from fggp_deploy.checkpoints.pickle_scan import Scan, scan
from fggp_deploy.errors import CheckpointError

# Before 1.6 torch.save wrote four pickles (magic number, protocol, machine, content), then numbers.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_N_AFTER_MAGIC = 3
_N_OPCODES_OF_MAGIC = 8
# Plain values, and tensors over storages in the file. torch itself also allows bytearray, which can
# fill memory of any size, and tensors of other kinds.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|Tensor|bool|(u?int|b?float|complex)\d+\w*|\w+Storage)"
    r"|torch\.storage\.\w+Storage"
    r"|torch\.nn\.parameter\.Parameter|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
)
# Objects that training scripts save beside the weights. They are ignored: never imported or called.
_LITTER = (
    "argparse.Namespace",
    *(f"builtins.{t}" for t in ("dict", "list", "int", "float")),
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{t}DType" for t in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    *(f"pathlib.{p}Path" for p in ("", "Posix", "Windows", "PurePosix", "PureWindows")),
    *(f"pathlib._local.{p}Path" for p in ("", "Posix", "Windows", "PurePosix", "PureWindows")),
)
_DICTS = (
    "collections.defaultdict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class _Nothing:
    """Stands for an object beside the weights; accepts any operation and keeps nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Dict:
    """Stands for a dict subclass beside the weights; becomes a plain dict."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def read_torch(path: Path, size: int) -> Any:
    """The plain values and tensors of a file of `size` bytes; tensors on the CPU.

    Raises CheckpointError for a file of another kind, a damaged file, or other objects in it.
    """
    if path.suffix == ".onnx" and not is_checkpoint(path):
        raise CheckpointError(f"{path} is an ONNX file; give the checkpoint that it was made from")
    try:
        with path.open("rb") as f:
            scans = _scan_zip(path, f, size) if f.read(2) == ZIP else _scan_stream(f)
            for found in scans:
                _refuse_objects(path, found.names)
                _refuse_codecs(path, found)
            f.seek(0)
            inert: list[Any] = [(_Nothing, n) for n in _LITTER] + [(_Dict, n) for n in _DICTS]
            with torch.serialization.safe_globals(inert):
                return torch.load(f, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except MemoryError as e:
        raise CheckpointError(f"{path} claims tensors that do not fit in memory") from e
    except Exception as e:  # unpickling garbage raises almost anything
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or is damaged or cut off ({type(e).__name__}); "
            "copy it again, or save model.state_dict() again"
        ) from e


def _scan_zip(path: Path, f: BinaryIO, size: int) -> list[Scan]:
    with zipfile.ZipFile(f) as z:
        parts = z.infolist()
        if any(p.filename.endswith("constants.pkl") for p in parts):
            raise CheckpointError(
                f"{path} is a TorchScript program, not weights; save its state dict: "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
            )
        inside = [p for p in parts if p.filename.rpartition("/")[2] == "data.pkl"]
        if len(inside) != 1:
            raise CheckpointError(
                f"{path} is a zip archive but not a PyTorch checkpoint; give a file that "
                "torch.save wrote"
            )
        packed = any(p.compress_type != zipfile.ZIP_STORED for p in parts)
        if packed or sum(p.file_size for p in parts) > size:
            raise CheckpointError(
                f"{path} is a packed archive, which torch.save never writes; unpack it or save it "
                "again"
            )
        return [scan(io.BytesIO(z.read(inside[0])))]


def _scan_stream(f: BinaryIO) -> list[Scan]:
    f.seek(0)
    first = list(itertools.islice(pickletools.genops(f), _N_OPCODES_OF_MAGIC))
    if not any(argument == _LEGACY_MAGIC for _, argument, _ in first):
        f.seek(0)
        return [scan(f)]
    f.seek((first[-1][2] or 0) + 1)  # after its STOP
    return [scan(f) for _ in range(_N_AFTER_MAGIC)]


def _refuse_objects(path: Path, names: Collection[str]) -> None:
    foreign = sorted(n for n in names if not _PLAIN.fullmatch(n) and n not in _LITTER + _DICTS)
    if not foreign:
        return
    if "torch._utils._rebuild_qtensor" in foreign:
        raise CheckpointError(
            f"{path} is a quantized network; give the float weights that it was made from"
        )
    save = "torch.save(model.state_dict(), 'weights.pt')"
    if any(n.startswith("torch.nn.modules.") for n in foreign):
        own = [n for n in foreign if not n.startswith(("torch.", "builtins."))] or foreign
        raise CheckpointError(
            f"{path} holds a pickled network ({own[0]}), which would run code when it is loaded, "
            f"so it is refused. On the machine that made it, save only the weights: {save}"
        )
    raise CheckpointError(
        f"{path} holds Python objects ({foreign[0]}) that would run code when they are loaded, so "
        f"it is refused. On the machine that made it, save only the weights: {save}"
    )


def _refuse_codecs(path: Path, found: Scan) -> None:
    """Raise CheckpointError for text in another encoding than torch.save uses for bytes.

    Some of Python's codecs take time that grows with the square of the text's length.
    """
    for name, arguments in found.calls:
        if name != "_codecs.encode":
            continue
        codec = arguments[1:] if isinstance(arguments, tuple) else None
        if codec != ("latin1",):
            raise CheckpointError(
                f"{path} holds text in an encoding that torch.save never writes, so it is "
                "refused. On the machine that made it, save only the weights"
            )
