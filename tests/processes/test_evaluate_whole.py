"""`run.py evaluate` measures the classes of whole images, and those of their pixels."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.builders import CLIP, ROOT

pytestmark = pytest.mark.processes


def evaluate(folder, data, stage, *args):
    """Run the command with a stage of `whole_images.py`; return its JSON and its output."""
    config = folder / "config.yaml"
    config.write_text(
        f"streams: {{data: {{source: {CLIP}}}}}\n"
        "stages:\n"
        "  capture: {use: capture}\n"
        f"  whole: {{use: 'tests.processes.whole_images:{stage}'}}\n"
    )
    command = [sys.executable, str(ROOT / "run.py"), "evaluate", str(data), "-q", *map(str, args)]
    out = folder / "result.json"
    done = subprocess.run(
        [*command, "--config", str(config), "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_classes_of_images_have_top_1_and_top_5_and_are_compared(tmp_path):
    # The strongest colour, then the second; the label of each is its folder.
    for name, label, colour in (
        ("a", "blue", (200, 90, 10)),
        ("b", "green", (90, 200, 10)),
        ("c", "green", (200, 90, 10)),
        ("d", "violet", (200, 10, 90)),
    ):
        path = tmp_path / "data" / label / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((8, 8, 3), colour, np.uint8))
    result, text = evaluate(tmp_path, tmp_path / "data", "Colour", "--report", tmp_path / "report")
    figures = result["classification"]
    assert (result["task"], result["labels"]) == ("classify", ["blue", "green"])
    assert figures["top_1"] == pytest.approx(2 / 3)
    assert figures["top_5"] == 1
    assert "violet" in text
    assert "1 of 4 images do not count" in text
    assert (tmp_path / "report" / "confusion.png").exists()
    before = tmp_path / "before.json"
    (tmp_path / "result.json").rename(before)
    again, _ = evaluate(tmp_path, tmp_path / "data", "Colour", "--against", before)
    assert [change["figure"] for change in again["against"]] == ["top_1", "top_5"]
    assert again["against"][0]["difference"] == 0


def test_maps_of_classes_have_mean_iou_at_the_size_of_the_truth(tmp_path):
    picture = np.full((8, 12, 3), (200, 9, 9), np.uint8)
    picture[:, 6:] = (9, 200, 9)
    truth = np.zeros((8, 12), np.uint8)
    truth[:, 4:] = 1
    truth[0, 4:] = 255
    for folder, values in (("images", picture), ("masks", truth)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "data" / folder / "a.png"), values)
    (tmp_path / "data" / "classes.txt").write_text("blue\ngreen\n")
    result, text = evaluate(tmp_path, tmp_path / "data", "ColourMap")
    figures = result["semantic"]
    blue, green = 32 / (32 + 14), 42 / 56
    assert [of["iou"] for of in figures["classes"]] == pytest.approx([blue, green])
    assert figures["mean_iou"] == pytest.approx((blue + green) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(74 / 88)
    assert "IoU" in text
    before = tmp_path / "before.json"
    (tmp_path / "result.json").rename(before)
    again, _ = evaluate(tmp_path, tmp_path / "data", "ColourMap", "--against", before)
    figures = {change["figure"]: change for change in again["against"]}
    assert figures["mean_iou"]["first"] == pytest.approx((blue + green) / 2)
