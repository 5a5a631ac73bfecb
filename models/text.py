"""Text from a file, made safe to show: printable, on one line, and short."""

from __future__ import annotations

from collections.abc import Iterable

MAX_CHARS = 300
"""Length limit of a shown text, and of a message."""


def shown(value: object, limit: int = MAX_CHARS) -> str:
    """Make a text from an untrusted file fit for a terminal, a log line or a label.

    Every run of white space becomes one blank, and any other character that is not printable
    (controls, escapes, marks of the writing direction, lone surrogates) a question mark. A text
    that is too long loses its middle, because a message begins with the place and ends with the
    remedy.

    Args:
        value: anything; its `str` is shown.
        limit: maximum length of the result.
    """
    text = str(value)
    if len(text) > 4 * limit:  # before the loop over characters
        text = f"{text[: 2 * limit]}…{text[-2 * limit :]}"
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


def close_match(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt one resembles most; None: none is close."""
    import difflib  # only a misspelt name needs it

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None
