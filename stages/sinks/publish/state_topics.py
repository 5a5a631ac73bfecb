"""Retained states of the MQTT sink: of each topic only the newest text counts."""

from __future__ import annotations

import itertools
import threading

from stages.sinks.publish.topics import ABSENT, ONLINE, Topics, slug

MAX_OLD_TOPICS = 10_000


class StateTopics:
    """Texts of the state topics, and those that are not published yet. For any thread.

    Args:
        topics: topics of the sink.
        labels: labels whose states are known from the begin of a stream.
    """

    def __init__(self, topics: Topics, labels: tuple[str, ...]) -> None:
        self._topics, self._labels = topics, labels
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        """Topic -> its text."""
        self._unpublished: dict[str, None] = {}
        """Topics whose text is not published yet, in order."""
        self._running: set[str] = set()
        """Streams that have given a frame and have not ended."""
        self._old: set[str] = set()
        """Topics with a text of an earlier run that may be wrong now."""

    @property
    def has_unpublished(self) -> bool:
        """Whether a text is not published yet."""
        return bool(self._unpublished)

    def is_running(self, stream: str) -> bool:
        """Return whether a stream has given a frame and has not ended."""
        return stream in self._running

    def set(self, topic: str, text: str) -> None:
        """Set the text of a topic."""
        with self._lock:
            self._set(topic, text)

    def begin(self, stream: str) -> None:
        """Begin a stream with its first frame: from now on its states are known."""
        with self._lock:
            self._running.add(stream)
            self._set(self._topics.of(stream, "availability"), ONLINE)
            for label in self._labels:
                for kind, text in ABSENT.items():
                    topic = self._topics.of(stream, slug(label), kind)
                    if topic not in self._texts:
                        self._set(topic, text)
            for topic in [t for t in self._old if self._topics.stream_of(t) == stream]:
                self._correct(topic)

    def end(self, stream: str, text: str) -> None:
        """End a stream, and set its availability."""
        with self._lock:
            self._running.discard(stream)
            self._set(self._topics.of(stream, "availability"), text)

    def set_availability(self, stream: str, text: str) -> None:
        """Set the availability of a stream; online only after its first frame."""
        with self._lock:
            if text == ONLINE and stream not in self._running:
                return
            self._set(self._topics.of(stream, "availability"), text)

    def note_retained(self, topic: str, text: str) -> None:
        """Note a text that the broker has kept from an earlier run."""
        if not text or text == ABSENT.get(topic.rpartition("/")[2]):
            return
        with self._lock:
            if len(self._old) < MAX_OLD_TOPICS:
                self._old.add(topic)
            if self._topics.stream_of(topic) in self._running:
                self._correct(topic)

    def republish(self) -> None:
        """Mark all texts as not published."""
        with self._lock:
            self._unpublished = dict.fromkeys(self._texts)

    def take(self, limit: int) -> list[tuple[str, str]]:
        """Return topics and texts to publish, which then count as published."""
        with self._lock:
            topics = list(itertools.islice(self._unpublished, limit))
            for topic in topics:
                del self._unpublished[topic]
            return [(topic, self._texts[topic]) for topic in topics]

    def _set(self, topic: str, text: str) -> None:
        if self._texts.get(topic) != text:
            self._texts[topic] = text
            self._unpublished[topic] = None

    def _correct(self, topic: str) -> None:
        """Set a text of an earlier run to that of an absent object."""
        self._old.discard(topic)
        if topic not in self._texts:
            self._set(topic, ABSENT[topic.rpartition("/")[2]])
