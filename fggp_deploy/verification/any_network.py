"""The verification of a network that is not an image classifier: everything that needs no data.

The inputs are those of the file's self-test, or generated from the shapes that the graph declares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fggp_deploy import runtime
from fggp_deploy.common.files import scratch_folder, sha256_file
from fggp_deploy.common.progress import Progress, silent
from fggp_deploy.errors import ModelFileError
from fggp_deploy.format.generated_inputs import Array, Input, feeds
from fggp_deploy.format.model import SparseModel
from fggp_deploy.graph.comparison import Parity, output_error, parity_of, rtol_for
from fggp_deploy.measure.latency import Latency, Opener, Sampling, at_setting
from fggp_deploy.measure.network import SESSION_CONFIG, Network, load, open_compiled
from fggp_deploy.measure.process import Cost, measure_processes, save_inputs
from fggp_deploy.measure.size import Size, size
from fggp_deploy.runtime.probing import first_run_apart, first_that_runs
from fggp_deploy.runtime.sessions import try_out
from fggp_deploy.verification import gates, verdict
from fggp_deploy.verification.certificate import Certificate, certificate
from fggp_deploy.verification.gates import Gates
from fggp_deploy.verification.model_under_test import KERNELS, MODEL, REFERENCE, find_reference
from fggp_deploy.verification.options import VerifyOptions
from fggp_deploy.verification.verdict import Verdict

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class OutputChange:
    """How far an output is from the dense model's.

    `error` is the largest difference over the largest value, and `cosine` the cosine of the angle
    between the two as vectors. `top1` is the share of rows with the same largest column, None if
    the output is not a table of scores [N, classes].
    """

    name: str
    error: float
    cosine: float
    top1: float | None


@dataclass(frozen=True)
class OutputsReport:
    """What was measured on a network of any kind; `inputs` are names and shapes."""

    name: str
    sha256: str
    inputs: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    changes: tuple[OutputChange, ...]
    size: Size
    latency: Latency
    processes: dict[str, Cost]
    certificate: Certificate

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(v.passed for v in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, `passed` included."""
        text = json.dumps({"passed": self.passed} | asdict(self), allow_nan=False)
        plain: dict[str, Any] = json.loads(text)
        return plain


def verify_outputs(
    packed: SparseModel,
    *,
    reference: Path | None = None,
    limits: Gates | None = None,
    options: VerifyOptions | None = None,
    progress: Progress = silent,
) -> OutputsReport:
    """Verify an ONNX file of any network on generated inputs.

    Raises ConfigError for a gate that needs data, and ModelFileError for files that are damaged, do
    not run or do not belong together.
    """
    limits, options = limits or Gates(), options or VerifyOptions()
    model = packed.path
    reference = find_reference(packed, reference)
    limits.require(data=False, dense_model=reference is not None)
    content, threads = packed.runnable(), options.judged_setting[0]
    progress("parity", 0, 1)
    inputs, notes = _inputs(packed, content)
    if reference is not None:
        try_out(partial(_run, reference, inputs, reference.name), reference.name)
    found = _run(content, inputs, model.name)
    verdicts = _checks(packed, content, inputs, found)
    progress("parity", 1, 1)
    changes: tuple[OutputChange, ...] = ()
    if reference is not None:
        changes = _changes(found, _run(reference, inputs, reference.name), reference)
    paths = {MODEL: content} | ({} if reference is None else {REFERENCE: reference})
    latency = _latency(paths, inputs, threads, options, progress)
    sizes, certified = size(packed, reference), certificate(packed, reference)
    if certified.revived is not None:
        verdicts.append(verdict.nothing_revived(certified.revived))
    best = KERNELS if KERNELS in latency.timings else MODEL
    figures = gates.Figures(
        paired=(), speedup=latency.speedups.get(best), timing=latency.timings[best],
        file_bytes=sizes.file_bytes, too_busy=latency.why_too_busy,
    )  # fmt: skip
    return OutputsReport(
        name=model.name,
        sha256=sha256_file(model),
        inputs=tuple(str(Input(n, str(x.dtype), x.shape)) for n, x in inputs.items()),
        verdicts=(*verdicts, *gates.verdicts(limits, figures)),
        notes=(
            *notes,
            "Latency was measured on these inputs; --batch is for image classifiers.",
            "Accuracy was not measured: it needs data and a metric for this network.",
        ),
        changes=changes,
        size=sizes,
        latency=latency,
        processes=_processes(paths, inputs, threads, progress),
        certificate=certified,
    )


def _run(model: bytes | Path, inputs: Feeds, name: str, *, optimize: bool = True) -> dict[str, Any]:
    return load(name, model, threads=1, optimize=optimize).outputs(inputs)


def _inputs(packed: SparseModel, content: bytes) -> tuple[Feeds, list[str]]:
    """The inputs, after a first run in a child process, and notes on them."""
    name, test = packed.path.name, packed.metadata.selftest
    if test is not None:
        inputs = test.first_batch().feeds()
        try_out(partial(_run, content, inputs, name), name)
        return inputs, []
    first_run_apart(content, None, name=name)
    generated, _, why = first_that_runs(load(name, content, threads=1).session, None)
    if not generated:
        raise ModelFileError(f"{name} cannot be run on generated inputs: {why}")
    return feeds(0, generated), ["The file has no self-test, so no recorded outputs were checked."]


