"""Random layouts, with random outputs of a file and the rows that they stand for."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import yaml
from hypothesis import assume
from hypothesis import strategies as st

from tests.models.families import reference as ref

FORMS = list(ref.FORMS)
SIDES = ("left", "top", "right", "bottom")
OFFSETS = ("dx", "dy", "dw", "dh")


class Example(NamedTuple):
    size: tuple[int, int]
    images: int
    nhwc: bool
    outputs: dict
    layout: dict
    expected: list
    """For each image, all rows."""

    def __repr__(self):
        shapes = {name: value.shape for name, value in self.outputs.items()}
        return f"Example({self.size}, {self.images}, {self.nhwc}, {shapes}, {self.layout})"

    @property
    def card(self):
        """The lines of a card for it."""
        return yaml.safe_dump({"output": self.layout}, sort_keys=False)


def score_columns(draw, with_class=True):
    """(columns, classes, keys of the layout) of the scores of a row."""
    kind = draw(st.sampled_from(["scores", "objectness", *(["class"] if with_class else [])]))
    activation = draw(st.sampled_from(["none", "sigmoid"]))
    keys = {"activation": activation}
    if kind == "class":
        keys["class_offset"] = draw(st.integers(-2, 3))
        return ["score", "class"], None, keys
    classes = draw(st.integers(1, 6))
    if draw(st.booleans()):
        keys["background"] = draw(st.sampled_from([0, -1, classes // 2]))
    if kind == "objectness":
        keys["combine"] = draw(st.sampled_from(["product", "geometric_mean"]))
        return ["objectness", "scores"], classes, keys
    keys["activation"] = draw(st.sampled_from([activation, "softmax"]))
    return ["scores"], classes, keys


def width_of(column, scores, bins=0):
    return {"scores": scores, "bins": 4 * bins}.get(column, 1)


def numbers_of(rng, column, shape, keys, unit, bins=0):
    """Random numbers of a column: (..., width)."""
    if column in ("score", "scores", "objectness"):
        plain = keys["activation"] == "none"
        return rng.uniform(0, 1, shape) if plain else rng.normal(size=shape) * 2
    if column == "class":
        return rng.integers(-3, 6, shape) + rng.uniform(-1e-3, 1e-3, shape)
    if column in SIDES:
        return rng.uniform(0, 3, shape)
    if column in (*OFFSETS, "bins"):
        return rng.normal(size=shape)
    side = unit[0] if column in ("x1", "x2", "cx", "x", "w") else unit[1]
    return rng.uniform(0, side, shape)


def scores_keys(keys):
    return {k: keys[k] for k in ("activation", "background", "combine") if k in keys}


@st.composite
def rows_of_boxes(draw):
    """Rows of boxes that are worked out: any order of columns, in one or several outputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Larger than those whose usual grids have as few rows as these examples.
    size = draw(st.tuples(st.integers(120, 300), st.integers(120, 300)))
    columns, classes, keys = score_columns(draw)
    scores = 0 if classes is None else classes + ("background" in keys)
    columns = [*draw(st.sampled_from(FORMS)), *columns]
    columns += ["skip"] * draw(st.integers(0, 2))
    columns = draw(st.permutations(columns))
    keys["units"] = draw(st.sampled_from(["pixels", "fraction"]))
    unit = size if keys["units"] == "pixels" else (1, 1)
    images, n = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(4, 30))
    parts = {c: width_of(c, scores) for c in columns}
    values = [
        numbers_of(rng, c, (images, n, parts[c]), keys, unit).astype(np.float32) for c in columns
    ]
    cuts = sorted(draw(st.sets(st.integers(1, len(columns) - 1), max_size=2)))
    outputs, names, layout = {}, {}, []
    for start, end in zip([0, *cuts], [*cuts, len(columns)], strict=True):
        own = list(columns[start:end])
        table = np.concatenate(values[start:end], axis=2)
        if set(own) == {"skip"}:
            own, table = ["skip"], values[start]
        # Of rows with a rest, only the lengths show which axis has them.
        if draw(st.booleans()) and "scores" not in own[:-1] and table.shape[2] + 2 < n:
            table = np.concatenate([table, np.ones((images, n, 2), np.float32)], axis=2)
            own = [*own, "rest"]
        if any(names_ == own for names_ in layout):
            continue
        transposed = draw(st.booleans()) and table.shape[2] not in (n, 1) and "rest" not in own
        if len(own) == 1 and table.shape[2] == 1 and images == 1 and draw(st.booleans()):
            table = table[:, :, 0]
        name = f"out{start}"
        outputs[name] = np.ascontiguousarray(table.transpose(0, 2, 1)) if transposed else table
        names[name] = own
        layout.append(own)
    order = draw(st.permutations(list(names)))
    expected = []
    for i in range(images):
        table = []
        for at in range(n):
            row = {}
            for column, value in zip(columns, values, strict=False):
                numbers = value[i, at].tolist()
                row[column] = numbers if column == "scores" else numbers[0]
            table.append(row)
        scale = size if keys["units"] == "fraction" else (1, 1)
        expected.append(
            ref.rows(table, scale, offset=keys.get("class_offset", 0), **scores_keys(keys))
        )
    output = {"outputs": {name: names[name] for name in order}, **keys}
    if classes is not None:
        output["classes"] = classes
    return Example(size, images, False, outputs, output, expected)


