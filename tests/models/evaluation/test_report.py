"""The page of the worst pictures: right boxes in right colours, and text that is escaped."""

import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from models.errors import EvaluationError
from models.evaluation.matching import match_images
from models.evaluation.report import (
    FALSE,
    FOUND,
    IGNORED,
    MISSED,
    worst_image_jpeg,
    write_worst_images,
)
from tests.models.evaluation.builders import LABELS, image_of, random_images

CAR, PERSON, DOG = range(3)
A, B, C, D = (40, 60, 140, 160), (300, 60, 400, 160), (40, 300, 140, 400), (300, 300, 400, 400)


def black(name):
    return np.zeros((480, 640, 3), np.uint8)


def picture_of(image, confidence=0.5, pixels=None):
    (match,) = match_images([image], LABELS, confidence)
    jpeg = worst_image_jpeg(black("") if pixels is None else pixels, image, match, LABELS)
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def colour_at(picture, x, y):
    return picture[y - 1 : y + 1, x - 1 : x + 1].reshape(-1, 3).mean(axis=0)


class Tags(HTMLParser):
    """Collects the tags, their attributes, and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_each_kind_of_box_has_its_colour():
    image = image_of(
        "a",
        [(CAR, A), (CAR, B), (CAR, D)],
        [(CAR, 0.9, A), (DOG, 0.8, C), (DOG, 0.1, B)],
        ignored=[2],
    )
    picture = picture_of(image)
    # The middle of the left side, where no name is written.
    for box, kind in ((A, FOUND), (B, MISSED), (C, FALSE), (D, IGNORED)):
        colour = colour_at(picture, box[0] + 1, (box[1] + box[3]) // 2)
        np.testing.assert_allclose(colour, kind.colour, atol=60)
        others = [other for other in (FOUND, MISSED, FALSE, IGNORED) if other != kind]
        distance = [np.abs(colour - np.array(k.colour)).sum() for k in (kind, *others)]
        assert min(distance) == distance[0]
    assert colour_at(picture, 220, 220).max() < 20  # no other box, such as that of score 0.1


def test_large_images_become_small_ones_with_scaled_boxes():
    image = image_of("a", [(CAR, (400, 400, 1200, 1200))])._replace(width=3200, height=1600)
    picture = picture_of(image, pixels=np.zeros((1600, 3200, 3), np.uint8))
    assert picture.shape == (400, 800, 3)
    assert colour_at(picture, 101, 200).sum() > 200
    assert colour_at(picture, 200, 200).max() < 30


def test_boxes_and_names_at_the_border_are_drawn_inside():
    everywhere = [(-50, -50, 5, 5), (630, 470, 900, 900), (0, 0, 640, 480), (639, 0, 640, 480)]
    image = image_of(
        "a",
        [(CAR, box) for box in everywhere],
        [(DOG, 0.9, box) for box in everywhere],
    )
    assert picture_of(image).shape == (480, 640, 3)
    tiny = image_of("a", [(CAR, (0, 0, 1, 1))])._replace(width=1, height=1)
    assert picture_of(tiny, pixels=np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


def test_the_page_has_the_worst_images_first(tmp_path):
    images = random_images(5, 12)
    matches = match_images(images, LABELS, 0.4)
    loaded = []

    def load(name):
        loaded.append(name)
        return black(name)

    path = write_worst_images(tmp_path / "new", "Worst", images, matches, LABELS, load, 4)
    expected = sorted(matches, key=lambda m: (-len(m.missed) - len(m.false), m.name))[:4]
    assert loaded == [match.name for match in expected]
    page = Tags(path.read_text("utf-8"))
    files = [attributes["src"] for attributes in page.of("img")]
    assert files == [f"worst-{number:03}.jpg" for number in range(1, 5)]
    for file in files:
        assert cv2.imread(str(path.parent / file)).shape == (480, 640, 3)
    worst = expected[0]
    assert f"{len(worst.missed)} missed, {len(worst.false)} false" in " ".join(page.text)


HOSTILE = '"><script>alert(1)</script>{x}&amp;\x1b[31m'


ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "ul", "li", "span", "b"),
    *("main", "figure", "a", "img", "figcaption", "br"),
}
"""Tags of the page: none runs or embeds anything but images."""


def test_names_and_titles_are_escaped(tmp_path):
    image = image_of(HOSTILE, [(CAR, A)])
    matches = match_images([image], (HOSTILE,), 0.5)
    path = write_worst_images(tmp_path, HOSTILE, [image], matches, (HOSTILE,), black)
    text = path.read_text("utf-8")
    page = Tags(text)
    assert {tag for tag, _ in page.tags} <= ALLOWED
    shown = HOSTILE.replace("\x1b", "?")
    assert page.text.count(shown) == 3  # title, heading and caption
    assert page.of("img")[0]["alt"] == shown
    assert not re.search(r"https?:|//|url\(|@import", text)


def test_a_page_without_errors_has_no_pictures(tmp_path):
    images = [image_of("a", [(CAR, A)], [(CAR, 0.9, A)])]
    matches = match_images(images, LABELS, 0.5)
    path = write_worst_images(tmp_path, "Worst", images, matches, LABELS, black)
    assert "0 of 1 images have missed or false boxes." in path.read_text("utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["worst.html"]


def test_pixels_of_another_size_are_refused(tmp_path):
    images = [image_of("a", [(CAR, A)])]
    matches = match_images(images, LABELS, 0.5)
    for wrong in (np.zeros((640, 480, 3), np.uint8), np.zeros((480, 640), np.uint8)):
        with pytest.raises(EvaluationError, match=r"a: the image is not \(480, 640, 3\) uint8"):
            write_worst_images(tmp_path, "", images, matches, LABELS, lambda _, w=wrong: w)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match="the page cannot be written"):
        write_worst_images(tmp_path / "file", "", [], [], LABELS, black)
