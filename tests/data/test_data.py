from __future__ import annotations

import gzip
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from fggp_deploy import data
from fggp_deploy.data import Preprocessing, Split
from fggp_deploy.data.cifar import FOLDER
from fggp_deploy.errors import ConfigError, DataError, UnknownName


def test_the_embedded_set():
    d = data.load()
    assert (len(d.train), len(d.val), len(d.test)) == (9000, 1000, 2000)
    assert d.train.images.shape == (9000, 28, 28, 1)
    assert len(d.classes) == 10
    # the first five labels of the official test set
    assert d.test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert set(d.train.labels.tolist()) == set(range(10))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UnknownName, match="did you mean 'cifar10'"):
        data.load("cifar-10")


def test_preprocessing_by_hand():
    p = Preprocessing(1, 2, mean=(0.5,), std=(0.25,))
    x = p(np.array([[[[0], [255]]]], np.uint8))
    assert x.shape == (1, 1, 1, 2)
    assert x.ravel().tolist() == [-2.0, 2.0]


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": (0.5, 0.5), "std": (1.0, 1.0)},
        {"mean": (0.5,), "std": (0.0,)},
        {"mean": (float("nan"),), "std": (1.0,)},
        {"height": 0},
    ],
)
def test_preprocessing_is_checked(bad: dict):
    good = {"height": 2, "width": 2, "mean": (0.5,), "std": (1.0,)}
    with pytest.raises(ConfigError):
        Preprocessing(**{**good, **bad})


def test_images_of_another_size_are_refused():
    with pytest.raises(DataError, match="the network takes uint8"):
        Preprocessing(2, 2, (0.5,), (1.0,))(np.zeros((1, 3, 3, 1), np.uint8))


@pytest.fixture
def own_cifar(cifar: Path, tmp_path: Path) -> Path:
    """A copy of the tiny folder that a test may damage."""
    shutil.copytree(cifar, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_cifar10_layout(cifar: Path):
    d = data.load("cifar10", cifar)
    assert (len(d.train), len(d.val), len(d.test)) == (240, 60, 20)
    raw = pickle.loads((cifar / FOLDER / "test_batch").read_bytes())
    # row-major planes: red, then green, then blue
    assert d.test.images[3, 5, 7].tolist() == raw[b"data"][3].reshape(3, 32, 32)[:, 5, 7].tolist()


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Evil()), "would load builtins.print"),
        (b"", "damaged"),
        (b"garbage", "damaged"),
        (pickle.dumps({b"data": 3, b"labels": [1]}), "damaged"),
        (pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}), "damaged"),
    ],
)
def test_a_cifar_batch_is_hostile_until_checked(own_cifar: Path, capsys, content: bytes, says: str):
    (own_cifar / FOLDER / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=says):
        data.load("cifar10", own_cifar)
    assert "this code ran" not in capsys.readouterr().out


def test_missing_folders_say_what_to_do(tmp_path: Path):
    with pytest.raises(
        DataError, match=r"fetch cifar-10-python.tar.gz from .* to cifar-10-batches"
    ):
        data.load("cifar10", tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(DataError, match="is damaged"):
        data.load("fashion-mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28))
    )
    with pytest.raises(DataError, match="must hold the four official Fashion-MNIST"):
        data.load("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        struct.pack(">HBBI", 0, 8, 1, 9),  # nine labels promised, none there
        struct.pack(">HBBI", 0, 9, 1, 0),  # another type
        struct.pack(">HBB4I", 0, 8, 4, 1, 1, 1, 1),  # another rank
        struct.pack(">HBB3I", 0, 8, 3, 2**31, 28, 28),  # a lie about the size
    ],
)
def test_idx_files_are_hostile_until_checked(tmp_path: Path, raw: bytes):
    for name in ("images-idx3", "labels-idx1"):
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(DataError):
        data.load("fashion-mnist", tmp_path)


def test_labels_must_be_classes():
    images = np.zeros((1, 2, 2, 1), np.uint8)
    good, bad = Split(images, np.array([0])), Split(images, np.array([1]))
    with pytest.raises(DataError, match=r"labels span 1\.\.1, but there are 1 classes"):
        data.Dataset("d", ("a",), good, good, bad, Preprocessing(2, 2, (0.5,), (1.0,)))


def test_torchvision_imports_and_reads_the_same_pixels(own_cifar: Path, monkeypatch):
    from fggp_deploy.common.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10
    from torchvision.transforms import v2

    ours = data.load("cifar10", own_cifar)
    # torchvision decodes Python 2's keys as str, where ours are bytes
    raw = pickle.loads((own_cifar / FOLDER / "test_batch").read_bytes())
    as_str = pickle.dumps({key.decode(): value for key, value in raw.items()})
    (own_cifar / FOLDER / "test_batch").write_bytes(as_str)
    meta = pickle.dumps({"label_names": ["x"] * 10})
    (own_cifar / FOLDER / "batches.meta").write_bytes(meta)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    theirs = CIFAR10(str(own_cifar), train=False)
    assert np.array_equal(theirs.data, ours.test.images)
    assert theirs.targets == ours.test.labels.tolist()

    import torch

    p = ours.preprocessing
    pipeline = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(p.mean, p.std)]
    )
    want = torch.stack([pipeline(theirs[i][0]) for i in range(5)]).numpy()
    assert np.abs(p(ours.test.images[:5]) - want).max() < 1e-6


@pytest.mark.shared
def test_real_cifar10_is_what_torchvision_reads():
    from fggp_deploy.common.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10

    folder = Path(os.environ["FGGP_DATA_DIR"])
    ours = data.load("cifar10", folder)
    for train, split in ((True, ours.train), (False, ours.test)):
        theirs = CIFAR10(str(folder), train=train)
        n = len(split)
        assert np.array_equal(theirs.data[:n], split.images)
        assert theirs.targets[:n] == split.labels.tolist()
