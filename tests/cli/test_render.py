"""Tables in narrow terminals, and text where the locale has only ASCII."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fggp_deploy.cli import console_characters, render

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.onnx"
COLUMNS = ("weight", "shape", "sparsity", "kept", "MACs", "bytes", "stored as")
ROWS = [
    ("layer4.0.conv2.weight (dense by choice)", "512×512×3×3", "97.50%", "58,982", "80.0%",
     "9.44 MB", "dense"),
    ("fc.weight", "10×512", "97.50%", "5", "20.0%", "20.48 kB", "gaps8"),
]  # fmt: skip
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


def printed(width: int, columns, rows, capsys, monkeypatch) -> str:
    monkeypatch.setattr(render.stdout, "width", width)
    render.table("resnet", columns, rows)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", range(40, 121, 10))
def test_a_table_fits_and_cuts_no_figure(width, capsys, monkeypatch):
    out = printed(width, COLUMNS, ROWS, capsys, monkeypatch)
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    for row in ROWS:
        for figure in row[1:]:
            assert figure in out.replace("\n", " ")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_long_sentence_is_wrapped_between_words(width, capsys, monkeypatch):
    why = "unstructured zeros do not pay at this density"
    out = printed(width, ("layer", "why"), [("conv1", why)], capsys, monkeypatch)
    assert max(map(len, out.splitlines())) <= width
    assert {*why.split()} <= {*out.replace("│", " ").split()}


def test_columns_counts_without_a_terminal_too(program):
    narrow = program.fresh("inspect", GOLDEN, COLUMNS="40")
    assert narrow.code == 0, narrow.err
    table = narrow.out.partition("all conv and linear weights")[0]
    assert max(len(line) for line in table.splitlines()[1:]) <= 40
    assert "stored as: gaps8" in table


@pytest.mark.parametrize(
    ("text", "shown"),
    [("3×3 → 1−½ …", "3x3 -> 1-1/2 ..."), ("Szegő café", "Szego cafe"), ("☃", "\\u2603")],
)
def test_the_nearest_characters_stand_for_those_that_are_missing(text, shown):
    console_characters.tolerate_any_character()
    assert text.encode("ascii", console_characters.HANDLER) == shown.encode()


COMMANDS = [
    ["inspect", GOLDEN], ["inspect", GOLDEN, "--json"], ["methods"], ["methods", "fggp"],
    ["models", "resnet2*"], ["explain", GOLDEN, "--seconds", "0"], ["doctor"], ["--help"],
    ["prune", "--help"], ["verify", "--help"], ["prune", "--target", "0,9"],
    ["prune", "--model", "réseau"], ["inspect", "übung.pt"], ["prune", "--no-such-option"],
    ["pack", GOLDEN], ["compile", "--help"],
]  # fmt: skip


def test_every_command_prints_under_an_ascii_locale(tmp_path):
    """All in one process each would be slow: one interpreter runs them in turn."""
    code = (
        "import io, json, sys\n"
        "from fggp_deploy.cli.main import run\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['fggp-deploy', *args]\n"
        "    try: run()\n"
        "    except SystemExit as e: print('code', e.code)\n"
    )
    commands = json.dumps([[str(a) for a in args] for args in COMMANDS])
    done = subprocess.run(
        [sys.executable, "-c", code, commands],
        cwd=tmp_path, env=os.environ | ASCII, capture_output=True,
    )  # fmt: skip
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 0, err
    codes = [line.split()[1] for line in out.splitlines() if line.startswith("code ")]
    assert len(codes) == len(COMMANDS), err
    assert "70" not in codes
    assert "UnicodeEncodeError" not in err
    assert "16x1x5x5" in out
    assert "unknown model 'reseau'" in err


def test_json_stays_json_under_an_ascii_locale(tmp_path):
    (tmp_path / "modèle.onnx").write_bytes(GOLDEN.read_bytes())
    command = [sys.executable, "-m", "fggp_deploy.cli", "inspect", "modèle.onnx", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("ascii"))["path"] == "modèle.onnx"


@pytest.mark.parametrize("columns", ["60", "80", "99"])
def test_help_in_a_narrow_terminal_cuts_no_word(program, columns):
    shown = program("verify", "--help", COLUMNS=columns)
    assert shown.code == 0
    assert "…" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= int(columns)
    assert "The exit code is 1 if the self-test" in " ".join(shown.out.split())
