"""Recognition of one output: finished rows, rows of a grid, or rows of queries."""

from __future__ import annotations

from models.families import evidence
from models.families.clues import GRIDS, MAX_FINISHED, SCALE, Clues, Guess
from models.families.recognise_details import people, rows_with_more
from models.onnx_header import Tensor
from models.onnx_trace import Trace


def one_output(clues: Clues) -> list[Guess]:
    """Return the readings of a single output."""
    tensor = clues.file.outputs[0]
    shape = tensor.shape
    if shape is None:
        return []
    if len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 7:
        columns = ("image", "class", "score", "x1", "y1", "x2", "y2")
        return [Guess("detection_output", {tensor.name: columns}, unsure={"input.scale": SCALE})]
    if people(tensor):
        return people(tensor)
    if len(shape) == 4:
        return []
    found = clues.heads(tensor)
    if len(shape) == 3 and shape[2] is not None:
        more = rows_with_more(clues, tensor, shape[2], shape[1])
        if more and more[0].preset.startswith("end_to_end"):
            return more
    finished = _finished(clues, tensor, found)
    return finished or rows_of(clues, tensor, found)


def _finished(clues: Clues, tensor: Tensor, found: list[evidence.Head]) -> list[Guess]:
    """Return the readings of one output as finished rows."""
    shape = tensor.shape or ()
    rows, width = (shape[-2], shape[-1]) if len(shape) >= 2 else (None, None)
    marks = evidence.marks_of(found)
    chosen = bool(evidence.FINISHING & marks)
    stated = clues.file.metadata.get("end2end") == "True"
    if clues.labels is not None and width == 4 + clues.labels and not chosen and not stated:
        if clues.rtdetr and width == 6:
            box = ("cx", "cy", "w", "h")
            finished: dict[str, tuple[str, ...]] = {tensor.name: (*box, "score", "class")}
            return [
                Guess("rtdetr_ultralytics_rows", finished, about="score and class"),
                Guess("rtdetr_ultralytics", {tensor.name: (*box, "scores")}, about="two scores"),
            ]
        linear = any(head.linear for head in found)
        if rows is None or linear or clues.rtdetr or _is_grid(clues, rows):
            return []
    if rows is not None and rows > MAX_FINISHED:
        return []
    if rows is None and not chosen:
        return []
    name = tensor.name
    columns: tuple[str, ...]
    if width == 7 and len(shape) == 2 and (rows != 1 or chosen):
        columns = ("image", "x1", "y1", "x2", "y2", "class", "score")
        return [Guess("yolov7_end_to_end", {name: columns}, unsure=clues.unsure_scale())]
    if width == 7 and len(shape) == 3:
        columns = ("image", "y1", "x1", "y2", "x2", "score", "class")
        return [Guess("efficientdet", {name: columns}, unsure={"input.scale": SCALE})]
    if width != 6 or len(shape) != 3:
        return []
    if clues.rtdetr:
        return [Guess("rtdetr_ultralytics_rows", {name: ("cx", "cy", "w", "h", "score", "class")})]
    columns = ("x1", "y1", "x2", "y2", "score", "class")
    order = _order_of_columns(clues, name)
    if order is not None:
        columns = order
    unsure = clues.unsure_scale()
    if not clues.ultralytics and order is None:
        unsure["output.outputs"] = (
            "rows of x1 y1 x2 y2 score class (YOLOv10) and of class score x1 y1 x2 y2 (Paddle) are "
            "both in use"
        )
    return [Guess("end_to_end", {name: columns}, evidence.units_of(marks), unsure)]


def _order_of_columns(clues: Clues, output: str) -> tuple[str, ...] | None:
    """Return the columns of finished rows by the Concat that makes them; None: it does not show.

    The class is made of whole numbers, by a Cast; the score is not; the box has four columns.
    """
    name = output
    for _ in range(8):
        node = clues.trace.makers.get(name)
        if node is None:
            return None
        if node.op == "Concat":
            break
        if node.op not in evidence.FOLLOWED | evidence.PICKING:
            return None
        name = node.inputs[0]
    else:
        return None
    if len(node.inputs) != 3:
        return None
    whole = [_is_whole(clues.trace, part) for part in node.inputs]
    if whole.count(True) != 1:
        return None
    box = ("x1", "y1", "x2", "y2")
    if whole[2]:
        return (*box, "score", "class")
    if whole[0]:
        return ("class", "score", *box)
    return None


def _is_whole(trace: Trace, name: str) -> bool:
    """Return whether a value is a number of whole kind, turned into a float."""
    for _ in range(6):
        node = trace.makers.get(name)
        if node is None:
            return False
        if node.op == "Cast":
            inner = trace.makers.get(node.inputs[0])
            return inner is None or inner.op not in ("Mul", "Sigmoid", "Add")
        if node.op in ("ArgMax", "Mod"):
            return True
        if node.op not in evidence.FOLLOWED | evidence.PICKING:
            return False
        name = node.inputs[0]
    return False


def rows_of(clues: Clues, tensor: Tensor, found: list[evidence.Head]) -> list[Guess]:
    """Return the readings of one output as rows of a grid, or of queries."""
    shape = tensor.shape or ()
    if len(shape) != 3:
        return []
    guesses: list[Guess] = []
    for rows, width, as_rows in ((shape[2], shape[1], False), (shape[1], shape[2], True)):
        if width is None or width < 5 or (rows is not None and rows < width and not as_rows):
            continue
        if as_rows and guesses and shape[2] is not None and _is_grid(clues, shape[2]):
            break  # columns of a grid
        for guess in _row_readings(clues, tensor, found, rows, width, as_rows):
            if (guess.preset, guess.outputs) not in [(g.preset, g.outputs) for g in guesses]:
                guesses.append(guess)
    return guesses


