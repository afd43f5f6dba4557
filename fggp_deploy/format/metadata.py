"""The metadata of a deployable file: `fggp.*` keys with JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.self_test import SelfTest

FORMAT_VERSION = 1
PREFIX = "fggp."
MAX_PROBE_ELEMENTS = 2**26  # of a self-test's inputs: 256 MiB


@dataclass(frozen=True)
class Metadata:
    """Everything but the network itself; `to_props` gives what ONNX calls metadata_props.

    `parent_sha256` is the hash of the dense model's ONNX file, `checkpoint_sha256` that of the
    pruned checkpoint. `sparsity` holds counts (n_prunable, n_removed, n_all_weights) and the
    target, `provenance` the command, resolved configuration, seed, versions, hardware and seconds.
    `unrounded` is the self-test before values were rounded to float16 or int8, if they were.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...]
    selftest: SelfTest | None = None
    unrounded: SelfTest | None = None
    parent_sha256: str | None = None
    checkpoint_sha256: str | None = None
    data: str | None = None
    model: str | None = None
    sparsity: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_props(self) -> dict[str, str]:
        """Keys `fggp.*`, values JSON; equal metadata give equal strings."""
        values = {
            "format_version": FORMAT_VERSION,
            "preprocessing": self.preprocessing.to_dict(),
            "classes": list(self.classes),
            "selftest": None if self.selftest is None else self.selftest.to_dict(),
            "parent_sha256": self.parent_sha256,
            "checkpoint_sha256": self.checkpoint_sha256,
            "data": self.data,
            "model": self.model,
            "sparsity": self.sparsity,
            "provenance": self.provenance,
        }
        if self.unrounded is not None:
            values["unrounded"] = self.unrounded.to_dict()
        return {
            PREFIX + k: json.dumps(v, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            for k, v in values.items()
        }

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Read what `to_props` wrote; unknown `fggp.*` keys are ignored. Raises ModelFileError."""
        if PREFIX + "packed" in props and PREFIX + "format_version" not in props:
            raise ModelFileError(
                "the file was packed without --mean and --std, so it does not say how its images "
                "are prepared; `pack` its source with them, or use `explain`, `bench` or `compile`"
            )
        if PREFIX + "format_version" not in props:
            raise ModelFileError(
                "this is an ONNX file that fggp-deploy did not make (it has no fggp.* metadata); "
                "make one with `fggp-deploy export` or `pack`; `explain` and `bench` take any file"
            )
        values = {k.removeprefix(PREFIX): _json(k, v) for k, v in props.items() if k[:5] == PREFIX}
        if values["format_version"] != FORMAT_VERSION:
            raise ModelFileError(
                f"the file's format version is {values['format_version']!r}, this program reads "
                f"{FORMAT_VERSION}; install a fggp-deploy that matches"
            )
        classes = values.get("classes")
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ModelFileError("the metadata's classes must be a list of strings")
        try:
            preprocessing = Preprocessing.from_dict(values.get("preprocessing"))
        except ConfigError as e:
            raise ModelFileError(f"the metadata's {e}") from e
        return cls(
            preprocessing,
            tuple(classes),
            _self_test(values.get("selftest"), preprocessing, len(classes)),
            _self_test(values.get("unrounded"), preprocessing, len(classes)),
            _typed(values, "parent_sha256", str),
            _typed(values, "checkpoint_sha256", str),
            _typed(values, "data", str),
            _typed(values, "model", str),
            _typed(values, "sparsity", dict) or {},
            _typed(values, "provenance", dict) or {},
        )


def removed_before_compaction(sparsity: Mapping[str, Any]) -> float | None:
    """The share of all weights that was removed before dead channels left the file.

    `sparsity` is that of a Metadata from any file. None if no channel was removed, or if the counts
    are missing or damaged.

    >>> before = {"n_all_weights": 100, "n_all_removed": 98}
    >>> removed_before_compaction({"n_all_weights": 50, "before_compaction": before})
    0.98
    """
    before = sparsity.get("before_compaction")
    if not isinstance(before, dict):
        return None
    counts = (before.get("n_all_removed"), before.get("n_all_weights"))
    removed, total = (n if type(n) is int else -1 for n in counts)
    if not 0 <= removed <= total or not total or total == sparsity.get("n_all_weights"):
        return None
    return removed / total


def _self_test(value: Any, preprocessing: Preprocessing, n_classes: int) -> SelfTest | None:
    if value is None:
        return None
    test = SelfTest.from_dict(value)
    n, width = test.logits.shape
    if width != n_classes:
        raise ModelFileError(f"the self-test has {width} logits for {n_classes} classes")
    if n * math.prod(preprocessing.input_shape) > MAX_PROBE_ELEMENTS:
        raise ModelFileError(
            f"the self-test has {n} inputs of {preprocessing.input_shape}, more than "
            f"{MAX_PROBE_ELEMENTS:,} numbers"
        )
    return test


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"metadata {key} is not JSON ({type(e).__name__})") from e


def _typed(values: Mapping[str, Any], key: str, kind: type) -> Any:
    value = values.get(key)
    if value is not None and not isinstance(value, kind):
        raise ModelFileError(f"metadata {PREFIX}{key} must be {kind.__name__}, got {value!r:.40}")
    return value
