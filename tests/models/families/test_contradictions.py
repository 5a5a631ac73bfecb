"""A layout that contradicts itself or the file is refused in one line, with its key in front."""

import ast
import inspect as source
import re

import msgspec
import numpy as np
import pytest

from models import layout_problems
from models.errors import CardError, ContractError
from models.families.presets import presets
from models.layout_problems import problem
from models.output_layout import OutputLayout
from tests.models.families.model_file import contract_of

CORNERS = ["x1", "y1", "x2", "y2"]
OFFSETS = ["dx", "dy", "dw", "dh"]
SIDES = ["left", "top", "right", "bottom"]
ROWS = {"outputs": {"a": [*CORNERS, "scores"]}}
YOLOX = {"outputs": {"a": [*OFFSETS, "scores"]}, "coding": "yolox", "strides": [8]}
YOLOV3 = {**YOLOX, "coding": "yolov3", "anchors": [[[10, 20]]]}
FCOS = {"outputs": {"a": [*SIDES, "scores"]}, "strides": [8]}
BINS = {"outputs": {"a": ["bins", "scores"]}, "strides": [8]}
SSD = {
    "outputs": {"a": OFFSETS, "b": ["scores"]},
    "coding": "ssd",
    "priors": {"kind": "boxes", "boxes": [[0, 0, 1, 1]]},
}
LEVELS = {"kind": "levels", "grids": [[2, 2]], "sizes": [[8]]}
GOOD = [ROWS, YOLOX, YOLOV3, FCOS, BINS, SSD, {**SSD, "priors": LEVELS}]


def columns(*groups):
    return {"outputs": {f"o{i}": list(group) for i, group in enumerate(groups)}}


XYXY, CXCYWH = ["x1", "y1", "x2", "y2"], ["cx", "cy", "w", "h"]
POSE = {"outputs": {"a": [*XYXY, "scores", "keypoints"]}}
WRONG = [
    (
        columns([*CORNERS, "scroes"]),
        r"outputs\.o0: unknown column \(found 'scroes'\); use angle, bins",
    ),
    (columns([*CORNERS, "rest", "scores"]), r"outputs\.o0: the lengths of rest and scores do not"),
    (columns(["bins", "rest"], ["scores"]), r"outputs\.o0: the lengths of bins and rest do not"),
    (columns([*CORNERS, "x1", "scores"]), r"outputs\.o0: a column is there twice"),
    (columns([*CORNERS, "score"], ["count", "image"]), r"outputs\.o1: count has to be the only"),
    (columns([*CORNERS, "scores"], ["scores"]), r"outputs: column scores is in outputs with diff"),
    (columns(CORNERS, CORNERS, ["scores"]), r"outputs: expected as many .* \(found \[1, 2\]\)"),
    (columns(["x1", "y1", "scores"]), r"outputs: the columns .*\(found scores, x1, y1\)"),
    (columns([*CORNERS, "cx", "cy", "w", "h", "scores"]), r"outputs: the columns are not those of"),
    (columns(CORNERS), r"outputs: expected either scores .* or score"),
    (columns([*CORNERS, "score", "scores"]), r"outputs: expected either scores"),
    ({**YOLOX, "coding": None}, r"coding: missing; .* one of ssd, linear, yolov3"),
    ({**ROWS, "coding": "yolox"}, r"coding: has no use .*\(found yolox\)"),
    ({**YOLOX, "strides": []}, r"strides: missing"),
    ({**FCOS, "strides": []}, r"strides: missing"),
    (
        {**FCOS, "outputs": {key: [*SIDES, "scores"] for key in "abc"}},
        r"strides: expected one for each grid \(found 1 strides, 3 outputs",
    ),
    ({**YOLOV3, "anchors": []}, r"anchors: expected a list .*\(found 0 lists, 1 strides\)"),
    ({**YOLOV3, "anchors": [[]]}, r"anchors: a list is empty"),
    ({**YOLOX, "anchors": [[[1, 2]]]}, r"anchors: have no use without coding"),
    ({**ROWS, "per_cell": 2}, r"per_cell: has a use only for a grid"),
    ({**SSD, "priors": None}, r"priors: missing; coding ssd"),
    ({**YOLOX, "priors": LEVELS}, r"priors: have no use without coding"),
    ({**ROWS, "units": "strides"}, r"units: strides are those of a grid"),
    ({**YOLOX, "units": "fraction"}, r"units: have no use for offsets.*\(found fraction\)"),
    ({**BINS, "units": "fraction"}, r"units: have no use for bins"),
    ({**SSD, "priors": {"kind": "boxes"}}, r"priors\.boxes: missing"),
    ({**SSD, "priors": {"kind": "ssd"}}, r"priors\.grids: missing"),
    (
        {**SSD, "priors": {**LEVELS, "grids": [[2, 2], [1, 1]]}},
        r"priors\.sizes: expected a list for each grid \(found 1 lists, 2 grids\)",
    ),
    (
        {**SSD, "priors": {"kind": "boxes", "boxes": [[0, 0, 1, float("nan")]]}},
        r"priors: expected finite numbers \(found .*nan",
    ),
    ({**YOLOV3, "anchors": [[[float("inf"), 1]]]}, r"anchors: expected finite numbers"),
    ({**ROWS, "inputs": {"a": [float("nan")]}}, r"inputs: expected finite numbers"),
    ({"outputs": {"a": ["scores"], "p": ["prototypes", "skip"]}}, r"outputs.p: prototypes has to"),
    ({"outputs": {"a": [*XYXY, "scores", "keypoints"]}}, r"keypoints.count: missing; a has"),
    ({"outputs": {"a": ["embedding"], "b": ["scores"]}}, r"outputs: embedding has to be alone"),
    ({"outputs": {"a": [*XYXY, "scores", "angle"]}}, r"outputs: angle needs the columns cx cy w h"),
    ({"outputs": {"a": [*XYXY, "scores", "coefficients"]}}, r"outputs: coefficients has no use"),
    (
        {
            "outputs": {
                "a": [*XYXY, "score", "class", "coefficients"],
                "p": ["prototypes"],
                "m": ["masks"],
            }
        },
        r"outputs: masks and coefficients are both there",
    ),
    (
        {"outputs": {"a": [*CXCYWH, "score", "angle"], "m": ["masks"]}},
        r"outputs: angle cannot be beside keypoints or masks",
    ),
    ({**ROWS, "keypoints": {"count": 5}}, r"keypoints: has no use without the column"),
    (
        {**POSE, "keypoints": {"count": 3, "names": ["a", "b"]}},
        r"keypoints.names: expected 3",
    ),
    (
        {**POSE, "keypoints": {"count": 3, "values": ["x", "score"]}},
        r"keypoints.values: expected",
    ),
    (
        {**POSE, "keypoints": {"count": 3, "edges": [[0, 3]]}},
        r"keypoints.edges: expected two different points from 0 to 2 \(found \[0, 3\]\)",
    ),
    (
        {**POSE, "keypoints": {"count": 3, "units": "priors"}},
        r"keypoints.units: priors have",
    ),
    (
        {"outputs": {"a": ["keypoints"]}, "keypoints": {"count": 3, "units": "box"}},
        r"keypoints.units: box has no use",
    ),
    ({**POSE, "keypoints": {"count": 3, "units": "cells"}}, r"keypoints.units: cells need"),
]


