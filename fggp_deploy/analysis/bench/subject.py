"""What is benchmarked: a model file, its dense form, inputs for it, and images if there are any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from fggp_deploy.common.progress import Progress
from fggp_deploy.data.sampling import sample
from fggp_deploy.data.types import Labels
from fggp_deploy.errors import ConfigError, FileError, MachineError, ModelFileError
from fggp_deploy.format.unpacking import reading, split
from fggp_deploy.graph.comparison import rtol_for
from fggp_deploy.graph.qdq import remove_activation_quantization_
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.evaluation_data import images_for
from fggp_deploy.measure.network import Floats
from fggp_deploy.runtime.feeds import random_feeds

MAX_IMAGE_BYTES = 128 << 20  # prepared test images that are in memory at once


@dataclass(frozen=True)
class Images:
    """Real inputs [N, C, H, W]: training images to calibrate with, labelled test images."""

    data: str
    calibration: Floats
    test: Floats
    labels: Labels


@dataclass(frozen=True)
class Subject:
    """A model file. `dense` is the same network with its zeros written out, as the file itself
    where `packed` is False; `images` is None where its data set is not there: `why` tells.

    `shape`: the inputs' dimensions after the first, for where the model leaves them open.
    `rtol`: how far the file's outputs may be from `dense`'s, over the largest.
    """

    path: Path
    packed: bool
    dense: ModelProto
    images: Images | None
    why: str
    shape: tuple[int, ...]
    rtol: float

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the model insists on, None if it takes any.

        The first dimension of fixed size is a batch only beside those of images [N, C, H, W] or of
        vectors [N, C]: one image [C, H, W] is a batch of 1.
        """
        dims = self.dense.graph.input[0].type.tensor_type.shape.dim
        if dims and dims[0].dim_value < 1:
            return None
        return dims[0].dim_value if len(dims) in (2, 4) else 1

    def feeds(self, batch: int) -> dict[str, Any]:
        """Random inputs of `batch` images; ConfigError where a size is open."""
        try:
            return random_feeds(self.dense, batch, shape=self.shape)
        except ModelFileError as e:
            raise ConfigError(
                f"{self.path.name} cannot be fed: {e}; bench wants float inputs of known size, "
                "give the open ones with --shape 3,224,224"
            ) from e


def read(
    path: Path,
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    shape: tuple[int, ...] | None = None,
    n_calibration: int,
    n_test: int,
    progress: Progress,
) -> Subject:
    """Read any ONNX file; `shape` gives open dimensions of the input after the first.

    Raises ModelFileError for what cannot be read, ConfigError for a shape that is not positive.
    """
    if shape is not None and not all(n > 0 for n in shape):
        raise ConfigError(f"shape must be positive numbers, got {','.join(map(str, shape))}")
    content = read_bytes(path)
    with reading(str(path)):
        model = onnx.load_model_from_string(content)
        unpacked = split(model)
        dense = unpacked.dense()
        in_bytes = bool(unpacked.weights) and remove_activation_quantization_(dense)
    if not dense.graph.input:
        raise ModelFileError(f"{path} has no input; bench wants a network")
    images, why = _images(path, data, data_dir, n_calibration, n_test, progress)
    return Subject(
        path, bool(unpacked.weights), dense, images, why, shape or (), rtol_for(in_bytes=in_bytes)
    )


def _images(
    path: Path,
    data: str | None,
    data_dir: Path | None,
    n_calibration: int,
    n_test: int,
    progress: Progress,
) -> tuple[Images | None, str]:
    """The model's own images where they lie on this machine, else None and why."""
    try:
        found = images_for(
            path, data, data_dir, parts=("train", "test"), fetch=data is not None, progress=progress
        )
    except ModelFileError:
        return None, "the file does not say how to prepare images"
    except (FileError, ConfigError, MachineError) as e:
        if data is not None:
            raise
        return None, str(e)
    if found is None:
        return None, "the file does not say what data it is for"
    prepare = found.preprocessing
    most = max(1, MAX_IMAGE_BYTES // (4 * math.prod(prepare.input_shape)))
    train = sample(found.train.labels, n_calibration)
    test = sample(found.test.labels, min(n_test, most))
    x, y = prepare(found.train.read(train)), prepare(found.test.read(test))
    return Images(found.name, x, y, found.test.labels[test]), ""
