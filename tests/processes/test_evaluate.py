"""`run.py evaluate` measures the stages that run, and gives the figures of the models alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import run
from models import datasets
from models.datasets.base import DataSet, LabelledImage, TrueObject
from tests.builders import CLIP, ROOT
from tests.processes.runs import children, wait_until

pytestmark = pytest.mark.processes

FRAMES = 12


def evaluate(folder, *args, code=0):
    """Run the command; return its JSON and its output, or its lines on stderr if it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "evaluate", *map(str, args), "-q"]
        + (["--json", str(folder / "result.json")] if code == 0 else []),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        return done.stderr.splitlines()
    return json.loads((folder / "result.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of the demonstration clip as a data set, which has people at made-up places."""
    folder = tmp_path_factory.mktemp("set")
    video, made = cv2.VideoCapture(str(CLIP)), []
    for i in range(FRAMES):
        for _ in range(20):
            assert video.grab()
        picture = video.retrieve()[1]
        path = folder / f"{i}.png"
        assert cv2.imwrite(str(path), picture)
        objects = tuple(
            TrueObject(kind, (x, y, x + 40.0, y + 90.0))
            for kind, x, y in ((0, 100.0 + 20 * i, 150.0), (0, 500.0, 200.0), (1, 30.0, 40.0))
        )
        made.append(LabelledImage(path, path.name, (768, 576), objects))
    data = DataSet(
        root=folder,
        format="coco",
        task="detect",
        labels=("person", "unicorn"),
        images=tuple(made),
    )
    datasets.write(data, folder / "coco", "coco")
    return folder / "coco"


@pytest.fixture(scope="module")
def measured(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    result, text = evaluate(folder, images)
    return folder / "result.json", result, text


def test_figures_equal_those_of_pycocotools_over_the_bare_model(images, measured):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from models import families, zoo
    from models.boxes.suppress import suppress
    from models.feed import feed
    from models.runtime import Runtime
    from models.transform import fit

    model = zoo.resolve("ssdlite_mobilenet_v2")
    runtime = Runtime(model, "cpu")
    family = families.make(model.family, model.input, model.classes, model.layout)
    data = datasets.read(images)
    truth, found = [], []
    for number, image in enumerate(data.images):
        picture = cv2.imread(str(image.path))
        transform, _ = fit(768, 576, (300, 300), "stretch", "centre")
        raw = runtime.run(feed(model, cv2.resize(picture, (300, 300))[None]))
        boxes, scores, classes = family.decode(family.of_image(raw, 0, 1), transform, 0.001)
        order = np.argsort(-scores, kind="stable")[:1000]
        kept = order[suppress(boxes[order], classes[order], 0.5)[:300]]
        for row in kept[classes[kept] == 0]:
            x1, y1, x2, y2 = boxes[row].astype(float)
            box = [x1, y1, x2 - x1, y2 - y1]
            found.append(
                {"image_id": number, "category_id": 0, "bbox": box, "score": float(scores[row])}
            )
        for item in image.objects:
            if item.number == 0:
                x1, y1, x2, y2 = item.box
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": number,
                        "category_id": 0,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 768, "height": 576} for i in range(FRAMES)],
        "annotations": truth,
        "categories": [{"id": 0}],
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    _, result, _ = measured
    figures = [result["detection"][key] for key in ("ap", "ap50", "ap75")]
    assert figures == pytest.approx(evaluation.stats[:3].tolist(), abs=1e-6)
    assert figures[1] > 0


def test_the_result_has_the_ledger_and_the_classes_left_out(measured):
    _, result, text = measured
    ledger = result["run"]["streams"]["data"]
    assert (ledger["captured"], ledger["delivered"], ledger["failed"]) == (FRAMES, FRAMES, {})
    assert result["labels"] == ["person"]
    assert "1 of 2 classes of the data set are left out" in text
    assert "unicorn" in text
    assert result["data"]["images"] == FRAMES


def test_a_killed_detector_changes_no_figure(images, measured, tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "evaluate", str(images), "-q"]
    out = tmp_path / "result.json"
    with subprocess.Popen([*command, "--json", str(out)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(children(process.pid)) >= 2)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        assert process.wait(120) == 0
    again = json.loads(out.read_text())
    assert again["detection"] == measured[1]["detection"]
    assert again["detections"] == measured[1]["detections"]


@pytest.mark.soak
def test_a_comparison_with_another_confidence_and_itself(images, measured, tmp_path):
    _, text = evaluate(tmp_path, images, "--against", measured[0])
    assert "ap50" in text
    assert "+0.0  (95 %: +0.0 to +0.0)" in text


def test_the_report_has_curves_and_a_page_of_the_worst_images(images, tmp_path):
    evaluate(tmp_path, images, "--report", tmp_path / "report", "--frames", "3")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names >= {"precision_recall.png", "confusion.png", "worst.html", "worst-001.jpg"}
    assert cv2.imread(str(tmp_path / "report" / "precision_recall.png")) is not None


@pytest.mark.soak
def test_the_tracks_of_a_clip_against_themselves_are_all_right(tmp_path):
    clip = tmp_path / "clips" / "walk.mp4"
    clip.parent.mkdir()
    clip.write_bytes(CLIP.read_bytes())
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "run.py"), "--source", str(clip), "--frames", "40"),
            *("-q", "--sink", f"mot={tmp_path / 'own.txt'}"),
        ],
        check=True,
        timeout=120,
    )
    rows = [line.split(",") for line in (tmp_path / "own.txt").read_text().splitlines()]
    people = [[*row[:6], "1", "1", "1"] for row in rows if row[7] == "0"]
    truth = clip.with_suffix(".txt")
    truth.write_text("".join(",".join(row) + "\n" for row in people))
    result, _ = evaluate(tmp_path, clip.parent, "--frames", "40")
    figures = result["tracking"]
    assert (figures["hota"], figures["mota"], figures["idf1"]) == pytest.approx((1, 1, 1))
    assert figures["frames"] == 40
    # One person of the truth has another id from the middle on.
    ids = [row[1] for row in people]
    longest = max(ids, key=ids.count)
    middle = [row[0] for row in people if row[1] == longest][ids.count(longest) // 2]
    swapped = [
        [row[0], "9999", *row[2:]] if row[1] == longest and int(row[0]) > int(middle) else row
        for row in people
    ]
    truth.write_text("".join(",".join(row) + "\n" for row in swapped))
    worse, _ = evaluate(tmp_path, clip.parent, "--frames", "40")
    assert worse["tracking"]["hota"] < 1
    assert worse["tracking"]["mota"] == pytest.approx(result["tracking"]["mota"], abs=0.01)
    assert worse["tracking"]["idf1"] < 1


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["none"], "none: the data set is not there; name a file or folder"),
        (["{images}", "--rename", "person"], "--rename: expected MODEL_LABEL=DATA_LABEL"),
        (
            ["{images}", "--rename", "persn=person"],
            "the model has no label 'persn'; did you mean 'person'?",
        ),
        (["{images}", "--against", "none.json"], "none.json: cannot be read: No such file"),
        (["{images}", "--against", "{readme}"], "no result of an evaluation"),
        (["{images}", "--config", "{rtsp}"], "environment variable"),
        (["{classes}"], "classes of whole images (format folders); name a model that gives them"),
        (["{classes}", "--config", "{default}"], "no stage of the settings gives classes of whole"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(images, args, complaint, capsys, tmp_path):
    known = {"images": images, "readme": ROOT / "README.md", "rtsp": ROOT / "configs/daemon.yaml"}
    known["default"] = ROOT / "configs/evaluate.yaml"
    known["classes"] = tmp_path / "classes"
    for label in ("hat", "glove"):
        (tmp_path / "classes" / label).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "classes" / label / "1.png"), np.zeros((9, 9, 3)))
    assert run.main(["evaluate", *(arg.format(**known) for arg in args), "-q"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert complaint in lines[0]


def test_a_data_set_without_a_shared_label_is_refused(images, tmp_path, capsys):
    data = datasets.read(images)
    other = DataSet(
        root=data.root,
        format="coco",
        task="detect",
        labels=("hat", "unicorn"),
        images=data.images,
    )
    datasets.write(other, tmp_path / "hats", "coco")
    assert run.main(["evaluate", str(tmp_path / "hats"), "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "share no label" in line
    assert "--rename MODEL_LABEL=DATA_LABEL" in line
    result, _ = evaluate(tmp_path, tmp_path / "hats", "--rename", "person=hat", "--frames", "2")
    assert result["labels"] == ["hat"]


def test_the_folder_of_the_detections_is_removed(images, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    evaluate(tmp_path, images, "--frames", "2")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["result.json"]