def layout_of(table):
    return msgspec.convert(table, OutputLayout)


@pytest.mark.parametrize(("table", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_layout_that_contradicts_itself_has_a_problem(table, message):
    found = problem(layout_of(table))
    assert found is not None
    assert re.match(message, found)
    assert "\n" not in found


def test_every_message_of_problem_is_reached():
    texts = []
    for node in ast.walk(ast.parse(source.getsource(layout_problems))):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            parts = [node.value, *ast.walk(node.value)]
            strings = [p.value for p in parts if isinstance(p, ast.Constant)]
            texts.append(max((s for s in strings if isinstance(s, str)), key=len))
    found = "\n".join(problem(layout_of(table)) for table, _ in WRONG)
    assert len(texts) > 20
    assert [text for text in texts if text not in found] == []


@pytest.mark.parametrize("table", GOOD)
def test_a_layout_that_is_consistent_has_no_problem(table):
    assert problem(layout_of(table)) is None


@pytest.mark.parametrize("name", presets())
def test_a_preset_has_no_problem(name):
    preset = presets()[name]
    outputs = {
        f"{level}_{i}": names
        for i, names in enumerate(preset.outputs)
        for level in range(preset.levels)
    }
    assert problem(preset.layout(outputs, {})) is None


@pytest.mark.parametrize("value", ["0", "-0.1", ".nan"])
def test_variances_have_to_be_above_0(tmp_path, value):
    outputs = {"loc": np.zeros((1, 9, 4)), "conf": np.zeros((1, 9, 3))}
    card = f"output: {{variances: [1, 1, 1, {value}]}}"
    with pytest.raises(CardError, match=r"output\.variances: "):
        contract_of(tmp_path, "ssd_mobilenet", (64, 64), outputs, card=card)


# --- a card against its file ---

FILE = {"boxes": np.zeros((1, 9, 4), np.float32), "scores": np.zeros((1, 9, 3), np.float32)}
PAIR = "outputs: {boxes: [x1, y1, x2, y2], scores: [scores]}"


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (
            "outputs: {boxes: [x1, y1, x2, y2], scroes: [scores]}",
            ContractError,
            r"output\.outputs .*'scroes', the file has boxes, scores\); did you mean 'scores'",
        ),
        (
            f"{PAIR}, classes: 5",
            ContractError,
            r"output\.classes .*\(found 5, the file has 3\); remove it",
        ),
        (
            f"{PAIR}, classes: 3, background: 0",
            ContractError,
            r"output\.classes .*\(found 3, the file has 2\)",
        ),
        (
            f"{PAIR}, background: 3",
            ContractError,
            r"output\.background .*\(found 3, the file has 3 columns",
        ),
        (
            "outputs: {boxes: [x1, y1, x2, y2, score], scores: [rest]}",
            ContractError,
            r"output\.outputs .*\(found 5 columns for boxes, the file has boxes float32\[1,9,4\]\)",
        ),
        (
            "outputs: {boxes: [x1, y1, x2, y2]}",
            CardError,
            r"output\.outputs: expected either scores .* \(card m\)",
        ),
        (
            f"{PAIR}, units: metres",
            CardError,
            r"output\.units: expected one of pixels, .* .found 'metres'",
        ),
        (f"{PAIR}, unit: pixels", CardError, r"output.unit: unknown key; did you mean 'units'"),
        ("units: pixels", CardError, r"output\.outputs is missing in its card m"),
    ],
)
def test_a_card_that_contradicts_the_file_is_refused(tmp_path, output, error, message):
    with pytest.raises(error, match=message) as caught:
        contract_of(tmp_path, "generic", (64, 64), FILE, card=f"output: {{{output}}}")
    text = str(caught.value)
    assert len(text) <= 300
    assert "\n" not in text


