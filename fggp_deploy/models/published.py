"""Weights that a library publishes: where they are, and what images they were trained on."""

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
    """A file of published weights and its images' preparation.

    An image's shorter side is resized to `resize` pixels with `interpolation`, the centre
    `crop`×`crop` cut out, and each channel normalized as (pixel / 255 − mean) / std.
    """

    url: str
    file_name: str  # in torch.hub's cache
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    crop: int
    interpolation: str = "bilinear"


def cached(weights: Published) -> Path:
    """The file in torch.hub's cache, downloaded when it is not there.

    Raises MachineError, which names what to fetch by hand and where to put it, when it cannot be
    had, and CheckpointError when what is there is not what the name's hash says.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.file_name
    if not path.is_file():
        _download(weights.url, path)
    if (hashed := _hash_prefix(path.name)) and not sha256_file(path).startswith(hashed):
        raise CheckpointError(
            f"{path} is damaged: its sha256 does not begin with {hashed}; delete it and try again"
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
    except RuntimeError as e:  # the hash of what came is another one
        raise _unreachable(url, e, path) from e
    except OSError as e:
        if e.errno in errno.errorcode:
            raise write_error(path, e) from e
        raise _unreachable(url, e, path) from e
    finally:
        socket.setdefaulttimeout(before)


def _unreachable(url: str, reason: object, path: Path) -> MachineError:
    return MachineError(
        f"cannot download {url} ({reason}); fetch it by hand and put it at {path}, or give it with "
        f"--weights PATH"
    )


def _hash_prefix(file_name: str) -> str | None:
    """The hex digits that torch's hub puts before the suffix: resnet18-f37072fd.pth."""
    found = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return found.group(1) if found else None
