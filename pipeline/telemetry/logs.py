"""Log lines for the systemd journal: a priority, then facts as key=value, one line per record.

A record says what happened in words, and for programs in its `fact`:

    logging.warning("yard: waits: wrong password", extra={"fact": {"stream": "yard", ...}})

    <4>event=stream stream=yard state=waiting retry_s=4 msg="yard: waits: wrong password"

The journal brings the time, the unit and the process.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from pipeline.messages import bounded, one_line
from pipeline.urls import redact

LONGEST_VALUE = 4000
"""Characters; the journal would cut a line of more than 48 KiB in two."""

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG = 7


def is_connected(descriptor: int = 2) -> bool:
    """Whether what is written to a descriptor goes straight to the journal, by default stderr."""
    try:
        held = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{held.st_dev}:{held.st_ino}"


class Formatter(logging.Formatter):
    """A record as one line: priority, facts, message. Hides credentials in URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        priority = next((p for level, p in PRIORITIES if record.levelno >= level), DEBUG)
        fact = getattr(record, "fact", None)
        pairs = dict(fact) if isinstance(fact, Mapping) else {}
        pairs.setdefault("msg", one_line(record.getMessage()))
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return f"<{priority}>{logfmt(pairs)}"


def logfmt(pairs: Mapping[str, Any]) -> str:
    """Facts as `key=value key="a value"`, always on one line; what is empty is left out."""
    return " ".join(
        f"{re.sub(r'[^A-Za-z0-9_.]', '_', str(key))}={_value(value)}"
        for key, value in pairs.items()
        if value is not None and value != ""
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    text = redact(bounded(text, LONGEST_VALUE))
    if text and text.isprintable() and not re.search(r'[\s"=\\]', text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    # JSON lets some through that end a line, or that a terminal obeys.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)
