"""The settings files of docs/classify.md are complete: each is checked with models of its tasks."""

import re

import pytest

import run
from tests.builders import CLIP, ROOT
from tests.models.seeing import NAMES, classifier, embedder, segmenter

PAGE = (ROOT / "docs" / "classify.md").read_text()
FILES = dict(re.findall(r"^```yaml\n# (\S+)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE))
SETTINGS = [name for name, text in FILES.items() if text.startswith("streams:")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with the files of the page, and the models and clips that they name."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bottles.txt").write_text("\n".join(NAMES))
    made = {
        "bottles": (classifier, "classify"),
        "weather": (classifier, "classify"),
        "vehicles": (classifier, "classify"),
        "reid": (embedder, "embed"),
        "surfaces": (segmenter, "semantic"),
    }
    for name, (make, family) in made.items():
        make(tmp_path / f"{name}.onnx")
        card = tmp_path / f"{name}.yaml"
        if not card.exists():
            card.write_text(f"name: {name}\nfamily: {family}\nweights: {{file: {name}.onnx}}\n")
    for clip in re.findall(r"source: (\w+\.mp4)", PAGE):
        (tmp_path / clip).symlink_to(CLIP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_a_settings_file_for_each_task():
    text = "".join(FILES[name] for name in SETTINGS)
    uses = set(re.findall(r"use: (\w+)", text))
    assert {"classify", "classify_objects", "embed_objects", "semantic"} <= uses


@pytest.mark.parametrize("name", SETTINGS)
def test_a_settings_file_of_the_page_is_accepted(name, folder, capsys):
    assert run.main(["check", name]) == 0, capsys.readouterr().err


def test_two_classifiers_of_the_frame_in_a_row_are_refused_in_one_line(folder, capsys):
    path = folder / "scene.yaml"
    line = "  again:   {use: classify, model: weather.yaml}\n  events:"
    path.write_text(path.read_text().replace("  events:", line))
    assert run.main(["check", "scene.yaml"]) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "scene.yaml: stages.again: another stage before it gives the labels" in message


def test_a_classifier_of_objects_without_boxes_is_refused_in_one_line(folder, capsys):
    path = folder / "scene.yaml"
    text = re.sub(
        r"scene: +{.*}", "scene: {use: classify_objects, model: weather.yaml}", path.read_text()
    )
    path.write_text(text)
    assert run.main(["check", "scene.yaml"]) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "stages.scene: takes the array 'boxes', which no stage before it gives" in message
