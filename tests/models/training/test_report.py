"""The report of a training is one page with its pictures inside, and says what it is made from."""

import base64
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from models.datasets.base import LabelledImage, TrueObject
from models.datasets.parts import Parts
from models.errors import EvaluationError
from models.evaluation import plots
from models.training.data import Prepared
from models.training.record import Record, Trial
from models.training.report import report
from models.training.report.report import write_report
from models.training.tasks.classify import Classifies
from models.training.tasks.detect import Detects, Objects
from models.training.trainer import Finished

LABELS = ("cat", "<b>dog</b>", "rare")
HOSTILE = '"><script>alert(1)</script>'


def record_of(**changes):
    counts = {"cat": 9, "<b>dog</b>": 2, "rare": 0}
    found = Record(
        name="my-model",
        method="codes",
        command=f"python run.py train --data '{HOSTILE}'",
        versions={"numpy": "2"},
        backbone={"name": "b", "origin": "o", "licence": "MIT", "seen": "COCO", "sha256": "0"},
        settings={"size": None, "augment": {"shift": 0.1}},
        seed=0,
        threads=1,
        device="cpu",
        labels=LABELS,
        counts=dict.fromkeys(("train", "val", "test"), counts),
        notes=[f"a note {HOSTILE}"],
        validation={"top-1": 0.75},
        test={"top-1": 0.7123},
        next_steps={"Run it": "python run.py --model m.yaml"},
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


class Plain(Classifies):
    """A classifier without charts, which take a while."""

    def charts_of(self, images, results):
        return []


def method_of(cls):
    return cls(SimpleNamespace(labels=LABELS, settings=None, seed=0))


@pytest.fixture
def images(tmp_path):
    """Write six images: of class 0 and 1 by turns, each with an object in its left half."""
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((40, 60 + 200 * number, 3), 20 * number, np.uint8))
        size = (60 + 200 * number, 40)
        box = TrueObject(number % 2, (0.0, 0.0, size[0] / 2, 40.0))
        found.append(LabelledImage(path, f"{number}{HOSTILE}.png", size, (box,), (number % 2,)))
    return found


def scores(*best):
    """Return results that are sure of these classes."""
    return [np.float32(np.eye(3)[number] * 0.9 + 0.03) for number in best]


def written(tmp_path, images, results, cls=Plain, **changes):
    parts = Parts((), (), ())
    prepared = Prepared(LABELS, parts, images[:2], images[2:4], images[4:], (), {})
    record = record_of(**changes)
    parts = {"val": results[2:4], "test": results[4:]}
    path = tmp_path / "report.html"
    model, card = tmp_path / "m.onnx", tmp_path / "m.yaml"
    write_report(Finished(record, method_of(cls), prepared, parts, model, card), path)
    return path.read_text("utf-8")


def section(page, title):
    """Return the part of the page below a heading."""
    found = re.search(rf"<h2 [^>]*>{title}</h2>(.*?)(<h2|</body>)", page, re.DOTALL)
    return found[1] if found else ""


def pictures(text):
    data = re.findall(r'src="data:image/\w+;base64,([^"]+)"', text)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(d), np.uint8), 1) for d in data]


def test_the_page_loads_nothing_and_has_no_text_as_code(tmp_path, images):
    page = written(tmp_path, images, scores(0, 1, 0, 1, 0, 1))
    assert "default-src 'none'; img-src data:" in page
    assert "<script" not in page
    assert "<b>dog" not in page
    links = re.findall(r'(?:src|href)="([^"]+)', page)
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert page.count("&lt;script&gt;") >= 2


def test_pictures_of_the_page_can_be_decoded(tmp_path, images):
    page = written(tmp_path, images, scores(0, 1, 0, 0, 1, 1), Classifies)
    found = pictures(page)
    assert len(found) >= 4
    assert all(picture is not None and picture.size for picture in found)


def test_wrong_results_are_hard_and_their_labels_doubtful(tmp_path, images):
    page = written(tmp_path, images, scores(0, 1, 0, 2, 0, 1))
    hard, doubtful = section(page, "Hardest examples"), section(page, "Labels worth a second look")
    assert "1 of 2 validation images, 0 of 2 test images" in hard
    for text, about in ((hard, "validation, error 0.97"), (doubtful, "validation, 93% sure")):
        assert len(pictures(text)) == 1
        assert about in text
    assert "suggestion" in doubtful
    assert len(pictures(section(page, "Right results"))) == 2


