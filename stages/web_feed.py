"""What has happened lately, in words a person reads: objects that came, streams that went away."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from stages.events import utc_ms
from stages.objects import NO_ID, Objects, label

ABSENT_NS = 2_000_000_000
"""A class of objects without ids that was not seen for so long has come anew when it is."""
FORGET_NS = 60_000_000_000
"""An id that was not seen for so long is forgotten."""
MOST_KNOWN = 4096
"""Ids of one stream that are remembered before old ones are looked for."""


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the feed."""

    number: int
    """Counts up from 1 for as long as the process lives."""
    at: str
    """Wall clock, ISO 8601, UTC."""
    stream: str = ""
    label: str = ""
    """Of an object that came; empty if this is about something else."""
    id: int | None = None
    score: float = 0.0
    count: int = 1
    """Objects of this label, where they have no ids."""
    text: str = ""
    """Of anything but an object."""
    urgent: bool = False
    """Something is wrong."""


class Feed:
    """The last things that happened; from any thread.

    Args:
        kept: how many, of objects and of all else.
    """

    def __init__(self, kept: int) -> None:
        # Apart, as a busy street would soon wash away that a camera has gone.
        self._objects: deque[Happening] = deque(maxlen=kept)
        self._others: deque[Happening] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self.newest = 0
        """Number of the last one; 0: none yet."""

    def add(self, wall_ns: int, **facts: object) -> None:
        """Add one; `facts` are fields of `Happening`."""
        with self._lock:
            self.newest += 1
            happening = Happening(self.newest, utc_ms(wall_ns), **facts)  # type: ignore[arg-type]
            (self._objects if happening.label else self._others).append(happening)

    def after(self, number: int) -> list[Happening]:
        """Those that came after this one, oldest first, as far as they are kept."""
        with self._lock:
            found = [
                happening
                for kept in (self._objects, self._others)
                for happening in kept
                if happening.number > number
            ]
        return sorted(found, key=lambda happening: happening.number)


class Sightings:
    """Tells the feed of each object once, when it comes.

    An object is known by its id. Where a stream has no ids at all (tracker `kind: none`), what
    counts is that a class is seen after it was not.

    Args:
        feed: where they go.
        labels: names of the classes.
    """

    def __init__(self, feed: Feed, labels: Sequence[str]) -> None:
        self._feed, self._labels = feed, labels
        self._seen_ns: dict[str, dict[int, int]] = {}
        """Stream -> id, or -1 - class where there are no ids -> when it was seen last."""
        self._tracked: set[str] = set()
        """Streams in which there was an id."""

    def see(self, stream: str, captured_ns: int, wall_ns: int, objects: Objects) -> None:
        """Take note of the objects of a frame that is newer than the one before."""
        seen_ns = self._seen_ns.setdefault(stream, {})
        ids, classes, scores = (
            objects.ids.tolist(),
            objects.classes.tolist(),
            objects.scores.tolist(),
        )
        for id, number, score in zip(ids, classes, scores, strict=True):
            if id == NO_ID:
                continue
            self._tracked.add(stream)
            if id not in seen_ns:
                name = label(self._labels, number)
                self._feed.add(wall_ns, stream=stream, label=name, id=id, score=round(score, 2))
            seen_ns[id] = captured_ns
        if stream not in self._tracked:
            for number, count in Counter(classes).items():
                last_ns = seen_ns.get(-1 - number)
                if last_ns is None or captured_ns - last_ns > ABSENT_NS:
                    best = max(
                        s for s, other in zip(scores, classes, strict=True) if other == number
                    )
                    self._feed.add(
                        wall_ns,
                        stream=stream,
                        label=label(self._labels, number),
                        score=round(best, 2),
                        count=count,
                    )
                seen_ns[-1 - number] = captured_ns
        if len(seen_ns) > MOST_KNOWN:
            self._seen_ns[stream] = {
                id: last for id, last in seen_ns.items() if captured_ns - last < FORGET_NS
            }

    def forget(self, stream: str) -> None:
        """Let go of what is kept of a stream that is over."""
        self._seen_ns.pop(stream, None)
        self._tracked.discard(stream)