def _checks(packed: SparseModel, content: bytes, inputs: Feeds, found: Feeds) -> list[Verdict]:
    """Self-test, packed against dense, and kernels against stock."""
    name, test = packed.path.name, packed.metadata.selftest
    verdicts = []
    if test is not None:
        own = test.first_batch()
        wrong = [o.name for o in own.outputs if not own.passes_output(o, found)]
        how = "outputs that differ from those recorded when the file was made"
        how += f", first {wrong[0]}" if wrong else ""
        verdicts.append(Verdict("self-test", 0, len(wrong), "outputs", not wrong, how))
    rtol = rtol_for(in_bytes=packed.has_quantized_activations)

    def agree(got: Feeds, what: str) -> Verdict:
        return _agreed(
            what,
            parity_of(
                [got[n] for n in found],
                list(found.values()),
                rtol=rtol,
                unoptimized=lambda: list(_run(content, inputs, name, optimize=False).values()),
            ),
        )

    dense = packed.dense().SerializeToString()
    verdicts.append(agree(_run(dense, inputs, f"the dense form of {name}"), "packed against dense"))
    if runtime.has_kernels():
        on_kernels = open_compiled(f"{name} on the kernels", content, threads=1)
        verdicts.append(agree(on_kernels.outputs(inputs), "operators on the kernels against stock"))
        fresh = _in_regions(content, inputs, threads=1, measure=False, cache=False)
        if fresh is not None:
            got = Network(f"{name} in regions", fresh).outputs(inputs)
            verdicts.append(agree(got, "regions on the kernels against stock"))
    return verdicts


def _agreed(name: str, found: Parity) -> Verdict:
    value, limit = (min(x, sys.float_info.max) for x in (found.error, found.limit))
    value = value if value == value else sys.float_info.max  # NaN: shapes differ
    how = "largest difference over the largest value of its output"
    return Verdict(name, limit, value, "of the largest", found.passed, how)


def _in_regions(content: bytes | Path, inputs: Feeds, **options: Any) -> Any:
    """A session on the kernels, or None if they are not used or not for inputs of these sizes."""
    first = next(iter(inputs.values()), np.zeros(1))
    session = runtime.session(
        content, batch=len(first) if first.ndim else 1, shape=first.shape[1:], **options
    )
    try:
        Network("the model", session).outputs(inputs)
    except ModelFileError:  # a plan has one size for every open dimension
        return None
    return session if runtime.uses_kernels(session) else None


def _changes(found: Feeds, dense: Feeds, reference: Path) -> tuple[OutputChange, ...]:
    """The outputs against those of the dense model, matched by position."""
    if [y.shape for y in found.values()] != [y.shape for y in dense.values()]:
        raise ModelFileError(
            f"{reference} gives {[y.shape for y in dense.values()]} and this file "
            f"{[y.shape for y in found.values()]}; they do not belong together"
        )
    pairs = zip(found.items(), dense.values(), strict=True)
    return tuple(_change(name, y, want) for (name, y), want in pairs)


def _change(name: str, y: Array, want: Array) -> OutputChange:
    a, b = (np.nan_to_num(v.astype(np.float64).reshape(-1)) for v in (y, want))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    error = output_error(y, want)
    table = want.ndim == 2 and want.shape[1] > 1 and want.dtype.kind == "f" and len(want)
    return OutputChange(
        name,
        error if np.isfinite(error) else sys.float_info.max,
        float(a @ b) / lengths if lengths else float(np.array_equal(a, b)),
        float((y.argmax(1) == want.argmax(1)).mean()) if table else None,
    )


def _latency(
    paths: Mapping[str, bytes | Path],
    inputs: Feeds,
    threads: int,
    options: VerifyOptions,
    progress: Progress,
) -> Latency:
    batch = next((len(x) for x in inputs.values() if x.ndim), 1)

    def run(session: Any) -> Callable[[], object]:
        return lambda: session.run(None, inputs)

    def stock(name: str) -> Opener:
        return lambda threads, _: run(load(name, paths[name], threads=threads).session)

    def planned() -> Any:
        return _in_regions(
            paths[MODEL], inputs, threads=threads, config=SESSION_CONFIG, progress=progress
        )

    contenders: dict[str, Opener] = {name: stock(name) for name in paths}
    fast = planned()
    if fast is not None:
        contenders[KERNELS] = lambda threads, batch: run(planned() or fast)
    found = at_setting(
        contenders, threads, batch, reference=REFERENCE if REFERENCE in paths else None,
        sampling=Sampling(options.seconds, seed=options.seed), progress=progress,
    )  # fmt: skip
    plan = "plain: the kernels are not faster" if fast is None else runtime.explain(fast)
    return replace(found, plan=plan)


def _processes(
    paths: Mapping[str, bytes | Path], inputs: Feeds, threads: int, progress: Progress
) -> dict[str, Cost]:
    with scratch_folder("fggp-verify-") as folder:
        copy = folder / "model.onnx"
        files = {n: p if isinstance(p, Path) else copy for n, p in paths.items()}
        content = paths[MODEL]
        assert isinstance(content, bytes)  # of the model under test
        copy.write_bytes(content)
        save_inputs(folder / "inputs.npz", inputs)
        return measure_processes(
            files, inputs=folder / "inputs.npz", threads=threads,
            progress=partial(progress, "load time and memory"),
        )  # fmt: skip
