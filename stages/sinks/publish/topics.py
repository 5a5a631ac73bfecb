"""Topics of the MQTT sink, and the texts of its states."""

from __future__ import annotations

import functools
import re
import zlib

from pipeline.errors import SetupError
from pipeline.messages import display_value

ONLINE, OFFLINE = "online", "offline"
ON, OFF = "ON", "OFF"
ABSENT = {"count": "0", "present": OFF}
"""Last level of a state topic -> its text when there is no such object."""


class Topics:
    """Topics under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def of(self, *levels: str) -> str:
        """Return a topic under the prefix."""
        return "/".join((self.prefix, *levels))

    def stream_of(self, topic: str) -> str:
        """Return the name of the stream in a topic."""
        return topic.removeprefix(self.prefix + "/").partition("/")[0]


@functools.lru_cache(maxsize=1000)
def slug(text: str) -> str:
    """Return a text as one level of a topic: letters, digits, _ and - only.

    `traffic light` becomes `traffic_light`; where other characters than spaces are replaced, a
    checksum keeps the result unique.
    """
    plain = text.replace(" ", "_")
    made = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    return made if made == plain else f"{made}_{zlib.crc32(text.encode()):08x}"


def check_topic(key: str, topic: str) -> None:
    """Check that a setting can be the begin of a topic.

    Raises:
        SetupError: it cannot.
    """
    is_wrong = re.search(r"[+#\0\s]|^[/$]|/$|//", topic)
    if is_wrong or len(topic.encode(errors="replace")) > 200 or not topic.isprintable():
        raise SetupError(
            f"{key}: expected a topic such as home/eyeline, without + # and spaces (found "
            f"{display_value(topic)})"
        )