READERS = {
    "channels first": (ref.map_channels_first, (0, 3, 4, 1, 2)),
    "channels last": (ref.map_channels_last, None),
    "anchors first": (ref.map_anchors_first, (0, 3, 1, 2, 4)),
    "anchors third": (ref.map_anchors_third, None),
    "anchors, channels": (ref.map_anchors_then_channels, (0, 3, 4, 1, 2)),
    "rows": (None, None),
}


def arranged(values, axes):
    """Values (images, H, W, A, K) as an output of a file."""
    images, down, across, anchors, k = values.shape
    if axes == "channels first":
        moved = values.transpose(0, 3, 4, 1, 2).reshape(images, anchors * k, down, across)
    elif axes == "channels last":
        moved = values.reshape(images, down, across, anchors * k)
    elif axes == "anchors first":
        moved = values.transpose(0, 3, 1, 2, 4)
    elif axes == "anchors, channels":
        moved = values.transpose(0, 3, 4, 1, 2)
    elif axes == "rows, anchors first":
        moved = values.transpose(0, 3, 1, 2, 4).reshape(images, -1, k)
    elif axes == "rows":
        moved = values.reshape(images, -1, k)
    else:
        moved = values
    return np.ascontiguousarray(moved)


def cells_in(output, axes, anchors, across, down):
    """The cells of a level, read from the output of one image."""
    if axes.startswith("rows"):
        return ref.rows_of_cells(output, anchors, across, down, axes != "rows")
    return READERS[axes][0](output, anchors, across, down)


