"""Augmentation and batches: by hand, against torchvision, and the same after a break."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fggp_deploy import data
from fggp_deploy.common.torchvision_import import import_torchvision
from fggp_deploy.data import Preprocessing, Reading, Split
from fggp_deploy.errors import DataError
from fggp_deploy.training.augment import Augmentation, apply, crop_and_flip, draw, erase
from fggp_deploy.training.batches import open_batches
from fggp_deploy.training.trivial_augment import OPERATIONS, trivial_augment

CPU = torch.device("cpu")
PRESETS = [
    Augmentation(preset, flip=True, crop_padding=2) for preset in ("none", "basic", "strong")
]
by_preset = pytest.mark.parametrize("augmentation", PRESETS, ids=lambda a: a.preset)


def test_shift_and_mirror_by_hand():
    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(3, 1, 2, 2)
    shift = torch.tensor([[1, 2, 1], [1, 1, 1]])  # 1 is no shift
    got = crop_and_flip(x, 1, shift, torch.tensor([False, False, True]))
    assert got[:, 0].tolist() == [[[1, 2], [3, 4]], [[3, 4], [0, 0]], [[2, 1], [4, 3]]]


def test_erase_by_hand():
    x = torch.ones(2, 1, 2, 3)
    got = erase(x, torch.tensor([[0, 0], [1, 0], [1, 0], [2, 0]]))
    assert got[:, 0].tolist() == [[[1, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]]


def test_a_quarter_is_erased_and_rectangles_lie_inside():
    g = torch.Generator().manual_seed(0)
    top, left, height, width = draw(PRESETS[2], 4000, (20, 30), g).rectangles
    erased = height * width > 0
    assert 0.22 < erased.float().mean() < 0.28
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 20).all()
    assert (left + width <= 30).all()
    share = (height * width)[erased] / 600
    assert 0.015 < share.min() < share.max() < 0.37


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(name: str, strength: float, channels: int):
    import_torchvision()
    from torchvision.transforms.v2 import TrivialAugmentWide, functional

    g = torch.Generator().manual_seed(1)
    x = torch.randint(30, 220, (2, channels, 72, 80), dtype=torch.uint8, generator=g)
    k = torch.full((2,), OPERATIONS.index(name))
    got = trivial_augment(x, k, torch.full((2,), strength))

    theirs = {"autocontrast": "AutoContrast"}.get(name, name.title().replace("_", ""))
    size = {"rotate": 135.0, "translate_x": 32.0, "translate_y": 32.0, "posterize": 6}
    magnitude = strength * size.get(name, 0.99)
    if name == "posterize":
        magnitude = 8 - round(6 * abs(strength))
    if name == "solarize":
        magnitude = 1 - abs(strength)
    want = TrivialAugmentWide()._apply_image_or_video_transform(
        x, theirs, magnitude, interpolation=functional.InterpolationMode.NEAREST, fill={}
    )
    if name in ("rotate", "shear_x", "shear_y"):  # a pixel may fall on either side of a tie
        assert (got != want).float().mean() < 0.02
    else:
        assert (got.int() - want.int()).abs().max() <= 1
    if abs(strength) == 1 and name not in ("identity", "color"):
        assert (got != x).any()


def test_each_image_has_its_own_operation():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=g)
    k = torch.tensor([OPERATIONS.index(n) for n in ("identity", "solarize", "posterize")])
    got = trivial_augment(x, k, torch.tensor([1.0, 1.0, 1.0]))
    assert torch.equal(got[0], x[0])
    assert torch.equal(got[1], 255 - x[1])
    assert torch.equal(got[2], x[2] & 0b11000000)


def test_no_mirror_images_where_they_change_the_label():
    g = torch.Generator().manual_seed(0)
    assert not draw(Augmentation("basic", False, 2), 100, (8, 8), g).mirrored.any()


@by_preset
def test_none_changes_nothing_and_the_others_do(augmentation: Augmentation):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=g)
    got = apply(augmentation, x, draw(augmentation, 50, (8, 8), g))
    assert torch.equal(got, x) == (augmentation.preset == "none")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Thirty noisy JPEGs of three classes, train and test."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for c in "abc":
        for part, n in (("train", 10), ("test", 2)):
            (root / part / c).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (20, 16 + i, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / c / f"{i}.jpg")
    return root


def opened(images: Path, *, stream: bool, workers: int = 0):
    p = Preprocessing(16, 16, (0.5,) * 3, (0.25,) * 3, resize=16)
    d = data.load(f"folder:{images}", reading=Reading(preprocessing=p, stream=stream))
    assert isinstance(d.train, Split) != stream
    return open_batches(d.train, p, batch_size=6, device=CPU, workers=workers)


def epochs(batches, augmentation: Augmentation, n: int = 2):
    g = torch.Generator().manual_seed(7)
    return [list(batches.shuffled(g, augmentation)) for _ in range(n)]


def same(a, b) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@by_preset
@pytest.mark.parametrize("stream", [False, True])
def test_an_epoch_goes_on_in_the_middle_bit_for_bit(images, stream: bool, augmentation):
    batches = opened(images, stream=stream)
    whole = epochs(batches, augmentation)
    assert [len(e) for e in whole] == [4, 4]  # 27 images, 24 in full batches
    assert not same(*whole)
    g = torch.Generator().manual_seed(7)
    list(batches.shuffled(g, augmentation))
    at_start = g.get_state()
    list(islice(batches.shuffled(g, augmentation), 3))  # and then the machine went down
    g.set_state(at_start)
    assert same(batches.shuffled(g, augmentation, skip=2), whole[1][2:])
    after = g.get_state()
    g.set_state(at_start)
    list(batches.shuffled(g, augmentation))
    assert torch.equal(g.get_state(), after)
    assert list(batches.shuffled(g, augmentation, skip=4)) == []


@by_preset
def test_worker_processes_change_nothing(images, augmentation: Augmentation):
    before = torch.get_rng_state()
    alone = epochs(opened(images, stream=True), augmentation)
    many = epochs(opened(images, stream=True, workers=2), augmentation)
    assert all(same(a, b) for a, b in zip(alone, many, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_augments_what_memory_holds(images):
    (memory,) = epochs(opened(images, stream=False), PRESETS[0], 1)
    (stream,) = epochs(opened(images, stream=True), PRESETS[0], 1)
    # the same order from the same seed: the first draw of both is the order
    assert all(torch.equal(a[1], b[1]) for a, b in zip(memory, stream, strict=True))
    assert same(memory, stream)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_during_a_run_is_named(images, tmp_path, workers: int):
    import shutil

    shutil.copytree(images, tmp_path / "copy")
    batches = opened(tmp_path / "copy", stream=True, workers=workers)
    (tmp_path / "copy" / "train" / "b" / "3.jpg").write_bytes(b"gone")
    (tmp_path / "copy" / "train" / "b" / "4.jpg").unlink()
    for augmentation in PRESETS:
        with pytest.raises(DataError, match=r"train/b/[34]\.jpg") as caught:
            for _ in range(3):  # an epoch leaves three images out
                list(batches.shuffled(torch.Generator().manual_seed(0), augmentation))
        assert "\n" not in str(caught.value)


def test_parts_without_images(images):
    d = data.load(reading=Reading(parts=("test",)))
    nothing = Split(d.test.images[:0], d.test.labels[:0])
    with pytest.raises(DataError, match="without images"):
        open_batches(nothing, d.preprocessing, batch_size=2, device=CPU)
