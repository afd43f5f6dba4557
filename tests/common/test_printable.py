"""Names from files cannot steer the terminal that shows them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from onnx import helper, numpy_helper
from rich.table import Table
from rich.text import Text

from fggp_deploy.cli.console import SafeConsole
from fggp_deploy.common.printable import printable
from fggp_deploy.report.markdown import table as markdown_table

NAME = "w\x1b]0;owned\x07\x1b[31mRED\r\u202e\x9b2J"
SHOWN = r"w\u001b]0;owned\u0007\u001b[31mRED\u000d\u202e\u009b2J"
STEERING = ("\x1b", "\x07", "\r", "\u202e", "\x9b")


def test_what_is_shown_and_what_is_left():
    assert printable(NAME) == SHOWN
    assert printable(printable(NAME)) == SHOWN
    plain = "a\tb\nlayer1.0.conv · 98% – é 層 👩\u200d🔬"
    assert printable(plain) == plain
    assert json.loads(printable(json.dumps({"a": NAME}, ensure_ascii=False))) == {"a": NAME}
    in_markdown = SHOWN.replace(r"\u000d", " ")  # as any other white space
    assert markdown_table([NAME], []).startswith(f"| {in_markdown} |")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_keeps_its_own_styles(terminal: bool):
    written = io.StringIO()
    console = SafeConsole(
        file=written,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        width=200,
        highlight=False,
    )
    grid = Table(NAME, title=NAME)
    grid.add_row(Text(NAME, style="red"))
    console.print(NAME, markup=False)
    console.print(grid)
    text = written.getvalue()
    assert text.count("owned") == text.count(r"\u001b]0;owned") == 4
    assert text.count("\x1b[31m") == terminal  # the style's, not the name's
    for sign in STEERING[1:] if terminal else STEERING:
        assert sign not in text


def onnx_file(folder: Path) -> Path:
    w = torch.eye(30).numpy()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", NAME], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 30])],
        [helper.make_tensor_value_info("y", 1, [1, 30])],
        [numpy_helper.from_array(w, NAME)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize(
    "command", [["inspect", "m.onnx"], ["explain", "m.onnx", "--seconds", "0"], ["pack", "m.onnx"],
                ["inspect", "w.pt"], ["inspect", "w.pt", "--json"], ["inspect", "nan.pt"]]
)  # fmt: skip
def test_no_command_sends_them(program, command):
    onnx_file(program.cwd)
    torch.save({NAME: torch.eye(3)}, program.cwd / "w.pt")
    torch.save({NAME: torch.full((3, 3), torch.nan)}, program.cwd / "nan.pt")
    ended = program(*command)
    assert ended.code == (2 if "nan.pt" in command else 0), ended.err
    said = ended.out + ended.err
    assert r"\u001b]0;owned" in said or command[0] == "pack"
    for sign in STEERING:
        assert sign not in said


def test_a_line_end_in_a_name_is_no_line_end(program):
    torch.save({"a\nPASSED": torch.eye(3)}, program.cwd / "w.pt")
    assert r"a\nPASSED" in program("inspect", "w.pt").out
