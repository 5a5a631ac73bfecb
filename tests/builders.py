"""Short makers for what tests of the machinery start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.config import check
from pipeline.edge import Return
from pipeline.frame import Frame, Header, Status
from pipeline.graph.build import build
from pipeline.graph.graph import Graph
from pipeline.graph.load import settings_of
from pipeline.memory.arena import Arena
from pipeline.memory.worker_table import WorkerTable
from pipeline.stage import Array, Context, Resolved, Settings, Source, SourceInfo, Stage
from pipeline.testing import context
from stages.detections import Labels
from stages.tracking.tracker import TrackerStage

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tests" / "clips" / "demo.mp4"
MIB = 1 << 20

IMAGE = Array("image", "uint8", (None, None, 3))


def arena(
    slots: int = 3,
    stages: Sequence[str] = ("capture", "ids"),
    ordered: Sequence[str] = ("ids",),
    slot_bytes: int = 1 << 16,
) -> Arena:
    return Arena("demo", slots, stages, ordered, slot_bytes)


def worker_table(workers: int = 3) -> WorkerTable:
    return WorkerTable(workers)


def header(**fields: Any) -> Header:
    """A live header of the first loan of slot 0; `fields` replace what differs."""
    given = {"stream": 0, "seq": 0, "attempt": 0, "slot": 0, "generation": 1, "limit": 1 << 16}
    return Header(**given | fields)


def lend(of: Arena, slot: int = 0, **fields: Any) -> Header:
    """Lend a free slot for the next frame."""
    lent = header(slot=slot, seq=of.next_seq, generation=of.generation(slot) + 1, **fields)
    of.lend(slot, lent)
    return lent


def returned(of: Header, leaves: int = 1, cause: str | None = None, **fields: Any) -> Return:
    """What the last stages send back for a header."""
    given = {
        "slot": of.slot,
        "generation": of.generation,
        "attempt": of.attempt,
        "leaves": leaves,
        "cause": of.cause if cause is None else cause,
        "returned_ns": 0,
        "spans": [],
    }
    return Return(**given | fields)


def total(ledger: Any) -> int:
    """All that became of what was captured."""
    return (
        ledger.delivered
        + sum(ledger.dropped.values())
        + sum(ledger.failed.values())
        + ledger.in_flight
    )


def graph(
    stages: Mapping[str, Mapping[str, Any]],
    streams: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("demo",),
    registry: Mapping[str, str] | None = None,
    cores: int = 2,
    **top: Any,
) -> Graph:
    """A graph of `stages` behind a source that gives nothing, unless `stages` has its own."""
    tables = dict(stages)
    if not any(table.get("use") in ("source", "capture") for table in tables.values()):
        tables = {"capture": {"use": "source"}, **tables}
    named = streams if isinstance(streams, Mapping) else {name: {} for name in streams}
    known = {"source": "tests.builders:Nothing", **(registry or {})}
    raw = {"streams": named, "stages": tables, **top}
    return build(check(raw, "test.yaml"), known, "test.yaml", cores)


def tracker_settings(kind: str = "bytetrack", **given: Any) -> Settings:
    """Settings of the tracker stage, as a settings file gives them."""
    return settings_of({"kind": kind, **given}, TrackerStage, "tracker")


def context_of(labels: Sequence[str] | None = None, **given: Any) -> Context:
    """The context of a stage behind a detector with these labels."""
    return context(**({} if labels is None else {"labels": Labels(tuple(labels))}), **given)


class Nothing(Source):
    """A source without pictures."""

    gives = (IMAGE,)

    class Settings(Settings, frozen=True):
        live: bool = False

    @classmethod
    def resolve(cls, settings):
        return Resolved((SourceInfo(live=settings.live),))

    def open(self):
        self.live = self.settings.live

    def offer(self, frame):
        self.offered = frame

    def collect(self):
        return None


class Sink(Stage):
    """Takes whatever comes."""

    def process(self, frame):
        pass


def save_image(path: Path, width: int = 6, height: int = 4, value: int = 0) -> Path:
    """An image of one grey, in the format that the name says."""
    assert cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def end_of(of: Header) -> Header:
    """The header of a stream's end."""
    return header(stream=of.stream, seq=of.seq + 1, status=Status.END)


def pixels(frame: Frame) -> int:
    """The value of the first pixel's first channel."""
    return int(frame["image"][0, 0, 0])
