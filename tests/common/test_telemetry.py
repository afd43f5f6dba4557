"""onnxruntime sends usage data by default; importing fggp_deploy turns that off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.onnx"
IMPORTED = (
    "import os, fggp_deploy, onnxruntime\n"
    f"onnxruntime.InferenceSession({str(GOLDEN)!r})\n"
    "print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
)


def run(home: Path, *args: str, **env: str) -> str:
    """What a fresh interpreter prints, with its home and cache in `home`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, *args], env=kept | places | env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def traces(home: Path) -> list[str]:
    """Files that onnxruntime's telemetry left: a device id and a store of events."""
    return [str(p) for p in home.rglob("*") if p.is_file() and ".onnxruntime" in p.parts]


@pytest.mark.parametrize("args", [("-c", IMPORTED), ("-m", "fggp_deploy.cli", "doctor")])
def test_neither_the_library_nor_the_program_leaves_a_device_id(tmp_path, args):
    run(tmp_path, *args)
    assert traces(tmp_path) == []


def test_the_users_own_setting_is_kept(tmp_path):
    assert run(tmp_path, "-c", IMPORTED) == "1"
    assert run(tmp_path, "-c", IMPORTED, ORT_DISABLE_TELEMETRY="0") == "0"
