"""Text that leaves the program: one line of bounded length, no control characters, no secrets.

`one_line` is used where messages leave: the last line of a command, log records, status lines.
`display_value` is for messages about settings, whose values may be misplaced secrets.
"""

from __future__ import annotations

import re

from pipeline.urls import redact

MAX_MESSAGE = 300
"""Characters of a message, with its prefixes."""
MAX_INPUT = 4000
"""Characters of a message that are processed; more would take long and be cut."""
MAX_NAME = 64
"""Characters of a name or value that is shown."""

_SECRET_KEYS = re.compile(
    r"(source|pipeline|url|broker|address|user|username|pass|password|passphrase|token|key|secret|"
    r"clients|authorization|headers)s?|\w*_(url|user|password|token|key|secret)"
)
"""Keys that expect an address or a secret, whose values are never shown."""
_NAME = re.compile(rf"[\w.-]{{1,{MAX_NAME}}}")


def one_line(text: object, length: int = MAX_MESSAGE) -> str:
    """Return a text fit to be shown: addresses redacted, on one line, shortened in the middle.

    Args:
        text: may come from a library, a server or an untrusted file.
        length: how many characters it may have.
    """
    return shorten(redact(printable(bounded(" ".join(str(text).split())))), length)


def lines(text: str) -> str:
    """Return a text of several lines, such as a traceback, with each line fit to be shown."""
    return "\n".join(redact(printable(line.expandtabs(4))) for line in bounded(text).splitlines())


def bounded(text: str, length: int = MAX_INPUT) -> str:
    """Return a text without its middle, if it is too long for `redact`.

    A word that may be an address is never cut: the rest might be its password.
    """
    if len(text) <= length:
        return text
    head, _ = _word_at(text, length // 2)
    _, tail = _word_at(text, len(text) - length // 2)
    return f"{text[:head]} ... {text[tail:]}"


def _word_at(text: str, at: int) -> tuple[int, int]:
    """Return begin and end of the word at a place; the place itself if it may be cut there."""
    begin, end = text.rfind(" ", 0, at) + 1, text.find(" ", at)
    end = len(text) if end < 0 else end
    return (begin, end) if re.search(r"[@=:/?]", text[begin:end]) else (at, at)


def printable(text: str) -> str:
    """Return a text with ? in place of characters that a terminal obeys: controls, bidi marks."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def shorten(text: str, length: int = MAX_MESSAGE) -> str:
    """Return a text without its middle, if it is too long: place and advice are at its ends."""
    if len(text) <= length:
        return text
    tail = (length - 5) * 2 // 5
    return f"{text[: length - 5 - tail]} ... {text[len(text) - tail :]}"


def display_value(value: object, key: str = "") -> str:
    """Return a wrong value as a message may show it.

    Args:
        value: value as the user wrote it.
        key: dotted path of the setting; values of keys that expect an address or a secret are never
            shown.
    """
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else repr(value)
    if isinstance(value, int | float):
        return repr(value) if abs(value) < 1e18 and not is_secret(key) else "a number"
    if value == "":
        return "an empty text"
    if isinstance(value, str):
        harmless = len(value) <= MAX_NAME and not re.search(r"[@=:/?\\]", value)
        if harmless and value.isprintable() and not is_secret(key):
            return repr(value)
        return f"a text of {len(value)} characters"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a {type(value).__name__}"


def is_secret(key: str) -> bool:
    """Return whether a key, or one of the tables it is in, expects an address or a secret."""
    return any(_SECRET_KEYS.fullmatch(part) for part in re.split(r"[.\[\]]", key.lower()))


def name_of(key: object) -> str:
    """Return a key or name as a message may show it: it may be an address by mistake."""
    return str(key) if isinstance(key, str) and _NAME.fullmatch(key) else display_value(key)


def passes_power_of_ten(before: int, after: int) -> bool:
    """Return whether a count reaches 1, 10, 100 ...: for messages about events that repeat.

    Args:
        before: count before an event.
        after: count after it.
    """
    return after > 0 and (before <= 0 or len(str(after)) > len(str(before)))
