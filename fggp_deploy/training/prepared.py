"""What a run is given: a session before its first step, and what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fggp_deploy.checkpoints.checkpoint import CheckpointInfo
from fggp_deploy.checkpoints.run_folder import DENSE_MODEL
from fggp_deploy.common.files import sha256_file
from fggp_deploy.models import recorded
from fggp_deploy.models.checkpointing import to_checkpoint
from fggp_deploy.models.probing import count_macs
from fggp_deploy.pruning.masks import MaskSet
from fggp_deploy.training.resume import MOVABLE, Origin, write_config
from fggp_deploy.training.session import Session
from fggp_deploy.training.start import Start


@dataclass(frozen=True)
class Prepared:
    """A session before its first step, and what it was made from.

    `dense`: the dense model as it was loaded, None if the run has none. `start_sha256`: hash of
    the file of weights that the run starts from. `names`: our names of parameters → the user's, if
    they differ.
    """

    session: Session
    origin: Origin
    dense: Start | None = None
    start_sha256: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def check_same_on_all_ranks(self) -> None:
        """Raise RanksDiffer unless all ranks were given the same options, data and weights."""
        s = self.session
        options = {k: v for k, v in s.config.to_dict().items() if k not in MOVABLE}
        text = json.dumps([options, self.origin.contents()], sort_keys=True)
        s.ranks.check_same(
            lambda: hashlib.sha256(text.encode()).hexdigest(),
            "the processes of this run were given different options, data or weights; start all "
            "with the same command, on machines that see the same files",
        )

    def write_first_files(self, folder: Path) -> Origin:
        """Write the files that a run's folder has from the start.

        Returns the origin with the hash of the dense model's file in the folder.
        """
        write_config(folder, self.session.config.to_dict())
        if self.session.data.held_out is not None:
            self.session.data.held_out.save_beside(folder)
        if self.dense is None:
            return self.origin
        self._save_dense(self.dense, folder / DENSE_MODEL)
        return replace(self.origin, parent_sha256=sha256_file(folder / DENSE_MODEL))

    def _save_dense(self, dense: Start, path: Path) -> None:
        """Keep the dense model in the run's folder, so that the folder is complete in itself."""
        model = self.session.teacher
        assert model is not None  # a run with a dense model learns from it
        info = CheckpointInfo(
            model=recorded(self.session.config.model, path.parent),
            model_code_sha256=self.origin.model_code_sha256,
            data=dense.data.name,
            classes=dense.data.classes,
            preprocessing=dense.data.preprocessing,
            macs=count_macs(model, dense.data.preprocessing.input_shape),
            reference_sha256=dense.sha256,
            names=dense.names,
            provenance={"copy_of": dense.checkpoint.name},
        )
        to_checkpoint(model, dense.masks or MaskSet({}), info).save(path)
