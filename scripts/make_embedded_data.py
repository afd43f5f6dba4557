"""Make the embedded data set from the official Fashion-MNIST files.

It has images 0–8,999 of the official training set for training, 9,000–9,999 for validation, and
0–1,999 of the official test set for testing. It needs the four official files (Debian:
dataset-fashion-mnist).

    python scripts/make_embedded_data.py /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from fggp_deploy.data.idx import read
from fggp_deploy.data.mnist import EMBEDDED, N_TEST, N_TRAIN, N_VAL


def main(folder: Path) -> None:
    x, y = read(folder, "train", name="Fashion-MNIST")
    x_test, y_test = read(folder, "t10k", name="Fashion-MNIST")
    both = slice(N_TRAIN, N_TRAIN + N_VAL)
    np.savez_compressed(
        EMBEDDED,
        x_train=x[:N_TRAIN], y_train=y[:N_TRAIN], x_val=x[both], y_val=y[both],
        x_test=x_test[:N_TEST], y_test=y_test[:N_TEST],
    )  # fmt: skip
    print(f"{EMBEDDED.name}: {EMBEDDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
