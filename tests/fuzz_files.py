"""Mutated deployable files: a reader answers each with a model or with one ModelFileError.

    python tests/fuzz_files.py --count 12000 --seed 0

A quarter each of ONNX files (bytes and fields changed; a compiled one among them), of `.csr`
folders (hashes mended, so that the change is reached), of models given to `unpack`, and of those
that `unpack` reads given to `compact`. Memory is capped; prints the figures as JSON and ends with a
traceback if a reader raises anything else, hangs, or asks for too much.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import resource
import signal
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import golden_files as golden
import numpy as np
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fggp_deploy import kernels
from fggp_deploy.compaction.dead_channels import compact
from fggp_deploy.data.types import Preprocessing
from fggp_deploy.errors import ModelFileError
from fggp_deploy.exporters import csr, onnx, onnx_sparse
from fggp_deploy.format.metadata import Metadata
from fggp_deploy.format.model import SparseModel
from fggp_deploy.format.self_test import SelfTest
from fggp_deploy.format.unpacking import unpack
from fggp_deploy.runtime import cache as disk
from fggp_deploy.runtime.compile_to_file import compile_file
from fggp_deploy.runtime.plan import CompiledModel, Plan

HANG_S = 30  # of CPU time
MEMORY = 4 << 30
NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 255, 2**16, 2**24, 2**29, 2**31, 2**40, 2**62, 2**63 - 1)
Rng = np.random.Generator


def small_network() -> ModelProto:
    """Every operator and encoding of the format in a few kilobytes."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int, density: float = 0.05) -> TensorProto:
        w = rng.standard_normal(shape).astype(np.float32)
        return numpy_helper.from_array(w * (rng.random(shape) < density), name)

    signs = rng.choice(np.float32([-1, 1]), (64, 64))
    blocks = np.kron(rng.random((16, 16)) < 0.5, np.ones((4, 4))).astype(np.float32) * signs
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["input", "a.weight"], ["a"], "a", pads=[1] * 4),
            node("Conv", ["a", "b.weight"], ["b"], "b", group=2, pads=[1] * 4),
            node("ConvTranspose", ["b", "c.weight"], ["c"], "c", strides=[2, 2]),
            node("Conv", ["c", "d.weight"], ["d"], "d", strides=[3, 3]),
            node("Conv", ["d", "e.weight"], ["e"], "e"),
            node("ReduceMean", ["e", "axes"], ["m"], "m", keepdims=0),
            node("Gemm", ["m", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
        ],
        "network",
        [helper.make_tensor_value_info("input", 1, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 20])],
        [
            weight("a.weight", 32, 3, 5, 5),
            weight("b.weight", 32, 16, 3, 3, density=0.4),
            weight("c.weight", 32, 16, 2, 2),
            weight("d.weight", 64, 16, 3, 3, density=0.002),
            numpy_helper.from_array(blocks.reshape(64, 64, 1, 1), "e.weight"),
            weight("fc.weight", 20, 64),
            weight("fc.bias", 20, density=1),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


METADATA = Metadata(
    Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3),
    tuple(map(str, range(20))),
    SelfTest.of_logits(0, np.ones((2, 20), np.float32), (3, 8, 8)),
)


def originals(folder: Path) -> list[bytes]:
    """Whole files to mutate: packed, flat, fp16, int8 and with sparse initializers."""
    dense = small_network()
    paths = [
        onnx.export(dense, METADATA, folder / "packed.onnx"),
        onnx.export(dense, METADATA, folder / "flat.onnx", flat=True),
        onnx.export(dense, METADATA, folder / "half.onnx", values="fp16"),
        onnx.export(dense, METADATA, folder / "int8.onnx", values="int8"),
        onnx_sparse.export(dense, METADATA, folder / "sparse.onnx"),
        golden.ONNX,
    ]
    if kernels.library_path() is not None:
        paths.append(compile_file(golden.ONNX, folder / "fast.onnx", measure=False).path)
    return [p.read_bytes() for p in paths]


def pick(rng: Rng, items):
    return items[int(rng.integers(len(items)))]


