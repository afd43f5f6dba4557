"""Evaluation data: the images on which a file is measured, with the file's preprocessing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fggp_deploy import data as datasets
from fggp_deploy.common.progress import Progress
from fggp_deploy.common.yaml_files import read_yaml
from fggp_deploy.data.download import cache_folder
from fggp_deploy.data.reading import Reading
from fggp_deploy.data.sampling import sample
from fggp_deploy.data.splits import SPLIT, HeldOut
from fggp_deploy.data.types import Dataset, Preprocessing
from fggp_deploy.errors import ConfigError, DataError
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.network import Floats

N_CALIBRATION = 128  # training images for the ranges of int8
CONFIG = "config.yaml"  # of the run, beside the model


def images_for(
    model: Path, name: str | None = None, data_dir: Path | None = None, **options: Any
) -> Dataset | None:
    """Data set `name` for a deployable file, as `images_of` gives it with these `options`."""
    return images_of(SparseModel.open(model).metadata, model.parent, name, data_dir, **options)


def images_of(
    meta: Metadata,
    folder: Path,
    name: str | None = None,
    data_dir: Path | None = None,
    *,
    progress: Progress,
    parts: tuple[str, ...] = ("test",),
    fetch: bool = True,
    **options: Any,
) -> Dataset | None:
    """The `parts` of data set `name` for a network in `folder`; None if no data set is named.

    By default it is the data set in the run's config.yaml in the folder, or a built-in data set
    that the network names. Any other data set that a network names, such as a folder or one on a
    hub, is opened only if the user names it too; otherwise DataError is raised. The network's own
    preprocessing and class names apply. The images that the run's split.json holds out of the same
    data are the test part; without that file they are chosen as the run chose them. With `fetch`
    False nothing is downloaded, and DataError is raised for data that are not on this machine.
    `options` are further fields of Reading.
    """
    config = _config(folder / CONFIG)
    if name is None:
        name = config.get("data") or _built_in(meta.data)
        data_dir = data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
    if name is None:
        return None
    if not fetch:
        if name.startswith("hf:") and not Path(name.removeprefix("hf:")).expanduser().exists():
            raise DataError(f"{name} is not on this machine")
        data_dir = data_dir or cache_folder()
    trained = meta.provenance.get("prune") or {}
    seed = (trained.get("config") or {}).get("split_seed", 0)
    split = folder / SPLIT
    reading = Reading(
        preprocessing=meta.images,
        classes=meta.classes,
        trained_on=meta.data,
        parts=parts,
        held_out=HeldOut.open(split) if split.is_file() else None,
        progress=progress,
        **{"split_seed": seed if isinstance(seed, int) else 0, **options},
    )
    return datasets.load(name, data_dir, reading)


def with_training_images(
    found: Dataset, model: Path, name: str | None, data_dir: Path | None, **options: Any
) -> Dataset:
    """`found` with training images to calibrate int8 on, if `images_for` left them out.

    Raises DataError if all images are test images.
    """
    if len(found.train):
        return found
    extra = images_for(model, name, data_dir, parts=("train",), **options)
    known = SparseModel.open(model).metadata.data
    if extra is None or not len(extra.train):
        raise DataError(f"{found.name} has no training images to calibrate int8 on; give --no-int8")
    if extra.name != known and extra.held_out is not None and extra.held_out.test:
        raise DataError(
            f"all images of {found.name} are for testing, so none can calibrate int8; give "
            "--no-int8"
        )
    return replace(found, train=extra.train)


def calibration_images(data: Dataset, preprocessing: Preprocessing) -> Floats:
    """N_CALIBRATION training images over all classes, or all if there are fewer, [N, C, H, W]."""
    return preprocessing(data.train.read(sample(data.train.labels, N_CALIBRATION)))


def _built_in(name: str | None) -> str | None:
    """The data set that a network's file names; DataError if it is not one of this package."""
    if name is None or name in datasets.DATASETS:
        return name
    raise DataError(
        f"the file says that its network was made with {name!r:.60}, which is opened only if you "
        "name it; give --data (or --no-data, with which verify does not measure accuracy)"
    )


def _config(path: Path) -> dict[str, Any]:
    """Those options of a run that are strings; empty without a readable file."""
    try:
        read = read_yaml(path, what=str(path))
    except ConfigError:
        return {}
    return {k: v for k, v in read.items() if isinstance(v, str)} if isinstance(read, dict) else {}
