"""Makes text from a file safe to print: control characters are shown, not sent to the terminal."""

from __future__ import annotations

import re

# Control characters but tab and line feed, the marks that turn the direction of text, which can
# hide what a name says, and separators that some programs take for line ends.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    r"""The text with control characters and marks of direction as `\u001b`, which JSON reads too.

    >>> printable("w\x1b[31mRED")
    'w\\u001b[31mRED'
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