def mutate_bytes(content: bytes, rng: Rng) -> bytes:
    """A few flips, overwrites, cuts and copies."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        at = int(rng.integers(len(out)))
        span = int(rng.integers(1, 40))
        match int(rng.integers(6)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at] = pick(rng, (0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at:]
            case 3:
                del out[at : at + span]
            case 4:
                out[at:at] = out[at : at + span]
            case _:
                out[at : at + span] = rng.bytes(span)
    return bytes(out)


def mutate_model(model: ModelProto, rng: Rng) -> ModelProto:
    """A few fields set to what a hostile writer might put there."""
    out = ModelProto()
    out.CopyFrom(model)
    for _ in range(int(rng.integers(1, 4))):
        pick(rng, MODEL_MUTATIONS)(out, rng)
    return out


def _tensor(m: ModelProto, rng: Rng) -> TensorProto | None:
    tensors = [*m.graph.initializer]
    for s in m.graph.sparse_initializer:
        tensors += [s.values, s.indices]
    return pick(rng, tensors) if tensors else None


def _dims(m: ModelProto, rng: Rng) -> None:
    if (t := _tensor(m, rng)) is not None and t.dims:
        t.dims[int(rng.integers(len(t.dims)))] = pick(rng, NUMBERS)


def _data(m: ModelProto, rng: Rng) -> None:
    if (t := _tensor(m, rng)) is not None:
        t.raw_data = mutate_bytes(t.raw_data, rng)


def _type(m: ModelProto, rng: Rng) -> None:
    if (t := _tensor(m, rng)) is not None:
        t.data_type = int(rng.integers(0, 25))


def _rename(m: ModelProto, rng: Rng) -> None:
    if (t := _tensor(m, rng)) is not None and (other := _tensor(m, rng)) is not None:
        t.name = other.name


def _attribute(m: ModelProto, rng: Rng) -> None:
    node = pick(rng, m.graph.node)
    if not node.attribute:
        return
    a = pick(rng, node.attribute)
    if a.ints:
        a.ints[int(rng.integers(len(a.ints)))] = pick(rng, NUMBERS)
    else:
        a.i = pick(rng, NUMBERS)
    if rng.random() < 0.2:
        del a.ints[:]


def _wire(m: ModelProto, rng: Rng) -> None:
    node = pick(rng, m.graph.node)
    if node.input:
        names = [t.name for t in m.graph.initializer] + [o for n in m.graph.node for o in n.output]
        node.input[int(rng.integers(len(node.input)))] = pick(rng, [*names, "", "nowhere"])


def _operator(m: ModelProto, rng: Rng) -> None:
    node = pick(rng, m.graph.node)
    node.op_type = pick(rng, [n.op_type for n in m.graph.node] + ["Unmask", "Ungap", "Loop", "X"])
    if rng.random() < 0.5:
        node.domain = pick(rng, ("", "ai.fggp", "ai.onnx.ml", "x"))


def _node(m: ModelProto, rng: Rng) -> None:
    i = int(rng.integers(len(m.graph.node)))
    if rng.random() < 0.5 and len(m.graph.node) > 1:
        del m.graph.node[i]
    else:
        m.graph.node.add().CopyFrom(m.graph.node[i])


def _expand(m: ModelProto, rng: Rng) -> None:
    """A standard node that asks for a huge tensor."""
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "huge.shape")
    m.graph.initializer.append(shape)
    m.graph.node.append(helper.make_node("ConstantOfShape", ["huge.shape"], ["huge"]))


def _property(m: ModelProto, rng: Rng) -> None:
    if m.metadata_props:
        p = pick(rng, m.metadata_props)
        p.value = mutate_bytes(p.value.encode(), rng).decode(errors="replace")


def _interface(m: ModelProto, rng: Rng) -> None:
    value = pick(rng, [*m.graph.input, *m.graph.output])
    dims = value.type.tensor_type.shape.dim
    if rng.random() < 0.3 or not dims:
        value.type.tensor_type.shape.dim.add(dim_value=int(pick(rng, NUMBERS)))
    else:
        pick(rng, dims).dim_value = pick(rng, NUMBERS)


def _function(m: ModelProto, rng: Rng) -> None:
    if not m.functions:
        return
    f = pick(rng, m.functions)
    if rng.random() < 0.3:
        m.functions.add().CopyFrom(f)
    elif rng.random() < 0.4:
        f.name = pick(rng, ("Conv", "SparseConv", "Unmask", "Region_0"))
    elif rng.random() < 0.4:
        node = pick(rng, f.node)
        names = [*f.input, *f.output, *(o for n in f.node for o in n.output), "", "nowhere"]
        side = pick(rng, (node.input, node.output, f.input, f.output))
        if side:
            side[int(rng.integers(len(side)))] = pick(rng, names)
    else:
        pick(rng, f.node).op_type = "Identity"


MODEL_MUTATIONS: list[Callable[[ModelProto, Rng], None]] = [
    _dims, _data, _type, _rename, _attribute, _attribute, _wire, _operator, _node, _expand,
    _property, _interface, _function,
]  # fmt: skip


def mutate_json(value, rng: Rng):
    """One value somewhere inside replaced by something unexpected."""
    odd = (*NUMBERS, None, True, "", "x", "../../x", [], {}, [[]], 1e308, "\ud800")
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = pick(rng, list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutate_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = int(rng.integers(len(value)))
        return [*value[:i], mutate_json(value[i], rng), *value[i + 1 :]]
    return pick(rng, odd)


def mutate_npz(content: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    name = pick(rng, list(members))
    members[name] = b"\0" * 10_000_000 if rng.random() < 0.05 else mutate_bytes(members[name], rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, member in members.items():
            archive.writestr(n, member)
    return out.getvalue()


def mutate_folder(files: dict[str, bytes], rng: Rng) -> dict[str, bytes]:
    """One file of a `.csr` folder changed; its hash is mended most of the time."""
    out, name = dict(files), pick(rng, list(files))
    manifest = json.loads(files["manifest.json"])
    if name == "manifest.json":
        changed = json.dumps(mutate_json(manifest, rng)).encode()
        return out | {name: changed if rng.random() < 0.8 else mutate_bytes(files[name], rng)}
    if name == "graph.onnx":
        model = mutate_model(ModelProto.FromString(files[name]), rng)
        out[name] = model.SerializeToString()
    else:
        out[name] = mutate_npz(files[name], rng)
    if rng.random() < 0.9:
        for entry in (manifest["graph"], *manifest["weights"].values()):
            entry["sha256"] = hashlib.sha256(out[entry["file"]]).hexdigest()
        out["manifest.json"] = json.dumps(manifest).encode()
    return out


def fuzz(count: int, seed: int) -> dict[str, object]:
    """Read `count` mutants; raises what a reader should not have raised."""
    rng = np.random.default_rng(seed)
    ends: Counter[str] = Counter()
    messages: set[str] = set()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = originals(folder)
        source = csr.export(small_network(), METADATA, folder / "source.csr")
        files = {
            str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()
        }
        for i in range(count):
            kind = ("onnx", "csr", "unpack", "compact", "plan")[i % 5]
            act = _mutant(kind, folder, whole, files, rng)
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            try:
                act()
                ends[f"{kind} read"] += 1
            except ModelFileError as e:
                ends[f"{kind} refused"] += 1
                messages.add(str(e))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.perf_counter() - start)
    if any("\n" in m for m in messages):
        raise RuntimeError(f"an error of more than one line: {messages}")
    return {
        "files": count,
        **dict(sorted(ends.items())),
        "distinct_messages": len({m.split(": ", 1)[-1][:40] for m in messages}),
        "slowest_s": round(slowest, 3),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
    }


def _mutant(
    kind: str, folder: Path, whole: list[bytes], files: dict[str, bytes], rng: Rng
) -> Callable[[], object]:
    if kind == "csr":
        path = folder / "mutant.csr"
        for name, content in mutate_folder(files, rng).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return lambda: SparseModel.open(path).dense()
    if kind == "compact":
        changed = mutate_model(unpack(ModelProto.FromString(whole[0])), rng)
        return lambda: compact(unpack(changed))
    if kind == "plan":
        return _plan_mutant(folder / "plan.json", pick(rng, whole), rng)
    content = pick(rng, whole)
    try:
        model = mutate_model(ModelProto.FromString(content), rng)
        by_fields = model.SerializeToString()
    except (DecodeError, EncodeError, UnicodeError, ValueError):  # nobody could write that file
        model, by_fields = ModelProto.FromString(content), content
    if kind == "unpack":
        return lambda: unpack(model)
    path = folder / "mutant.onnx"
    path.write_bytes(by_fields if rng.random() < 0.5 else mutate_bytes(content, rng))
    return lambda: SparseModel.open(path).dense()


def _plan_mutant(path: Path, model: bytes, rng: Rng) -> Callable[[], object]:
    """A cached plan with something changed: what is read is a plan, or counts as absent."""
    disk.save(path, CompiledModel(Plan(True, "as fast as can be", 2.5, 0.5), model))
    stored = mutate_json(json.loads(path.read_text()), rng)
    content = json.dumps(stored).encode()
    path.write_bytes(content if rng.random() < 0.7 else mutate_bytes(content, rng))
    if rng.random() < 0.3:
        path.with_suffix(".onnx").write_bytes(mutate_bytes(model, rng))

    def act() -> None:
        found = disk.load(path)
        if found is None:
            raise ModelFileError("no plan")
        assert isinstance(found.plan.sparse, bool)
        assert found.model in (None, model)  # the hash is the model's

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(fuzz(args.count, args.seed)))


if __name__ == "__main__":
    main()
