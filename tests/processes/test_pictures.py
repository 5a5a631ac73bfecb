"""Folders of images through whole runs, whose processes are killed."""

import json
import signal

import cv2
import numpy as np
import pytest

from tests.processes.runs import GRAPH, Run

pytestmark = pytest.mark.processes

PICTURES = GRAPH.replace(
    "  end: ", "  copies: {{use: pictures, after: ids, folder: {out}/copies}}\n  end: "
)
ENDINGS = (".jpg", ".png", ".webp", ".tif", ".bmp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a hundred images of five formats, each of its own grey and size."""
    made = tmp_path_factory.mktemp("photos")
    for i in range(100):
        picture = np.full((40 + i, 60, 3), 2 * i, np.uint8)
        assert cv2.imwrite(str(made / f"größe {i}{ENDINGS[i % 5]}"), picture)
    return made


@pytest.mark.parametrize("stage", ["capture", "boxes", "copies"])
def test_after_kills_every_image_has_its_name_and_its_copy(stage, folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with Run(tmp_path, source=folder, graph=PICTURES) as run:
        for moment in (1, 20, 60):
            run.wait_for_events(moment)
            run.strike(stage, signal.SIGKILL)
        assert run.wait() == 0, run.stderr
    assert [line["file"] for line in run.lines] == [
        f"größe {i}{ENDINGS[i % 5]}" for i in range(100)
    ]
    assert {path.name for path in (tmp_path / "copies").iterdir()} == set(before)
    for i in range(100):
        copy = cv2.imread(str(tmp_path / "copies" / f"größe {i}{ENDINGS[i % 5]}"))
        assert copy.shape == (40 + i, 60, 3)
        assert abs(int(copy[-1, -1].mean()) - 2 * i) <= 4
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_images_of_several_streams_do_not_mix(folder, tmp_path):
    graph = PICTURES.replace("\nstages:", "\n  yard: {{source: {source}, frames: 3}}\nstages:")
    with Run(tmp_path, "--frames", "3", source=folder, graph=graph) as run:
        assert run.wait() == 0, run.stderr
    names = {f"größe {i}{ENDINGS[i]}" for i in range(3)}
    for stream in ("demo", "yard"):
        assert {path.name for path in (tmp_path / "copies" / stream).iterdir()} == names


def test_the_command_for_a_folder_gives_copies_and_files_in_the_events(folder, tmp_path):
    graph = """\
streams:
  demo: {{source: {source}}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  tracker: {{use: tracker, new_track_score: 0.5}}
"""
    args = ("--frames", "10", "--sink", f"pictures={tmp_path / 'out'}")
    events = tmp_path / "events.jsonl"
    with Run(tmp_path, *args, "--sink", f"events={events}", source=folder, graph=graph) as run:
        assert run.wait() == 0, run.stderr
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [len(line["objects"]) for line in lines] == [seq % 5 for seq in range(10)]
    assert {found["id"] for line in lines for found in line["objects"]} == {None}
    assert len(list((tmp_path / "out").iterdir())) == 10
    assert "separate images, which are not tracked" in run.stderr
    assert str(tmp_path / "out") in run.stderr
