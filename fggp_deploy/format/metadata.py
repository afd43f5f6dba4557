"""The metadata of a deployable file: `fggp.*` keys with JSON values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.self_test import KEY, OLD_KEY, SelfTest

FORMAT_VERSION = 1
PREFIX = "fggp."


@dataclass(frozen=True)
class Metadata:
    """Everything but the network itself; `to_props` gives what ONNX calls metadata_props.

    `parent_sha256` is the hash of the dense model's ONNX file, `checkpoint_sha256` that of the
    pruned checkpoint. `sparsity` holds counts (n_prunable, n_removed, n_all_weights) and the
    target, `provenance` the command, resolved configuration, seed, versions, hardware and seconds.
    `unrounded` is the self-test before values were rounded to float16 or int8, if they were.
    `preprocessing` is None, and `classes` are empty, if the network is not an image classifier or
    the file does not describe it as one.
    """

    preprocessing: Preprocessing | None
    classes: tuple[str, ...]
    selftest: SelfTest | None = None
    unrounded: SelfTest | None = None
    parent_sha256: str | None = None
    checkpoint_sha256: str | None = None
    data: str | None = None
    model: str | None = None
    sparsity: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> Preprocessing:
        """How its images are prepared; raises ModelFileError if the file does not say it."""
        if self.preprocessing is None:
            raise ModelFileError(
                "the file does not say how its images are prepared; export it with its "
                "preprocessing, or `pack` its source with --mean and --std"
            )
        return self.preprocessing

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> Metadata:
        """The same with the names of the graph's inputs and outputs in its self-tests."""
        tests = {
            key: test.named(inputs, outputs)
            for key in ("selftest", "unrounded")
            if (test := getattr(self, key)) is not None
        }
        return replace(self, **tests)

    def to_props(self) -> dict[str, str]:
        """Keys `fggp.*`, values JSON; equal metadata give equal strings."""
        values = {
            "format_version": FORMAT_VERSION,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
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
        """Read what `to_props` wrote; unknown `fggp.*` keys are ignored. Raises ModelFileError.

        A file without `fggp.format_version` describes nothing; it may have a self-test.
        """
        if PREFIX + "format_version" not in props:
            found = next((props[k] for k in (KEY, OLD_KEY) if k in props), None)
            test = None if found is None else SelfTest.from_dict(_json(KEY, found))
            return cls(None, (), test)
        values = {k.removeprefix(PREFIX): _json(k, v) for k, v in props.items() if k[:5] == PREFIX}
        if values["format_version"] != FORMAT_VERSION:
            raise ModelFileError(
                f"the file's format version is {values['format_version']!r}, this program reads "
                f"{FORMAT_VERSION}; install a fggp-deploy that matches"
            )
        classes = values.get("classes")
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ModelFileError("the metadata's classes must be a list of strings")
        preprocessing = None
        if values.get("preprocessing") is not None:
            try:
                preprocessing = Preprocessing.from_dict(values["preprocessing"])
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


def _self_test(value: Any, preprocessing: Preprocessing | None, n_classes: int) -> SelfTest | None:
    if value is None:
        return None
    test = SelfTest.from_dict(value, preprocessing.input_shape if preprocessing else None)
    if test.rows and (width := test.outputs[0].shape[1]) != n_classes:
        raise ModelFileError(f"the self-test has {width} logits for {n_classes} classes")
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
