"""Text that a file brings in, as it may be shown: printable, on one line, and short."""

from __future__ import annotations

MAX_CHARS = 300
"""Characters of a text, or of a message, that are shown."""


def shown(value: object, limit: int = MAX_CHARS) -> str:
    """Make a text from an untrusted file fit for a terminal, a log line or a label.

    White space of every kind becomes one blank and any other character that does not print
    (controls, escapes, marks that turn the direction of writing, lone surrogates) a question mark.
    Of a text that is too long the middle is left out: a message begins with the place and ends
    with the remedy.

    Args:
        value: anything; its `str` is shown.
        limit: characters of the result at most.
    """
    text = str(value)
    if len(text) > 4 * limit:  # before it is looked at one character at a time
        text = f"{text[: 2 * limit]}…{text[-2 * limit :]}"
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"
