"""What is benchmarked: a model file, its dense form, inputs for it, and images if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from fggp_deploy import data as datasets
from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.data.types import Labels
from fggp_deploy.errors import ConfigError, DataError, MachineError, ModelFileError
from fggp_deploy.onnx_unpacking import reading, split
from fggp_deploy.runtime.compiler import random_feeds
from fggp_deploy.verify.network import Floats


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

    `sizes` are the input's dimensions that the model leaves open, by position.
    """

    path: Path
    packed: bool
    dense: ModelProto
    images: Images | None
    why: str
    sizes: Mapping[int, int]

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the model insists on, None where it takes any."""
        shape = self.dense.graph.input[0].type.tensor_type.shape
        return shape.dim[0].dim_value or None if shape.dim else None

    def feeds(self, batch: int) -> dict[str, Any]:
        """Random inputs of `batch` images; ConfigError where a size is open."""
        try:
            return random_feeds(self.dense, batch, sizes=self.sizes)
        except ModelFileError as e:
            raise ConfigError(
                f"{self.path.name} cannot be fed: {e}; bench wants float inputs of known size, "
                "give the open ones with --shape 3,224,224"
            ) from e


def read(
    path: Path,
    *,
    data_dir: Path | None = None,
    shape: tuple[int, ...] | None = None,
    n_calibration: int,
    n_test: int,
) -> Subject:
    """Read any ONNX file; `shape` gives open dimensions of the input after the first.

    Raises ModelFileError for what cannot be read, ConfigError for a shape that is not positive.
    """
    if shape is not None and not all(n > 0 for n in shape):
        raise ConfigError(f"shape must be positive numbers, got {','.join(map(str, shape))}")
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ModelFileError(f"cannot read {path}: {e.strerror or e}") from e
    with reading(str(path)):
        model = onnx.load_model_from_string(content)
        unpacked = split(model)
        dense = unpacked.dense()
    if not dense.graph.input:
        raise ModelFileError(f"{path} has no input; bench wants a network")
    images, why = _images(model, data_dir, n_calibration, n_test)
    sizes = dict(enumerate(shape or (), start=1))
    return Subject(path, bool(unpacked.weights), dense, images, why, sizes)


def _images(
    model: ModelProto, data_dir: Path | None, n_calibration: int, n_test: int
) -> tuple[Images | None, str]:
    try:
        meta = Metadata.from_props({p.key: p.value for p in model.metadata_props})
        if meta.data is None:
            return None, "the file does not say what data it is for"
        reading = datasets.Reading(
            preprocessing=meta.preprocessing, classes=meta.classes, trained_on=meta.data
        )
        data = datasets.load(meta.data, data_dir, reading)
        train, test = data.train.read(slice(n_calibration)), data.test.read(slice(n_test))
        prepare = meta.preprocessing
        return Images(data.name, prepare(train), prepare(test), data.test.labels[:n_test]), ""
    except ModelFileError:
        return None, "the file does not say what data it is for"
    except (DataError, ConfigError, MachineError) as e:
        return None, str(e)
