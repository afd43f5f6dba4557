from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fggp_deploy.checkpoints.run_folder import new_folder
from fggp_deploy.common.files import atomic_path, sha256_file, write_atomic, written_together
from fggp_deploy.errors import ConfigError, MachineError


def test_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_run_folder_needs_a_name_that_is_text(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"is not UTF-8 text; choose another"):
        new_folder(tmp_path / os.fsdecode(b"caf\xe9"), "run")


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a") as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_folders_are_replaced_whole(tmp_path: Path):
    for names in (("a", "b"), ("c",)):
        with atomic_path(tmp_path / "folder") as tmp:
            tmp.mkdir()
            for name in names:
                (tmp / name).write_text(name)
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["c"]


@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "may not be written")]
)
def test_a_failed_write_says_why_and_keeps_the_old(tmp_path: Path, code: int, says: str):
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(MachineError, match=says), atomic_path(path) as tmp:
        tmp.write_bytes(b"ne")
        raise OSError(code, os.strerror(code))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


OLD, NEW = {"a": b"old a", "b": b"old b"}, {"a": b"new a", "b": b"new b"}


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_set_is_written_together(tmp_path: Path):
    for contents in (OLD, NEW):
        with written_together({tmp_path / name: text for name, text in contents.items()}):
            assert tmp_path.joinpath("a").exists() == (contents is NEW)
        assert content_of(tmp_path) == contents


@pytest.mark.parametrize("old", [OLD, {"a": b"old a"}, {}])
@pytest.mark.parametrize("fails_at", range(4))
@pytest.mark.parametrize("links", [True, False])
def test_a_set_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: dict[str, bytes],
    fails_at: int,
    links: bool,
):
    for name, text in old.items():
        (tmp_path / name).write_bytes(text)
    steps, sync, replace = iter(range(9)), os.fsync, Path.replace

    def fail_at_a_step() -> None:
        if next(steps) == fails_at:  # two files are written, then two are renamed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(fd: int) -> None:
        fail_at_a_step()
        sync(fd)

    def rename(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            fail_at_a_step()
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with (
        pytest.raises(MachineError, match="the disk is full"),
        written_together({tmp_path / name: text for name, text in NEW.items()}),
    ):
        pass
    assert content_of(tmp_path) == old


def refuse(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_an_error_in_the_block_leaves_a_set_as_it_was(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"old a")
    with (
        pytest.raises(KeyboardInterrupt),
        written_together({tmp_path / name: text for name, text in NEW.items()}),
    ):
        raise KeyboardInterrupt
    assert content_of(tmp_path) == {"a": b"old a"}


def test_a_file_where_a_folder_must_be(tmp_path: Path):
    write_atomic(tmp_path / "a", "x")
    with pytest.raises(MachineError, match="cannot write"):
        write_atomic(tmp_path / "a" / "b", "y")


def test_hash_of_the_empty_file_is_the_published_one(tmp_path: Path):
    write_atomic(tmp_path / "e", b"")
    assert sha256_file(tmp_path / "e").startswith("e3b0c44298fc1c149afbf4c8996fb924")
    before = sha256_file(tmp_path)
    (tmp_path / "e").rename(tmp_path / "f")
    assert sha256_file(tmp_path) != before  # a folder's hash sees names
