"""Consoles of rich that show the control characters of a text instead of sending them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

from fggp_deploy.common.printable import printable


class SafeConsole(Console):
    """A console that printed text, such as the name of a tensor in a file, cannot control.

    Styles and progress bars come from rich itself and work as usual.
    """

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
        """Render to segments whose texts are printable."""
        for segment in super().render(*args, **kwargs):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
