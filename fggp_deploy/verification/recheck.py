"""Check a delivered file against the report that came with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fggp_deploy.common.files import sha256_file
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ConfigError, FileError
from fggp_deploy.format.model import SparseModel
from fggp_deploy.measure.network import load, run_once_apart
from fggp_deploy.verification import certificate
from fggp_deploy.verification.parity import Difference, self_test_difference
from fggp_deploy.verification.report_files import find_report
from fggp_deploy.verification.schema import read_report
from fggp_deploy.verification.verdict import Verdict, equality, parity


def recheck(model: Path, report: Path, *, threads: int = 1) -> tuple[Verdict, ...]:
    """Whether `model` is the file that `report` describes, and gives the same logits here.

    `report` is a report.json or its folder. The verdicts are on the file's hash, each layer's hash,
    the masks, the preprocessing, the self-test on this machine, and whether the report itself
    passed. Raises FileError for a file that is not a report, ModelFileError for a model that cannot
    be read.
    """
    if report.is_dir():
        report = find_report(report, model.name)
    content = read_report(report)
    packed = SparseModel.open(model)
    meta = packed.metadata
    own = certificate.weights(packed.dense())
    recorded = content["certificate"]
    verdicts = [
        equality("file", sha256_file(model), content["model"]["sha256"], _of_file(model, content)),
        _layers(certificate.layer_hashes(own), recorded["layers"]),
        equality(
            "masks", certificate.masks_sha256(own), recorded["masks_sha256"], "SHA-256 of the masks"
        ),
        equality(
            "preprocessing",
            str(meta.preprocessing),
            str(_preprocessing(report, content["origin"]["preprocessing"])),
            "size, mean and std in the file",
        ),
    ]
    if (found := _self_test(packed, threads)) is not None:
        verdicts.append(parity("self-test here", found))
    failed = [v["name"] for v in content["verdicts"] if not v["passed"]]
    how = "verdicts in the report" if not failed else f"the report says that {failed[0]} failed"
    verdicts.append(Verdict("report", 0, len(failed), "failed gates", not failed, how))
    return tuple(verdicts)


def _of_file(model: Path, content: dict[str, Any]) -> str:
    name = str(content["model"]["name"])
    other = f"; the report is of {name}" if name != model.name else ""
    return f"SHA-256 of the file{other}"


def _layers(own: dict[str, str], recorded: dict[str, Any]) -> Verdict:
    differ = [n for n in {**own, **recorded} if own.get(n) != recorded.get(n)]
    how = "SHA-256 of each layer's weights"
    if differ:
        how += f"; the first that differs is {differ[0]}"
    return Verdict("layers", 0, len(differ), "layers that differ", not differ, how)


def _preprocessing(report: Path, recorded: dict[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_dict(recorded)
    except ConfigError as e:
        raise FileError(f"{report} is damaged: {e}") from e


def _self_test(packed: SparseModel, threads: int) -> Difference | None:
    test = packed.metadata.selftest
    if test is None:
        return None
    name, content = packed.path.name, packed.runnable()
    run_once_apart(name, content, test.first_batch().images())
    return self_test_difference(test, load(name, content, threads=threads))
