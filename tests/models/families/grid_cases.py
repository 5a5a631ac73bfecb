"""Random raw outputs on grids, and of priors, with the rows that they stand for."""

from __future__ import annotations

import math

import numpy as np

from tests.models.families import reference as ref
from tests.models.families.setups import Case, logits, numbers, per_image, shares

V3 = [
    [10, 13],
    [16, 30],
    [33, 23],
    [30, 61],
    [62, 45],
    [59, 119],
    [116, 90],
    [156, 198],
    [373, 326],
]
TINY = [[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]
V7 = [
    [12, 16],
    [19, 36],
    [40, 28],
    [36, 75],
    [76, 55],
    [72, 146],
    [142, 110],
    [192, 243],
    [459, 401],
]


def grids_of(setup, strides):
    return [ref.cells(setup.size, stride, setup.rounding) for stride in strides]


def yolo_maps(coding, anchors, strides, activation):
    """A map [A*K, H, W] of each grid, or [H, W, A*K]."""

    def make(rng, setup):
        names = ["dx", "dy", "dw", "dh", "objectness", "scores"]
        of_each = len(anchors) // len(strides)
        outputs, grids = {}, [[] for _ in range(setup.images)]
        for level, (stride, (across, down)) in enumerate(
            zip(strides, grids_of(setup, strides), strict=True)
        ):
            channels = of_each * (5 + setup.classes)
            own = anchors[level * of_each : (level + 1) * of_each]
            shape = (down, across, channels) if setup.nhwc else (channels, down, across)
            output = (rng.normal(size=(setup.images, *shape))).astype(setup.dtype)
            outputs[f"head{level}"] = output
            read = ref.map_channels_last if setup.nhwc else ref.map_channels_first
            for i in range(setup.images):
                grid = read(output[i].tolist(), of_each, across, down)
                rows = {at: ref.named(row, names, setup.classes) for at, row in grid.items()}
                grids[i].append((stride, own, rows))
        return Case(outputs, [ref.yolo(one, coding, activation) for one in grids])

    return make


def yolox_rows(strides):
    """Joined rows of all grids: offsets, objectness, scores."""

    def make(rng, setup):
        names = ["dx", "dy", "dw", "dh", "objectness", "scores"]
        cells = grids_of(setup, strides)
        n = sum(across * down for across, down in cells)
        offsets = rng.normal(size=(setup.images, n, 4)).astype(setup.dtype)
        rest = shares(rng, setup, (setup.images, n, 1 + setup.classes))
        table = np.concatenate([offsets, rest], axis=2)

        def of(i):
            parts = ref.split_rows(table[i].tolist(), [a * d for a, d in cells])
            grids = []
            for stride, (across, down), part in zip(strides, cells, parts, strict=True):
                grid = ref.rows_of_cells(part, 1, across, down)
                rows = {at: ref.named(row, names, setup.classes) for at, row in grid.items()}
                grids.append((stride, [], rows))
            return ref.yolo(grids, "yolox")

        return Case({"output": table}, per_image(setup, of))

    return make


def joined_maps(strides, bins, activation, point, scores_first=False):
    """Scores and distributions in one output: maps of each grid, or the rows of all."""
    names = ["scores", "bins"] if scores_first else ["bins", "scores"]

    def make(rng, setup):
        width = 4 * bins + setup.classes
        outputs, grids = {}, [[] for _ in range(setup.images)]
        for level, (stride, (across, down)) in enumerate(
            zip(strides, grids_of(setup, strides), strict=True)
        ):
            values = rng.normal(size=(setup.images, down, across, width))
            if activation == "none":
                at = slice(0, setup.classes) if scores_first else slice(4 * bins, None)
                values[..., at] = rng.uniform(0, 1, values[..., at].shape)
            values = values.astype(setup.dtype)
            outputs[f"head{level}"] = values
            for i in range(setup.images):
                grid = ref.map_channels_last(values[i].tolist(), 1, across, down)
                rows = {
                    at: ref.named(row, names, setup.classes, 4 * bins) for at, row in grid.items()
                }
                grids[i].append((stride, rows))
        if scores_first:
            flat = [v.reshape(setup.images, -1, width) for v in outputs.values()]
            outputs = {"output": np.concatenate(flat, axis=1)}
        elif not setup.nhwc:
            outputs = {
                name: np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for name, v in outputs.items()
            }
        expected = [ref.distances(one, activation, point) for one in grids]
        return Case(outputs, expected, f"output: {{classes: {setup.classes}}}")

    return make


def split_maps(strides, columns, activation, point, unit=None, as_rows=False, bins=8):
    """Scores beside distances or distributions, of each grid."""

    def make(rng, setup):
        outputs, grids = {}, [[] for _ in range(setup.images)]
        scores_of, boxes_of = {}, {}
        for stride, (across, down) in zip(strides, grids_of(setup, strides), strict=True):
            shape = (setup.images, down, across)
            raw = shares if activation == "none" else logits
            scores = raw(rng, setup, (*shape, setup.classes))
            if columns == "bins":
                boxes = logits(rng, setup, (*shape, 4 * bins))
            else:
                boxes = numbers(rng, setup, (*shape, 4), 0, 20)
            scores_of[f"cls_score_{stride}"], boxes_of[f"bbox_pred_{stride}"] = scores, boxes
            for i in range(setup.images):
                grid = {}
                for at, row in ref.map_channels_last(boxes[i].tolist(), 1, across, down).items():
                    sides = {"bins": row} if columns == "bins" else {}
                    if columns != "bins":
                        sides = dict(zip(columns, row, strict=True))
                    grid[at] = {"scores": scores[i].tolist()[at[1]][at[2]], **sides}
                grids[i].append((stride, grid))
        for name, value in {**scores_of, **boxes_of}.items():
            if as_rows:
                value = value.reshape(setup.images, -1, value.shape[-1])
            elif not setup.nhwc:
                value = np.ascontiguousarray(value.transpose(0, 3, 1, 2))
            outputs[name] = value
        return Case(outputs, [ref.distances(one, activation, point, unit) for one in grids])

    return make


def centernet(rng, setup):
    ((across, down),) = grids_of(setup, [4])
    shape = (setup.images, down, across)
    hm = logits(rng, setup, (*shape, setup.classes))
    wh = numbers(rng, setup, (*shape, 2), 0, 10)
    reg = numbers(rng, setup, (*shape, 2), 0, 1)

    def of(i):
        scores = ref.map_channels_last(hm[i].tolist(), 1, across, down)
        sizes = ref.map_channels_last(wh[i].tolist(), 1, across, down)
        shifts = ref.map_channels_last(reg[i].tolist(), 1, across, down)
        rows = {}
        for at, row in ref.peaks_only(scores, across, down).items():
            (dx, dy), (dw, dh) = shifts[at], sizes[at]
            rows[at] = {"scores": row, "dx": dx, "dy": dy, "dw": dw, "dh": dh}
        found = ref.yolo([(4, [], rows)], "cells", "sigmoid")
        return [row for row in found if row.score > 0]

    outputs = {"hm": hm, "wh": wh, "reg": reg}
    if not setup.nhwc:
        outputs = {k: np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for k, v in outputs.items()}
    return Case(outputs, per_image(setup, of))


def yunet(rng, setup):
    strides = [8, 16, 32]
    outputs, grids = {}, [[] for _ in range(setup.images)]
    for name, width in (("cls", setup.classes), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride, (across, down) in zip(strides, grids_of(setup, strides), strict=True):
            shape = (setup.images, across * down, width)
            raw = shares if name in ("cls", "obj") else logits
            outputs[f"{name}_{stride}"] = raw(rng, setup, shape)
    for stride, (across, down) in zip(strides, grids_of(setup, strides), strict=True):
        for i in range(setup.images):
            rows = {}
            for cell in range(across * down):
                dx, dy, dw, dh = outputs[f"bbox_{stride}"][i, cell].tolist()
                rows[0, cell // across, cell % across] = {
                    "scores": outputs[f"cls_{stride}"][i, cell].tolist(),
                    "objectness": float(outputs[f"obj_{stride}"][i, cell, 0]),
                    "dx": dx,
                    "dy": dy,
                    "dw": dw,
                    "dh": dh,
                }
            grids[i].append((stride, [], rows))
    return Case(outputs, [ref.yolo(one, "yolox", combine="geometric_mean") for one in grids])


def scrfd(rng, setup):
    """Two rows for each cell, with distances in strides from its corner."""
    strides = [8, 16, 32]
    outputs, grids = {}, [[] for _ in range(setup.images)]
    for name, width in (("score", setup.classes), ("bbox", 4), ("kps", 10)):
        for stride, (across, down) in zip(strides, grids_of(setup, strides), strict=True):
            shape = (setup.images, 2 * across * down, width)
            outputs[f"{name}_{stride}"] = (
                shares(rng, setup, shape) if name == "score" else numbers(rng, setup, shape, 0, 4)
            )
    for stride, (across, down) in zip(strides, grids_of(setup, strides), strict=True):
        for i in range(setup.images):
            sides = ref.rows_of_cells(outputs[f"bbox_{stride}"][i].tolist(), 2, across, down)
            scores = ref.rows_of_cells(outputs[f"score_{stride}"][i].tolist(), 2, across, down)
            grid = {
                at: {"scores": scores[at], **dict(zip(SIDES, row, strict=True))}
                for at, row in sides.items()
            }
            grids[i].append((stride, grid))
    return Case(outputs, [ref.distances(one, point=0) for one in grids])


def blazeface(rng, setup):
    """Offsets in parts of 128 px from anchors as large as the input: 2, then 6 for each cell."""
    anchors = []
    for stride, each in ((8, 2), (16, 6)):
        across, down = (math.ceil(side / stride) for side in setup.size)
        for y in range(down):
            for x in range(across):
                centre = (x + 0.5) / across * setup.size[0], (y + 0.5) / down * setup.size[1]
                anchors += [(*centre, *setup.size)] * each
    shape = (setup.images, len(anchors))
    boxes = numbers(rng, setup, (*shape, 16), 1, 100)
    scores = logits(rng, setup, (*shape, setup.classes))
    expected = []
    for i in range(setup.images):
        table = [
            dict(zip(("dx", "dy", "dw", "dh"), row[:4], strict=True)) | {"scores": own}
            for row, own in zip(boxes[i].tolist(), scores[i].tolist(), strict=True)
        ]
        found = ref.ssd(table, anchors, "linear", (1 / 128,) * 4, activation="sigmoid")
        expected.append(found)
    return Case({"regressors": boxes, "classificators": scores}, expected)


SIDES = ("left", "top", "right", "bottom")


def ssd_mobilenet(rng, setup):
    grids = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    priors = ref.tf_priors(grids, setup.size, (1, 2, 0.5, 3, 0.3333333))
    n = len(priors)
    offsets = logits(rng, setup, (setup.images, n, 4))
    scores = logits(rng, setup, (setup.images, n, 1 + setup.classes))

    def of(i):
        rows = []
        for (dy, dx, dh, dw), row in zip(offsets[i].tolist(), scores[i].tolist(), strict=True):
            rows.append({"scores": row, "dx": dx, "dy": dy, "dw": dw, "dh": dh})
        return ref.ssd(rows, priors, activation="sigmoid", background=0)

    return Case({"raw_boxes": offsets, "raw_scores": scores}, per_image(setup, of))
