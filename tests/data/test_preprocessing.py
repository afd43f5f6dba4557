"""The same pixels everywhere: torchvision's own pipeline, training's batches, torch-free verify."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fggp_deploy import data
from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.data import Preprocessing, Reading
from fggp_deploy.data.images import frame, recolored, upright
from fggp_deploy.errors import ConfigError, DataError
from fggp_deploy.training.batches import open_batches

SIZES = [(40, 30), (30, 40), (33, 33), (200, 21), (21, 100), (7, 9)]
P = Preprocessing(24, 24, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), resize=28)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Twelve noisy JPEGs and PNGs of six shapes in two classes."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for k, c in enumerate("ab"):
        (root / "train" / c).mkdir(parents=True)
        (root / "test" / c).mkdir(parents=True)
        for i, (w, h) in enumerate(SIZES):
            image = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
            if k and i % 2:
                image = image.convert("L")
            for part in ("train", "test"):
                image.save(root / part / c / f"{i}.{'jpg' if i % 2 else 'png'}")
    return root


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(24, 28), (24, 24), (64, 73)])
def test_framing_is_torchvisions(noise: Path, size: int, resize: int, interpolation: str):
    import_torchvision()
    from torchvision.transforms import v2

    p = Preprocessing(size, size, (0.5,) * 3, (0.5,) * 3, resize, interpolation)
    how = v2.InterpolationMode(interpolation)
    theirs = v2.Compose([v2.Resize(resize, how, antialias=True), v2.CenterCrop(size)])
    paths = sorted(noise.rglob("*.png")) + sorted(noise.rglob("*.jpg"))
    assert len(paths) == 24
    for path in paths:
        with Image.open(path) as image:
            want = np.asarray(theirs(image.convert("RGB")))
        got = frame(recolored(upright(path), "RGB"), p, name="x")
        assert np.array_equal(got, want), path


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("color", ["L", "RGB"])
def test_training_and_torch_free_verify_see_the_same(noise: Path, color: str, stream: bool):
    p = P if color == "RGB" else Preprocessing(24, 24, (0.4,), (0.2,), resize=28)
    trained = data.load(f"folder:{noise}", reading=Reading(preprocessing=p, stream=stream))
    batches = open_batches(
        trained.test, trained.preprocessing, batch_size=5, device=torch.device("cpu"), workers=0
    )
    seen = np.concatenate([x.numpy() for x, _ in batches.in_order()])

    reading = "Reading(preprocessing=Preprocessing.from_dict(eval(sys.argv[2])), parts=('test',))"
    code = (
        "import sys, numpy as np\n"
        "from fggp_deploy import data\n"
        "from fggp_deploy.data import Preprocessing, Reading\n"
        f"d = data.load('folder:' + sys.argv[1], reading={reading})\n"
        "np.save(sys.argv[3], d.preprocessing(d.test.read(slice(0, 99))))\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    out = noise / f"{color}{stream}.npy"
    args = [sys.executable, "-c", code, str(noise), repr(p.to_dict()), str(out)]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tested = np.load(out)
    assert seen.shape == tested.shape == (12, p.channels, 24, 24)
    assert np.abs(seen - tested).max() < 1e-5  # one rounding apart: the pixels are the same


def test_targets_that_are_not_square_are_covered():
    p = Preprocessing(20, 30, (0.5,), (0.5,), resize=20)
    assert frame(Image.new("L", (100, 50)), p, name="x").shape == (20, 30, 1)
    assert frame(Image.new("L", (50, 100)), p, name="x").shape == (20, 30, 1)


def test_nothing_is_resized_unasked():
    with pytest.raises(DataError, match="x is 9x8, but the network takes 8x8"):
        frame(Image.new("L", (9, 8)), Preprocessing(8, 8, (0.5,), (0.5,)), name="x")


@pytest.mark.parametrize(
    "change",
    [
        {"resize": 3},
        {"resize": 10**6},
        {"resize": "x"},
        {"interpolation": "nearest"},
        {"color": "BGR"},
        {"color": "L"},
        {"height": float("inf")},
    ],
)
def test_what_a_file_says_of_its_preprocessing_is_checked(change: dict):
    assert Preprocessing.from_dict(P.to_dict()) == P
    with pytest.raises(ConfigError):
        Preprocessing.from_dict(P.to_dict() | change)


def test_files_of_before_have_no_resize():
    old = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    assert Preprocessing.from_dict(old) == Preprocessing(8, 8, (0.5,), (0.5,))


def test_known_sets_are_resized_and_colored_only_when_asked():
    d = data.load(reading=Reading(image_size=32, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    assert d.train.images.shape == (9000, 32, 32, 3)
    assert (d.test.images[..., 0] == d.test.images[..., 2]).all()
    with pytest.raises(ConfigError, match="--mean has 3 entries but the images have 1 channels"):
        data.load(reading=Reading(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    with pytest.raises(DataError, match=r"\(28, 28, 1\), but the network takes \(32, 32, 3\)"):
        data.load(reading=Reading(preprocessing=Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3)))
    with pytest.raises(ConfigError, match="--resize needs --image-size"):
        Reading(resize=32)
