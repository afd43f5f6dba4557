from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fggp_deploy.errors import ConfigError, MachineError
from fggp_deploy.files import atomic_path, sha256_file, write_atomic
from fggp_deploy.folder import new_folder


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
