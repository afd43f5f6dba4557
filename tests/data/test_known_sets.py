"""MNIST, CIFAR-100 and SVHN in torchvision's layouts, and what is said when they are not there."""

from __future__ import annotations

import gzip
import pickle
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from fggp_deploy import data
from fggp_deploy.data import Reading, download
from fggp_deploy.data.mat5 import read_arrays
from fggp_deploy.errors import DataError, MachineError


def idx_files(folder: Path, *, packed: bool, n_train: int = 10_100, n_test: int = 5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        pixels = (np.arange(n) % 251).astype(np.uint8)
        images = struct.pack(">HBB3I", 0, 8, 3, n, 28, 28) + np.repeat(pixels, 784).tobytes()
        labels = struct.pack(">HBBI", 0, 8, 1, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        for name, raw in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(raw, 1))
            else:
                path.write_bytes(raw)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_mnist(tmp_path: Path, packed: bool, below: str):
    idx_files(tmp_path / below, packed=packed)
    d = data.load("mnist", tmp_path)
    assert (len(d.train), len(d.val), len(d.test)) == (9100, 1000, 5)
    assert d.val.images[0, 0, 0, 0] == 9000 % 251
    assert d.val.labels[:3].tolist() == [0, 1, 2]
    assert not d.flip  # a mirrored digit is no digit


def test_cifar100_has_fine_labels(tmp_path: Path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part, n in (("train", 10), ("test", 7)):
        images = np.zeros((n, 3072), np.uint8)
        images[:, 1024] = 9  # the first green pixel
        content = {b"data": images, b"fine_labels": [i % 100 for i in range(n)],
                   b"coarse_labels": [0] * n}  # fmt: skip
        (folder / part).write_bytes(pickle.dumps(content, protocol=3))
    d = data.load("cifar100", tmp_path)
    assert (len(d.train), len(d.val), len(d.test), len(d.classes)) == (8, 2, 7, 100)
    assert d.test.images[0, 0, 0].tolist() == [0, 9, 0]
    assert [d.classes[i] for i in (0, 8, 53, 99)] == ["apple", "bicycle", "orange", "worm"]
    assert list(d.classes) == sorted(set(d.classes))


def svhn(folder: Path, n: int = 1003) -> None:
    x = np.zeros((32, 32, 3, n), np.uint8)
    x[1, 2, 0] = np.arange(n) % 200
    y = (1 + np.arange(n) % 10).astype(np.uint8)[:, None]  # SVHN writes 10 for the digit 0
    for part in ("train", "test"):
        scipy.io.savemat(folder / f"{part}_32x32.mat", {"X": x, "y": y}, do_compression=True)


def test_svhn(tmp_path: Path):
    svhn(tmp_path)
    d = data.load("svhn", tmp_path)
    assert (len(d.train), len(d.val), len(d.test)) == (3, 1000, 1003)
    assert d.test.images[7, 1, 2].tolist() == [7, 0, 0]
    assert d.test.labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert not d.flip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, "must hold X"),
        ({"X": np.zeros((32, 32, 1, 4), np.uint8), "y": np.ones((4, 1))}, "must hold X"),
        ({"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1))}, "must hold X"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.full((4, 1), 11)}, r"in 0\.\.10"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1))}, "must hold X"),
    ],
)
def test_svhn_is_checked(tmp_path: Path, content: dict, says: str):
    scipy.io.savemat(tmp_path / "train_32x32.mat", content)
    with pytest.raises(DataError, match=says):
        data.load("svhn", tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_mat_files_are_what_scipy_wrote(tmp_path: Path, packed: bool):
    content = {
        "x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "wide": np.array([[-1.5, 2e300]]),
        "small": np.array([[7]], np.uint8),
        "i": np.array([[-5], [70_000]], np.int32),
    }
    others = {"text": "hello", "cell": np.array([1, "a"], object), "z": np.array([1j])}
    scipy.io.savemat(tmp_path / "a.mat", content | others, do_compression=packed)
    got = read_arrays((tmp_path / "a.mat").read_bytes(), most_bytes=100_000)
    assert set(got) == set(content)
    assert all(np.array_equal(got[n], a) and got[n].dtype == a.dtype for n, a in content.items())


def test_a_mat_file_that_unpacks_to_much(tmp_path: Path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.zeros(10**6)}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 20_000
    with pytest.raises(ValueError, match="more than 100,000 bytes when unpacked"):
        read_arrays((tmp_path / "a.mat").read_bytes(), most_bytes=100_000)


BY_HAND = {
    "mnist": "train-images-idx3-ubyte.gz",
    "fashion-mnist": "train-images-idx3-ubyte.gz",
    "cifar10": "cifar-10-python.tar.gz",
    "cifar100": "unpack it there to cifar-100-python",
    "svhn": "train_32x32.mat and test_32x32.mat",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fggp-deploy" / "data"


@pytest.mark.parametrize("name", BY_HAND)
def test_without_a_network_the_file_to_fetch_is_named(name: str, cache, monkeypatch, capsys):
    def offline(*_):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(download, "_torchvision_fetch", offline)
    with pytest.raises(DataError) as caught:
        data.load(name)
    said = str(caught.value)
    assert BY_HAND[name] in said
    assert f"into {cache}" in said
    assert "or give --data-dir" in said
    assert "\n" not in said
    assert capsys.readouterr().err.startswith("downloading")


@pytest.mark.parametrize("name", BY_HAND)
def test_a_folder_that_was_given_is_only_read(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(download, "_fetch", None)  # it would raise TypeError
    with pytest.raises(DataError, match=f"{tmp_path} does not hold {name}; fetch "):
        data.load(name, tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        data.load(name, tmp_path / "nowhere")


def test_without_torchvision(cache, monkeypatch):
    def missing():
        raise MachineError("torchvision is missing")

    monkeypatch.setattr("fggp_deploy.common.torchvision_import.import_torchvision", missing)
    with pytest.raises(DataError, match="downloading it needs torchvision; fetch cifar-10"):
        data.load("cifar10")


def test_a_download_is_made_once(cache: Path, monkeypatch):
    def fetch(name: str, folder: Path) -> None:
        assert (name, folder) == ("MNIST", cache)
        idx_files(folder / "MNIST" / "raw", packed=True)

    monkeypatch.setattr(download, "_torchvision_fetch", fetch)
    first = data.load("mnist")
    monkeypatch.setattr(download, "_torchvision_fetch", None)
    assert np.array_equal(data.load("mnist").test.images, first.test.images)


def test_torchvision_has_these_sets():
    from fggp_deploy.common.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision import datasets

    from fggp_deploy.data import cifar, mnist, svhn

    wanted = (mnist.MNIST_DOWNLOAD, mnist.FASHION_DOWNLOAD, cifar.DOWNLOAD, cifar.DOWNLOAD_100,
              svhn.DOWNLOAD)  # fmt: skip
    assert all(hasattr(datasets, d.torchvision) for d in wanted)
    assert datasets.CIFAR100.base_folder == cifar.FOLDER_100
    assert datasets.CIFAR10.base_folder == cifar.FOLDER
    assert {d.name for d in wanted} | {"fashion-mnist-12k"} == set(data.DATASETS)


def test_parts_that_nobody_asked_for(tmp_path: Path):
    idx_files(tmp_path, packed=True)
    assert len(data.load("mnist", tmp_path, Reading(parts=("test",))).test) == 5
