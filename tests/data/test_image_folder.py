"""Folders of images: what is found, how it is cut, and every way in which one can be wrong."""

from __future__ import annotations

import os
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fggp_deploy import data
from fggp_deploy.data import Preprocessing, Reading, Split, Stream
from fggp_deploy.data.splits import HeldOut, hold_out
from fggp_deploy.errors import DataError, FggpWarning, MachineError


def picture(path: Path, size=(8, 8), value=0, mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(path, **options)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten 8×8 images of a cat and of a dog; all pixels of cat i are i, of dog i 100 + i."""
    for i in range(10):
        picture(tmp_path / "pets" / "cat" / f"{i}.png", value=i)
        picture(tmp_path / "pets" / "dog" / f"{i}.png", value=100 + i)
    return tmp_path / "pets"


def load(root: Path, **reading) -> data.Dataset:
    return data.load(f"folder:{root}", reading=Reading(**reading))


def test_classes_and_pixels(pets: Path):
    d = load(pets)
    assert (d.name, d.classes) == ("folder:pets", ("cat", "dog"))
    assert d.preprocessing == Preprocessing(
        8, 8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=8
    )
    seen = []
    for part in (d.train, d.val, d.test):
        assert isinstance(part, Split)
        assert ((part.images[:, 0, 0, 0] >= 100) == part.labels).all()
        seen += part.images[:, 0, 0, 0].tolist()
    assert sorted(seen) == [*range(10), *range(100, 110)]


def test_a_tenth_of_each_class_is_held_out_by_seed(pets: Path):
    d = load(pets)
    assert (len(d.train), len(d.val), len(d.test)) == (16, 2, 2)
    assert d.test.labels.tolist() == [0, 1]
    assert d.held_out is not None
    again, other = load(pets).held_out, load(pets, split_seed=1).held_out
    assert d.held_out == again != other


def test_the_choice_of_one_class_does_not_depend_on_the_others():
    names = [f"a/{i}" for i in range(20)]
    _, alone = hold_out(names, np.zeros(20, np.int64), seed=0, parts=["test"])
    both = [*names, *(f"b/{i}" for i in range(20))]
    _, among = hold_out(both, np.repeat([0, 1], 20), seed=0, parts=["test"])
    assert set(alone.test) <= set(among.test)
    assert (len(alone.test), len(among.test)) == (2, 4)


def test_small_classes_are_all_for_training():
    labels = np.array([0] * 4 + [1] * 5)
    rows, _ = hold_out([str(i) for i in range(9)], labels, seed=0, parts=["val", "test"])
    assert sorted(len(r) for r in rows.values()) == [1, 1, 7]
    assert labels[rows["test"]].tolist() == [1]
    with pytest.raises(DataError, match="no image is left for the val part"):
        hold_out(["a", "b"], np.array([0, 1]), seed=0, parts=["val", "test"])


def test_a_saved_split_is_followed_when_images_come_in(pets: Path, tmp_path: Path):
    d = load(pets)
    d.held_out.save(tmp_path / "split.json")
    known = HeldOut.open(tmp_path / "split.json")
    assert known == d.held_out
    for i in range(10, 40):
        picture(pets / "cat" / f"{i}.png", value=i)
    later = load(pets, held_out=known, trained_on="folder:pets")
    assert np.array_equal(later.test.images, d.test.images)
    assert len(later.train) == 16 + 30
    only = load(pets, held_out=known, trained_on="folder:pets", parts=("test",))
    assert np.array_equal(only.test.images, d.test.images)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 2}', "[" * 100_000,
                                  '{"version": 1, "seed": 0, "val": [1], "test": []}'])  # fmt: skip
def test_a_damaged_split_file(tmp_path: Path, text: str):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=r"split\.json"):
        HeldOut.open(tmp_path / "split.json")


def parts(root: Path, *names: str) -> None:
    for k, name in enumerate(names):
        for c in ("cat", "dog"):
            for i in range(5):
                picture(root / name / c / f"{i}.png", value=50 * k + i)


def first_pixels(part) -> set[int]:
    return set(part.images[:, 0, 0, 0].tolist())


def test_parts_of_their_own(tmp_path: Path):
    parts(tmp_path, "Train", "validation", "test")
    d = load(tmp_path)
    assert (len(d.train), len(d.val), len(d.test)) == (10, 10, 10)
    assert first_pixels(d.test) == set(range(100, 105))
    assert d.held_out.test == d.held_out.val == ()


@pytest.mark.parametrize("there", [("train", "test"), ("train", "val"), ("train",)])
@pytest.mark.parametrize("wanted", [("val",), ("test",), ("train",), ("val", "test")])
def test_each_part_can_be_read_alone(tmp_path: Path, there, wanted):
    parts(tmp_path, *there)
    alone, whole = load(tmp_path, parts=wanted), load(tmp_path)
    for part in ("train", "val", "test"):
        n = len(getattr(whole, part)) if part in wanted else 0
        assert len(getattr(alone, part)) == n
        assert n > 0 or part not in wanted


def test_a_class_that_is_not_tested_is_named(tmp_path: Path):
    parts(tmp_path, "train", "test")
    shutil.rmtree(tmp_path / "test" / "dog")
    with pytest.warns(FggpWarning, match="test has no images of 'dog': accuracy there does not"):
        d = load(tmp_path)
    assert set(d.test.labels) == {0}


def test_val_is_the_test_part_where_there_is_no_other(tmp_path: Path):
    parts(tmp_path, "train", "val")
    d = load(tmp_path)
    assert first_pixels(d.test) == set(range(50, 55))
    assert (len(d.train), len(d.val), len(d.test)) == (8, 2, 10)


def test_a_class_may_be_called_train(tmp_path: Path):
    for i in range(5):
        picture(tmp_path / "train" / f"{i}.png")
        picture(tmp_path / "plane" / f"{i}.png")
    assert load(tmp_path).classes == ("plane", "train")


def test_what_is_looked_at(pets: Path):
    picture(pets / "cat" / "kittens" / "deep" / "x.PNG", value=77)
    picture(pets / "cat" / ".hidden.png", value=78)
    picture(pets / ".git" / "x.png")
    picture(pets / "__MACOSX" / "x.png")
    (pets / "cat" / "notes.txt").write_text("meow")
    (pets / "readme.md").write_text("pets")
    os.mkfifo(pets / "cat" / "pipe.png")  # to open it would wait for ever
    d = load(pets)
    assert d.classes == ("cat", "dog")
    assert sum(map(len, (d.train, d.val, d.test))) == 21
    assert 77 in first_pixels(d.train) | first_pixels(d.val) | first_pixels(d.test)


def test_names_that_are_no_utf8(pets: Path):
    odd = os.fsdecode(b"caf\xe9.png")
    picture(pets / "cat" / odd, value=99)
    d = load(pets, stream=True)
    assert sum(map(len, (d.train, d.val, d.test))) == 21
    d.held_out.save(pets / "split.json")
    assert HeldOut.open(pets / "split.json") == d.held_out
    (pets / "cat" / odd).write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        load(pets)
    assert rb"caf\udce9.png" in str(caught.value).encode(errors="backslashreplace")


def test_a_gray_folder_has_one_channel_and_a_mixed_one_three(tmp_path: Path):
    for i in range(6):
        picture(tmp_path / "a" / f"{i}.png", mode="L", value=10 * i)
    d = load(tmp_path)
    assert d.preprocessing.image_shape == (8, 8, 1)
    assert d.preprocessing.mean == (0.5,)
    picture(tmp_path / "a" / "color.png", value=3)
    assert load(tmp_path).preprocessing.image_shape == (8, 8, 3)
    # the network's channels decide
    gray = Preprocessing(8, 8, (0.5,), (0.5,))
    assert load(tmp_path, preprocessing=gray).train.images.shape[1:] == (8, 8, 1)
    assert load(tmp_path, mean=(0.1,), std=(0.2,)).train.images.shape[1:] == (8, 8, 1)


def test_sizes(tmp_path: Path):
    for i in range(6):
        picture(tmp_path / "a" / f"{i}.png", size=(40 + i, 30))
    assert load(tmp_path).preprocessing.input_shape == (3, 64, 64)
    p = load(tmp_path, image_size=24, resize=28).preprocessing
    assert (p.height, p.width, p.resize) == (24, 24, 28)


def test_classes_follow_the_network(pets: Path):
    d = load(pets, classes=("dog", "cat"))
    assert d.classes == ("dog", "cat")
    assert ((d.train.images[:, 0, 0, 0] < 100) == d.train.labels).all()
    (pets / "dog").rename(pets / "hot_dog")
    assert load(pets, classes=("hot/dog", "cat")).classes == ("hot/dog", "cat")
    with pytest.warns(FggpWarning, match="other classes"):
        assert load(pets, classes=("a", "b")).classes == ("cat", "hot_dog")


def test_only_testing(pets: Path):
    with pytest.raises(DataError, match=r"has the class 'dog', which the network does not know"):
        load(pets, parts=("test",), classes=("cat", "cow"), trained_on="folder:pets")
    with pytest.warns(FggpWarning, match="all of its 20 images are used for testing"):
        d = load(pets, parts=("test",), classes=("cow", "dog", "cat"), trained_on="folder:farm")
    assert len(d.test) == 20
    assert d.test.labels.tolist() == [2] * 10 + [1] * 10
    same = load(pets, parts=("test",), trained_on="folder:pets")
    assert len(same.test) == 2


def test_streams_read_the_same_pixels(pets: Path):
    once, stream = load(pets), load(pets, stream=True)
    assert isinstance(stream.train, Stream)
    assert np.array_equal(stream.train.read(slice(0, 99)), once.train.images)
    assert np.array_equal(stream.train.read([3, 1]), once.train.images[[3, 1]])
    assert np.array_equal(stream.test.at([0]).read(slice(0, 1)), once.test.images[:1])


def truncated(root: Path) -> None:
    picture(root / "cat" / "cut.jpg", size=(64, 64))
    raw = (root / "cat" / "cut.jpg").read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(raw[: len(raw) // 2])


def huge(root: Path) -> None:
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    raw = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    (root / "cat" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(raw))


def loop(root: Path) -> None:
    (root / "cat" / "sub").mkdir()
    (root / "cat" / "sub" / "up").symlink_to(root / "cat", target_is_directory=True)


BROKEN = {
    "wrong kind": (lambda r: (r / "cat" / "x.jpg").write_text("a text"), "x.jpg is not a JPEG"),
    "empty": (lambda r: (r / "cat" / "x.jpg").touch(), "x.jpg is not a JPEG"),
    "truncated": (truncated, "cut.jpg cannot be decoded"),
    "huge": (huge, "bomb.png claims"),
    "dangling link": (lambda r: (r / "cat" / "x.png").symlink_to("nowhere"), "x.png cannot be"),
    "loop": (loop, "a link that leads back to a folder above it; remove it"),
    "twice": (lambda r: (r / "cow").symlink_to(r / "cat"), "reached twice through links"),
    "self loop": (lambda r: (r / "cow").symlink_to("cow"), "a link that leads to itself"),
    "empty class": (lambda r: (r / "cow").mkdir(), "cow holds no images"),
    "case": (lambda r: picture(r / "Cat" / "x.png"), "'Cat' and 'cat', which differ only"),
    "class not utf8": (lambda r: picture(r / os.fsdecode(b"\xff") / "x.png"), "must be UTF-8"),
    "long and thin": (lambda r: picture(r / "cat" / "x.png", size=(1, 100_000)), "long and thin"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_what_is_wrong_is_named_in_one_line(pets: Path, way: str):
    break_, says = BROKEN[way]
    break_(pets)
    with pytest.raises(DataError, match=says) as caught:
        load(pets)
    assert "\n" not in str(caught.value)


def test_roots(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        load(tmp_path / "file")
    (tmp_path / "flat").mkdir()
    picture(tmp_path / "flat" / "1.jpg")
    with pytest.raises(DataError, match="has no class folders"):
        load(tmp_path / "flat")
    parts(tmp_path / "half", "test")
    with pytest.raises(DataError, match="has no train folder next to test"):
        load(tmp_path / "half")
    parts(tmp_path / "twice", "val", "valid", "train")
    with pytest.raises(DataError, match="has both"):
        load(tmp_path / "twice")
    parts(tmp_path / "more", "train", "test")
    picture(tmp_path / "more" / "test" / "cow" / "1.png")
    with pytest.raises(DataError, match=r"has the class 'cow', which .*train does not have"):
        load(tmp_path / "more")


def test_several_bad_images_are_counted_and_can_be_skipped(pets: Path):
    truncated(pets)
    for i in range(4):
        (pets / "dog" / f"bad{i}.png").write_bytes(b"no image")
    with (
        pytest.warns(FggpWarning, match="all of its 25 images are used"),
        pytest.raises(DataError, match=r"5 of 25 images in .* cannot be read: .*bad"),
    ):
        load(pets, parts=("test",), trained_on="folder:farm")
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        d = load(pets, skip_unreadable=True)
    assert sum(map(len, (d.train, d.val, d.test))) == 20
    said = [str(w.message) for w in reported if w.category is FggpWarning]
    assert sum(int(line.split(" of ")[0]) for line in said) == 5
    assert all("are left out" in line for line in said)


def test_a_class_of_bad_images_only(tmp_path: Path):
    for i in range(5):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="so none is left"):
        load(tmp_path, skip_unreadable=True)


def test_no_permission_is_the_environments_lack(pets: Path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as m:
        m.setattr(Path, "open", refuse)
        with pytest.raises(MachineError, match=r"16 of 16 images .* may not be read"):
            load(pets)
    with monkeypatch.context() as m:
        m.setattr(os, "scandir", refuse)
        with pytest.raises(MachineError, match="may not be read; change its permissions"):
            load(pets)


def test_exif_orientation_is_obeyed(tmp_path: Path):
    for i in range(6):
        image = Image.new("RGB", (8, 8))
        image.putpixel((0, 0), (255, 255, 255))  # upper left
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        (tmp_path / "a").mkdir(exist_ok=True)
        image.save(tmp_path / "a" / f"{i}.png", exif=exif)
    d = load(tmp_path)
    assert d.train.images[0, 7, 7].tolist() == [255] * 3
    assert d.train.images[0, 0, 0].tolist() == [0] * 3


def test_sixteen_bit_grays_keep_their_upper_byte(tmp_path: Path):
    (tmp_path / "a").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 0xAB12, np.uint16)).save(tmp_path / "a" / f"{i}.png")
    assert set(load(tmp_path).train.images.ravel().tolist()) == {0xAB}
