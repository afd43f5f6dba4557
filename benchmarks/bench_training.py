"""The cost of our training loop and of pruning, compared with a hand-written loop.

    python benchmarks/bench_training.py [--device auto] [--networks resnet10s2,resnet20]
        [--batch 128] [--rounds 7] [--steps 4] [--precision fp32]

The inputs are noise of the data's shape. All loops of a network take turns, `--steps` steps per
round, on the same batches (augmentation included). A figure is the median over rounds, with the
extremes. `plain` is the loop of any tutorial, `dense` is ours without masks, `pruning` is ours at
90% between two mask updates, and `distilling` is the same with a teacher. The parts that pruning
adds are then timed alone on ResNet-50 (23.5 M weights): the hooks of an ordinary step, and whole
mask updates. Peak memory is measured in fresh processes. Writes
benchmarks/results/training-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fggp_deploy import FGGP, MaskSet, Pruner
from fggp_deploy.checkpoints.provenance import machine
from fggp_deploy.data.types import Dataset, Preprocessing, Split
from fggp_deploy.models import build
from fggp_deploy.pruning.pruner import prunable_parameters
from fggp_deploy.pruning.schedules import Constant, OneShot
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.batches import open_batches
from fggp_deploy.training.config import PruneConfig
from fggp_deploy.training.device import pick_device
from fggp_deploy.training.loop import make_optimizer, train_step
from fggp_deploy.training.session import Session
from fggp_deploy.training.start import on_device

RESULTS = Path(__file__).parent / "results"
LOOPS = ("plain", "dense", "pruning", "distilling")
SHAPES = {"resnet10s2": (28, 1), "resnet20": (32, 3), "resnet50": (32, 3), "vgg19": (32, 3)}


def noise(network: str, n: int) -> Dataset:
    size, channels = SHAPES[network]
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8), rng.integers(0, 10, n)
    )
    prep = Preprocessing(size, size, (0.5,) * channels, (0.25,) * channels)
    return Dataset("noise", tuple("0123456789"), split, split, split, prep)


def network(name: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return on_device(build(name, num_classes=10, in_channels=SHAPES[name][1]), device)


def random_masks(model: nn.Module, sparsity: float) -> MaskSet:
    params = prunable_parameters(model)
    return MaskSet({n: torch.rand_like(p) >= sparsity for n, p in params.items()})


def plain(name: str, args: argparse.Namespace, device: torch.device) -> Callable[[Any, Any], Any]:
    """The loop of any tutorial, channels last."""
    model = network(name, device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ours(
    name: str, loop: str, args: argparse.Namespace, device: torch.device
) -> Callable[[Any, Any], Any]:
    """Our step, between two mask updates."""
    model = network(name, device)
    sparsity = 0.0 if loop == "dense" else 0.9
    config = PruneConfig(
        epochs=1000, batch_size=args.batch, lr=0.01, target=max(sparsity, 0.5), ema=0,
        distill=0.9 if loop == "distilling" else 0.0, precision=args.precision,
    )  # fmt: skip
    optimizer = make_optimizer(model, config)
    masks = random_masks(model, sparsity)
    pruner = Pruner(model, FGGP(), Constant(0.99), optimizer=optimizer, masks=masks)
    teacher = network(name, device).eval() if loop == "distilling" else None
    session = Session(
        model=model, data=noise(name, args.batch), config=config, pruner=pruner,
        optimizer=optimizer, device=device, teacher=teacher, distill=config.distill,
    )  # fmt: skip
    model.train()

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        session.position.step += 1
        return train_step(session, model, x, y)

    return step


def stepper(name: str, loop: str, args: argparse.Namespace, device: torch.device) -> Any:
    return plain(name, args, device) if loop == "plain" else ours(name, loop, args, device)


def endless(name: str, args: argparse.Namespace, device: torch.device) -> Iterator[Any]:
    data = noise(name, 8 * args.batch)
    batches = open_batches(data.train, data.preprocessing, batch_size=args.batch, device=device)
    generator = torch.Generator().manual_seed(0)
    return chain.from_iterable(
        batches.shuffled(generator, Augmentation("basic", flip=True, crop_padding=4))
        for _ in repeat(None)
    )


def timed(step: Any, batches: Iterator[Any], n: int, device: torch.device) -> float:
    """Seconds per step, including the batch."""
    wait(device)
    start = time.perf_counter()
    for _ in range(n):
        step(*next(batches))
    wait(device)
    return (time.perf_counter() - start) / n


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(name: str, args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    steps = {loop: stepper(name, loop, args, device) for loop in LOOPS}
    batches = endless(name, args, device)
    seconds: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for i in range(args.rounds + 1):  # the first is for warming up
        for loop in LOOPS if i % 2 else reversed(LOOPS):
            spent = timed(steps[loop], batches, args.steps, device)
            if i:
                seconds[loop].append(spent)
    rows = []
    for loop, spent in seconds.items():
        ratios = [a / b for a, b in zip(seconds["plain"], spent, strict=True)]
        rows.append({
            "network": name, "loop": loop,
            "images_per_second": round(args.batch / statistics.median(spent), 1),
            "range": [round(args.batch / s, 1) for s in (max(spent), min(spent))],
            "of_plain": round(statistics.median(ratios), 3),
            "of_plain_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "peak_memory_mb": memory(name, loop, args),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def memory(name: str, loop: str, args: argparse.Namespace) -> float:
    """Peak memory of a fresh process after a few steps; on a CPU, with Python and torch."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", name, loop, "--device", args.device,
         "--batch", str(args.batch), "--precision", args.precision],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def print_memory(name: str, loop: str, args: argparse.Namespace, device: torch.device) -> None:
    step, batches = stepper(name, loop, args, device), endless(name, args, device)
    timed(step, batches, 3, device)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 1e6)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def overhead(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What pruning adds on ResNet-50: to an ordinary step, and at a mask update."""
    model = network("resnet50", device)
    optimizer = make_optimizer(model, PruneConfig())
    n = sum(p.numel() for p in prunable_parameters(model).values())
    batches = endless("resnet50", args, device)
    step = plain("resnet50", args, device)
    timed(step, batches, 1, device)
    step_ms = 1e3 * min(timed(step, batches, 1, device) for _ in range(args.rounds))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    cases = {"first": (0.0, 0.056), "at 90%": (0.9, 0.902), "at 97%": (0.97, 0.9702)}
    result: dict[str, Any] = {"n_prunable": n, "batch": args.batch, "plain_step_ms": step_ms}
    for case, (before, after) in cases.items():
        masks = random_masks(model, before)
        update, hooks = [], []
        for _ in range(args.rounds):
            pruner = Pruner(
                model, FGGP(), OneShot(after, start=before), optimizer=optimizer, masks=masks
            )
            wait(device)
            start = time.perf_counter()
            pruner.after_backward()  # chooses
            wait(device)
            update.append(time.perf_counter() - start)
            optimizer.step()
            pruner.after_step()
            wait(device)
            start = time.perf_counter()
            pruner.after_backward()  # an ordinary step's
            pruner._stepped = True
            pruner.after_step()
            wait(device)
            hooks.append(time.perf_counter() - start)
        result[f"update_ms {case}"] = round(1e3 * statistics.median(update), 2)
        result[f"hooks_ms {case}"] = round(1e3 * statistics.median(hooks), 2)
    # 50 updates in the first 80% of 160 epochs of 45,000 images
    steps = 45000 // args.batch
    worst_hooks = max(v for k, v in result.items() if k.startswith("hooks_ms"))
    worst_update = max(v for k, v in result.items() if k.startswith("update_ms"))
    extra_ms = steps * worst_hooks + 50 / 128 * worst_update
    result["overhead_of_an_epoch"] = round(extra_ms / (steps * step_ms), 5)
    print(json.dumps(result, indent=2), flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", default="resnet10s2,resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--memory", nargs=2, metavar=("NETWORK", "LOOP"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    device = pick_device(args.device)
    if args.memory:
        print_memory(*args.memory, args, device)
        return 0
    load = [round(x, 1) for x in os.getloadavg()]
    rows = [row for name in args.networks.split(",") for row in speed(name, args, device)]
    report = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": [load, [round(x, 1) for x in os.getloadavg()]],
        "command": " ".join(["python", "benchmarks/bench_training.py", *sys.argv[1:]]),
        "batch": args.batch,
        "precision": args.precision,
        "loops": rows,
        "resnet50": overhead(args, device),
    }
    output = args.output or RESULTS / f"training-{device.type}.json"
    output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
