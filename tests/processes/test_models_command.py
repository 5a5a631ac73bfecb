"""`run.py models inspect` writes a card, loads the model, and tries it on an image."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from models import golden, yaml_reader
from models.card import load
from models.inspect import inspect
from tests.builders import CLIP, ROOT
from tests.models.builders import save, yolox_layers

pytestmark = pytest.mark.processes

BOX = (100.0, 120.0, 300.0, 280.0)


def command(*args, cwd=None, code=0):
    """Run the command; return its lines on stdout and on stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "models", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout.splitlines(), done.stderr.splitlines()


def finished_rows(folder, scale=1.0):
    """Write a model that finds the same 20 objects in every image; boxes in pixels of 416."""
    rows = np.tile([*(np.array(BOX) * scale), 0.9, 1], (20, 1))[None]
    return save(folder / "m.onnx", [1, 3, 416, 416], {"out": rows}, dtype="uint8")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    assert cv2.imwrite(str(path), np.full((416, 416, 3), 90, np.uint8))
    return path


def test_a_card_of_a_recognised_file_is_read_again_and_fits(tmp_path):
    path = save(
        tmp_path / "my yolox.onnx",
        [1, 3, 416, 416],
        {"output": (1, 3549, 85)},
        layers=yolox_layers(),
    )
    lines, _ = command("inspect", path, "--card")
    card = tmp_path / "card.yaml"
    card.write_text("\n".join(lines))
    read = load(card)
    assert (read.name, read.family, read.labels) == ("my_yolox", "yolox", "coco80")
    assert inspect(path, read).layout == inspect(path).layout
    assert inspect(path, read).input == inspect(path).input


def test_a_card_of_an_unknown_file_asks_what_each_output_is(tmp_path):
    shapes = {"a": (1, 7, 11, 13), "b": (1, 9)}
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], shapes)
    lines, _ = command("inspect", path, "--card")
    assert any("No known kind fits" in line for line in lines)
    card = yaml_reader.parse("\n".join(lines))
    assert card["family"] == "generic"
    assert set(card["output"]["outputs"]) == {"a", "b"}


def test_inspect_loads_the_model_and_says_how_long_it_took(tmp_path):
    card = tmp_path / "card.yaml"
    finished_rows(tmp_path)
    card.write_text("name: m\nfamily: end_to_end\nweights: {file: m.onnx}\n")
    lines, _ = command("inspect", card)
    assert lines[-1].startswith("loads    CPUExecutionProvider in ")


def test_a_trial_draws_the_objects_and_is_silent_if_they_look_right(tmp_path, picture):
    card = tmp_path / "card.yaml"
    finished_rows(tmp_path)
    card.write_text("name: m\nfamily: end_to_end\nweights: {file: m.onnx}\n")
    lines, errors = command("inspect", card, "--try", picture, cwd=tmp_path)
    assert "20 1 in 1 frames; drawn in try.jpg" in lines[-1]
    assert errors == []
    drawn = cv2.imread(str(tmp_path / "try.jpg"))
    assert np.abs(drawn.astype(int) - 90)[119:123, 150:250].max() > 30


def test_a_trial_of_a_wrong_card_names_the_key_and_fails(tmp_path, picture):
    card = tmp_path / "card.yaml"
    finished_rows(tmp_path, 1 / 416)
    card.write_text("name: m\nfamily: end_to_end\nweights: {file: m.onnx}\n")
    _, errors = command("inspect", card, "--try", picture, cwd=tmp_path, code=1)
    (line,) = [line for line in errors if line.startswith("run.py")]
    assert "100 % of the boxes are under 3 px; check output.units (fraction)" in line


@pytest.mark.parametrize(("scale", "code"), [(1.0, 0), (1 / 416, 1)])
def test_verify_looks_at_the_results_too(scale, code, tmp_path, picture):
    card = tmp_path / "card.yaml"
    sha256 = hashlib.sha256(finished_rows(tmp_path, scale).read_bytes()).hexdigest()
    card.write_text(f"name: m\nfamily: end_to_end\nweights: {{file: m.onnx, sha256: {sha256}}}\n")
    lines, errors = command("verify", card, "--try", picture, cwd=tmp_path, code=code)
    assert lines[0] == f"{tmp_path}/m.onnx: matches its card"
    if code:
        (line,) = [line for line in errors if line.startswith("run.py")]
        assert "100 % of the boxes are under 3 px; check output.units (fraction)" in line
    else:
        assert lines[1:] == [f"20 objects in 1 frames of {picture}: nothing odd"]
        assert errors == []
    assert not (tmp_path / "try.jpg").exists()


@pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (0.01, 1)])
def test_verify_compares_the_golden_outputs(shift, code, tmp_path, picture):
    card, path = tmp_path / "card.yaml", tmp_path / "m.golden.npz"
    model = finished_rows(tmp_path)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    weights = f"{{file: m.onnx, sha256: {sha256}, golden: m.golden.npz}}"
    card.write_text(f"name: m\nfamily: end_to_end\nweights: {weights}\n")
    golden.write(path, model.read_bytes(), {"images": np.zeros((1, 3, 416, 416), np.uint8)})
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "output0": arrays["output0"] * (1 + shift)})
    lines, errors = command("verify", card, "--try", picture, cwd=tmp_path, code=code)
    if code:
        (line,) = errors
        assert line.startswith(f"run.py: {path}: the model gives other outputs")
        assert "they differ by 9.9e-03, at most 1e-03" in line
    else:
        assert lines[1] == f"{path}: the model gives these outputs exactly"


WHOLE = {
    "classify": ({"out": np.float32([[0, 9, 1]])}, "1 frames of dog in 1 frames"),
    "semantic": (
        {"out": np.float32(np.arange(3)[None, :, None, None] == [[0] * 4 + [2] * 4] * 8)},
        f"{416 * 208} px of cat, {416 * 208} px of cow in 1 frames",
    ),
}


@pytest.mark.parametrize("task", WHOLE)
def test_a_trial_of_another_task_says_what_it_gives(task, tmp_path, picture):
    outputs, found = WHOLE[task]
    save(tmp_path / "m.onnx", [1, 3, 416, 416], outputs, dtype="uint8")
    card = tmp_path / "card.yaml"
    card.write_text(
        f"name: m\nfamily: {task}\nweights: {{file: m.onnx}}\nlabels: [cat, dog, cow]\n"
    )
    lines, errors = command("inspect", card, "--try", picture, cwd=tmp_path)
    assert f"found    {found}; drawn in try.jpg" in lines
    assert errors == []
    drawn = cv2.imread(str(tmp_path / "try.jpg"))
    assert np.abs(drawn.astype(int) - 90).max() > 30


def test_a_run_that_found_nothing_says_so_at_its_end(tmp_path):
    rows = np.zeros((1, 20, 6))
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"out": rows}, dtype="uint8")
    card = tmp_path / "card.yaml"
    card.write_text("name: m\nfamily: end_to_end\nweights: {file: m.onnx}\n")
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "run.py"), "--source", str(CLIP), "--frames", "5"),
            *("--model", str(card), "--sink", "null", "-q"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert " WARNING " in line
    assert "stages.detector: no object in 5 frames" in line
