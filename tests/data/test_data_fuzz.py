"""Mutated data files: each is read, or refused in one line; none crashes, hangs or eats memory.

python -m pytest -m slow tests/test_data_fuzz.py -s     # 12,000 files, with a summary
"""

from __future__ import annotations

import gzip
import io
import pickle
import random
import resource
import shutil
import signal
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fggp_deploy import data
from fggp_deploy.data import Reading, svhn
from fggp_deploy.data.images import SUFFIXES, check, frame, recolored, upright
from fggp_deploy.data.preprocessing import Preprocessing
from fggp_deploy.errors import FggpError

SECONDS = 20  # of this process's own CPU time, for one file
GIGABYTES = 6  # of address space beyond what the process has
P = Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3, resize=8)
# words that length fields and counts are overwritten with
WORDS = [b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00",
         b"\x00\x00\x00\x80", b"\x00\x01\x00\x00", b"\x01\x00\x00\x00"]  # fmt: skip


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, words, cuts, copies, insertions."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        # most of what a reader decides on stands at the beginning
        at = rng.randrange(min(len(out), 200) if rng.random() < 0.6 else len(out))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            out[at : at + 4] = rng.choice(WORDS)
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + rng.randint(1, 64)]
        elif kind == 5:
            start = rng.randrange(len(out))
            out[at:at] = out[start : start + rng.randint(1, 64)]
        else:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
    return bytes(out)


@contextmanager
def limits() -> Iterator[None]:
    """Fail on a file that takes too long or too much memory."""

    def late(*_):
        raise TimeoutError(f"more than {SECONDS} s of CPU time for one file")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (GIGABYTES << 30), old[1]))
    before = signal.signal(signal.SIGPROF, late)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, old)


def fuzz(
    originals: list[tuple[str, bytes]], read: Callable[[str, bytes], None], n: int, seed: int = 0
) -> Counter[str]:
    """Read n mutants; any exception but one line of ours is a failure, with the mutant's number."""
    outcomes: Counter[str] = Counter()
    said: list[str] = []
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(n):
            rng = random.Random(f"{seed}/{i}")
            name, raw = originals[i % len(originals)]
            raw = mutated(raw, rng)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read(name, raw)
                outcomes["read"] += 1
            except FggpError as e:
                outcomes["refused"] += 1
                said.append(str(e))
            except BaseException as e:
                pytest.fail(f"mutant {i} of {name}: {type(e).__name__}: {e}")
    assert [line for line in said if "\n" in line or len(line) > 1000] == []
    assert outcomes["refused"] > n // 20  # the mutants do reach the checks
    return outcomes


def pixels() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))


def encoded() -> list[tuple[str, bytes]]:
    """Small images of every kind and of the variants that have decoders of their own."""
    variants = [
        ("a.jpg", "JPEG", "RGB", {}), ("b.jpg", "JPEG", "L", {"progressive": True}),
        ("c.jpg", "JPEG", "CMYK", {}), ("a.png", "PNG", "RGB", {}), ("b.png", "PNG", "P", {}),
        ("c.png", "PNG", "LA", {}), ("d.png", "PNG", "1", {}), ("a.bmp", "BMP", "RGB", {}),
        ("b.bmp", "BMP", "P", {}), ("a.gif", "GIF", "P", {}), ("a.webp", "WEBP", "RGB", {}),
        ("b.webp", "WEBP", "RGBA", {"lossless": True}), ("a.tif", "TIFF", "RGB", {}),
        ("b.tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("c.tif", "TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("d.tif", "TIFF", "1", {"compression": "group4"}),
        ("e.tif", "TIFF", "RGB", {"compression": "jpeg"}), ("a.ppm", "PPM", "RGB", {}),
        ("a.pgm", "PPM", "L", {}),
    ]  # fmt: skip
    found = []
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, kind, mode, options in variants:
        assert Path(name).suffix in SUFFIXES
        out = io.BytesIO()
        if kind in ("JPEG", "PNG", "WEBP"):
            options = {**options, "exif": exif}
        pixels().convert(mode).save(out, kind, **options)
        found.append((name, out.getvalue()))
    return found


def reads_image(folder: Path) -> Callable[[str, bytes], None]:
    def read(name: str, raw: bytes) -> None:
        path = folder / name
        path.write_bytes(raw)
        check(path)
        got = frame(recolored(upright(path), "RGB"), P, name=name)
        assert got.shape == (8, 8, 3)

    return read


def idx() -> list[tuple[str, bytes]]:
    images = struct.pack(">HBB3I", 0, 8, 3, 30, 28, 28) + bytes(range(256)) * 92
    images = images[: 16 + 30 * 784]
    labels = struct.pack(">HBBI", 0, 8, 1, 30) + bytes(i % 10 for i in range(30))
    return [
        ("t10k-images-idx3-ubyte", images),
        ("t10k-labels-idx1-ubyte", labels),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(images, mtime=0)),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(labels, mtime=0)),
    ]


def reads_idx(folder: Path) -> Callable[[str, bytes], None]:
    from fggp_deploy.data import idx as reader

    def read(name: str, raw: bytes) -> None:
        for path in folder.glob("t10k-*"):
            path.unlink()
        packed = name.endswith(".gz")
        for other, content in idx():
            if other.endswith(".gz") == packed:
                (folder / other).write_bytes(raw if other == name else content)
        images, labels = reader.read(folder, "t10k", name="MNIST")
        assert images.shape == (len(labels), 28, 28, 1)

    return read


