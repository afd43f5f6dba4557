"""The rival that needs no pruning: the dense parent in int8, by ONNX Runtime's own quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.data.types import Dataset, Preprocessing
from fggp_deploy.errors import MachineError, ModelFileError
from fggp_deploy.graph.reading import read_bytes
from fggp_deploy.measure.evaluate import Paired, Scores
from fggp_deploy.measure.evaluation_data import calibration_images
from fggp_deploy.quantization.dense_baseline import quantize_on


@dataclass(frozen=True)
class Quantised:
    """The int8 network, serialised, and how many images its ranges were calibrated on."""

    content: bytes
    n_calibration: int


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
    reference: Path | None,
    data: Dataset | None,
    preprocessing: Preprocessing,
    progress: Progress = silent,
) -> tuple[Quantised | None, str]:
    """The parent in int8, or None and why there is none."""
    if reference is None:
        return None, "there is no dense parent"
    if data is None:
        return None, "no data was given to calibrate it on"
    if not len(data.train):
        return None, "no training images were loaded to calibrate it on; --int8 loads them"
    try:
        progress("quantising the parent to int8", 0, 1)
        images = calibration_images(data, preprocessing)
        content = quantize_on(read_bytes(reference), images)
        progress("quantising the parent to int8", 1, 1)
        return Quantised(content, len(images)), ""
    except (ModelFileError, MachineError) as e:
        return None, str(e)
