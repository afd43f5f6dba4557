"""Speed and memory of training on a stream of generated JPEGs that are not kept in memory.

    python benchmarks/bench_streaming.py                        # 20,000 images, two epochs
    python benchmarks/bench_streaming.py --images 100000 --out results/streaming-100k.json

Creates JPEGs of 64 to 128 pixels and ten classes in a temporary folder, and trains on them with
`--stream`, which decodes and augments each image again in every epoch. Memory is that of the
process and its workers together (PSS, so shared memory counts once), sampled twice per second: the
largest of each epoch, and the RSS of the main process at the end of the epoch. Neither should grow
from epoch to epoch or with the number of images. Decoding alone, without a network, is timed first.
Writes results/streaming.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from fggp_deploy import data
from fggp_deploy.checkpoints.provenance import machine, package_versions
from fggp_deploy.data import Reading
from fggp_deploy.training.augment import Augmentation
from fggp_deploy.training.batches import open_batches
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.train import train

RESULT = Path(__file__).with_name("results") / "streaming.json"
CLASSES = 10
SIZE = 16  # pixels that the network sees: few, so that decoding is most of the work
BATCH = 128


def make_images(root: Path, n: int) -> int:
    """n JPEGs, smooth noise tinted by class; returns their bytes."""
    rng = np.random.default_rng(0)
    n_bytes = 0
    for i in range(n):
        label = i % CLASSES
        w, h = rng.integers(64, 129, 2)
        coarse = rng.integers(0, 128, (8, 8, 3)) + 12 * label
        image = Image.fromarray(coarse.astype(np.uint8)).resize((int(w), int(h)))
        folder = root / f"class{label}"
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{i:06d}.jpg", quality=85)
        n_bytes += (folder / f"{i:06d}.jpg").stat().st_size
    return n_bytes


class Memory:
    """Watches a run: seconds, images/s and memory of each epoch. An Observer."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self._process = psutil.Process()
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self._peak = max(self._peak, self._pss())

    def _pss(self) -> int:
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # a worker may have ended
                total += process.memory_full_info().pss
        return total

    def on_epoch(self, metrics: Any) -> None:
        self.epochs.append(
            {
                "epoch": metrics.epoch,
                "images_per_second": round(metrics.images_per_second, 1),
                "rss_bytes_main": self._process.memory_info().rss,
                "peak_pss_bytes_all": self._peak,
                "loss": metrics.loss,
            }
        )
        self._peak = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None  # the other events of an Observer


def decode_only(root: Path, workers: int, preset: str) -> float:
    """Images/s of one epoch of augmented batches, with no network."""
    reading = Reading(image_size=SIZE, stream=True, workers=workers)
    d = data.load(f"folder:{root}", reading=reading)
    batches = open_batches(
        d.train, d.preprocessing, batch_size=BATCH, device=torch.device("cpu"), workers=workers
    )
    start = time.perf_counter()
    augmentation = Augmentation(preset, flip=True, crop_padding=4)
    n = sum(len(y) for _, y in batches.shuffled(torch.Generator().manual_seed(0), augmentation))
    return n / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fggp-stream-") as folder:
        root = Path(folder) / "images"
        root.mkdir()
        n_bytes = make_images(root, args.images)
        alone = {
            f"{preset}, {workers} workers": round(decode_only(root, workers, preset), 1)
            for preset in ("basic", "strong")
            for workers in args.workers
        }
        config = TrainConfig(
            model="resnet20", data=f"folder:{root}", epochs=args.epochs, batch_size=BATCH,
            image_size=SIZE, stream=True, workers=args.workers[-1], device="cpu",
        )  # fmt: skip
        with Memory() as memory:
            train(config, observer=memory, out=Path(folder) / "run")
    result = {
        "images": args.images, "bytes": n_bytes, "image_size": SIZE, "batch_size": BATCH,
        "decoding_images_per_second": alone, "workers": args.workers[-1],
        "training": "resnet20, basic augmentation", "epochs": memory.epochs,
        "machine": machine(), "versions": package_versions(),
        "load_average": psutil.getloadavg(),
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
