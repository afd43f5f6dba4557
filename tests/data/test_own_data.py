"""Data sets from the user's own Python and from Hugging Face's datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fggp_deploy import data
from fggp_deploy.data import Preprocessing, Reading, Stream
from fggp_deploy.errors import ConfigError, DataError, MachineError

HEAD = "import numpy as np, torch\nfrom PIL import Image\n"
ARRAYS = """
def make():
    x = np.arange(20, dtype=np.uint8)[:, None, None, None] + np.zeros((20, 8, 8, 3), np.uint8)
    return {"train": (x, np.arange(20) % 2), "test": (x[:4, ..., 0], [0, 1, 0, 1]),
            "classes": ["even", "odd"]}
"""
TORCH = """
class Items(torch.utils.data.Dataset):
    def __len__(self): return 20
    def __getitem__(self, i):
        if i >= 20: raise IndexError
        if i % 3 == 0: return Image.new("RGB", (8, 8), (i, i, i)), i % 2
        if i % 3 == 1: return torch.full((3, 8, 8), i, dtype=torch.uint8), i % 2
        return np.full((8, 8, 3), i, np.uint8), i % 2

def make():
    return {"train": Items(), "val": Items(), "test": Items()}
"""


def own(folder: Path, code: str, **reading) -> data.Dataset:
    (folder / "mine.py").write_text(HEAD + code)
    return data.load(f"{folder}/mine.py:make", reading=Reading(trust_code=True, **reading))


def test_arrays(tmp_path: Path):
    d = own(tmp_path, ARRAYS)
    assert (d.name, d.classes) == ("mine.py:make", ("even", "odd"))
    assert (len(d.train), len(d.val), len(d.test)) == (18, 2, 4)
    assert (d.train.images[:, 0, 0, 0] % 2 == d.train.labels).all()
    assert d.test.images[:, 3, 3].tolist() == [[i] * 3 for i in range(4)]  # gray repeated


@pytest.mark.parametrize("stream", [True, False])
def test_torch_data_sets(tmp_path: Path, stream: bool):
    d = own(tmp_path, TORCH, stream=stream)
    assert isinstance(d.train, Stream) == stream
    assert d.classes == ("0", "1")
    assert d.train.read(slice(0, 20))[:, 1, 2, 0].tolist() == list(range(20))


GRAY_CLASS_FIRST = """
class Items(torch.utils.data.Dataset):
    def __len__(self): return 200
    def __getitem__(self, i):
        if i >= 200: raise IndexError
        return Image.new("L" if i < 100 else "RGB", (8, 8)), i // 100

def make():
    return {"train": Items(), "val": Items(), "test": Items()}
"""


def test_images_of_every_class_tell_the_colors(tmp_path: Path):
    d = own(tmp_path, GRAY_CLASS_FIRST)
    assert d.preprocessing.channels == 3


def test_our_own_type(tmp_path: Path):
    d = own(tmp_path, "from fggp_deploy import data\ndef make(): return data.load()\n")
    assert d.name == "fashion-mnist-12k"


def test_it_needs_trust(tmp_path: Path):
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ConfigError, match="give --trust-code if you trust it"):
        data.load(f"{tmp_path}/mine.py:make")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def make(): return 3", "must return .* a mapping with train and test, got int"),
        ("def make(): return {'train': 3}", "must return"),
        ("def make(): return {'train': 3, 'test': 3}", "train"),
        ("def make(): 1 / 0", "failed: ZeroDivisionError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("def make(", "cannot be imported: SyntaxError"),
        ("make = 3", "has no function 'make'"),
        (ARRAYS.replace("% 2)", "/ 2)"), "labels must be 20 integers"),
        (ARRAYS.replace("np.arange(20) % 2", "np.arange(19) % 2"), "20 images and 19 labels"),
        (ARRAYS.replace("zeros((20, 8, 8, 3), np.uint8)", "zeros((20, 8, 8, 3))"), "uint8"),
        (ARRAYS.replace("8, 8, 3", "8, 8, 5"), "uint8 .*8, 8, 5"),
        (ARRAYS.replace("np.arange(20) % 2", "np.arange(20) % 2 - 1"), "labels span -1"),
        (ARRAYS.replace('["even", "odd"]', '["even"]'), "there are 1 classes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, code: str, says: str):
    with pytest.raises((DataError, ConfigError), match=says) as caught:
        own(tmp_path, code)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist or is not a file"):
        data.load(f"{tmp_path}/none.py:make", reading=Reading(trust_code=True))


@pytest.fixture
def pets(tmp_path: Path):
    """A `datasets` set: images whose pixels are their number, even cats and odd dogs."""
    import datasets

    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["dog", "cat"])}
    )

    def table(n: int):
        images = [Image.fromarray(np.full((8, 10, 3), i, np.uint8)) for i in range(n)]
        kinds = ["cat" if i % 2 == 0 else "dog" for i in range(n)]
        return datasets.Dataset.from_dict({"picture": images, "kind": kinds}, features=features)

    return lambda **sizes: datasets.DatasetDict({k: table(n) for k, n in sizes.items()})


def test_a_saved_set(tmp_path: Path, pets):
    pets(train=20, test=4).save_to_disk(str(tmp_path / "pets"))
    d = data.load(f"hf:{tmp_path}/pets")
    assert (d.name, d.classes) == ("hf:pets", ("cat", "dog"))
    assert (len(d.train), len(d.val), len(d.test)) == (18, 2, 4)
    assert d.test.labels.tolist() == [0, 1, 0, 1]
    assert d.test.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    tested = data.load(
        f"hf:{tmp_path}/pets",
        reading=Reading(parts=("test",), classes=("dog", "cat"), stream=True,
                        preprocessing=Preprocessing(6, 6, (0.5,), (0.5,), resize=6)),
    )  # fmt: skip
    assert tested.test.labels.tolist() == [1, 0, 1, 0]
    assert tested.test.read([3]).shape == (1, 6, 6, 1)


def test_one_table_is_split(tmp_path: Path, pets):
    pets(train=20)["train"].save_to_disk(str(tmp_path / "pets"))
    d = data.load(f"hf:{tmp_path}/pets")
    assert (len(d.train), len(d.val), len(d.test)) == (16, 2, 2)


def test_sets_that_do_not_fit(tmp_path: Path, pets):
    import datasets

    pets(test=4).save_to_disk(str(tmp_path / "untrained"))
    with pytest.raises(DataError, match="has the splits test but no train split"):
        data.load(f"hf:{tmp_path}/untrained")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(DataError, match=r"one Image column .* it has text \(Value\)"):
        data.load(f"hf:{tmp_path}/texts")
    with pytest.raises(DataError, match=r"datasets cannot load .*nowhere"):
        data.load(f"hf:{tmp_path}/nowhere")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MachineError, match=r"pip install 'fggp-deploy\[hf\]'"):
        data.load("hf:pets")