def cifar() -> list[tuple[str, bytes]]:
    images = np.arange(20 * 3072, dtype=np.uint8).reshape(20, 3072)
    content = {b"data": images, b"labels": [i % 10 for i in range(20)], b"filenames": [b"x"] * 20}
    return [(f"p{p}", pickle.dumps(content, protocol=p)) for p in (3, 4)] + [
        ("flat", pickle.dumps({b"data": images.astype("u1"), b"labels": list(range(10)) * 2}, 3)),
    ]


def reads_cifar(folder: Path) -> Callable[[str, bytes], None]:
    from fggp_deploy.data import cifar as reader

    def read(name: str, raw: bytes) -> None:
        (folder / "batch").write_bytes(raw)
        images, labels = reader._batch(folder / "batch", b"labels", 10)
        assert images.shape == (len(labels), 32, 32, 3)

    return read


def mats() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    y = np.array([[1], [2], [10], [3]], np.uint8)
    found = []
    for name, options in (("packed", {"do_compression": True}), ("plain", {}),
                          ("v4", {"format": "4"})):  # fmt: skip
        out = io.BytesIO()
        scipy.io.savemat(out, {"X": x if name != "v4" else x[..., 0, 0], "y": y}, **options)
        found.append((name, out.getvalue()))
    return found


def reads_mat(folder: Path) -> Callable[[str, bytes], None]:
    def read(name: str, raw: bytes) -> None:
        (folder / "x.mat").write_bytes(raw)
        split = svhn.read(folder / "x.mat")
        assert split.images.shape[1:] == (32, 32, 3)

    return read


KINDS = {
    "images": (encoded, reads_image, 7),  # the share of all mutants
    "idx": (idx, reads_idx, 2),
    "cifar": (cifar, reads_cifar, 2),
    "svhn": (mats, reads_mat, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_mutants_of_each_kind(kind: str, tmp_path: Path):
    originals, reader, _ = KINDS[kind]
    fuzz(originals(), reader(tmp_path), 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twelve_thousand_mutants(kind: str, tmp_path: Path):
    originals, reader, share = KINDS[kind]
    outcomes = fuzz(originals(), reader(tmp_path), share * 1000, seed=1)
    print(f"\n{kind}: {dict(outcomes)}")


def plant(root: Path, rng: random.Random) -> None:
    """A random tree of folders, images, other files, links and odd names."""
    images = encoded()
    names = ["a", "A", "train", "test", "val", ".x", "b c", "é", "\udcff", "__MACOSX", "x" * 200]
    folders = [root]
    for _ in range(rng.randint(0, 25)):
        folder = rng.choice(folders)
        name = rng.choice(names)
        path = folder / name
        kind = rng.randrange(8)
        if kind < 3 and len(folder.parts) - len(root.parts) < 5:
            if not path.exists() and not path.is_symlink():
                path.mkdir()
                folders.append(path)
        elif kind < 6:
            image, raw = rng.choice(images)
            for i in range(rng.randint(1, 8)):
                content = mutated(raw, rng) if rng.random() < 0.05 else raw
                (folder / f"{i}{name[:9]}{image}").write_bytes(content)
        elif kind == 6:
            target = rng.choice([*folders, Path("nowhere"), path])
            if not path.exists() and not path.is_symlink():
                path.symlink_to(target)
        else:
            (folder / f"{name[:9]}.txt").write_bytes(rng.randbytes(10))


def forest(root: Path, n: int, seed: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    said: list[str] = []
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(n):
            rng = random.Random(f"{seed}/{i}")
            tree = root / str(i)
            tree.mkdir()
            plant(tree, rng)
            reading = Reading(
                skip_unreadable=rng.random() < 0.3, stream=rng.random() < 0.5, workers=0,
                **({"parts": ("test",), "classes": ("A", "a", "b c")} if i % 3 == 0 else {}),
            )  # fmt: skip
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                d = data.load(f"folder:{tree}", reading=reading)
                assert len(d.test.read(slice(0, 99))) == min(99, len(d.test))
                outcomes["read"] += 1
            except FggpError as e:
                outcomes["refused"] += 1
                said.append(str(e))
            except BaseException as e:
                pytest.fail(f"tree {i}: {type(e).__name__}: {e}")
            shutil.rmtree(tree)
    assert [line for line in said if "\n" in line] == []
    assert min(outcomes["read"], outcomes["refused"]) > n // 50
    return outcomes


def test_sixty_random_trees(tmp_path: Path):
    forest(tmp_path, 60, seed=0)


@pytest.mark.slow
def test_a_thousand_random_trees(tmp_path: Path):
    print(f"\ntrees: {dict(forest(tmp_path, 1000, seed=1))}")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",  # a bytearray of a terabyte
        b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.",  # bytes of a terabyte
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",  # an array of two gigabytes
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",  # lists in lists
    ],
)
def test_pickles_that_claim_much(tmp_path: Path, raw: bytes):
    with pytest.raises(FggpError, match="damaged or not a CIFAR batch"), limits():
        reads_cifar(tmp_path)("bomb", raw)
