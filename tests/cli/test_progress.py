"""Progress without a terminal: a line a part, and one now and then in a long part."""

from __future__ import annotations

import pytest

from fggp_deploy.cli.progress import working


def test_a_long_part_is_told_of_again(capsys: pytest.CaptureFixture[str]):
    now = [0.0]
    with working("verifying", clock=lambda: now[0]) as progress:
        for done in range(5):
            now[0] = 15.0 * done
            progress("robustness", 1000 * done, 4000)
        progress("latency", 0, 10)
    assert capsys.readouterr().err.splitlines() == [
        "verifying: robustness",
        "verifying: robustness, 2,000 of 4,000",
        "verifying: robustness, 4,000 of 4,000",
        "verifying: latency",
    ]
