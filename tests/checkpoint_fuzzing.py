"""A process that reads mutated checkpoints: `python checkpoint_fuzzing.py FOLDER SEED N`.

It gets 2 GiB of address space beyond what importing takes, and 20 s a file; a file that needs more,
or crashes the process, ends it with the file left as FOLDER/last. Prints one JSON object.
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import resource
import signal
import sys
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from fggp_deploy.checkpoints.checkpoint import Checkpoint, CheckpointInfo, is_ours
from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.data import Preprocessing
from fggp_deploy.errors import FggpError
from fggp_deploy.models import loading

SPARE_BYTES, SECONDS = 2 << 30, 20  # of CPU time, for one file
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2))


def originals() -> list[bytes]:
    """Ours with masks, plain safetensors, and files of torch.save in both formats."""
    torch.manual_seed(0)
    state = network().state_dict()
    arrays = {n: t.numpy() for n, t in state.items()}
    keep = arrays["0.weight"] > 0
    arrays["0.weight"] = arrays["0.weight"] * keep
    info = CheckpointInfo(
        model="own", data="cifar10", classes=("a", "b"), prunable=("0.weight",), target=0.5,
        preprocessing=Preprocessing(8, 8, (0.5,) * 3, (1.0,) * 3), macs={"0.weight": 108},
        names={"2.weight": "fc.weight"}, metrics={"n_test": 3}, provenance={"command": "prune"},
    )  # fmt: skip
    packed = np.packbits(keep.reshape(-1), bitorder="little")
    ours = safetensors.numpy.save(arrays | {"fggp.mask.0.weight": packed}, {"fggp": info.to_json()})
    nested = {f"module.{n}": t for n, t in state.items() if n != "0.weight"}
    nested |= {
        "module.0.weight_orig": state["0.weight"],
        "module.0.weight_mask": torch.tensor(keep),
    }
    wrapped = {"epoch": 3, "state_dict": nested, "optimizer": {"lr": [0.1], "state": {}}}
    return [
        ours,
        safetensors.numpy.save(arrays),
        *(saved(c, zipped=z) for c in (state, wrapped) for z in (True, False)),
    ]


def saved(content: object, *, zipped: bool) -> bytes:
    f = io.BytesIO()
    torch.save(content, f, _use_new_zipfile_serialization=zipped)
    return f.getvalue()


def mutated(raw: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Damage a file as disks, networks and attackers do; half the time within its structure."""
    if rng.random() < 0.5:
        if raw.startswith(b"PK"):
            return rezipped(raw, rng)
        if raw[8:9] == b"{":
            return reheaded(raw, rng)
    if rng.random() < 0.15:
        return raw[: rng.randrange(len(raw))]
    if rng.random() < 0.1:
        other = rng.choice(others)
        return raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]
    return damaged(raw, rng)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        i = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[i] ^= 1 << rng.randrange(8)
            case 1:
                out[i] = rng.randrange(256)
            case 2:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % 256**width
                out[i : i + width] = number.to_bytes(width, "little")
            case 3:
                del out[i : i + rng.randrange(1, 32)]
            case 4:
                out[i:i] = out[rng.randrange(len(out)) :][: rng.randrange(1, 64)]
        if not out:
            return b""
    return bytes(out)


def rezipped(raw: bytes, rng: random.Random) -> bytes:
    """Damage one part of a zip archive and make its sizes and checksums right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        parts = old.infolist()
        pickled = next(p for p in parts if p.filename.endswith("data.pkl"))
        chosen = pickled if rng.random() < 0.8 else rng.choice(parts)
        for part in parts:
            content = old.read(part)
            new.writestr(part.filename, damaged(content, rng) if part is chosen else content)
    return out.getvalue()


def reheaded(raw: bytes, rng: random.Random) -> bytes:
    """Damage a safetensors header and make its length right again."""
    n = int.from_bytes(raw[:8], "little")
    header = damaged(raw[8 : 8 + n], rng)
    return len(header).to_bytes(8, "little") + header + raw[8 + n :]


def read(path: Path) -> None:
    """All that the program does with a checkpoint's bytes before it trains or exports."""
    if is_ours(path):
        ours = Checkpoint.open(path)
        state = {n: torch.from_numpy(a.copy()) for n, a in ours.tensors.items()}
    else:
        state = dict(read_foreign(path).tensors)
    loading.load_into(network(), state, what=str(path))


def main(folder: Path, seed: int, n: int) -> dict[str, object]:
    rng = random.Random(seed)
    files = originals()
    path = folder / "last"
    for raw in files:  # a fuzz of files that nothing could read would prove nothing
        path.write_bytes(raw)
        read(path)
    loading.fitting = lambda *_: []  # builds a hundred networks; not what is tested here
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome: Counter[str] = Counter()
    longest = 0.0
    for _ in range(n):
        path.write_bytes(mutated(rng.choice(files), rng, files))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        began = time.perf_counter()
        try:
            read(path)
            outcome["read"] += 1
        except FggpError as e:
            outcome[f"refused, exit {e.exit_code}"] += 1
        longest = max(longest, time.perf_counter() - began)
        signal.setitimer(signal.ITIMER_PROF, 0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "n": n, "outcome": dict(outcome), "longest_seconds": round(longest, 3),
        "grown_mb": round((after - before) / 1024, 1),
    }  # fmt: skip


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
