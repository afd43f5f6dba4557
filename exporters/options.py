"""The options of an export, which check themselves. Importing them is cheap."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fggp_deploy.errors import ConfigError, UnknownName

from . import FORMATS, STATE_DICT

VALUES = ("fp32", "fp16", "int8")
ACTIVATIONS = ("fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The images of plain weights, which do not record them; `export` assumes what is None."""

    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def refuse_for(self, path: Path) -> None:
        """Raise ConfigError if anything is given, since `path` says it itself."""
        if given := [f.name for f in fields(self) if getattr(self, f.name) is not None]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{path} records how its images are prepared; omit {options}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export a checkpoint; the command line has the same names.

    `out`: the file to write; by default it lies beside the checkpoint. `flat` inlines the functions
    of a packed file; `regions` writes connected layers as single nodes for the kernels. `values`
    (fp32, fp16, int8) is the type of packed weights. `activations` int8 also quantizes activations,
    which implies int8 values; their ranges are found on the training images of `data` (by default
    the run's data set), which lie in `data_dir`. These five are for the format onnx. `compact`
    removes channels that no longer affect the output.

    `network` is the network's name: required for weights that were pruned elsewhere, whose images
    are described by `images`; for a run it replaces the recorded name if a FILE.py:FACTORY has
    moved. `trust_code` allows that file to run.

    Raises UnknownName for an unknown choice, ConfigError for options that contradict each other.
    """

    format: str = "onnx"
    out: Path | None = None
    flat: bool = False
    regions: bool = False
    values: str = "fp32"
    activations: str = "fp32"
    compact: bool = False
    data: str | None = None
    data_dir: Path | None = None
    network: str | None = None
    images: ImageOptions = field(default_factory=ImageOptions)
    trust_code: bool = False

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("format", self.format, (*FORMATS, STATE_DICT)),
            ("type of values", self.values, VALUES),
            ("type of activations", self.activations, ACTIVATIONS),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)
        if self.activations == "int8":
            if self.format != "onnx":
                raise ConfigError(f"--activations is for --format onnx, not {self.format}")
            if self.values == "fp16":
                raise ConfigError("--activations int8 needs --values int8, got fp16; omit --values")
        elif self.data or self.data_dir:
            raise ConfigError(
                "--data and --data-dir are for --activations int8, which needs images"
            )
        if self.flat and self.regions:
            raise ConfigError(
                "--regions writes functions, which --flat inlines; omit one of the two"
            )
        if self.for_format and self.format != "onnx":
            given = " and ".join(f"--{name}" for name in self.for_format)
            raise ConfigError(f"{given} is for --format onnx, not {self.format}")
        if self.compact and self.format == STATE_DICT:
            raise ConfigError(
                "--compact is for ONNX formats; a state-dict keeps its network's shapes"
            )

    @property
    def stored_values(self) -> str:
        """The type in which packed weights are stored."""
        return "int8" if self.activations == "int8" else self.values

    @property
    def for_format(self) -> dict[str, Any]:
        """The options that the format's own `export` takes."""
        options: dict[str, Any] = {n: True for n in ("flat", "regions") if getattr(self, n)}
        if self.stored_values != "fp32":
            options["values"] = self.stored_values
        return options


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How to pack somebody else's ONNX file.

    `values` (fp32, fp16, int8) is the type of packed weights. `mean` and `std`, one number per
    channel, are the normalization of an image classifier; with them, `verify` accepts the
    file. Nothing is assumed if they are missing. `classes` names its classes; the default names are
    numbers. `shape` gives the sizes that the first input leaves open after
    its first dimension. `compact` removes channels that no longer affect the output. `regions`
    writes connected layers as single nodes for the kernels.

    Raises UnknownName for an unknown type of values, ConfigError for options that do not fit.
    """

    values: str = "fp32"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    compact: bool = False
    regions: bool = False

    def __post_init__(self) -> None:
        if self.values not in VALUES:
            raise UnknownName("type of values", self.values, VALUES)
        if (self.mean is None) != (self.std is None):
            raise ConfigError("--mean and --std belong together; give both or neither")
        if self.classes is not None and self.mean is None:
            raise ConfigError("--classes needs --mean and --std; give all three, or omit --classes")
        if self.shape is not None:
            from fggp_deploy.format.generated_inputs import MAX_ELEMENTS  # imports numpy

            if not all(0 < n <= MAX_ELEMENTS for n in self.shape):
                raise ConfigError(
                    f"--shape must be positive numbers, got {','.join(map(str, self.shape))}"
                )
