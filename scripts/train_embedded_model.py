"""Train the dense network that comes with the package, and store it in the package.

It trains on the official 60,000 training images without the embedded validation images, with the
recipe below, and prints the accuracy on the official 10,000 test images.

    python scripts/train_embedded_model.py /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from fggp_deploy.cli.progress import watch
from fggp_deploy.training.config import TrainConfig
from fggp_deploy.training.start import EMBEDDED_CHECKPOINT
from fggp_deploy.training.train import train

RECIPE = TrainConfig(model="resnet10s2", data="fashion-mnist", epochs=12, batch_size=128, lr=0.1)


def main(data_dir: Path) -> None:
    config = TrainConfig(**{**RECIPE.__dict__, "data_dir": data_dir})
    with tempfile.TemporaryDirectory() as tmp, watch() as observer:
        result = train(config, observer=observer, out=Path(tmp) / "run")
        shutil.copy(result.checkpoint, EMBEDDED_CHECKPOINT)
    print(f"test accuracy {result.test_accuracy:.4f} (n = {result.n_test})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
