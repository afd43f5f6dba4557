"""The rival that needs no pruning: the dense parent in int8, by ONNX Runtime's own quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fggp_deploy.artifacts.metadata import Metadata
from fggp_deploy.bench.int8 import quantize_on
from fggp_deploy.data.types import Dataset, Preprocessing
from fggp_deploy.errors import DataError, MachineError, ModelFileError
from fggp_deploy.progress import Progress
from fggp_deploy.verify.accuracy import Paired, Scores
from fggp_deploy.verify.material import images_of
from fggp_deploy.verify.network import Floats

N_CALIBRATION = 128  # training images, as evenly over the set as can be


@dataclass(frozen=True)
class Quantised:
    """The int8 network, serialised, and how many images its ranges were calibrated on."""

    content: bytes
    n_calibration: int


def calibration_images(
    meta: Metadata, folder: Path, name: str | None, data_dir: Path | None, *, progress: Progress
) -> Floats:
    """Training images for a network in `folder`, as it takes them; as `material.images_of`.

    Raises DataError where there are none.
    """
    data = images_of(meta, folder, name, data_dir, parts=("train",), progress=progress)
    if data is None or not len(data.train):
        raise DataError("there are no training images to find the ranges of activations on; --data")
    return _evenly(data, meta.preprocessing)


def _evenly(data: Dataset, preprocessing: Preprocessing) -> Floats:
    n = min(N_CALIBRATION, len(data.train))
    rows = np.linspace(0, len(data.train), n, endpoint=False).astype(np.int64)
    return preprocessing(data.train.read(rows))


@dataclass(frozen=True)
class Int8:
    """What the dense parent in int8 costs: its bytes as stored, and what it scores.

    Static quantisation, QDQ, int8 weights per channel and uint8 activations, ranges from
    `n_calibration` training images. `scores` are on the test images, `paired` against the parent.
    """

    file_bytes: int
    n_calibration: int
    scores: Scores
    paired: Paired


def quantised(
    reference: Path | None, data: Dataset | None, preprocessing: Preprocessing
) -> tuple[Quantised | None, str]:
    """The parent in int8, or None and why there is none."""
    if reference is None:
        return None, "there is no dense parent"
    if data is None:
        return None, "no data was given to calibrate it on"
    if not len(data.train):
        return None, "no training images were loaded to calibrate it on; --int8 loads them"
    try:
        images = _evenly(data, preprocessing)
        return Quantised(quantize_on(reference.read_bytes(), images), len(images)), ""
    except (ModelFileError, MachineError) as e:
        return None, str(e)
