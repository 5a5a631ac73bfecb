"""Random outputs of models with masks, points or an angle, and the rows that they stand for.

Decoded here one number at a time, in plain Python; shares no code with the families.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SIZE = (96, 64)
WHOLE = ("localize", "classify", "semantic", "embed")
"""Presets about the whole image."""


class Row(NamedTuple):
    score: float
    number: int
    box: tuple
    """x1, y1, x2, y2 in pixels of the input, not clipped."""
    points: list | None = None
    """(x, y, score) in pixels of the input."""
    rotated: tuple | None = None
    """cx, cy, w, h, angle."""
    mask: object = None
    """Function of a place in the input -> number that is above 0 inside."""


class DetailCase(NamedTuple):
    outputs: dict
    card: str
    rows: list


def _box(rng):
    width, height = rng.uniform(20, 60), rng.uniform(15, 40)
    return rng.uniform(width / 2, 96 - width / 2), rng.uniform(10, 54), width, height


def _corners(cx, cy, w, h):
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _grid(values, step_x, step_y):
    """Interpolate a map (h, w) at a place in the input, bilinear between the centres of cells."""
    rows, columns = values.shape

    def at(x, y):
        u, v = x / step_x - 0.5, y / step_y - 0.5
        left, top = math.floor(u), math.floor(v)
        total = 0.0
        for dy in (0, 1):
            for dx in (0, 1):
                column = min(max(left + dx, 0), columns - 1)
                row = min(max(top + dy, 0), rows - 1)
                weight = (1 - abs(u - left - dx)) * (1 - abs(v - top - dy))
                total += weight * float(values[row, column])
        return total

    return at


def _segment(objectness, finished):
    def make(rng):
        factors, n = 8, 6
        maps = rng.normal(size=(factors, 16, 24)).astype(np.float32) * 2
        table, rows = [], []
        for _ in range(n):
            cx, cy, w, h = _box(rng)
            own = rng.normal(size=factors).astype(np.float32)
            scores = rng.uniform(0.1, 0.9, 2)
            number = int(scores.argmax())
            score = float(scores.max())
            if finished:
                line = [*_corners(cx, cy, w, h), score, number, *own]
            elif objectness:
                line = [cx, cy, w, h, 0.5, *scores, *own]
                score *= 0.5
            else:
                line = [cx, cy, w, h, *scores, *own]
            table.append(line)
            total = (maps.astype(float) * own.astype(float)[:, None, None]).sum(axis=0)
            mask = _grid(total, 4, 4)
            rows.append(Row(score, number, _corners(cx, cy, w, h), mask=mask))
        joined = np.float32(table)[None]
        # More rows than columns, as those of a grid.
        filler = np.zeros((1, 40 - n, joined.shape[2]), np.float32)
        joined = np.concatenate([joined, filler], axis=1)
        if not (objectness or finished):
            joined = np.ascontiguousarray(joined.transpose(0, 2, 1))
        labels = "" if finished else "output: {classes: 2, masks: {coefficients: 8}}"
        card = "output: {masks: {coefficients: 8}}" if finished else labels
        return DetailCase({"output0": joined, "output1": maps[None]}, card, rows)

    return make


def _pose(finished):
    def make(rng):
        table, rows = [], []
        for _ in range(5):
            cx, cy, w, h = _box(rng)
            score = float(rng.uniform(0.1, 0.9))
            points = np.concatenate([rng.uniform(-5, 100, (17, 2)), rng.uniform(0, 1, (17, 1))], 1)
            head = [*_corners(cx, cy, w, h), score, 0] if finished else [cx, cy, w, h, score]
            table.append([*head, *points.reshape(-1)])
            rows.append(Row(score, 0, _corners(cx, cy, w, h), points.tolist()))
        joined = np.float32(table)[None]
        joined = np.concatenate([joined, np.zeros((1, 75, joined.shape[2]), np.float32)], axis=1)
        if finished:
            return DetailCase({"output0": joined}, "", rows)
        return DetailCase(
            {"output0": np.ascontiguousarray(joined.transpose(0, 2, 1))},
            "output: {classes: 1}",
            rows,
        )

    return make


def _oriented(finished):
    def make(rng):
        table, rows = [], []
        for _ in range(6):
            cx, cy, w, h = _box(rng)
            scores, angle = rng.uniform(0.1, 0.9, 3), float(rng.uniform(-0.7, 2.3))
            number, score = int(scores.argmax()), float(scores.max())
            head = [score, number] if finished else scores
            table.append([cx, cy, w, h, *head, angle])
            along = (abs(w * math.cos(angle)) + abs(h * math.sin(angle))) / 2
            down = (abs(w * math.sin(angle)) + abs(h * math.cos(angle))) / 2
            hull = cx - along, cy - down, cx + along, cy + down
            rows.append(Row(score, number, hull, rotated=(cx, cy, w, h, angle)))
        joined = np.float32(table)[None]
        joined = np.concatenate([joined, np.zeros((1, 34, joined.shape[2]), np.float32)], axis=1)
        if finished:
            return DetailCase({"output0": joined}, "", rows)
        return DetailCase({"output0": np.ascontiguousarray(joined.transpose(0, 2, 1))}, "", rows)

    return make


def _movenet(rng):
    raw = rng.uniform(0, 1, (1, 1, 17, 3)).astype(np.float32)
    points = [(x * 96, y * 64, s) for y, x, s in raw[0, 0].astype(float).tolist()]
    seen = [(x, y) for x, y, s in points if s >= 0.3]
    xs, ys = zip(*seen, strict=True)
    box = min(xs), min(ys), max(xs), max(ys)
    score = sum(s for _, _, s in points) / 17
    return DetailCase({"keypoints": raw}, "", [Row(score, 0, box, points)])


def _movenet_multi(rng):
    table, rows = [], []
    for _ in range(6):
        raw = rng.uniform(0, 1, (17, 3)).astype(np.float32)
        y1, x1, y2, x2 = 0.1, 0.2, 0.1 + rng.uniform(0.2, 0.8), 0.2 + rng.uniform(0.2, 0.7)
        score = float(rng.uniform(0.1, 0.9))
        table.append([*raw.reshape(-1), y1, x1, y2, x2, score])
        points = [(x * 96, y * 64, s) for y, x, s in raw.astype(float).tolist()]
        rows.append(Row(score, 0, (x1 * 96, y1 * 64, x2 * 96, y2 * 64), points))
    return DetailCase({"output_0": np.float32(table)[None]}, "", rows)


def _centerface(rng):
    across, down = 24, 16
    scores = rng.uniform(0, 0.04, (1, 1, down, across)).astype(np.float32)
    sizes = rng.uniform(0.5, 2, (1, 2, down, across)).astype(np.float32)
    offsets = rng.uniform(-0.5, 0.5, (1, 2, down, across)).astype(np.float32)
    marks = rng.uniform(0, 1, (1, 10, down, across)).astype(np.float32)
    rows = []
    for x, y in ((3, 4), (10, 9), (20, 2)):
        score = float(np.float32(rng.uniform(0.2, 0.9)))
        scores[0, 0, y, x] = score
        h, w = (math.exp(float(sizes[0, k, y, x])) * 4 for k in (0, 1))
        cy, cx = ((at + float(offsets[0, k, y, x]) + 0.5) * 4 for k, at in ((0, y), (1, x)))
        box = _corners(cx, cy, w, h)
        own = marks[0, :, y, x].astype(float).tolist()
        points = [(box[0] + own[k + 1] * w, box[1] + own[k] * h, 1.0) for k in range(0, 10, 2)]
        rows.append(Row(score, 0, box, points))
    outputs = {"heatmap": scores, "scale_wh": sizes, "offset": offsets, "landmarks": marks}
    columns = {"heatmap": "scores", "scale_wh": "dh, dw", "offset": "dy, dx"}
    columns["landmarks"] = "keypoints"
    named = ", ".join(f"{name}: [{own}]" for name, own in columns.items())
    card = f"output: {{outputs: {{{named}}}}}"
    return DetailCase(outputs, card, rows)


DETAILED = {
    "centerface": _centerface,
    "yolov8_seg": _segment(False, False),
    "yolov5_seg": _segment(True, False),
    "end_to_end_seg": _segment(False, True),
    "yolov8_pose": _pose(False),
    "end_to_end_pose": _pose(True),
    "yolov8_obb": _oriented(False),
    "end_to_end_obb": _oriented(True),
    "movenet": _movenet,
    "movenet_multi": _movenet_multi,
}
