"""Exports the checkpoint of a run, and checks the file."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from fggp_deploy.checkpoints.provenance import Provenance
from fggp_deploy.checkpoints.run_folder import dense_model_of
from fggp_deploy.common.files import sha256_file
from fggp_deploy.common.progress import Progress
from fggp_deploy.common.progress import silent as unseen
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.graph.comparison import largest_difference
from fggp_deploy.measure.evaluation_data import images_of
from fggp_deploy.quantization.activations import quantize_on_images
from fggp_deploy.verification.report_files import set_aside_report

from . import STATE_DICT, state_dict
from .compaction import compacted, n_removable
from .dense_model import refuse_to_replace, write_dense_model
from .exported import Exported, write_checked
from .file_metadata import counts_of, metadata_of, to_ship
from .options import ExportOptions
from .source import Source, folder_of, output_path, read_source
from .torch_onnx import to_onnx

_DEFAULT = ExportOptions()


def export_run(
    checkpoint: Path, options: ExportOptions = _DEFAULT, *, progress: Progress = unseen
) -> Exported:
    """Write a checkpoint in a format, and check what was written.

    `checkpoint` is that of a run, or a file of weights that were pruned elsewhere. The dense model
    that lies beside a run's checkpoint becomes `reference.onnx` beside the file. Raises
    CheckpointError, ConfigError, UnknownName, DataError, MachineError, and ModelFileError if the
    file does not give the network's own logits under ONNX Runtime.
    """
    if options.format == STATE_DICT:
        return state_dict.export(checkpoint, options)
    began = datetime.now(UTC)
    path = output_path(checkpoint, options)
    source = read_source(checkpoint, options)
    notes = list(source.notes)
    progress("converting to ONNX", 0, 1)
    reference = _write_reference(source, path, options) if source.is_run else None
    metadata = _metadata(source, reference, options, began)
    before = metadata.sparsity
    dense, compaction = to_onnx(source.model, metadata), None
    if options.compact:
        assert metadata.selftest is not None  # _metadata recorded it
        dense, compaction = compacted(dense, metadata.selftest.feeds())
        metadata = dataclasses.replace(metadata, sparsity=counts_of(dense, before))
    elif n_dead := n_removable(dense):
        notes.append(
            f"{n_dead} channels no longer affect the output; --compact removes them from the "
            "network, so that every runtime has less to compute"
        )
    if options.activations == "int8":
        images = images_of(
            metadata, checkpoint.parent, options.data, options.data_dir, parts=("train",),
            progress=progress,
        )  # fmt: skip
        dense, lines = quantize_on_images(dense, images, metadata.images)
        notes += lines
    progress("packing and checking", 0, 1)
    written, error = write_checked(dense, metadata, path, options=options, note=notes.append)
    if (old_report := set_aside_report(path)) is not None:
        notes.insert(0, f"the report of the file that was here before is now {old_report.name}")
    test, unrounded = written.metadata.selftest, written.metadata.unrounded
    assert test is not None  # _metadata has recorded it
    return Exported(
        path=path,
        format=options.format,
        values=options.stored_values,
        file_bytes=written.file_bytes(),
        sha256=sha256_file(path),
        reference=reference,
        reference_bytes=reference.stat().st_size if reference else None,
        sparsity=before["n_removed"] / max(1, before["n_prunable"]),
        self_test_error=error,
        rounding_error=largest_difference(test.logits, unrounded.logits) if unrounded else None,
        largest_logit=float(abs(test.logits).max()),
        notes=tuple(notes),
        compaction=compaction,
    )


def _write_reference(source: Source, path: Path, options: ExportOptions) -> Path | None:
    """The run's dense model beside `path`; None if the run has none."""
    dense_model = dense_model_of(source.path)
    if path.parent != folder_of(source.path):
        refuse_to_replace(path.parent, dense_model)
    return write_dense_model(
        dense_model, path.parent, network=options.network, trust_code=options.trust_code
    )


def _metadata(
    source: Source, reference: Path | None, options: ExportOptions, began: datetime
) -> Metadata:
    """What the file says about its network, with the hashes of what it was made from."""
    names = ("format", "flat", "regions", "activations", "compact")
    setting = {name: getattr(options, name) for name in names} | {"values": options.stored_values}
    provenance = Provenance.of(setting, began).to_dict()
    return dataclasses.replace(
        metadata_of(source.model, source.info, source.content),
        checkpoint_sha256=sha256_file(source.path) if source.is_run else None,
        parent_sha256=sha256_file(reference) if reference else None,
        provenance={"export": to_ship(provenance), "prune": to_ship(source.info.provenance)},
    )
