"""Images that are nearly the same are found, and those that only look alike are not."""

import cv2
import numpy as np
import pytest

from models.datasets.duplicates import MIN_CORRELATION, clusters, near_duplicates, print_of
from tests.builders import ROOT


def scene(seed, height=240, width=320):
    """A photo-like image: soft shapes of several sizes, and some noise."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for side in (4, 9, 20):
        soft = rng.normal(0, 1, (side, side)).astype(np.float32)
        image += cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    image = 128 + 40 * image + rng.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def saved(path, pixels, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels, list(options))
    return path


CHANGES = {
    "jpeg": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 20])[1], 0),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "stretched": lambda image: cv2.resize(image, (200, 200)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.1, beta=10),
    "darker": lambda image: cv2.convertScaleAbs(image, alpha=0.6),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "cropped": lambda image: image[2:-2, 3:-3],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copy_is_found(tmp_path, change):
    paths = [saved(tmp_path / f"{seed}.png", scene(seed)) for seed in range(4)]
    paths.append(saved(tmp_path / "copy.png", CHANGES[change](scene(2))))
    assert near_duplicates(paths) == [(2, 4)]


def test_different_images_are_in_no_group(tmp_path):
    paths = [saved(tmp_path / f"{seed}.png", scene(seed)) for seed in range(40)]
    assert near_duplicates(paths) == []


def test_different_subjects_before_one_background_are_not_alike(tmp_path):
    paths = []
    for seed, (x, y, radius) in enumerate([(90, 120, 45), (200, 100, 50), (150, 160, 40)]):
        image = scene(7)
        cv2.circle(image, (x, y), radius, 20 + 5 * seed, -1)
        paths.append(saved(tmp_path / f"{seed}.png", image))
    assert near_duplicates(paths) == []


def test_flat_images_are_alike_only_as_equal_files(tmp_path):
    paths = [
        saved(tmp_path / f"{value}.png", np.full((50, 60), value, np.uint8)) for value in (9, 99)
    ]
    paths.append(saved(tmp_path / "again.png", np.full((50, 60), 9, np.uint8)))
    assert near_duplicates(paths) == [(0, 2)]


def test_frames_that_follow_each_other_are_one_group(tmp_path):
    video = cv2.VideoCapture(str(ROOT / "tests/clips/demo.mp4"))
    frames = [video.read()[1] for _ in range(8)]
    paths = [saved(tmp_path / f"{at}.jpg", frame) for at, frame in enumerate(frames)]
    paths.insert(3, saved(tmp_path / "other.jpg", scene(1)))
    assert near_duplicates(paths) == [(0, 1, 2, 4, 5, 6, 7, 8)]


def test_groups_are_joined_through_a_common_image():
    # Each is like its neighbour, and the first is not like the last.
    one, other = (scene(seed).astype(np.float32) for seed in (0, 1))
    prints = [
        print_of((one * (1 - part) + other * part).astype(np.uint8), bytes([at]))
        for at, part in enumerate(np.linspace(0, 1, 12))
    ]
    assert prints[0].grey @ prints[-1].grey < MIN_CORRELATION
    assert clusters(prints) == [tuple(range(12))]
    assert clusters([prints[0], None, prints[-1]]) == []


def test_file_that_is_no_image_is_in_no_group(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"text")
    paths = [tmp_path / "a.jpg", tmp_path / "a.jpg", tmp_path / "missing.jpg"]
    assert near_duplicates(paths) == []
    assert near_duplicates([]) == []
