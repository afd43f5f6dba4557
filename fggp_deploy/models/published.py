"""Published weights of a library: their files, and the preprocessing they were trained with."""

from __future__ import annotations

import errno
import re
import socket
import sys
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch

from fggp_deploy.common.files import sha256_file, write_error
from fggp_deploy.errors import CheckpointError, MachineError

TIMEOUT_S = 30


@dataclass(frozen=True)
class Published:
    """A file of published weights and its preprocessing.

    The shorter side of an image is resized to `resize` pixels with `interpolation`, the central
    `crop`×`crop` pixels are cut out, and each channel is normalized as (pixel / 255 − mean) / std.
    """

    url: str
    file_name: str  # in torch.hub's cache
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    crop: int
    interpolation: str = "bilinear"


def cached(weights: Published) -> Path:
    """The file in torch.hub's cache, downloaded if it is missing.

    Raises MachineError, which says how to download it by hand, if the download fails, and
    CheckpointError if the file does not have the hash in its name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.file_name
    if not path.is_file():
        _download(weights.url, path)
    if (hashed := _hash_prefix(path.name)) and not sha256_file(path).startswith(hashed):
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 does not begin with {hashed}; delete it and try again"
        )
    return path


def _download(url: str, path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), _hash_prefix(path.name), progress=sys.stderr.isatty()
        )
    except (urllib.error.URLError, TimeoutError, ConnectionError) as e:
        raise _unreachable(url, getattr(e, "reason", e), path) from e
    except RuntimeError as e:  # the downloaded file has another hash
        raise _unreachable(url, e, path) from e
    except OSError as e:
        if e.errno in errno.errorcode:
            raise write_error(path, e) from e
        raise _unreachable(url, e, path) from e
    finally:
        socket.setdefaulttimeout(before)


def _unreachable(url: str, reason: object, path: Path) -> MachineError:
    return MachineError(
        f"cannot download {url} ({reason}); download it by hand to {path}, or give its place with "
        "--weights PATH"
    )


def _hash_prefix(file_name: str) -> str | None:
    """The hex digits before the suffix in torch.hub's file names: resnet18-f37072fd.pth."""
    found = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return found.group(1) if found else None
