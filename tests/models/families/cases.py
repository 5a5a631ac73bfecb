"""Random raw outputs of every preset, as its exporters shape them, with the rows they stand for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tests.models.families import reference as ref

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


class Setup(NamedTuple):
    """The file that a case is made for."""

    size: tuple[int, int] = (96, 64)
    images: int = 1
    classes: int = 3
    nhwc: bool = False
    dtype: str = "float32"
    rounding: str = "floor"


class Case(NamedTuple):
    outputs: dict
    """Name -> array with the axis of images."""
    expected: list
    """For each image, all rows as `reference.Found`."""
    card: str = ""
    more_inputs: dict | None = None


def numbers(rng, setup, shape, low, high):
    return rng.uniform(low, high, shape).astype(setup.dtype)


def logits(rng, setup, shape):
    return (rng.normal(size=shape) * 2).astype(setup.dtype)


def shares(rng, setup, shape):
    return numbers(rng, setup, shape, 0, 1)


def corners(rng, setup, n, unit=True):
    """Corners (images, n, 4): of boxes in the input, as fractions or in pixels."""
    ends = np.sort(rng.uniform(0, 1, (setup.images, n, 2, 2)), axis=2).reshape(setup.images, n, 4)
    return (ends if unit else ends * (setup.size * 2)).astype(setup.dtype)


def centres(rng, setup, n, unit=True):
    x1, y1, x2, y2 = np.moveaxis(corners(rng, setup, n, unit).astype(float), 2, 0)
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=2).astype(setup.dtype)


def per_image(setup, decode):
    return [decode(i) for i in range(setup.images)]


# --- rows of worked-out boxes ---


def joined(columns_first, objectness, unit):
    """One output: centre and size, objectness or none, scores."""

    def make(rng, setup):
        n = 40
        names = ["cx", "cy", "w", "h", *(["objectness"] if objectness else []), "scores"]
        width = setup.classes + objectness
        table = np.concatenate(
            [centres(rng, setup, n, unit), shares(rng, setup, (setup.images, n, width))], axis=2
        )
        scale = setup.size if unit else (1, 1)
        expected = [
            ref.rows([ref.named(row, names, setup.classes) for row in image], scale)
            for image in table.tolist()
        ]
        output = np.ascontiguousarray(table.transpose(0, 2, 1)) if columns_first else table
        return Case({"output0": output}, expected)

    return make


def beside(form, unit, names=("boxes", "scores"), extra_axis=False, **options):
    """Boxes beside scores."""

    def make(rng, setup):
        n = 40
        width = setup.classes + ("background" in options)
        make_boxes = corners if form[0] == "x1" else centres
        boxes = make_boxes(rng, setup, n, unit)
        raw = logits if "activation" in options else shares
        scores = raw(rng, setup, (setup.images, n, width))
        expected = [
            ref.rows(
                [
                    {**dict(zip(form, box, strict=True)), "scores": row}
                    for box, row in zip(boxes[i].tolist(), scores[i].tolist(), strict=True)
                ],
                setup.size if unit else (1, 1),
                **options,
            )
            for i in range(setup.images)
        ]
        if extra_axis:
            boxes = boxes[:, :, None]
        return Case(dict(zip(names, (boxes, scores), strict=True)), expected)

    return make


# --- grids ---


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


# --- finished rows ---


def finished(columns, unit, axes="batch", offset=0, count=False):
    """Rows with score and class in any order of columns, which may name their image.

    Args:
        columns: in the order of the output.
        unit: whether boxes are fractions.
        axes: batch: (images, N, K); rows: (N, K) of all images; ones: (1, 1, N, K).
        offset: class of the first label.
        count: whether a further output counts the rows of each image.
    """

    def make(rng, setup):
        n = 12
        boxes = (centres if "cx" in columns else corners)(rng, setup, n, unit)
        scores = shares(rng, setup, (setup.images, n))
        labels = rng.integers(0, setup.classes, (setup.images, n))
        form = ("cx", "cy", "w", "h") if "cx" in columns else ("x1", "y1", "x2", "y2")
        table = np.zeros((setup.images, n, len(columns)), setup.dtype)
        for name, values in (
            *((name, boxes[:, :, i]) for i, name in enumerate(form)),
            ("score", scores),
            ("class", labels + offset),
            ("image", np.arange(setup.images)[:, None]),
        ):
            if name in columns:
                table[:, :, columns.index(name)] = values
        counts = rng.integers(1, n, setup.images) if count else [n] * setup.images
        expected = [
            ref.rows(
                [ref.named(row, columns) for row in table[i, : counts[i]].tolist()],
                setup.size if unit else (1, 1),
                offset=offset,
            )
            for i in range(setup.images)
        ]
        output = table
        if axes != "batch":
            output = np.concatenate([table[i, : counts[i]] for i in range(setup.images)])
        if axes == "ones":
            end = np.zeros((2, len(columns)), setup.dtype)
            end[0, columns.index("image")] = -1
            output = np.concatenate([output, end])[None, None]
        outputs = {"detections": output}
        if count:
            outputs["num"] = np.array(counts, np.int32)
        return Case(outputs, expected)

    return make


def apart(form, unit, names, offset=0, count=None, batched=True, masks=None, label=np.int64):
    """Boxes, scores and classes of finished rows in outputs of their own.

    Args:
        form: columns of a box.
        unit: whether boxes are fractions.
        names: of the outputs of boxes, classes and scores, in the order of the file.
        offset: class of the first label.
        count: name of the output that counts rows; None: there is none.
        batched: whether outputs have the axis of images.
        masks: name of an output of masks.
        label: dtype of the classes.
    """

    def make(rng, setup):
        n = 12
        boxes, scores = corners(rng, setup, n, unit), shares(rng, setup, (setup.images, n))
        labels = (rng.integers(0, setup.classes, (setup.images, n)) + offset).astype(label)
        counts = rng.integers(1, n, setup.images) if count else [n] * setup.images
        expected = []
        for i in range(setup.images):
            rows = []
            for box, score, number in zip(
                boxes[i].tolist(), scores[i].tolist(), labels[i].tolist(), strict=True
            ):
                corner = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
                rows.append({**corner, "score": score, "class": number})
            scale = setup.size if unit else (1, 1)
            expected.append(ref.rows(rows[: counts[i]], scale, offset=offset))
        order = [("x1", "y1", "x2", "y2").index(name) for name in form]
        values = {"boxes": boxes[:, :, order], "class": labels, "score": scores}
        outputs = {name: values[kind] for name, kind in names.items()}
        if not batched:
            outputs = {name: value[0] for name, value in outputs.items()}
        if masks:
            outputs[masks] = shares(rng, setup, (n, 1, 6, 6))
        if count:
            number = np.array(counts, np.int32)[:, None]
            outputs = {count: number, **outputs}
        return Case(outputs, expected)

    return make


def detr(rng, setup):
    names = {"labels": "class", "boxes": "boxes", "scores": "score"}
    case = apart(("x1", "y1", "x2", "y2"), False, names)(rng, setup)
    return case._replace(more_inputs={"orig_target_sizes": (setup.images, 2)})


def paddle(rng, setup):
    columns = ["class", "score", "x1", "y1", "x2", "y2"]
    case = finished(columns, False, "rows", count=True)(rng, setup)
    more = {"im_shape": (setup.images, 2), "scale_factor": (setup.images, 2)}
    return case._replace(more_inputs=more)


def mmdeploy(rng, setup):
    case = finished(["x1", "y1", "x2", "y2", "score", "class"], False)(rng, setup)
    table = case.outputs["detections"]
    outputs = {"dets": table[:, :, :5].copy(), "labels": table[:, :, 5].astype(np.int64)}
    return case._replace(outputs=outputs)


XYXY, YXYX = ("x1", "y1", "x2", "y2"), ("y1", "x1", "y2", "x2")
CXCYWH = ("cx", "cy", "w", "h")
TORCH = {"boxes": "boxes", "labels": "class", "scores": "score"}
TF = {"detection_boxes": "boxes", "detection_classes": "class", "detection_scores": "score"}
TRT = {"det_boxes": "boxes", "det_scores": "score", "det_classes": "class"}
SIDES = ("left", "top", "right", "bottom")

CASES = {
    "yolov8": joined(True, False, False),
    "yolov5": joined(False, True, False),
    "yolov6": joined(False, True, False),
    "yolox_decoded": joined(False, True, False),
    "yolo_nas": beside(XYXY, False),
    "damo_yolo": beside(XYXY, False, names=("bbox_pred", "cls_score")),
    "pp_yoloe": beside(XYXY, False),
    "yolov4": beside(XYXY, True, names=("boxes", "confs"), extra_axis=True),
    "ssd": beside(XYXY, True),
    "ssd_softmax": beside(XYXY, True, background=0),
    "yolox": yolox_rows([8, 16, 32]),
    "yolox_p6": yolox_rows([8, 16, 32, 64]),
    "yolov3_heads": yolo_maps("yolov3", V3, [8, 16, 32], "sigmoid"),
    "yolov3_tiny_heads": yolo_maps("yolov3", TINY, [16, 32], "sigmoid"),
    "yolov5_heads": yolo_maps("yolov5", V3, [8, 16, 32], "sigmoid"),
    "yolov7_heads": yolo_maps("yolov5", V7, [8, 16, 32], "sigmoid"),
    "yolov8_heads": joined_maps([8, 16, 32], 16, "sigmoid", 0.5),
    "nanodet": joined_maps([8, 16, 32, 64], 8, "none", 0, scores_first=True),
    "nanodet_split": split_maps([8, 16, 32], "bins", "none", 0.5, as_rows=True),
    "picodet": split_maps([8, 16, 32, 64], "bins", "none", 0.5, as_rows=True),
    "rtmdet": split_maps([8, 16, 32], SIDES, "sigmoid", 0, unit=(1, 1)),
    "ssd_mobilenet": ssd_mobilenet,
    "centernet_heads": centernet,
    "yunet": yunet,
    "detr": detr,
    "detr_softmax": beside(
        CXCYWH, True, ("pred_boxes", "pred_logits"), activation="softmax", background=-1
    ),
    "rf_detr": beside(CXCYWH, True, ("dets", "logits"), activation="sigmoid"),
    "rtdetr_ultralytics": joined(False, False, True),
    "rtdetr_ultralytics_rows": finished([*CXCYWH, "score", "class"], True),
    "end_to_end": finished([*XYXY, "score", "class"], False),
    "detection_output": finished(["image", "class", "score", *XYXY], True, "ones"),
    "yolov7_end_to_end": finished(["image", *XYXY, "class", "score"], False, "rows"),
    "paddle_nms": paddle,
    "tensorrt_nms": apart(XYXY, False, TRT, count="num_dets", label=np.int32),
    "ssd_nms": apart(YXYX, True, TF, count="num", label=np.float32),
    "tf_api": apart(YXYX, True, TF, offset=1, count="num_detections", label=np.float32),
    "efficientdet": finished(["image", *YXYX, "score", "class"], False, offset=1),
    "torchvision": apart(XYXY, False, TORCH, offset=1, batched=False),
    "mask_rcnn": apart(XYXY, False, TORCH, offset=1, batched=False, masks="masks"),
    "mmdeploy": mmdeploy,
}
"""Preset -> maker of a case."""
ONE_IMAGE = {"torchvision", "mask_rcnn"}
"""Presets whose models take one image."""
MAPS = {"yolov3_heads", "yolov3_tiny_heads", "yolov5_heads", "yolov7_heads", "yolov8_heads"}
MAPS |= {"rtmdet", "centernet_heads"}
"""Presets whose outputs are maps, with the axes in the order of the input's."""
GRIDS = MAPS | {"yolox", "yolox_p6", "nanodet", "nanodet_split", "picodet", "yunet"}
"""Presets whose rows are those of a grid."""
