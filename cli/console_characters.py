"""Printing in locales that lack some characters, such as the C locale, which has only ASCII."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

HANDLER = "fggp_deploy.nearest"  # the name of our `errors` handler
_NEAREST = {
    "×": "x", "−": "-", "–": "-", "—": "-", "·": "*", "…": "...", "→": "->", "←": "<-", "≤": "<=",
    "≥": ">=", "≠": "!=", "±": "+-", "‖": "|", "“": '"', "”": '"', "«": '"', "»": '"', "‘": "'",
    "’": "'", "′": "'", "µ": "u", "∞": "inf", "ε": "eps", "λ": "lambda", "ρ": "rho", "τ": "tau",
    "θ": "theta", "Σ": "sum", "½": "1/2",
}  # fmt: skip


def tolerate_any_character() -> None:
    """Let stdout and stderr print every character, by a similar one if they lack it, or escaped."""
    codecs.register_error(HANDLER, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def has_unicode(encoding: str | None) -> bool:
    """True for an encoding in which every character can be written."""
    try:
        return codecs.lookup(encoding or "utf-8").name.startswith("utf-")
    except LookupError:
        return False


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """The handler of an encoder: what to write instead of the characters that it lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    escaped = character.encode("ascii", "backslashreplace").decode()
    return _NEAREST.get(character) or bare or escaped
