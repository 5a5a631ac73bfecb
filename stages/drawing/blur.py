"""Hides objects and regions in the image, before any sink gets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved, Settings, Stage
from stages.detections import (
    CANDIDATES,
    NO_TRACK_ID,
    UNFILTERED,
    WEAK_DETECTIONS,
    Detections,
    WantsAllBoxes,
    check_streams,
    class_numbers,
    labels_of,
)
from stages.drawing.obscure import METHODS, Method, Patch
from stages.drawing.recent_boxes import RecentBoxes, fractions_of, rectangles
from stages.region import Region

MAX_REGIONS = 100
"""Regions of one stream, at most."""


class BlurredRegions(Settings, frozen=True):
    """Settings for one stream."""

    regions: Annotated[list[list[tuple[float, float]]], Meta(max_length=MAX_REGIONS)]
    """Polygons that are hidden in every frame: corners in order, x and y as fractions of the
    frame's width and height."""

    def __str__(self) -> str:
        return f"({len(self.regions)} region{'s' * (len(self.regions) != 1)})"


class BlurSettings(Settings, frozen=True):
    """Settings of the stage that blurs."""

    labels: list[str] | None = None
    """Labels of the objects to hide; null: all objects; empty: none, only the regions. For a model
    without labels, the numbers of the classes, in quotes."""
    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Score from which on a box below the confidence is hidden too, as that of a person who is half
    hidden. Lower hides more people, and more that is none. Boxes below `nms.min_score` do not
    arrive."""
    streams: dict[str, BlurredRegions] = {}
    """Name of a stream -> its regions."""
    method: Method = "pixelate"
    """pixelate: 6 cells along the longer side of an object; gauss: as soft as these are coarse;
    fill: one grey, of which nothing can be restored."""
    margin: Annotated[float, Meta(ge=0, le=2)] = 0.1
    """Part of its width and height by which the box of an object is wider at each side; at least 2
    pixels."""
    hold_s: Annotated[float, Meta(ge=0, le=60)] = 0.5
    """Time in seconds for which the place of an object that is no longer detected stays hidden."""


class Blur(Stage):
    """Puts an image in which objects and regions are hidden in the place of the captured one.

    Boxes below the confidence count too, and those that suppression or a tracker drops: of a person
    who is half hidden, not of the wanted classes, or not tracked yet. The places of the last
    moments stay hidden, as a detection may be missing for a frame.

    The captured image is not changed: a frame that is resent after a crash is detected on it. The
    blurred one is a new array. A frame in which nothing is to be hidden is not copied.
    """

    Settings = BlurSettings
    takes = (
        Array("image", "uint8", (None, None, 3)),
        *CANDIDATES,
        Array("ids", "int64", (None,), optional=True),
        *WEAK_DETECTIONS,
        *UNFILTERED,
    )
    gives = (Array("image", "uint8", (None, None, 3)), Array("blurred_boxes", "int32", (None, 4)))
    derived = ("image",)
    hides = ("image",)
    ordered = True

    settings: BlurSettings

    def __init__(self, settings: BlurSettings, context: Context) -> None:
        """Look up the labels, and check the regions.

        Raises:
            SetupError: a label that the model does not have, a region that is no polygon, or
                nothing to hide.
        """
        super().__init__(settings, context)
        self._wanted: NDArray[np.int32] | None = None
        if settings.labels is not None:
            self._wanted = class_numbers(settings.labels, labels_of(context), "labels")
        self._regions = {
            name: [
                Region(corners, f"streams.{name}.regions[{number}]")
                for number, corners in enumerate(own.regions)
            ]
            for name, own in settings.streams.items()
        }
        if settings.labels == [] and not any(self._regions.values()):
            raise SetupError(
                "labels: expected labels, or regions of streams (found none); name some"
            )
        self._recent: dict[str, RecentBoxes] = {}
        self._patches: dict[str, tuple[tuple[int, int], list[Patch]]] = {}
        """Stream -> width and height of its images, and its regions in them."""

    @classmethod
    def resolve(cls, settings: BlurSettings) -> Resolved:
        """Ask the stages before it for all boxes."""
        return Resolved((WantsAllBoxes(),))

    def effective(self) -> Mapping[str, Any]:
        """Return what is hidden, and how.

        Raises:
            SetupError: there is no stream of a name.
        """
        own = self.settings
        check_streams(own.streams, self.context)
        labels = "all" if own.labels is None else " ".join(own.labels) or "none"
        regions = {f"streams.{name}": str(rules) for name, rules in own.streams.items()}
        return {"labels": labels, "min_score": own.min_score, "method": own.method, **regions}

    def process(self, frame: Frame) -> None:
        """Add `blurred_boxes`: the places of objects to hide, x1, y1, x2, y2 in whole pixels."""
        boxes, ids = self._found(frame)
        places = fractions_of(boxes, frame.width, frame.height)
        if not frame.still:
            places = self._recent_of(frame.stream).update(places, ids, frame.time_s)
        frame.put(
            "blurred_boxes", rectangles(places, self.settings.margin, frame.width, frame.height)
        )

    def derive(self, frame: Frame) -> None:
        """Add `image`, in which these and the regions of the stream are hidden."""
        boxes, patches = frame["blurred_boxes"], self._patches_of(frame)
        if not len(boxes) and not patches:
            return
        captured = frame["image"]
        image = frame.empty("image", captured.shape, np.uint8)
        np.copyto(image, captured)
        method = self.settings.method
        for patch in patches:
            patch.hide(image, method)
        hide = METHODS[method]
        # The largest first: a smaller one then only makes its part of a larger one coarser.
        for x1, y1, x2, y2 in boxes.tolist():
            hide(image[y1:y2, x1:x2])

    def end(self, stream: str) -> None:
        """Forget the places of a stream."""
        self._recent.pop(stream, None)
        self._patches.pop(stream, None)

    def state(self, stream: str) -> bytes:
        """Return the places of the last moments."""
        return self._recent[stream].state() if stream in self._recent else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with the places of the last moments."""
        self._recent_of(stream).restore(state)

    def _found(self, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the boxes of all objects to hide, (N, 4) in px, and their track ids, (N,)."""
        boxes, scores, classes, ids = ([part] for part in Detections.of(frame))
        scores[0] = np.ones_like(scores[0])  # an object, however low its score
        for prefix in ("weak", "unfiltered"):
            if f"{prefix}_boxes" in frame:
                boxes.append(frame[f"{prefix}_boxes"])
                scores.append(frame[f"{prefix}_scores"])
                classes.append(frame[f"{prefix}_classes"])
                ids.append(np.full(len(boxes[-1]), NO_TRACK_ID, np.int64))
        every = np.concatenate(boxes)
        wanted = ~np.isnan(every).any(axis=1)
        wanted &= np.concatenate(scores) >= np.float32(self.settings.min_score)
        if self._wanted is not None:
            wanted &= np.isin(np.concatenate(classes), self._wanted)
        # A box may be there with its id and, as one of all boxes, without.
        every, first = np.unique(every[wanted], axis=0, return_index=True)
        return every, np.concatenate(ids)[wanted][first]

    def _recent_of(self, stream: str) -> RecentBoxes:
        if stream not in self._recent:
            own = self.settings
            self._recent[stream] = RecentBoxes(own.hold_s, own.margin)
        return self._recent[stream]

    def _patches_of(self, frame: Frame) -> list[Patch]:
        regions = self._regions.get(frame.stream)
        if not regions:
            return []
        size = frame.width, frame.height
        if frame.stream not in self._patches or self._patches[frame.stream][0] != size:
            patches = [Patch(region.corners, *size) for region in regions]
            self._patches[frame.stream] = size, patches
        return self._patches[frame.stream][1]
