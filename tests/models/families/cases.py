"""Random raw outputs of every preset, as its exporters shape them, with the rows they stand for."""

from __future__ import annotations

import numpy as np

from tests.models.families import reference as ref
from tests.models.families.grid_cases import (
    TINY,
    V3,
    V7,
    blazeface,
    centernet,
    joined_maps,
    scrfd,
    split_maps,
    ssd_mobilenet,
    yolo_maps,
    yolox_rows,
    yunet,
)
from tests.models.families.setups import Case, centres, corners, logits, shares

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
    "scrfd": scrfd,
    "blazeface": blazeface,
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
    "rcnn": finished([*XYXY, "score", "class"], True),
    "mask_rcnn": apart(XYXY, False, TORCH, offset=1, batched=False, masks="masks"),
    "mmdeploy": mmdeploy,
}
"""Preset -> maker of a case."""
ONE_IMAGE = {"torchvision", "mask_rcnn", "rcnn"}
"""Presets whose models take one image."""
MAPS = {"yolov3_heads", "yolov3_tiny_heads", "yolov5_heads", "yolov7_heads", "yolov8_heads"}
MAPS |= {"rtmdet", "centernet_heads"}
"""Presets whose outputs are maps, with the axes in the order of the input's."""
GRIDS = MAPS | {"yolox", "yolox_p6", "nanodet", "nanodet_split", "picodet", "yunet", "scrfd"}
"""Presets whose rows are those of a grid."""