@st.composite
def grids(draw):
    """Maps or rows of grids: every coding, every order of axes, strides in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    coding = draw(st.sampled_from(["yolov3", "yolov5", "yolox", "cells", "distances", "bins"]))
    size = draw(st.tuples(st.integers(64, 150), st.integers(64, 150)))
    strides = sorted(draw(st.sets(st.sampled_from([16, 24, 32, 50]), min_size=1, max_size=3)))
    rounding = draw(st.sampled_from(["floor", "ceil"]))
    # Grids of as many cells differ only by the order of the outputs.
    assume(len({math.prod(ref.cells(size, s, rounding)) for s in strides}) == len(strides))
    with_anchors = coding in ("yolov3", "yolov5")
    anchors = draw(st.integers(1, 3)) if with_anchors else 1
    columns, classes, keys = score_columns(draw, with_class=False)
    scores = classes + ("background" in keys)
    bins = draw(st.integers(2, 5)) if coding == "bins" else 0
    box = {"distances": SIDES, "bins": ("bins",)}.get(coding, OFFSETS)
    columns = draw(st.permutations([*box, *columns, *(["skip"] * (coding != "bins"))]))
    joined = draw(st.booleans())
    choices = ["rows", "rows, anchors first"] if anchors > 1 else ["rows"]
    if not joined:
        choices += ["channels first", "channels last"]
        choices += ["anchors first", "anchors third", "anchors, channels"] if anchors > 1 else []
    axes = draw(st.sampled_from(choices))
    keys |= {"classes": classes, "strides": strides}
    if coding in ("distances", "bins"):
        keys["point"] = draw(st.sampled_from([0.0, 0.5, 1.0]))
        if coding == "distances":
            keys["units"] = draw(st.sampled_from(["pixels", "fraction", "strides"]))
    else:
        keys["coding"] = coding
    if with_anchors:
        keys["anchors"] = rng.integers(5, 60, (len(strides), anchors, 2)).tolist()
    if axes == "rows, anchors first":
        keys["anchors_first"] = True
    images = draw(st.sampled_from([1, 1, 2]))
    # Lengths that are alike leave these two orders of axes open.
    k = sum(width_of(c, scores, bins) for c in columns)
    of_each = [ref.cells(size, stride, rounding) for stride in strides]
    assume(axes != "anchors, channels" or all(across != k for across, _ in of_each))
    for one in ("floor", "ceil"):
        counts = [math.prod(ref.cells(size, stride, one)) * anchors for stride in strides]
        assume(not axes.startswith("rows") or k not in (*counts, sum(counts)))
    outputs, levels = {}, [[] for _ in range(images)]
    for level, stride in enumerate(strides):
        across, down = ref.cells(size, stride, rounding)
        shape = (images, down, across, anchors)
        parts = [
            numbers_of(rng, c, (*shape, width_of(c, scores, bins)), keys, (1, 1), bins)
            for c in columns
        ]
        values = np.concatenate(parts, axis=4).astype(np.float32)
        outputs[f"level{level}"] = arranged(values, axes)
        for i in range(images):
            found = cells_in(outputs[f"level{level}"][i].tolist(), axes, anchors, across, down)
            rows = {at: ref.named(row, columns, scores, 4 * bins) for at, row in found.items()}
            own = keys["anchors"][level] if with_anchors else []
            levels[i].append((stride, own, rows))
    expected = [grid_rows(one, coding, keys, size) for one in levels]
    if joined:
        outputs = {"output": np.concatenate(list(outputs.values()), axis=1)}
    elif len(strides) > 1 and draw(st.booleans()):
        # The order of the strides and of the outputs in the card is free.
        order = draw(st.permutations(range(len(strides))))
        keys["strides"] = [strides[at] for at in order]
        if with_anchors:
            keys["anchors"] = [keys["anchors"][at] for at in order]
    names = draw(st.permutations(list(outputs)))
    layout = {"outputs": {name: list(columns) for name in names}, **keys}
    nhwc = axes in ("channels last", "anchors third")
    return Example(size, images, nhwc, outputs, layout, expected)


def grid_rows(levels, coding, keys, size):
    """The rows of all grids, with the background left out."""
    found = []
    for stride, anchors, rows in levels:
        for at, row in rows.items():
            if coding in ("distances", "bins"):
                scale = {"pixels": (1, 1), "fraction": size}.get(keys.get("units"))
                row = {**row, "scores": [0.0]}
                (box,) = ref.distances([(stride, {at: row})], "none", keys["point"], scale)
            else:
                (box,) = ref.yolo([(stride, anchors, {at: {**row, "scores": [0.0]}})], coding)
            corners = dict(zip(("x1", "y1", "x2", "y2"), box[:4], strict=True))
            own = {k: v for k, v in rows[at].items() if k in ("scores", "objectness")}
            found += ref.rows([corners | own], **scores_keys(keys))
    return found


@st.composite
def priors(draw):
    """Offsets to priors of every kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.tuples(st.integers(40, 200), st.integers(40, 200)))
    kind = draw(st.sampled_from(["ssd", "levels", "boxes"]))
    cells = [(draw(st.integers(2, 5)), draw(st.integers(2, 5))), (1, 2)][: draw(st.integers(1, 2))]
    keys = {
        "coding": draw(st.sampled_from(["ssd", "linear"])),
        "variances": draw(st.permutations([0.1, 0.2, 0.3, 1.0])),
        "activation": draw(st.sampled_from(["none", "sigmoid", "softmax"])),
        "background": draw(st.sampled_from([0, -1])),
    }
    stated = {"kind": kind}
    ratios = draw(st.permutations([1.0, 2.0, 0.5]))
    if kind == "boxes":
        boxes = rng.uniform(0, 1, (9, 4)).round(3).tolist()
        stated["boxes"] = boxes
        table = [
            ((x1 + x2) / 2 * size[0], (y1 + y2) / 2 * size[1],
             (x2 - x1) * size[0], (y2 - y1) * size[1])
            for x1, y1, x2, y2 in boxes
        ]  # fmt: skip
    else:
        stated |= {"grids": [list(one) for one in cells], "ratios": ratios}
        if kind == "ssd":
            first, low = draw(st.booleans()), draw(st.sampled_from([0.1, 0.25]))
            stated |= {"reduce_first": first, "min_scale": low, "max_scale": 0.8}
            table = ref.tf_priors(cells, size, ratios, low, 0.8, first)
        else:
            stated["sizes"] = [[10.0, 20.0], [40.0]][: len(cells)]
            table = ref.level_priors(cells, size, stated["sizes"], ratios)
    keys["priors"] = stated
    classes, n = draw(st.integers(1, 4)), len(table)
    offsets = rng.normal(size=(1, n, 4)).astype(np.float32)
    scores = numbers_of(rng, "scores", (1, n, classes + 1), keys, (1, 1)).astype(np.float32)
    order = draw(st.permutations(OFFSETS))
    rows = [
        {**dict(zip(order, offset, strict=True)), "scores": row}
        for offset, row in zip(offsets[0].tolist(), scores[0].tolist(), strict=True)
    ]
    expected = ref.ssd(rows, table, keys["coding"], keys["variances"], **scores_keys(keys))
    outputs = {"loc": offsets, "conf": scores}
    layout = {"outputs": {"loc": list(order), "conf": ["scores"]}, **keys, "classes": classes}
    return Example(size, 1, False, outputs, layout, [expected])
