"""What a pickle looks up and calls is found without running it."""

from __future__ import annotations

import _codecs
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fggp_deploy.checkpoints.foreign import read_foreign
from fggp_deploy.checkpoints.pickle_scan import Global, scan
from fggp_deploy.errors import CheckpointError


class Encoded:
    """Pickles as a call of `_codecs.encode` with these arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return _codecs.encode, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_calls_and_their_arguments(protocol: int):
    written = pickle.dumps([Encoded("ab", "punycode"), Encoded("ab", "punycode")], protocol)
    found = scan(io.BytesIO(written))
    assert found.names == {"_codecs.encode"}
    assert found.calls == (("_codecs.encode", ("ab", "punycode")),) * 2


def test_arguments_are_kept_as_far_as_they_are_plain():
    written = pickle.dumps({"a": Encoded(({"b": 1}, [2]), len)}, 2)
    (call,) = scan(io.BytesIO(written)).calls
    assert call == ("_codecs.encode", ((None, None), Global("builtins.len")))


@pytest.mark.parametrize(
    "damaged", [b"", b"\x80\x02", b"\x80\x02R.", b"\x80\x02t.", b"\x80\x02h\x05."]
)
def test_what_is_no_pickle(damaged: bytes):
    with pytest.raises((ValueError, LookupError)):
        scan(io.BytesIO(damaged))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "hidden", [Encoded("abc", "punycode"), Encoded("abc"), Encoded("abc", "latin1", "strict")]
)
def test_only_the_codec_of_torch_is_allowed(tmp_path: Path, hidden: Encoded, zipped: bool):
    path = tmp_path / "w.pt"
    content = {"w": torch.ones(4, 4), "x": hidden}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"encoding that torch.save never writes"):
        read_foreign(path)


def test_arguments_in_a_list_are_refused(tmp_path: Path):
    """torch's reader calls with any iterable, so a codec could hide in one that is filled later."""
    call = pickle.GLOBAL + b"_codecs\nencode\n" + pickle.EMPTY_LIST
    call += pickle.MARK + b"".join(pickle.dumps(s, 2)[2:-1] for s in ("ab", "punycode"))
    call += pickle.APPENDS + pickle.REDUCE
    with pytest.raises(CheckpointError):
        path = tmp_path / "w.pt"
        path.write_bytes(b"\x80\x02" + call + pickle.STOP)
        read_foreign(path)
    assert scan(io.BytesIO(b"\x80\x02" + call + pickle.STOP)).calls == (("_codecs.encode", None),)


def test_bytes_beside_the_weights_are_read(tmp_path: Path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"w": torch.ones(2, 2)}, "note": b"\xff\x00abc"}, path)
    assert read_foreign(path).tensors["w"].shape == (2, 2)


@pytest.mark.parametrize("name", ["detach", "numel", "is_complex"])
def test_a_parameter_that_hides_its_methods(tmp_path: Path, name: str):
    p = torch.nn.Parameter(torch.ones(2, 2))
    setattr(p, name, 3)
    torch.save({"a.weight": p}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"brings its own '{name}'"):
        read_foreign(tmp_path / "w.pt")


def test_a_parameter_with_marks_of_its_own_is_read(tmp_path: Path):
    p = torch.nn.Parameter(torch.ones(2, 2))
    p.no_weight_decay = True
    torch.save({"a.weight": p}, tmp_path / "w.pt")
    assert read_foreign(tmp_path / "w.pt").tensors["a.weight"].tolist() == [[1, 1], [1, 1]]
