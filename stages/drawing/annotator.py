"""Draws what models find onto a copy of the image: boxes, tags, trails, and the shapes of tasks.

Masks are tinted, keypoints joined to skeletons, rotated boxes take the place of upright ones,
classes of objects stand in their tags, and those of the whole frame in the corner at the top right.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from pipeline.stage import Context
from stages.details import (
    Attribute,
    ObjectDetails,
    SemanticLabels,
    Skeleton,
    frame_labels_of,
)
from stages.detections import NO_TRACK_ID, Detections, label, labels_of
from stages.drawing.palette import BLACK, COLOURS, GREY, WHITE, Colour
from stages.drawing.semantic_layer import SemanticLayer
from stages.drawing.shapes import Corners, draw_box, draw_mask, draw_rotated, draw_skeleton
from stages.drawing.tags import draw_tag, text_image

MAX_TAG_CHARACTERS = 40
"""Length at which a label is cut."""
MAX_ATTRIBUTES = 3
"""Classes from other models in the tag of an object."""
MAX_ATTRIBUTE_CHARACTERS = 24
MAX_FRAME_LABELS = 5
MAX_TRAIL_POINTS = 32


def annotator_of(context: Context, trail_frames: int = 40) -> Annotator:
    """Return an annotator with the names that the stages before a sink offer.

    Args:
        context: of the sink.
        trail_frames: length of a trail in frames; 0: no trails.
    """
    skeleton, classes = context.get(Skeleton), context.get(SemanticLabels)
    return Annotator(
        labels_of(context),
        trail_frames,
        () if skeleton is None else skeleton.edges,
        () if classes is None else classes.names,
    )


class Annotator:
    """Draws on an image of its own, one per stream, which it reuses for the next frame.

    The same id has the same colour in every frame and stream; an object without an id has that of
    its class. Boxes that are not finite or lie outside the image are left out.

    Args:
        labels: names of the classes.
        trail_frames: length of a trail in frames; 0: no trails.
        edges: pairs of keypoints, by number, between which a line is drawn.
        classes: names of the classes of semantic maps.
    """

    def __init__(
        self,
        labels: Sequence[str] = (),
        trail_frames: int = 40,
        edges: Sequence[tuple[int, int]] = (),
        classes: Sequence[str] = (),
    ) -> None:
        self._labels = labels
        self._trail_frames = trail_frames
        self._edges = edges
        self._semantic_layer = SemanticLayer(classes)
        self._images: dict[str, NDArray[np.uint8]] = {}
        self._trails: dict[str, dict[int, _Trail]] = {}

    def draw(self, frame: Frame, status: str = "") -> NDArray[np.uint8]:
        """Return a copy of the image of a frame with its detections drawn on it.

        Args:
            frame: with `image` (H, W, 3) uint8 BGR and the arrays of `RESULTS`. Where its image
                is smaller than the captured frame, the arrays come from `copy_detections`.
            status: a line of text for the top left corner.

        Returns:
            (H, W, 3) uint8 BGR, valid until the next call for the same stream.
        """
        canvas = self._copy(frame)
        height, width = canvas.shape[:2]
        line_px = max(1, round(min(height, width) / 360))
        scale = max(0.35, min(height, width) / 1150)
        if "semantic_map" in frame:
            self._semantic_layer.draw(canvas, frame["semantic_map"], scale)
        drawn = self._visible(Detections.of(frame), width, height, line_px)
        details = ObjectDetails.of(frame) if drawn else ObjectDetails()
        self._draw_masks(canvas, frame, details, drawn, line_px)
        if self._trail_frames:
            self._draw_trails(canvas, frame, drawn, line_px)
        places = self._draw_outlines(canvas, details, drawn, line_px)
        if details.keypoints is not None:
            for box in drawn:
                draw_skeleton(canvas, details.keypoints[box.row], self._edges, box.colour, line_px)
        for box, (x, y) in zip(drawn, places, strict=True):  # last, so that no line crosses a tag
            attributes = {} if details.attributes is None else details.attributes[box.row]
            draw_tag(
                canvas,
                x,
                y,
                text_image(box.name, BLACK, box.colour, scale),
                text_image(f"{box.score:.2f}", BLACK, box.colour, scale),
                *attribute_images(list(attributes.values()), scale),
            )
        # Without the cache, as each status line is different.
        line = text_image.__wrapped__(status, WHITE, GREY, scale) if status else None
        self._draw_frame_labels(canvas, frame, scale, 0 if line is None else line.shape[1])
        if line is not None:
            draw_tag(canvas, 0, 0, line)
        return canvas

    def forget(self, stream: str) -> None:
        """Release the image and the trails of a stream that has ended."""
        self._images.pop(stream, None)
        self._trails.pop(stream, None)

    def _copy(self, frame: Frame) -> NDArray[np.uint8]:
        image = frame["image"]
        canvas = self._images.get(frame.stream)
        if canvas is None or canvas.shape != image.shape:
            canvas = self._images[frame.stream] = np.empty(image.shape, np.uint8)
            self._trails[frame.stream] = {}
        np.copyto(canvas, image)
        return canvas

    def _visible(self, objects: Detections, width: int, height: int, margin_px: int) -> list[_Box]:
        """Return the boxes to draw.

        Corners are clipped just outside the image: lines outside stay there, and every number fits
        OpenCV.
        """
        drawn = []
        right, bottom = width + margin_px, height + margin_px
        rows = zip(
            objects.boxes.tolist(),
            objects.scores.tolist(),
            objects.classes.tolist(),
            objects.ids.tolist(),
            strict=True,
        )
        for row, ((x1, y1, x2, y2), score, number, id) in enumerate(rows):
            # False also for NaN.
            if 0 <= x2 >= x1 < width and 0 <= y2 >= y1 < height:
                corners = (
                    round(max(x1, -margin_px)),
                    round(max(y1, -margin_px)),
                    round(min(x2, right)),
                    round(min(y2, bottom)),
                )
                name = label(self._labels, number)[:MAX_TAG_CHARACTERS]
                if id == NO_TRACK_ID:
                    colour = COLOURS[number % len(COLOURS)]
                    drawn.append(_Box(corners, colour, id, name, score, row))
                else:
                    colour = COLOURS[id % len(COLOURS)]
                    drawn.append(_Box(corners, colour, id, f"{name} {id}", score, row))
        return drawn

    def _draw_masks(
        self,
        canvas: NDArray[np.uint8],
        frame: Frame,
        details: ObjectDetails,
        drawn: Sequence[_Box],
        line_px: int,
    ) -> None:
        if details.masks is not None:
            size = frame.height, frame.width
            for box in drawn:
                text = details.masks[box.row]
                draw_mask(canvas, text, size, box.corners, box.colour, line_px)

    def _draw_outlines(
        self,
        canvas: NDArray[np.uint8],
        details: ObjectDetails,
        drawn: Sequence[_Box],
        line_px: int,
    ) -> list[tuple[int, int]]:
        """Draw each box, upright or rotated, and return the place of its tag."""
        places = []
        for box in drawn:
            place = box.corners[:2]
            if details.rotated is None:
                draw_box(canvas, box.corners, box.colour, line_px)
            else:
                rotated = details.rotated[box.row]
                place = draw_rotated(canvas, rotated, box.colour, line_px) or place
            places.append(place)
        return places

    def _draw_frame_labels(
        self, canvas: NDArray[np.uint8], frame: Frame, scale: float, status_px: int
    ) -> None:
        """Draw the classes of the frame below each other at the top right, best first.

        They begin below a status line of that width, if there is no room beside it.
        """
        width, y = canvas.shape[1], 0
        for found in frame_labels_of(frame)[:MAX_FRAME_LABELS]:
            images = (
                text_image(found.label[:MAX_TAG_CHARACTERS], WHITE, GREY, scale),
                text_image(f"{found.score:.2f}", WHITE, GREY, scale),
            )
            tall, wide = images[0].shape[0], sum(image.shape[1] for image in images)
            if not y and status_px and wide + status_px > width:
                y = tall
            y += tall
            draw_tag(canvas, width, y, *images)

    def _draw_trails(
        self, canvas: NDArray[np.uint8], frame: Frame, drawn: Sequence[_Box], line_px: int
    ) -> None:
        trails, oldest_seq = self._trails[frame.stream], frame.seq - self._trail_frames
        for (x1, _, x2, y2), colour, id, *_ in drawn:
            if id == NO_TRACK_ID:
                continue
            trail = trails.get(id)
            if trail is None:
                trail = trails[id] = _Trail()
            trail.add(frame.seq, (x1 + x2) // 2, y2, 3 * line_px)
            points = trail.since(oldest_seq)
            if len(points) > 1:
                cv2.polylines(canvas, [points], False, colour, max(1, line_px // 2))
        for id in [id for id, trail in trails.items() if trail.last_seq < oldest_seq]:
            del trails[id]


class _Box(NamedTuple):
    """An object as it is drawn."""

    corners: Corners
    colour: Colour
    id: int
    name: str
    score: float
    row: int
    """Row of the detection in the arrays."""


class _Trail:
    """The last positions of an object, at least a few pixels from each other."""

    __slots__ = ("_points", "_seqs", "_x", "_y", "last_seq")

    def __init__(self) -> None:
        # Flat x, y, x, y: OpenCV can draw from an array's own memory, not from a list.
        self._points = array("i")
        self._seqs: list[int] = []
        self._x = self._y = -(1 << 30)
        self.last_seq = 0

    def add(self, seq: int, x: int, y: int, min_step_px: int) -> None:
        """Add a position, unless it is too near to the one before."""
        self.last_seq = seq
        if abs(x - self._x) + abs(y - self._y) >= min_step_px:
            self._x, self._y = x, y
            self._points.extend((x, y))
            self._seqs.append(seq)

    def since(self, seq: int) -> NDArray[np.int32]:
        """Return the positions from a frame on, at most `MAX_TRAIL_POINTS`: (N, 2) xy in pixels.

        Valid until the next call of `add`; older positions are dropped.
        """
        old = max(bisect_left(self._seqs, seq), len(self._seqs) - MAX_TRAIL_POINTS)
        if old > 0:
            del self._seqs[:old]
            del self._points[: 2 * old]
        return np.frombuffer(self._points, np.int32).reshape(-1, 2)


def attribute_images(attributes: Sequence[Attribute], scale: float) -> list[NDArray[np.uint8]]:
    """Return the text of the classes that other models give an object, with their scores.

    Args:
        attributes: the classes.
        scale: size of the text.
    """
    images = []
    for found in attributes[:MAX_ATTRIBUTES]:
        score = f"{found.score:.1f}".removeprefix("0")
        images.append(text_image(found.label[:MAX_ATTRIBUTE_CHARACTERS], WHITE, GREY, scale))
        images.append(text_image(score, WHITE, GREY, scale))
    return images
