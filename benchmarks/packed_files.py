"""One network with one mask as a dense and a packed file, and the sessions that open them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from networks import NETWORKS, set_densities, to_onnx
from rivals import Opener

from fggp_deploy import runtime
from fggp_deploy.format.packing import pack
from fggp_deploy.measure.network import SESSION_CONFIG
from fggp_deploy.runtime.sessions import SessionConfig

TOLERANCE, RIVALS_TOLERANCE = 1e-5, 1e-3  # of the largest output


class Files:
    """A dense and a packed file with an open batch dimension; `row` says of which network."""

    def __init__(self, folder: str, network: str, mask: str, sparsity: float) -> None:
        net = NETWORKS[network]()
        set_densities(net, sparsity, mask)
        model = to_onnx(net, batch="n")
        self.row = {"network": network, "mask": mask, "sparsity": sparsity}
        self.side = net.size
        self.dense = Path(folder) / f"{network}-{mask}-{sparsity}-dense.onnx"
        self.packed = Path(folder) / f"{network}-{mask}-{sparsity}.onnx"
        onnx.save(model, self.dense)
        onnx.save(pack(model), self.packed)

    def feeds(self, batch: int) -> dict[str, Any]:
        rng = np.random.default_rng(1)
        return {"x": rng.standard_normal((batch, 3, self.side, self.side), dtype=np.float32)}

    def open_dense(self, *, threads: int = 1) -> ort.InferenceSession:
        return SessionConfig(threads, SESSION_CONFIG).open(self.dense)

    def open_bare(self) -> ort.InferenceSession:
        """The packed file with only the library registered: each layer changes layout twice."""
        return SessionConfig(1, SESSION_CONFIG).open(self.packed, on_kernels=True)

    def open_kernels(
        self, *, threads: int = 1, batch: int = 1, isa: str = "", **plan: Any
    ) -> ort.InferenceSession:
        with _isa(isa):
            return runtime.session(
                self.packed, threads=threads, batch=batch, config=SESSION_CONFIG, **plan
            )

    def opener(
        self, open_session: Callable[..., ort.InferenceSession], *, batch: int = 1, **how: Any
    ) -> Opener:
        """What opens a session with these options, and runs a batch of images."""
        feeds = self.feeds(batch)

        def open_() -> Callable[[], Any]:
            session = open_session(**how)
            return lambda: session.run(None, feeds)[0]

        return open_

    def check(self, name: str, got: Any, *, tolerance: float = TOLERANCE) -> None:
        """Exit if the output for the first image differs from that of the dense file."""
        want = self.open_dense().run(None, self.feeds(1))[0]
        error = float(np.abs(got[:1] - want).max() / np.abs(want).max())
        if not error <= tolerance:
            raise SystemExit(f"{self.row} {name}: outputs differ by {error:.1e} of the largest")


@contextlib.contextmanager
def _isa(name: str) -> Iterator[None]:
    """Use this instruction set for the sessions that are opened inside."""
    before = os.environ.get("FGGP_ISA")
    if name:
        os.environ["FGGP_ISA"] = name
    try:
        yield
    finally:
        if name and before is None:
            del os.environ["FGGP_ISA"]
        elif name:
            os.environ["FGGP_ISA"] = before or ""
