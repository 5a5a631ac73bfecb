"""Decoders of detectors' outputs in plain Python and float64, written from the papers.

They share no code with `models`: loops over nested lists, one row after the other. Each returns a
list of `Found` with every row, in pixels of the input; `finish` leaves out those of a low score.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Found(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    label: int


# --- numbers ---


def sigmoid(x):
    if x >= 0:
        return 1 / (1 + math.exp(-x))
    return math.exp(x) / (1 + math.exp(x))


def softmax(values):
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def identity(x):
    return x


ACTIVATIONS = {"none": identity, "sigmoid": sigmoid}


def best(values, activation="none", background=None):
    """The best score of a row and its class, without the background."""
    if activation == "softmax":
        values = softmax(values)
    else:
        values = [ACTIVATIONS[activation](value) for value in values]
    left = list(values)
    if background is not None:
        del left[background]
    label = 0
    for i, value in enumerate(left):
        if value > left[label]:
            label = i
    return left[label], label


def finish(found, min_score, width, height, transform=(1.0, 1.0, 0.0, 0.0)):
    """The rows that reach a score, in pixels of an image, inside it."""
    scale_x, scale_y, pad_x, pad_y = transform

    def across(x):
        return min(max((x - pad_x) / scale_x, 0), width)

    def down(y):
        return min(max((y - pad_y) / scale_y, 0), height)

    return [
        Found(across(r.x1), down(r.y1), across(r.x2), down(r.y2), r.score, r.label)
        for r in found
        if r.score >= min_score
    ]


# --- boxes ---


def from_corners(x1, y1, x2, y2):
    return x1, y1, x2, y2


def from_centre(cx, cy, w, h):
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def from_corner_and_size(x, y, w, h):
    return x, y, x + w, y + h


FORMS = {
    ("x1", "y1", "x2", "y2"): from_corners,
    ("cx", "cy", "w", "h"): from_centre,
    ("x", "y", "w", "h"): from_corner_and_size,
}


def box_of(named, unit):
    """The box of a row {column: number}; `unit`: width and height of a coordinate of 1."""
    for columns, form in FORMS.items():
        if all(column in named for column in columns):
            x1, y1, x2, y2 = form(*(named[column] for column in columns))
            return x1 * unit[0], y1 * unit[1], x2 * unit[0], y2 * unit[1]
    raise AssertionError(f"no box in {sorted(named)}")


# --- rows ---


def named(row, columns, classes=0, bins=0):
    """A row as {column: number, or list of numbers}."""
    result, at = {}, 0
    for column in columns:
        width = {"scores": classes, "bins": bins, "rest": len(row) - at}.get(column)
        if width is None:
            result[column] = row[at]
            at += 1
        else:
            result[column] = row[at : at + width]
            at += width
    assert at == len(row), (columns, len(row))
    return result


def rows(table, unit=(1, 1), activation="none", background=None, offset=0, combine="product"):
    """Rows {column: number} whose boxes are worked out: joined, beside, or finished ones."""
    found = []
    for row in table:
        if "scores" in row:
            score, label = best(row["scores"], activation, background)
        else:
            number = round(row.get("class", offset)) - offset
            if number < 0:
                continue
            score, label = ACTIVATIONS[activation](row["score"]), number
        if "objectness" in row:
            score *= ACTIVATIONS[activation](row["objectness"])
            if combine == "geometric_mean":
                score = math.sqrt(score)
        found.append(Found(*box_of(row, unit), score, label))
    return found


def transposed(columns):
    """Rows of an output whose first axis is that of the columns."""
    return [[column[i] for column in columns] for i in range(len(columns[0]))]


# --- grids ---


def cells(size, stride, rounding="floor"):
    """Columns and rows of the grid of a stride."""
    if rounding == "ceil":
        return math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    return size[0] // stride, size[1] // stride


def map_channels_first(output, anchors, columns, rows):
    """{(anchor, y, x): numbers} of [A*K, H, W]."""
    k = len(output) // anchors
    return {
        (a, y, x): [output[a * k + i][y][x] for i in range(k)]
        for a in range(anchors)
        for y in range(rows)
        for x in range(columns)
    }


def map_channels_last(output, anchors, columns, rows):
    """The same of [H, W, A*K]."""
    k = len(output[0][0]) // anchors
    return {
        (a, y, x): output[y][x][a * k : (a + 1) * k]
        for a in range(anchors)
        for y in range(rows)
        for x in range(columns)
    }


def map_anchors_first(output, anchors, columns, rows):
    """The same of [A, H, W, K]."""
    return {
        (a, y, x): output[a][y][x]
        for a in range(anchors)
        for y in range(rows)
        for x in range(columns)
    }


def map_anchors_third(output, anchors, columns, rows):
    """The same of [H, W, A, K]."""
    return {
        (a, y, x): output[y][x][a]
        for a in range(anchors)
        for y in range(rows)
        for x in range(columns)
    }


def map_anchors_then_channels(output, anchors, columns, rows):
    """The same of [A, K, H, W]."""
    return {
        (a, y, x): [channel[y][x] for channel in output[a]]
        for a in range(anchors)
        for y in range(rows)
        for x in range(columns)
    }


def rows_of_cells(output, anchors, columns, rows, anchors_first=False):
    """The same of rows [N, K] of one grid."""
    found = {}
    for a in range(anchors):
        for y in range(rows):
            for x in range(columns):
                cell = y * columns + x
                at = a * columns * rows + cell if anchors_first else cell * anchors + a
                found[a, y, x] = output[at]
    return found


def split_rows(output, lengths):
    """Joined rows of several grids, apart."""
    found, at = [], 0
    for length in lengths:
        found.append(output[at : at + length])
        at += length
    assert at == len(output)
    return found


def yolo(grids, coding, activation="none", combine="product"):
    """YOLOv3 (2018, section 2.1), YOLOv5, YOLOX (2021, section 2.1): grids of offsets.

    Args:
        grids: (stride, anchors, {(anchor, y, x): {column: number}}) each.
    """
    found = []
    for stride, anchors, grid in grids:
        for (a, y, x), row in grid.items():
            dx, dy, dw, dh = row["dx"], row["dy"], row["dw"], row["dh"]
            if coding == "yolov3":
                cx, cy = (x + sigmoid(dx)) * stride, (y + sigmoid(dy)) * stride
                w, h = math.exp(dw) * anchors[a][0], math.exp(dh) * anchors[a][1]
            elif coding == "yolov5":
                cx = (x + 2 * sigmoid(dx) - 0.5) * stride
                cy = (y + 2 * sigmoid(dy) - 0.5) * stride
                w = (2 * sigmoid(dw)) ** 2 * anchors[a][0]
                h = (2 * sigmoid(dh)) ** 2 * anchors[a][1]
            elif coding == "yolox":
                cx, cy = (x + dx) * stride, (y + dy) * stride
                w, h = math.exp(dw) * stride, math.exp(dh) * stride
            else:
                cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, dw * stride, dh * stride
            centre = {"cx": cx, "cy": cy, "w": w, "h": h}
            found += rows([row | centre], activation=activation, combine=combine)
    return found


def distances(grids, activation="none", point=0.5, unit=None):
    """FCOS (ICCV 2019, section 3.1) and distributions (GFL, NeurIPS 2020, section 3).

    Args:
        grids: (stride, {(0, y, x): {column: numbers}}) each.
        activation: of scores.
        point: place of the point in its cell.
        unit: width and height of a distance of 1; None: strides.
    """
    found = []
    for stride, grid in grids:
        for (_, y, x), row in grid.items():
            if "bins" in row:
                n = len(row["bins"]) // 4
                sides = []
                for side in range(4):
                    shares = softmax(row["bins"][side * n : (side + 1) * n])
                    sides.append(sum(i * share for i, share in enumerate(shares)))
                across = down = stride
            else:
                sides = [row[name] for name in ("left", "top", "right", "bottom")]
                across, down = unit or (stride, stride)
            px, py = (x + point) * stride, (y + point) * stride
            corners = {
                "x1": px - sides[0] * across,
                "y1": py - sides[1] * down,
                "x2": px + sides[2] * across,
                "y2": py + sides[3] * down,
            }
            found += rows([row | corners], activation=activation)
    return found


def peaks_only(grid, columns, rows):
    """A map of scores {(0, y, x): [scores]} with 0 in place of all that are no local maximum."""
    result = {}
    for (_, y, x), row in grid.items():
        kept = []
        for label, score in enumerate(row):
            around = [
                grid[0, v, u][label]
                for v in range(max(0, y - 1), min(rows, y + 2))
                for u in range(max(0, x - 1), min(columns, x + 2))
            ]
            kept.append(score if score >= max(around) else -1e9)
        result[0, y, x] = kept
    return result


# --- priors ---


def tf_priors(grids, size, ratios, low=0.2, high=0.95, reduce_first=True):
    """`ssd_anchor_generator` of the TensorFlow Object Detection API: cx, cy, w, h in pixels.

    Args:
        grids: (rows, columns) each.
        size: width and height of the input in pixels.
        ratios: width / height.
        low: scale of the first grid.
        high: scale of the last grid.
        reduce_first: whether the first grid has three priors for each cell.
    """
    count = len(grids)
    scales = [low + (high - low) * i / (count - 1) if count > 1 else low for i in range(count)]
    scales.append(1.0)
    shorter = min(size)
    found = []
    for level, (rows_, columns) in enumerate(grids):
        if level == 0 and reduce_first:
            specs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            specs = [(scales[level], ratio) for ratio in ratios]
            specs.append((math.sqrt(scales[level] * scales[level + 1]), 1.0))
        for y in range(rows_):
            for x in range(columns):
                for scale, ratio in specs:
                    w = scale * math.sqrt(ratio) * shorter
                    h = scale / math.sqrt(ratio) * shorter
                    cx, cy = (x + 0.5) / columns * size[0], (y + 0.5) / rows_ * size[1]
                    found.append((cx, cy, w, h))
    return found


def level_priors(grids, size, sizes, ratios):
    """The same sizes and ratios at each cell of a level."""
    found = []
    for (rows_, columns), own in zip(grids, sizes, strict=True):
        for y in range(rows_):
            for x in range(columns):
                for side in own:
                    for ratio in ratios:
                        w, h = side * math.sqrt(ratio), side / math.sqrt(ratio)
                        cx, cy = (x + 0.5) / columns * size[0], (y + 0.5) / rows_ * size[1]
                        found.append((cx, cy, w, h))
    return found


def ssd(table, priors, coding="ssd", variances=(0.1, 0.1, 0.2, 0.2), **scores):
    """Offsets to priors (Liu et al., ECCV 2016); linear: sizes without exp."""
    found = []
    for row, (px, py, pw, ph) in zip(table, priors, strict=True):
        tx, ty = row["dx"] * variances[0], row["dy"] * variances[1]
        tw, th = row["dw"] * variances[2], row["dh"] * variances[3]
        if coding == "ssd":
            w, h = pw * math.exp(tw), ph * math.exp(th)
        else:
            w, h = pw * tw, ph * th
        centre = {"cx": px + tx * pw, "cy": py + ty * ph, "w": w, "h": h}
        found += rows([row | centre], **scores)
    return found
