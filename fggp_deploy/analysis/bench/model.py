"""The benchmarked model: a file, its dense form, inputs for it, and images if there are any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from fggp_deploy.analysis.bench.options import BenchOptions
from fggp_deploy.common.progress import Progress
from fggp_deploy.data.sampling import sample
from fggp_deploy.data.types import Labels
from fggp_deploy.errors import ConfigError, FileError, MachineError, ModelFileError
from fggp_deploy.format.unpacking import reading, split
from fggp_deploy.graph.comparison import rtol_for
from fggp_deploy.graph.qdq import remove_activation_quantization_
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.evaluation_data import N_CALIBRATION, images_for
from fggp_deploy.measure.network import Floats
from fggp_deploy.runtime.feeds import random_feeds

N_TEST = 1000  # images on which predictions are compared
MAX_IMAGE_BYTES = 128 << 20  # prepared test images that are in memory at once


@dataclass(frozen=True)
class Images:
    """Real inputs [N, C, H, W]: training images to calibrate with, labeled test images."""

    data: str
    calibration: Floats
    test: Floats
    labels: Labels


@dataclass(frozen=True)
class BenchmarkedModel:
    """A model file with the same network as a dense graph, and what it is measured on.

    `dense` has the zeros written out; it is the file itself if `packed` is False. `images` is None
    if the file's data set is not available; `why` says so in words. `shape` gives the inputs'
    dimensions after the first, if the model leaves them open. `rtol` is the largest allowed
    difference of the file's outputs to those of `dense`, relative to the largest.
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
        """The only batch that the model takes, or None if it takes any.

        A first dimension of fixed size is a batch only for images [N, C, H, W] or vectors [N, C];
        a single image [C, H, W] is a batch of 1.
        """
        dims = self.dense.graph.input[0].type.tensor_type.shape.dim
        if dims and dims[0].dim_value < 1:
            return None
        return dims[0].dim_value if len(dims) in (2, 4) else 1

    def feeds(self, batch: int) -> dict[str, Any]:
        """Random inputs of `batch` images; ConfigError if a size is open."""
        try:
            return random_feeds(self.dense, batch, shape=self.shape)
        except ModelFileError as e:
            raise ConfigError(
                f"no inputs can be made for {self.path.name}: {e}; bench needs float inputs of "
                "known size; give open dimensions with --shape, such as --shape 3,224,224"
            ) from e


def read(path: Path, options: BenchOptions, progress: Progress) -> BenchmarkedModel:
    """Read any ONNX file and the images that `options` ask for.

    Raises ModelFileError for a file that cannot be read, DataError for data that were asked for and
    are not available.
    """
    content = read_bytes(path)
    with reading(str(path)):
        model = onnx.load_model_from_string(content)
        unpacked = split(model)
        dense = unpacked.dense()
        int8_activations = bool(unpacked.weights) and remove_activation_quantization_(dense)
    if not dense.graph.input:
        raise ModelFileError(f"{path} has no input, so it is not a network that can be timed")
    images, why = _images(path, options, progress)
    return BenchmarkedModel(
        path=path,
        packed=bool(unpacked.weights),
        dense=dense,
        images=images,
        why=why,
        shape=options.shape or (),
        rtol=rtol_for(in_bytes=int8_activations),
    )


def _images(path: Path, options: BenchOptions, progress: Progress) -> tuple[Images | None, str]:
    """The model's own images if they are on this machine, else None and the reason."""
    data = options.data
    try:
        found = images_for(
            path, data, options.data_dir, parts=("train", "test"), fetch=data is not None,
            progress=progress,
        )  # fmt: skip
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
    train = sample(found.train.labels, N_CALIBRATION)
    test = sample(found.test.labels, min(N_TEST, most))
    x, y = prepare(found.train.read(train)), prepare(found.test.read(test))
    return Images(found.name, x, y, found.test.labels[test]), ""
