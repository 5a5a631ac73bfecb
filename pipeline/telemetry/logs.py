"""Logging: the set-up of every process that writes log lines, and the formats of those lines.

Plain lines go to a terminal or a file. In the systemd journal, each record is one line of priority
and key=value pairs; a record carries those pairs as its `fact`, beside its message:

    logging.warning("yard: waiting: wrong password", extra={"fact": {"stream": "yard", ...}})

    <4>event=stream stream=yard state=waiting retry_s=4 msg="yard: waiting: wrong password"

The journal adds the time, the unit and the process. Both formats redact credentials. The name of a
stage is put in front of its messages by `Context.log` (`pipeline/context.py`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.messages import bounded, lines, one_line
from pipeline.urls import redact

MAX_VALUE = 4000
"""Characters of a value; the journal splits lines of more than 48 KiB."""

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Level -> priority of syslog, highest first."""
DEBUG = 7
"""Priority of all lower levels."""


def set_up(level: int, handler: logging.Handler | None = None) -> None:
    """Set up logging: to stderr, as key=value pairs if it is the systemd journal, else as lines.

    Args:
        level: lowest level that is logged.
        handler: a handler that shows time and level itself, in place of stderr.
    """
    formatter: logging.Formatter = PlainFormatter("%(message)s")
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        formatter = PlainFormatter("%(asctime)s %(levelname)s %(message)s")
        if is_journal():
            formatter = JournalFormatter()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def is_journal(descriptor: int = 2) -> bool:
    """Return whether a descriptor, by default stderr, is connected to the systemd journal."""
    try:
        held = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{held.st_dev}:{held.st_ino}"


class PlainFormatter(logging.Formatter):
    """A format of one line per record, without secrets; a debug message keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().format(record)
        return lines(text) if record.levelno <= logging.DEBUG else one_line(text)


class JournalFormatter(logging.Formatter):
    """A format of one line per record for the journal: priority, facts, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, without its end."""
        priority = next((p for level, p in PRIORITIES if record.levelno >= level), DEBUG)
        fact = getattr(record, "fact", None)
        pairs = dict(fact) if isinstance(fact, Mapping) else {}
        pairs.setdefault("msg", one_line(record.getMessage()))
        if record.exc_info:
            pairs["trace"] = self.formatException(record.exc_info)
        return f"<{priority}>{logfmt(pairs)}"


def logfmt(pairs: Mapping[str, Any]) -> str:
    """Return facts as `key=value key="a value"`, always on one line; empty ones are left out."""
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
    text = redact(bounded(text, MAX_VALUE))
    if text and text.isprintable() and not re.search(r'[\s"=\\]', text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    # JSON keeps some characters that end a line or that a terminal obeys.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)
