"""Recognition of several outputs: boxes beside scores, finished columns, or the maps of grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.families import evidence
from models.families.clues import GRIDS, MAX_FINISHED, SCALE, Clues, Guess
from models.families.presets import assign, presets
from models.families.recognise_details import with_prototypes
from models.families.recognise_rows import count, rows_of
from models.onnx_header import Tensor


def two_outputs(clues: Clues) -> list[Guess]:
    """Return the readings of two outputs."""
    first, second = clues.file.outputs
    shapes = [first.shape or (), second.shape or ()]
    prototypes = [t for t in (first, second) if len(t.shape or ()) == 4]
    joined = [t for t in (first, second) if len(t.shape or ()) == 3]
    if len(prototypes) == 1 and len(joined) == 1:
        return with_prototypes(clues, joined[0], prototypes[0])
    if len(joined) == 2 and shapes[0] == shapes[1] and shapes[0][-1] != 4:
        return [
            guess._replace(about=f"output {tensor.name}, one of two alike")
            for tensor in joined
            for guess in rows_of(clues, tensor, clues.heads(tensor))[:1]
        ]
    dets = assign(presets()["mmdeploy"].outputs, 1, clues.file.outputs)
    if dets and any((t.shape or (0,))[-1] == 5 for t in clues.file.outputs):
        return [Guess("mmdeploy", dict(dets[0]), unsure={"input.scale": SCALE})]
    paddle = assign(presets()["paddle_nms"].outputs, 1, clues.file.outputs)
    if paddle and any((t.shape or (0,))[-1] == 6 for t in clues.file.outputs):
        return [Guess("paddle_nms", dict(paddle[0]), unsure={"input.scale": SCALE})]
    return _boxes_and_scores(clues, joined) if len(joined) == 2 else []


def _boxes_and_scores(clues: Clues, tensors: Sequence[Tensor]) -> list[Guess]:
    """Return the readings of boxes (N, 4) and scores (N, C)."""
    fours = [t for t in tensors if (t.shape or (0,))[-1] == 4]
    if len(fours) == 2:
        fours = [t for t in fours if "box" in t.name.lower() or "loc" in t.name.lower()]
    if len(fours) != 1:
        return []
    boxes = fours[0]
    scores = next(t for t in tensors if t is not boxes)
    rows, classes = (scores.shape or (None, None, None))[1:3]
    if boxes.shape is not None and None not in (boxes.shape[1], rows) and boxes.shape[1] != rows:
        return []
    box_heads, score_heads = clues.heads(boxes), clues.heads(scores)
    box_marks, score_marks = evidence.marks_of(box_heads), evidence.marks_of(score_heads)
    has_logits = not evidence.ACTIVATIONS & score_marks
    linear = any(head.linear for head in box_heads)
    if (
        rows is not None
        and rows <= MAX_FINISHED
        and (linear or has_logits or "logit" in scores.name.lower())
    ):
        centre = {boxes.name: ("cx", "cy", "w", "h"), scores.name: ("scores",)}
        found = [
            Guess(
                "rf_detr",
                centre,
                about=f"sigmoid, {count(classes or 1)}",
                unsure=clues.unsure_scale(),
            ),
            Guess(
                "detr_softmax",
                centre,
                about=f"softmax, {count((classes or 1) - 1)} and no object",
                unsure=clues.unsure_scale(),
            ),
        ]
        return found if has_logits else found[:1]
    if has_logits or not evidence.is_decoded(box_marks):
        return []
    named = {boxes.name: ("x1", "y1", "x2", "y2"), scores.name: ("scores",)}
    unsure = dict(clues.unsure_scale())
    changes: dict[str, Any] = {}
    if "Softmax" in score_marks and "bins" not in score_marks:
        changes["background"] = 0
    if "fraction" in box_marks:
        preset = "ssd"
    elif (
        "grid" in box_marks
        and "pixels" not in box_marks
        and rows in [clues.cells(s) for s in GRIDS]
    ):
        preset = "yolo_nas"
    elif rows is not None and rows not in [clues.cells(s) for s in GRIDS]:
        preset = "ssd"
    else:
        preset = "yolo_nas"
        unsure["output.units"] = "boxes in pixels and as fractions of the sides are both in use"
    if _labels_mean_background(clues, classes):
        unsure["output.background"] = (
            f"{classes} columns of scores: one may stand for no object (background: 0 or -1)"
        )
    return [Guess(preset, named, changes, unsure)]


def _labels_mean_background(clues: Clues, classes: int | None) -> bool:
    """Return whether a number of columns is a known number of classes and one."""
    if clues.labels is not None:
        return classes == clues.labels + 1
    return classes in (21, 81, 91, 92)


def three_outputs(clues: Clues) -> list[Guess]:
    """Return the readings of three outputs."""
    tensors = clues.file.outputs
    inputs = {tensor.name for tensor in clues.file.inputs}
    found = assign(presets()["detr"].outputs, 1, tensors)
    vectors = sum(len(t.shape or (0, 0)) <= 2 for t in tensors)
    if found and vectors >= 2:
        if "orig_target_sizes" in inputs:
            return [Guess("detr", dict(found[0]))]
        singles = [t for t in tensors if found[0][t.name] in (("class",), ("score",))]
        if all(len(t.shape or ()) <= 2 for t in tensors):
            if any(len(t.shape or ()) != 1 for t in singles):
                return []
            why = "labels count from 1 in torchvision, from 0 elsewhere (class_offset: 1 or 0)"
            unsure = {"output.class_offset": why, **clues.unsure_scale()}
            return [Guess("torchvision", dict(found[0]), unsure=unsure)]
        unsure = {
            "input.scale": SCALE,
            "output.units": "boxes in pixels of the input, or fractions",
        }
        marks = evidence.marks_of(head for t in tensors for head in clues.heads(t))
        if "fraction" in marks:
            unsure.pop("output.units")
        return [Guess("detr", dict(found[0]), {"inputs": {}}, unsure)]
    return _heads(clues, ("yolov8_heads", "yolov5_heads", "yolov7_heads", "yolov3_heads"))


def many_outputs(clues: Clues) -> list[Guess]:
    """Return the readings of four outputs or more."""
    tensors = clues.file.outputs
    names = " ".join(t.name.lower() for t in tensors)
    extra = [t for t in tensors if len(t.shape or ()) == 5]
    if len(tensors) == 4 and len(extra) == 3:
        main = next(t for t in tensors if t not in extra)
        return rows_of(clues, main, clues.heads(main))
    maps = any(len(t.shape or ()) == 4 for t in tensors)
    for preset in ("mask_rcnn",) if maps else ("tf_api", "tensorrt_nms", "ssd_nms"):
        found = assign(presets()[preset].outputs, 1, tensors)
        if not found:
            continue
        if preset == "tf_api" and "detection_classes" not in names:
            continue
        if preset == "tensorrt_nms" and "num_dets" not in names:
            continue
        unsure: dict[str, str] = (
            {} if preset == "tensorrt_nms" and clues.ultralytics else {"input.scale": SCALE}
        )
        if preset == "mask_rcnn":
            unsure["output.class_offset"] = "labels count from 1 in torchvision, from 0 elsewhere"
        if len(found) > 1 and preset != "ssd_nms":
            unsure["output.outputs"] = f"the outputs fit {preset} in {len(found)} ways"
        in_order = {t.name: c for t, c in zip(tensors, presets()[preset].outputs, strict=True)}
        # TensorFlow Lite has one order, with any names.
        outputs = in_order if in_order in found else found[0]
        return [Guess(preset, dict(outputs), unsure=unsure)]
    return _heads(clues, ("nanodet_split", "rtmdet", "picodet", "yunet", "scrfd"))


def _heads(clues: Clues, known: Sequence[str]) -> list[Guess]:
    """Return the presets of several grids that fit the outputs."""
    found = []
    for name in known:
        preset = presets()[name]
        ways = assign(preset.outputs, preset.levels, clues.file.outputs)
        if ways:
            found.append(Guess(name, dict(ways[0]), unsure=clues.unsure_scale()))
    return found
