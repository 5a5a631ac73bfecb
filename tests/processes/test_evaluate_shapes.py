"""`run.py evaluate` measures masks and keypoints that the stages give, beside the boxes."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from models import datasets
from models.datasets.base import DataSet, LabelledImage, TrueObject
from tests.builders import ROOT
from tests.models.builders import save

pytestmark = pytest.mark.processes

SIDE = 64
BOX = (12.0, 20.0, 28.0, 40.0)
POINTS = [[14, 22], [26, 22], [20, 30], [15, 38], [25, 38]]
CARD = """name: m
weights: {file: m.onnx}
labels: [hat, glove]
family: generic
output:
  outputs: {boxes: [x1, y1, x2, y2], scores: [scores], points: [keypoints], masks: [masks]}
  keypoints: {count: 5}
  end_to_end: true
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Make a model that sees the same hat in every image: its box, five points, half a mask."""
    folder = tmp_path_factory.mktemp("model")
    mask = np.zeros((1, 2, 8, 8), np.float32)
    mask[0, 0, :, :4] = 1
    points = np.array([[[*point, 0.9] for point in POINTS]] * 2, np.float32).reshape(1, 2, 15)
    outputs = {
        "boxes": np.array([[BOX, (40, 40, 60, 60)]], np.float32),
        "scores": np.array([[[0.9, 0.0], [0.0, 0.0]]], np.float32),
        "points": points,
        "masks": mask,
    }
    save(folder / "m.onnx", [1, 3, SIDE, SIDE], outputs)
    (folder / "m.yaml").write_text(CARD)
    return folder / "m.yaml"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Make images in which the hat has its whole box as its mask, in half of them another place."""
    folder = tmp_path_factory.mktemp("set")
    made = []
    for number in range(4):
        path = folder / f"{number}.png"
        assert cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), 90, np.uint8))
        x1, y1, x2, y2 = BOX
        corners = ((x1, y1, (x1 + x2) / 2, y1, (x1 + x2) / 2, y2, x1, y2),)
        if number >= 2:
            corners = ((x1, y1, x2, y1, x2, y2, x1, y2),)
        by = 0 if number < 2 else 30
        points = tuple((float(x + by), float(y), 2.0) for x, y in POINTS)
        objects = (TrueObject(0, BOX, area_px=300.0, mask=corners, keypoints=points),)
        made.append(LabelledImage(path, path.name, (SIDE, SIDE), objects))
    data = DataSet(root=folder, format="coco", task="detect", labels=("hat",), images=tuple(made))
    datasets.write(data, folder / "coco", "coco")
    return folder / "coco"


def evaluate(folder, *args):
    """Run the command; return its JSON and its output."""
    command = [sys.executable, str(ROOT / "run.py"), "evaluate", *map(str, args), "-q"]
    out = folder / "result.json"
    done = subprocess.run(
        [*command, "--json", str(out)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_masks_and_keypoints_are_measured_reported_and_compared(model, images, tmp_path):
    result, text = evaluate(tmp_path, images, "--model", model)
    masks, keypoints = result["shapes"]
    assert (masks["kind"], keypoints["kind"]) == ("masks", "keypoints")
    assert result["detection"]["ap"] == pytest.approx(1)
    # Half of the truth is the half that the model gives; of the rest, an overlap of exactly .5.
    assert masks["figures"]["ap50"] == pytest.approx(1)
    assert masks["figures"]["ap75"] == pytest.approx(0.504950, abs=1e-6)
    assert keypoints["figures"]["ap"] == pytest.approx(0.504950, abs=1e-6)
    assert keypoints["sigmas"] == [0.2] * 5
    assert keypoints["confidence"]["total"]["missed"] == 2
    lines = text.splitlines()
    for name in ("masks", "keypoints"):
        assert sum(line.startswith(name) for line in lines) >= 2
    assert "keypoints: the sigmas are 1/5 each" in lines
    before = tmp_path / "before.json"
    (tmp_path / "result.json").rename(before)
    again, text = evaluate(
        tmp_path, images, "--model", model, "--against", before, "--report", tmp_path / "report"
    )
    figures = {change["figure"]: change for change in again["against"]}
    assert figures["masks ap50"]["difference"] == 0
    assert figures["keypoints ap"]["first"] == pytest.approx(keypoints["figures"]["ap"])
    assert "masks ap" in text
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names >= {"worst.html", "precision_recall_masks.png", "precision_recall_keypoints.png"}
