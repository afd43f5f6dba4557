"""Compiled files: `fggp-deploy compile` writes a model whose regions are single nodes.

Without the library, each of these nodes is a function of the layers that it replaces. So the file
also runs on a stock onnxruntime, and it is checked on both before it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnx import ModelProto

from fggp_deploy import kernels
from fggp_deploy.checkpoints.provenance import machine
from fggp_deploy.common.files import sha256_file, write_atomic
from fggp_deploy.common.option_rules import check_counts
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ConfigError, ModelFileError
from fggp_deploy.format.compiled import compiled_for, is_region
from fggp_deploy.format.functions import MIN_OPSET, layer_operator
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.graph.comparison import parity_of, relative_error, rtol_for
from fggp_deploy.graph.constants import required_inputs
from fggp_deploy.graph.opset import with_opset
from fggp_deploy.graph.qdq import has_quantized_activations
from fggp_deploy.graph.reading import read_model, reading, stored_bytes
from fggp_deploy.runtime.compiler import compile_model
from fggp_deploy.runtime.feeds import random_feeds
from fggp_deploy.runtime.plan import CompiledModel, CompileRequest
from fggp_deploy.runtime.region_file import finished
from fggp_deploy.runtime.sessions import Array, SessionConfig, run


@dataclass(frozen=True)
class CompiledFile:
    """What `compile_file` wrote, and what it was made for.

    `layers` with weights run in `regions`; the weights in `left` stay with onnxruntime. `speedup`
    over its dense form is the lower end of its interval, None if nothing was measured.
    `stock_error` and `kernels_error` are the largest differences of any output from the source's on
    stock onnxruntime, relative to the largest output. `self_test` says whether the inputs were
    those of the file's self-test, which then passed on both; a file without one is run on noise.
    """

    path: Path
    source: Path
    file_bytes: int
    source_bytes: int
    sha256: str
    regions: int
    layers: int
    left: tuple[str, ...]
    isa: str
    cpu: str
    threads: int
    batch: int
    speedup: float | None
    self_test: bool
    stock_error: float
    kernels_error: float


def compile_file(
    source: Path,
    out: Path | None = None,
    *,
    threads: int = 1,
    batch: int = 1,
    measure: bool = True,
    seconds: float = 0.5,
    progress: Progress = silent,
) -> CompiledFile:
    """Compile `source`, packed or any ONNX file of many zeros, to `out` (`NAME.compiled.onnx`).

    The kernels are tuned on this machine for `seconds`, for `threads` and `batch` images. A file is
    written only if it is faster than the source on onnxruntime; with `measure=False` nothing is
    timed and the cost model decides. Raises ModelFileError for a source that cannot be read, has
    nothing to compile or does not get faster, ConfigError for an option that is out of range, and
    MachineError without the library.
    """
    check_counts(threads=threads, batch=batch)
    if not 0 <= seconds < 86_400:
        raise ConfigError(f"--seconds must be in [0, 86400), got {seconds:g}")
    kernels.load()
    out = out or source.with_name(f"{source.stem}.compiled.onnx")
    if out.suffix != ".onnx":
        raise ConfigError(f"{out} must end in .onnx")
    if out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the source itself; name another file with --out")
    model = _read(source)
    options = SessionConfig(threads)
    with reading(str(source)):
        dense = with_opset(unpack(model), MIN_OPSET, name=str(source))
        content: bytes = dense.SerializeToString()
    compiled = compile_model(content, CompileRequest(options, batch, measure, seconds, progress))
    if compiled.model is None:
        cure = "; --no-measure compiles it all the same" if compiled.plan.ratio is not None else ""
        raise ModelFileError(f"{source} was not compiled: {compiled.plan.reason}{cure}")
    about = _about(source, compiled, threads, batch)
    made = finished(compiled.model, model, about)
    written: bytes = made.SerializeToString(deterministic=True)
    progress("checking on both runtimes", 0, 1)
    test, errors = _check(source, model, dense, written, options, batch)
    write_atomic(out, written)
    return CompiledFile(
        path=out,
        source=source,
        file_bytes=len(written),
        source_bytes=stored_bytes(source),
        sha256=sha256_file(out),
        regions=sum(map(is_region, made.functions)),
        layers=_n_layers(made),
        left=_left(made),
        isa=about["isa"],
        cpu=about["cpu"],
        threads=threads,
        batch=batch,
        speedup=compiled.plan.ratio,
        self_test=test,
        stock_error=errors[0],
        kernels_error=errors[1],
    )


def _read(source: Path) -> ModelProto:
    model = read_model(source)
    if compiled_for(model) is not None:
        raise ModelFileError(f"{source} is compiled already; give the file that it was made from")
    return model


def _about(source: Path, compiled: CompiledModel, threads: int, batch: int) -> dict[str, Any]:
    return {
        "source_sha256": sha256_file(source),
        "isa": kernels.chosen_isa(),
        "cpu": machine()["cpu"],
        "onnxruntime": ort.__version__,
        "threads": threads,
        "batch": batch,
        "speedup": compiled.plan.ratio,
    }


def _check(
    source: Path,
    model: ModelProto,
    dense: ModelProto,
    written: bytes,
    options: SessionConfig,
    batch: int,
) -> tuple[bool, tuple[float, float]]:
    """Whether there is a self-test, and the errors on stock onnxruntime and with the library."""
    props = {p.key: p.value for p in model.metadata_props}
    names = [v.name for v in required_inputs(dense.graph)]
    outputs = [v.name for v in dense.graph.output]
    test = Metadata.from_props(props).named(names, outputs).selftest
    if test is not None:
        test = test.first_batch()
    feeds = random_feeds(dense, batch) if test is None else test.feeds()
    want = run(options.open(source, name=source.name), feeds, source.name)
    rtol = rtol_for(in_bytes=has_quantized_activations(dense))
    got: list[list[Array]] = []

    def unoptimized() -> list[Array]:
        return run(options.open(source, name=source.name, optimize=False), feeds, source.name)

    for where, on_kernels in (("on stock onnxruntime", False), ("on the kernels", True)):
        name = f"the compiled file {where}"
        got.append(run(options.open(written, name=name, on_kernels=on_kernels), feeds, name))
        found = parity_of(got[-1], want, rtol=rtol, unoptimized=unoptimized)
        answers = dict(zip(outputs, got[-1], strict=True))
        if not found.passed or (test is not None and not test.passes(answers)):
            raise ModelFileError(
                f"{name} differs from {source} by {found.error:.1e} of the largest output; nothing "
                "was written, report this"
            )
    first, second = (relative_error(y, want) for y in got)
    return test is not None, (first, second)


def _n_layers(model: ModelProto) -> int:
    """Layers with weights inside of the regions."""
    return sum(
        n.op_type in ("Conv", "Gemm", "MatMul") or layer_operator(n) is not None
        for f in model.functions
        if is_region(f)
        for n in f.node
    )


def _left(model: ModelProto) -> tuple[str, ...]:
    """Names of the weights that layers outside of the regions read."""
    kinds = ("Conv", "Gemm", "MatMul", "ConvTranspose")
    return tuple(n.input[1] for n in model.graph.node if n.op_type in kinds and len(n.input) > 1)
