"""The surroundings of a stage, and the offers that the pipeline itself reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, TypeVar

import msgspec

from pipeline.errors import SetupError

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
T = TypeVar("T")


class ArrayOffer(msgspec.Struct, frozen=True):
    """Base of offers about an array. They count only from a stage that gives the array."""

    array: ClassVar[str]
    """Name of the array."""


class StageOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of offers that name the stage which makes them."""

    stage: str = ""
    """Name of the stage in the settings file; the graph fills it in."""


class RowLimit(msgspec.Struct, frozen=True):
    """An offer: the stage gives arrays of at most so many rows, as do those that follow it."""

    rows: int


class SourceInfo(msgspec.Struct, frozen=True):
    """An offer that every source makes about its stream."""

    shown: str = ""
    """The source as people may see it, without credentials."""
    identity: object = None
    """Equal for two settings that read the same thing; another one is another stream."""
    live: bool = False
    """Whether frames come at their own pace and are dropped rather than waited for."""
    frames: int | None = None
    """Number of frames after which the stream ends, where the settings limit it."""


class _PrefixedLog(logging.LoggerAdapter[logging.Logger]):
    """Puts the place of a stage in the settings file in front of its messages."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        return f"{(self.extra or {})['where']}: {msg}", kwargs


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Surroundings of a stage: its place, the run, and the offers of the other stages."""

    stage: str = "stage"
    """Name of the stage in the settings file."""
    stream: str | None = None
    """Name of the stream, for a source; None for other stages."""
    streams: tuple[str, ...] = ()
    """Names of all streams at the start of the run; others may be added later."""
    live: bool = False
    """Whether any of these streams is live."""
    confidence: float | None = None
    """Score from which on a box counts as an object, where the run's settings give it."""
    started_ns: int = 0
    """Start of the run, monotonic clock."""
    restarted: bool = False
    """Whether a process of this stage has died before in this run."""
    previous_info: Mapping[str, str] = {}
    """Last value of `Stage.info` in that process."""
    offers: tuple[object, ...] = ()
    """Offers of the stage itself and of the stages before it, nearest first."""
    own_offers: int = 0
    """Number of `offers` that the stage makes itself."""
    offers_behind: tuple[object, ...] = ()
    """Offers of the stages behind it, nearest first."""

    @property
    def where(self) -> str:
        """Place in the settings file, the start of every message about the stage."""
        return f"stages.{self.stage}" if self.stream is None else f"streams.{self.stream}"

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logger that puts `where` in front of each message."""
        return _PrefixedLog(logging.getLogger(), {"where": self.where})

    def get(self, kind: type[T]) -> T | None:
        """Return the nearest offer of a type: of the stage itself or before it, else behind it.

        An `ArrayOffer` is that of the nearest stage that gives the array. The labels of a
        classifier that gives no `classes`, for example, do not replace those of the detector.
        """
        return next(self._all(kind, (*self.offers, *self.offers_behind)), None)

    def get_before(self, kind: type[T]) -> T | None:
        """Return the nearest offer of a type among the stages before, without the stage's own."""
        return next(self._all(kind, self.offers[self.own_offers :]), None)

    def get_behind(self, kind: type[T]) -> T | None:
        """Return the nearest offer of a type among the stages behind."""
        return next(self._all(kind, self.offers_behind), None)

    def require(self, kind: type[T]) -> T:
        """Return the nearest offer of a type.

        Raises:
            SetupError: no stage makes such an offer.
        """
        offer = self.get(kind)
        if offer is None:
            raise SetupError(
                f"no stage before or behind it offers {kind.__name__}; add one that does"
            )
        return offer

    @staticmethod
    def _all(kind: type[T], offers: tuple[object, ...]) -> Iterator[T]:
        return (offer for offer in offers if isinstance(offer, kind))