def test_right_results_leave_no_label_in_doubt(tmp_path, images):
    page = written(tmp_path, images, scores(0, 1, 0, 1, 0, 1))
    assert pictures(section(page, "Labels worth a second look")) == []
    assert "No label" in section(page, "Labels worth a second look")


def test_an_image_that_is_gone_is_left_out(tmp_path, images):
    images[4].path.unlink()
    page = written(tmp_path, images, scores(0, 1, 0, 1, 0, 1))
    assert len(pictures(section(page, "Right results"))) == 1


def test_the_data_section_shows_what_is_uneven_or_missing(tmp_path, images):
    text = section(written(tmp_path, images, scores(0, 1, 0, 1, 0, 1)), "Data")
    assert "cat has 4.5 times as many training examples as &lt;b&gt;dog" in text
    assert "No training image has: rare" in text
    assert "No test image has: rare" in text
    assert "860 x 40" in text


def test_curves_and_further_charts_are_drawn(tmp_path, images):
    curves = [{"loss box": 2.0, "loss class": 1.0 / n, "top-1": n / 4} for n in (1, 2, 3)]
    charts = {"Accuracy over alpha": ([0.0, 0.5], {"top-1": [0.1, 0.2]})}
    page = written(
        tmp_path, images, scores(0, 1, 0, 1, 0, 1), curves=curves, best_epoch=1, charts=charts
    )
    text = section(page, "Training")
    assert len(pictures(text)) == 3
    assert "3 epochs; the weights after epoch 2 are kept" in text


def test_the_comparison_is_a_table_and_a_chart(tmp_path, images):
    rows = [("b, has seen COCO", 10, 0.7), ("b, has seen COCO", 30, 0.8), ("random", 30, 0.456)]
    trials = [
        Trial(
            start=start, part=images_ / 100, images=images_, validation={},
            test={"top-1": value}, train_s=61, cpu_s=1,
        )
        for start, images_, value in rows
    ]  # fmt: skip
    page = written(tmp_path, images, scores(0, 1, 0, 1, 0, 1), comparison=trials)
    text = section(page, "Transfer against scratch")
    assert len(pictures(text)) == 1
    assert "0.456" in text
    assert "1 min 1 s" in text
    assert section(written(tmp_path, images, scores(0, 1, 0, 1, 0, 1)), "Transfer .*") == ""


def test_without_matplotlib_the_page_says_so(tmp_path, images, monkeypatch):
    def missing(name):
        raise EvaluationError(f"evaluation: {name} cannot be imported; install it")

    monkeypatch.setattr(plots, "optional_module", missing)
    page = written(tmp_path, images, scores(0, 1, 0, 2, 0, 1), Classifies)
    assert "There are no charts here. evaluation: matplotlib" in page
    assert len(pictures(section(page, "Hardest examples"))) == 1


def test_a_false_box_far_from_all_objects_is_doubtful(images):
    method = method_of(Detects)
    image = images[5]
    right = [0, 0, image.size[0] / 2, 40]
    loose = [0, 0, image.size[0] / 2, 18]
    far = [image.size[0] / 2, 0, image.size[0], 40]
    for boxes, expected in (([right], 0.0), ([loose], 0.0), ([far], 0.9), ([right, far], 0.8)):
        count = len(boxes)
        own = np.float32([0.9, 0.8][:count])
        found = Objects(np.float32(boxes), own, np.ones(count, np.intp))
        assert method.doubt(image, found) == pytest.approx(expected)


def test_a_detector_has_curves_and_confusions(tmp_path, images):
    pytest.importorskip("hotcoco")
    found = []
    for image in images:
        box = np.float32([[0, 0, image.size[0] / 2, 40]])
        found.append(Objects(box, np.float32([0.9]), np.array([image.objects[0].number])))
    page = written(tmp_path, images, found, Detects)
    assert len(pictures(section(page, "Results"))) == 2


def test_a_report_of_many_images_stays_small(tmp_path, images):
    draw = np.random.default_rng(0)
    many = []
    for number in range(40):
        path = tmp_path / f"many{number}.png"
        cv2.imwrite(str(path), draw.integers(0, 255, (300, 400, 3), np.uint8))
        many.append(LabelledImage(path, f"{number}.png", (400, 300), (), (0,)))
    page = written(tmp_path, many, scores(*[1] * 20, *[0] * 20))
    assert len(pictures(page)) <= 3 * report.pictures.COUNT + report.MAX_RESULT_CHARTS
    assert len(page) < 8e6
