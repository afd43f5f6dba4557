"""Consoles of rich that show control characters of printed texts instead of sending them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from fggp_deploy.common.printable import printable


class SafeConsole(Console):
    """A console that cannot be steered by what it prints, as by a tensor's name in a file.

    Styles and the movements of a progress bar are rich's own, and work as ever.
    """

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        """Render to segments whose texts are printable."""
        for segment in super().render(*args, **kwargs):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
