"""The arrows between packages: a new one is a decision about the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ANYBODY = {"errors", "common"}  # what every package may import
MAY_IMPORT = {
    "errors": "",
    "common": "",
    "distributed": "",
    "graph": "",
    "kernels": "",
    "data": "distributed",
    "format": "data graph",
    "compaction": "graph",
    "checkpoints": "data",
    "runtime": "checkpoints format graph kernels",
    "pruning": "distributed",
    "integrations": "pruning",
    "models": "checkpoints pruning",
    "training": "checkpoints data distributed models pruning",
    "measure": "data format graph runtime",
    "quantization": "data graph measure runtime",
    "verification": "checkpoints data format graph measure quantization runtime",
    "report": "measure pruning runtime verification",
    "analysis": "checkpoints compaction data format graph kernels measure quantization report "
    "runtime verification",
    "exporters": "analysis checkpoints compaction data format graph kernels measure models "
    "pruning quantization runtime training verification",
    "cli": "analysis checkpoints data distributed exporters format graph kernels measure models "
    "pruning report runtime training verification",
}


def _imported(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    package = ["fggp_deploy", *path.relative_to(ROOT).parent.parts]
    if package[1:2] == ["fggp_deploy"]:
        del package[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _arrows() -> dict[tuple[str, str], str]:
    """Every arrow between two packages, with one file that draws it."""
    found = {}
    for folder in ("fggp_deploy", "cli", "exporters"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            own = parts[1] if folder == "fggp_deploy" else folder
            for name in _imported(path):
                top, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if top == "fggp_deploy" and other in MAY_IMPORT and other != own:
                    found[own, other] = str(path.relative_to(ROOT))
    return found


def test_packages_import_only_what_they_may():
    assert {own for own, _ in _arrows()} | ANYBODY <= MAY_IMPORT.keys()
    for (own, other), path in sorted(_arrows().items()):
        allowed = ANYBODY | set(MAY_IMPORT[own].split())
        assert other in allowed, f"{path} imports {other}"


def test_the_arrows_have_no_cycle():
    TopologicalSorter({own: others.split() for own, others in MAY_IMPORT.items()}).prepare()


def test_every_package_has_its_arrows():
    packages = {p.parent.name for p in (ROOT / "fggp_deploy").glob("*/__init__.py")}
    assert packages | {"errors", "cli", "exporters"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples", "scripts", "docs"])
def test_the_rest_of_the_checkout_is_not_in_the_package(folder):
    with pytest.raises(ModuleNotFoundError):
        __import__(f"fggp_deploy.{folder}")


def test_a_checkout_on_the_path_has_the_command_line_and_the_exporters(tmp_path):
    code = "import fggp_deploy.exporters.onnx, fggp_deploy.cli.main as m; print(m.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_file()


def test_the_public_names_are_lazy_and_there():
    code = (
        "import sys, fggp_deploy as f; assert 'torch' not in sys.modules; "
        "assert 'onnxruntime' not in sys.modules; "
        "assert all(getattr(f, n) is not None for n in f.__all__); "
        "assert set(f.__all__) < set(dir(f))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
