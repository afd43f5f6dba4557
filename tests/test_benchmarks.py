"""`make bench` on a tiny network: what it reports, not how fast anything is."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import bench_kernels
import networks
import numpy as np
import onnxruntime as ort
import pytest
import rivals
from busy import one_busy_core
from thread_scaling import thread_counts

from fggp_deploy import kernels

pytestmark = pytest.mark.usefixtures("own_cache")
SHORT = ["--networks", "tiny", "--sparsities", "0.9", "--seconds", "0.01", "--sessions", "6"]
SHORT += ["--tuning-seconds", "0.05", "--block-ms", "0.1", "--json"]


def tiny() -> networks.Net:
    net = networks.Net(8)
    x = net.relu(net.conv("x", 16, 3))
    net.classify(net.relu(net.conv(x, 32, 3)), 10)
    return net


@pytest.fixture
def rival(monkeypatch: pytest.MonkeyPatch):
    """One rival is installed, an imitation of MNN; OpenVINO is not."""

    def opener(dense: Path, x, threads: int):
        return lambda: lambda: ort.InferenceSession(str(dense)).run(None, {"x": x})[0]

    known = {"openvino": ("no_such_module", rivals.openvino), "mnn": ("onnxruntime", opener)}
    monkeypatch.setattr(rivals, "_RIVALS", known)
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    rivals.rivals.cache_clear()
    yield
    rivals.rivals.cache_clear()


@pytest.mark.skipif(kernels.library_path() is None, reason="no kernel library")
def test_a_report(tmp_path: Path, capfd: pytest.CaptureFixture[str], rival: None) -> None:
    output = tmp_path / "report.json"
    arguments = [*SHORT, "--threads", "1,2", "--output", str(output)]
    assert bench_kernels.main([*arguments, "--sections", "threads"]) == 0
    assert bench_kernels.main([*arguments, "--sections", "speed", "--add"]) == 0
    said = capfd.readouterr()
    assert said.err.count("no_such_module is not installed, so it is left out") == 1
    assert "| kernels, 2 threads, busy | mnn, 2 threads, busy |" in said.err
    report = json.loads(output.read_text())
    assert said.out.endswith(json.dumps(report, indent=2) + "\n")
    assert len(report["commands"]) == 2
    assert [row["mask"] for row in report["speed"]] == ["erk", "uniform"]
    assert {"kernels", "bare", "mnn"} <= report["speed"][0].keys()
    (row,) = report["threads"]
    for machine in (row["free"], row["busy"]):
        assert machine["over_dense"].keys() == {"kernels", "mnn"}
        assert machine["over_dense"]["mnn"].keys() == {"1", "2"}
        assert machine["over_one_thread"]["dense"].keys() == {"2"}
        low, high = machine["over_dense"]["kernels"]["2"]["interval"]
        assert 0 < low <= machine["over_dense"]["kernels"]["2"]["ratio"] <= high
    chart = ElementTree.parse(tmp_path / "report-threads.svg").getroot()
    assert chart.tag.endswith("svg")


def test_the_busy_process_ends() -> None:
    with one_busy_core() as child:
        assert child.poll() is None
    assert child.poll() is not None
    with pytest.raises(KeyboardInterrupt), one_busy_core() as child:
        raise KeyboardInterrupt
    assert child.poll() is not None


def test_the_kernels_alone_are_held_to_their_tolerance(tmp_path: Path, rival: None) -> None:
    files = bench_kernels.Files(str(tmp_path), "tiny", "erk", 0.9)
    want = files.open_dense().run(None, files.feeds(1))[0]
    files.check("kernels", want * np.float32(1 + 2e-6))
    with pytest.raises(SystemExit, match="kernels: outputs differ by"):
        files.check("kernels", want * np.float32(1 + 2e-5))


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1, 2]), (2, [1, 2]), (6, [1, 2, 4]), (8, [1, 2, 4, 8])]
)
def test_counts_of_threads(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def test_mnn_is_never_asked_to_install_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing `MNN.tools` would; only the converter's own module is used."""
    asked: list[list[str]] = []

    def convert(arguments: list[str]) -> None:
        asked.append(arguments)
        Path(arguments[arguments.index("--MNNModel") + 1]).write_bytes(b"")

    monkeypatch.setitem(sys.modules, "MNN", types.SimpleNamespace())  # has no tools
    monkeypatch.setitem(sys.modules, "_tools", types.SimpleNamespace(mnnconvert=convert))
    rivals.mnn(tmp_path / "net.onnx", None, 1)
    rivals.mnn(tmp_path / "net.onnx", None, 2)
    assert len(asked) == 1
    assert "--detectSparseSpeedUp" in asked[0]