def test_a_background_that_leaves_no_class_is_refused(tmp_path):
    outputs = {**FILE, "scores": np.zeros((1, 9, 1), np.float32)}
    card = f"output: {{{PAIR}, background: -1}}"
    with pytest.raises(ContractError, match=r"output\.background .*leaves no class"):
        contract_of(tmp_path, "generic", (64, 64), outputs, card=card)


def test_outputs_that_fit_a_preset_in_two_ways_are_refused(tmp_path):
    outputs = {"a": np.zeros((1, 9, 4), np.float32), "b": np.zeros((1, 9, 4), np.float32)}
    with pytest.raises(ContractError, match=r"family ssd in 2 ways .*state `output\.outputs`"):
        contract_of(tmp_path, "ssd", (64, 64), outputs)
    card = "output: {outputs: {b: [x1, y1, x2, y2], a: [scores]}}"
    contract = contract_of(tmp_path, "ssd", (64, 64), outputs, card=card)
    assert [output.name for output in contract.outputs] == ["b", "a"]
    assert contract.classes == 4


def test_an_unknown_family_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(CardError, match=r"\(found 'yolov88'\); did you mean 'yolov8'"):
        contract_of(tmp_path, "yolov88", (64, 64), FILE)


@pytest.mark.parametrize("levels", [["a1", "b2", "c3"], ["out", "606", "607"]])
@pytest.mark.parametrize("nhwc", [False, True])
def test_maps_that_are_not_square_are_levels_whatever_their_names(tmp_path, levels, nhwc):
    outputs = {}
    for name, stride in zip(levels, (8, 16, 32), strict=True):
        shape = (1, 64 // stride, 128 // stride, 24)
        value = np.zeros(shape, np.float32)
        outputs[name] = value if nhwc else np.ascontiguousarray(value.transpose(0, 3, 1, 2))
    contract = contract_of(tmp_path, "yolov5_heads", (128, 64), outputs, nhwc=nhwc)
    assert contract.classes == 3
    assert list(contract.layout.outputs) == levels


def test_a_batch_of_four_images_is_not_an_axis_of_boxes(tmp_path):
    outputs = {"a": np.zeros((4, 9, 7), np.float32), "b": np.zeros((4, 9, 4), np.float32)}
    contract = contract_of(tmp_path, "ssd", (64, 64), outputs, images=4)
    assert contract.layout.outputs == {"a": ("scores",), "b": ("x1", "y1", "x2", "y2")}
    assert contract.classes == 7
