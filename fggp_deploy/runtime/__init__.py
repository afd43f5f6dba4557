"""Open a model on the sparse kernels: `session(path)` is an onnxruntime.InferenceSession.

It needs only numpy, onnx and onnxruntime, and onnx only the first time for a model. Without the
compiled library you get a standard session; `explain(session)` reports why.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import onnxruntime as ort

from fggp_deploy import kernels
from fggp_deploy.common.cores import usable_cores
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import (
    ConfigError,
    FggpWarning,
    KernelsDisagree,
    MachineError,
    ModelFileError,
)
from fggp_deploy.runtime import cache as disk
from fggp_deploy.runtime.plan import CompiledModel, CompileRequest, Plan
from fggp_deploy.runtime.sessions import SessionConfig, with_data

__all__ = ["TUNING_SECONDS", "compiled_file", "explain", "has_kernels", "session", "uses_kernels"]

TUNING_SECONDS = 0.5  # that the first session for a model spends on choosing kernel variants
_plans: WeakKeyDictionary[ort.InferenceSession, Plan] = WeakKeyDictionary()


def session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    batch: int = 1,
    shape: Sequence[int] = (),
    measure: bool = True,
    tuning_seconds: float | None = None,
    cache: bool = True,
    config: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> ort.InferenceSession:
    """A session for a packed file, or for any ONNX file whose weights hold many zeros.

    `model` is a path or a serialized model. `threads` is ONNX Runtime's intra_op_num_threads; None
    leaves its default, and the kernels are planned for the cores that this process may use.
    `config` holds further session configuration entries. `batch` is the batch size to plan for if
    the model leaves its first dimension open; the session takes any. If other dimensions are open
    too, such as height and width, `shape` must give all after the first, as in (3, 640, 640), and a
    session on the kernels accepts only that size.

    The first session for a model on a machine tunes the kernels for `tuning_seconds` (by default
    `TUNING_SECONDS`) and compares single layers and the whole model with ONNX Runtime. You get a
    standard session unless the kernels are faster beyond doubt. Later sessions read the cached
    result. If the kernels disagree with ONNX Runtime, you get a standard session with
    an FggpWarning, and nothing is cached. With `measure=False` nothing is timed and the cost model
    decides. A file that `fggp-deploy compile` wrote is used as it was compiled. `progress` is
    called with (stage, done, total).

    Raises ModelFileError for a file that cannot be read, and ConfigError for an option that is out
    of range.
    """
    seconds = TUNING_SECONDS if tuning_seconds is None else tuning_seconds
    if batch < 1 or (threads is not None and threads < 0):
        raise ConfigError(f"batch and threads must be positive, got {batch} and {threads}")
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"tuning_seconds must be finite and not negative, got {seconds}")
    sizes = tuple(shape)
    if any(size < 1 for size in sizes):
        raise ConfigError(f"shape must be positive numbers, got {sizes}")
    source = model if isinstance(model, bytes) else with_data(Path(model))
    options = SessionConfig(threads, dict(config or {}))
    reason = _why_no_kernels()
    if reason:
        return _open(source, CompiledModel.standard(reason), options)
    count = threads or usable_cores()
    try:
        place = disk.path_of(disk.sha256_of(source), threads=count, batch=batch, shape=sizes)
    except OSError as e:
        raise ModelFileError(f"cannot read {model!s:.200}: {e.strerror or e}") from e
    compiled = disk.load(place) if cache else None
    if compiled is not None and (not measure or _measured(compiled.plan, seconds)):
        try:
            return _open(source, compiled, options)
        except ModelFileError:
            if compiled.model is None:
                raise
    from fggp_deploy.runtime.compiler import compile_model

    data = source if isinstance(source, bytes) else source.read_bytes()
    try:
        compiled = compile_model(
            data, CompileRequest(options, batch, measure, seconds, progress, sizes)
        )
    except KernelsDisagree as e:  # no plan to keep: another version may compute it correctly
        warnings.warn(f"{e}; you get a standard session", FggpWarning, stacklevel=2)
        return _open(source, CompiledModel.standard(str(e)), options)
    except MachineError as e:  # planning needs temporary files; running does not
        return _open(source, CompiledModel.standard(str(e)), options)
    if cache and compiled.model is not data:
        disk.save(place, compiled)
    return _open(source, compiled, options)


def compiled_file(
    model: str | Path | bytes, *, threads: int, batch: int = 1, shape: Sequence[int] = ()
) -> Path | None:
    """The compiled model that `session` kept and opens again for the same arguments.

    None if it kept none: the kernels are not used, or the cache cannot be written. Run it in a
    session that has the library of `fggp_deploy.kernels` registered.
    """
    source = model if isinstance(model, bytes) else with_data(Path(model))
    place = disk.path_of(disk.sha256_of(source), threads=threads, batch=batch, shape=tuple(shape))
    found = disk.load(place)
    return None if found is None or found.model is None else place.with_suffix(".onnx")


def explain(session: ort.InferenceSession) -> str:
    """Why a session uses the kernels or not: "kernels: …" or "plain: …"."""
    if session in _plans:
        return str(_plans[session])
    return "plain: it was not opened by fggp_deploy.runtime.session"


def uses_kernels(session: ort.InferenceSession) -> bool:
    """Whether a session that `session` opened runs regions and not the dense form."""
    return session in _plans and _plans[session].sparse


def has_kernels() -> bool:
    """Whether the library of the sparse kernels loads on this machine."""
    return not _why_no_kernels()


def _why_no_kernels() -> str:
    """Why the kernels cannot be used on this machine; empty if they can."""
    if kernels.library_path() is None:
        return "the sparse kernels are not built; see `fggp-deploy doctor`"
    try:
        kernels.load()
    except MachineError as e:
        return str(e)
    return ""


def _measured(plan: Plan, seconds: float) -> bool:
    """Whether a new plan would be no better: there is nothing to time, or it was tuned as long."""
    return not plan.sparse if plan.ratio is None else plan.tuning_seconds >= seconds


def _open(
    source: Path | bytes, compiled: CompiledModel, options: SessionConfig
) -> ort.InferenceSession:
    name = "the model" if isinstance(source, bytes) else source.name
    if compiled.model is not None:
        opened = options.open(compiled.model, name=name, on_kernels=True)
    else:
        opened = options.open(source, name=name)
    _plans[opened] = compiled.plan
    return opened
