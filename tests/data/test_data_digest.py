"""Whether another set of images is noticed, whatever holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fggp_deploy import data
from fggp_deploy.data import Dataset, Preprocessing, Reading, Split, digest
from fggp_deploy.data.digest import description_digest, images_digest
from fggp_deploy.data.sampling import sample
from fggp_deploy.errors import FggpWarning


def gray(*values: int) -> Split:
    images = np.array(values, np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 1), np.uint8)
    return Split(images, np.arange(len(values)) % 2)


def in_memory(train: Split) -> Dataset:
    prepare = Preprocessing(4, 4, (0.5,), (0.5,))
    return Dataset("grays", ("even", "odd"), train, gray(3, 4), gray(5, 6), prepare)


def test_one_pixel_of_any_part_changes_the_digest():
    d = in_memory(gray(*range(100)))
    assert images_digest(d) == images_digest(in_memory(gray(*range(100))))
    other = d.train.images.copy()
    other[99, 3, 3, 0] += 1
    changed = replace(d, train=Split(other, d.train.labels))
    assert description_digest(changed) == description_digest(d)
    assert images_digest(changed) != images_digest(d)
    assert images_digest(replace(d, test=gray(5, 7))) != images_digest(d)
    relabeled = Split(d.test.images, d.test.labels[::-1].copy())
    assert images_digest(replace(d, test=relabeled)) != images_digest(d)


def test_of_a_streamed_folder_the_bytes_of_a_sample_of_files_count(tmp_path: Path, monkeypatch):
    for part in ("train", "val", "test"):
        for i in range(8):
            folder = tmp_path / "grays" / part / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 10 * i).save(folder / f"{i}.png")

    def read() -> str | None:
        return images_digest(data.load(f"folder:{tmp_path}/grays", reading=Reading(stream=True)))

    def redraw(path: Path, value: int) -> None:
        Image.new("L", (4, 4), value).save(path)

    whole = read()
    redraw(tmp_path / "grays/train/b/7.png", 71)
    assert read() != whole
    redraw(tmp_path / "grays/train/b/7.png", 70)
    assert read() == whole

    monkeypatch.setattr(digest, "SAMPLE", 4)
    sampled = read()
    in_order = ("a/0", "a/2", "a/4", "a/6", "b/1", "b/3", "b/5", "b/7")
    chosen = sample(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 4)
    for i, name in enumerate(in_order):
        redraw(tmp_path / f"grays/train/{name}.png", 10 * int(name[2:]) + 1)
        assert (read() != sampled) == (i in chosen)
        redraw(tmp_path / f"grays/train/{name}.png", 10 * int(name[2:]))


def test_of_a_hugging_face_set_the_stored_bytes_count(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )

    def made(folder: str, last: int) -> str | None:
        images = [Image.new("L", (4, 4), v) for v in (*range(10, 29), last)]
        table = datasets.Dataset.from_dict(
            {"image": images, "label": [0, 1] * 10}, features=features
        )
        datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / folder)
        read = data.load(f"hf:{tmp_path / folder}", reading=Reading(stream=True))
        return images_digest(read)

    assert made("x", 30) == made("y", 30)
    assert made("x2", 30) != made("x3", 31)


RANDOM = """
import numpy as np
class Items:
    targets = [0, 1] * 10
    def __len__(self): return 20
    def __getitem__(self, i):
        return np.random.default_rng(SEED).integers(0, 256, (4, 4, 1), np.uint8), i % 2
def make():
    return {"train": Items(), "test": Items()}
"""


@pytest.mark.parametrize("stream", [True, False])
def test_of_the_users_own_set_the_decoded_images_count(tmp_path: Path, stream: bool):
    def read(seed: str) -> Dataset:
        (tmp_path / "mine.py").write_text(RANDOM.replace("SEED", seed))
        reading = Reading(trust_code=True, stream=stream)
        return data.load(f"{tmp_path}/mine.py:make", reading=reading)

    assert images_digest(read("i")) == images_digest(read("i"))
    assert images_digest(read("i")) != images_digest(read("i + 1"))
    with pytest.warns(FggpWarning, match=r"mine.py:make returns a different image each time"):
        random = read("None")
    assert images_digest(random) is None