def _row_readings(
    clues: Clues,
    tensor: Tensor,
    found: list[evidence.Head],
    rows: int | None,
    width: int,
    as_rows: bool,
) -> list[Guess]:
    """Return the readings of rows of a known width."""
    channels, marks = evidence.channels_of(found), evidence.marks_of(found)
    name, labels, cells = tensor.name, clues.labels, clues.cells()
    plain = ("cx", "cy", "w", "h", "scores")
    with_objects = ("cx", "cy", "w", "h", "objectness", "scores")
    decoded = evidence.is_decoded(marks)
    more = rows_with_more(clues, tensor, width, rows)
    if more:
        return more
    if labels is not None and clues.file.metadata.get("task") == "pose" and width > 4 + labels:
        return [Guess("yolov8", {name: (*plain, "rest")}, {"classes": labels})]
    if as_rows and _is_of_queries(clues, rows, found, marks):
        fits = labels is None or width == 4 + labels
        if fits and width - 4 >= 1:
            return [Guess("rtdetr_ultralytics", {name: plain})]
    if labels is not None:
        if width == 4 + labels:
            return [Guess("yolov8", {name: plain})]
        if width == 5 + labels:
            return _with_objectness(clues, name, rows, width, channels, marks)
        return []
    if rows is not None and cells is not None and not _is_grid(clues, rows):
        return []
    if not as_rows and rows is not None and rows <= width:
        return []
    coupled = any(width * n in channels for n in (1, 2, 3)) or (
        rows is not None and cells is not None and rows == 3 * cells
    )
    # Rows with objectness never come as columns, unless one layer gives all of a row.
    objects = coupled or (
        as_rows and width - 5 in channels and (1 in channels or width - 4 not in channels)
    )
    if objects:
        return _with_objectness(clues, name, rows, width, channels, marks)
    if width - 4 in channels:
        return [Guess("yolov8", {name: plain})]
    layers = _more_than_classes(width - 4, channels)
    if layers and layers[1] % 3 == 0:
        # A layer of its own gives them, and there are no prototypes: x, y and score of points.
        changes = {"classes": layers[0], "keypoints": {"count": layers[1] // 3}}
        columns = ("cx", "cy", "w", "h", "scores", "keypoints")
        return [Guess("yolov8_pose", {name: columns}, changes, clues.unsure_scale())]
    if layers:
        return [
            Guess("yolov8", {name: plain}, about=count(width - 4)),
            Guess(
                "yolov8",
                {name: (*plain, "rest")},
                about="fewer classes, set output.classes: its layers have "
                f"{' and '.join(map(str, layers))} numbers; rest is keypoints or masks",
            ),
        ]
    if not as_rows:
        return [Guess("yolov8", {name: plain})]
    with_one = "yolov5" if decoded else "yolox"
    return [
        Guess("yolov8", {name: plain}, about=count(width - 4)),
        Guess(with_one, {name: with_objects}, about=f"{count(width - 5)} and objectness"),
    ]


def _more_than_classes(width: int, channels: frozenset[int]) -> tuple[int, int] | None:
    """Return the layers of classes and of something else that together have a width."""
    for one in sorted(channels):
        if one != 4 and width - one in channels and one < width - one:
            return one, width - one
    return None


def count(classes: int) -> str:
    """Return a number of classes in words."""
    return "1 class" if classes == 1 else f"{classes} classes"


def _is_grid(clues: Clues, rows: int) -> bool:
    counts = [clues.cells(strides) for strides in GRIDS]
    return any(rows in (count, 3 * count) for count in counts if count is not None)


def _is_of_queries(
    clues: Clues, rows: int | None, found: list[evidence.Head], marks: frozenset[str]
) -> bool:
    """Return whether rows are those of a transformer's queries, not of the cells of a grid."""
    if clues.rtdetr:
        return True
    if rows is not None and (rows > MAX_FINISHED or rows == clues.cells()):
        return False
    return any(head.linear for head in found) or bool(evidence.FINISHING & marks)


def _with_objectness(
    clues: Clues,
    name: str,
    rows: int | None,
    width: int,
    channels: frozenset[int],
    marks: frozenset[str],
) -> list[Guess]:
    """Return the readings of rows with objectness."""
    cells = clues.cells()
    columns = ("cx", "cy", "w", "h", "objectness", "scores")
    three = rows is not None and cells is not None and rows == 3 * cells
    coupled = three or any(width * n in channels for n in (2, 3))
    if coupled or (rows is None and clues.ultralytics):
        return [Guess("yolov5", {name: columns}, evidence.units_of(marks))]
    if not evidence.is_decoded(marks):
        offsets = ("dx", "dy", "dw", "dh", "objectness", "scores")
        fitting = [
            strides for strides in GRIDS if rows is not None and clues.cells(strides) == rows
        ]
        if rows is not None and cells is not None and not fitting:
            return []
        strides = list(fitting[0]) if fitting else [8, 16, 32]
        return [Guess("yolox", {name: offsets}, {"strides": strides})]
    if 1 in channels:
        return [Guess("yolox_decoded", {name: columns})]
    if width - 5 in channels and 1 not in channels and (4 in channels or "bins" in marks):
        return [Guess("yolov6", {name: columns})]
    return [
        Guess("yolov6", {name: columns}, about="RGB from 0 to 1, image in the centre"),
        Guess("yolox_decoded", {name: columns}, about="BGR from 0 to 255, image at the top left"),
        Guess("yolov5", {name: columns}, about="RGB from 0 to 1"),
    ]
