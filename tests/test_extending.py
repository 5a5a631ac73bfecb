"""docs/extending.md works as written: its code is put into a copy of the project and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from tests.builders import ROOT
from tests.models.builders import save

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<place>.+)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
TABLE_LINE = re.compile(r"in (?P<file>\S+), (?P<table>[A-Z]+)")
CODE = ("run.py", "pipeline", "stages", "models", "tests/clips/demo.mp4")
"""Parts of the project that a run needs."""

FAMILY = """
import sys
import numpy as np
from models import families, zoo
from models.transform import fit
contract = zoo.resolve(sys.argv[1])
family = families.load(contract.family)(contract.input, contract.classes)
image = contract.input
transform, _ = fit(640, 480, image.size, image.resize, image.anchor)
raw = [np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), np.array([[0.1, 0.8]], np.float32)]
found = family.decode(raw, transform, 0.5)
print(contract.family, found.boxes.round().tolist(), found.classes.tolist())
"""


class Done(NamedTuple):
    """Result of a command."""

    status: int
    out: str


class Project:
    """A copy of the project with the code of the page in it."""

    def __init__(self, folder):
        self.folder = folder
        for name in CODE:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        for block in BLOCK.finditer(PAGE):
            self._add(block["place"], block["code"])

    def _add(self, place, code):
        line = TABLE_LINE.fullmatch(place)
        if line is None:
            (self.folder / place).write_text(code)
            return
        file = self.folder / line["file"]
        text = file.read_text()
        begin = re.search(rf"^{line['table']}\b.* = \{{\n", text, re.MULTILINE)
        end = text.index("\n}\n", begin.end()) + 1
        file.write_text(text[:end] + code + text[end:])

    def python(self, *arguments):
        """Run the interpreter in the copy, which comes first on the path."""
        env = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Done(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("extended"))


def test_every_block_of_code_names_its_file():
    assert PAGE.count("```python\n") + PAGE.count("```yaml\n") == len(BLOCK.findall(PAGE))


def test_the_readme_has_the_test_of_the_page():
    [block] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert f"# test_min_height.py\n{block}" in PAGE


def test_the_settings_file_with_all_stages_runs(project):
    done = project.python("run.py", "extended.yaml")
    assert done.status == 0, done.out
    lines = (project.folder / "counts.csv").read_text().splitlines()
    text = (project.folder / "events.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert [line.split(",")[:2] for line in lines] == [["demo", str(n)] for n in range(30)]
    assert [int(line.split(",")[2]) for line in lines] == [len(e["objects"]) for e in events]
    found = [thing for event in events for thing in event["objects"]]
    assert found
    assert all(thing["id"] >= 1 for thing in found)
    assert all(thing["box"][3] - thing["box"][1] >= 59.9 for thing in found)


def test_the_sink_can_be_named_on_the_command_line(project):
    done = project.python("run.py", "check", "extended.yaml", "--sink", "counts=other.csv")
    assert done.status == 0, done.out
    assert "counts" in done.out


def test_the_command_prints_the_labels(project):
    done = project.python("run.py", "labels", "ssdlite_mobilenet_v2")
    assert done.status == 0, done.out
    assert done.out.splitlines()[0] == "person"


def test_the_family_of_the_card_decodes(project):
    outputs = {"box": (1, 8, 4), "prob": (1, 8, 2)}
    save(project.folder / "my_model.onnx", [1, 3, 64, 64], outputs)
    done = project.python("-c", FAMILY, "my_model.yaml")
    assert done.out == "fractions [[160.0, 120.0, 480.0, 360.0]] [1]\n"


def test_the_test_of_the_page_passes(project):
    done = project.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_min_height.py")
    assert done.status == 0, done.out
    assert "1 passed" in done.out


def test_the_training_method_learns_and_its_model_loads(project):
    pytest.importorskip("torch")
    colours = {"blue": (200, 40, 40), "red": (40, 40, 200)}
    for label, colour in colours.items():
        folder = project.folder / "pictures" / label
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = np.full((64, 64, 3), 20 * number, np.uint8)
            cv2.rectangle(pixels, (10 + number, 10), (50, 50), colour, -1)
            cv2.imwrite(str(folder / f"{number}.png"), pixels)
    done = project.python(
        "run.py", "train", "--method", "two_maps", "--backbone", "ssdlite", "--data", "pictures",
        "--size", "64", "--epochs", "8", "--set", "views=2", "--threads", "1", "--out", "trained",
    )  # fmt: skip
    assert done.status == 0, done.out
    assert re.search(r"^test +top-1 1\.000", done.out, re.MULTILINE), done.out
    done = project.python("run.py", "models", "inspect", "trained/two_maps-pictures.yaml")
    assert done.status == 0, done.out


def test_the_zone_reports_objects_that_enter_and_leave(project):
    code = (
        "import numpy as np, json\n"
        "from pipeline.frame import Frame\n"
        "from pipeline.testing import context, run_stages\n"
        "from zone import Zone, ZoneSettings\n"
        "def frame(n):\n"
        "    box = np.array([[40 * n, 0, 40 * n + 20, 60]], np.float32)\n"
        "    return Frame.of('a', n, n / 10, boxes=box, scores=np.ones(1, np.float32),\n"
        "        classes=np.zeros(1, np.int32), ids=np.array([7], np.int64))\n"
        "zone = Zone(ZoneSettings(box=(30, 0, 100, 100)), context())\n"
        "for done in run_stages([zone], map(frame, range(4))):\n"
        "    print([e['kind'] for e in json.loads(done['object_events'].tobytes())])\n"
        "again = Zone(zone.settings, context())\n"
        "again.restore('a', zone.state('a'))\n"
        "assert again.inside == zone.inside\n"
    )
    done = project.python("-c", code)
    assert done.out.splitlines() == ["[]", "['entered']", "[]", "['exited']"]


def test_the_tracker_survives_a_crash(project):
    code = (
        "import numpy as np\n"
        "from stages.detections import Detections\n"
        "from stages.tracking.overlap import Overlap, OverlapSettings\n"
        "def detections(n):\n"
        "    boxes = np.array([[n, 0, n + 20, 40], [200 - n, 0, 220 - n, 40]], np.float32)\n"
        "    return Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.int32), None)\n"
        "first, second = Overlap(OverlapSettings()), Overlap(OverlapSettings())\n"
        "assert first.update(detections(0), 0.0).ids.tolist() == [1, 2]\n"
        "second.restore(first.state())\n"
        "assert second.update(detections(5), 0.1).ids.tolist() == [1, 2]\n"
    )
    assert project.python("-c", code) == Done(0, "")
