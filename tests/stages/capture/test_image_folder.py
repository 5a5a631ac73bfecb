"""Images: pages, animations, and files that are images by their name only."""

import os

import cv2
import numpy as np
import pytest

from stages.capture.image_folder import read_pages
from tests.builders import pixels, save_image
from tests.stages.capture.test_capture import opened, read, refusal

COUNT = 7


def shades(count=COUNT, side=32):
    """Return images of one shade each."""
    return [np.full((side, side, 3), 20 * i + 10, np.uint8) for i in range(count)]


def save_animation(path, durations_ms):
    animation = cv2.Animation()
    pages = shades(len(durations_ms))
    animation.frames = [cv2.cvtColor(page, cv2.COLOR_BGR2BGRA) for page in pages]
    animation.durations = np.array(durations_ms)
    assert cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 100])
    return path


def save_pages(path, count=COUNT):
    assert cv2.imwritemulti(str(path), shades(count))
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_every_page_of_an_animation_is_read_at_its_time(name, tmp_path):
    capture = opened(save_animation(tmp_path / name, [100, 50, 200, 100, 100, 100, 100]))
    frames = read(capture)
    assert [pixels(frame) for frame in frames] == [20 * i + 10 for i in range(COUNT)]
    assert [frame.time_s for frame in frames] == [0, 0.1, 0.15, 0.35, 0.45, 0.55, 0.65]
    assert capture.missed() == (0, 0)


def test_every_page_of_a_tiff_is_read(tmp_path):
    frames = read(opened(save_pages(tmp_path / "a.tiff")))
    assert [pixels(frame) for frame in frames] == [20 * i + 10 for i in range(COUNT)]
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in range(COUNT)])


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff"])
def test_pages_are_the_same_for_any_number_held_in_memory(name, tmp_path, monkeypatch):
    path = tmp_path / name
    save_pages(path) if name == "a.tiff" else save_animation(path, [100] * COUNT)
    whole = [(frame.time_s, pixels(frame)) for frame in read(opened(path))]
    counts = []

    def spied(path, first, count):
        counts.append(count)
        return read_pages(path, first, count)

    monkeypatch.setattr("stages.capture.image_folder.read_pages", spied)
    monkeypatch.setattr("stages.capture.image_folder.MAX_PAGES_BYTES", 3 * 32 * 32 * 4)
    assert [(frame.time_s, pixels(frame)) for frame in read(opened(path))] == whole
    assert max(counts) <= 4


@pytest.mark.parametrize("more", [{}, {"loop": True, "frames": 17}])
@pytest.mark.parametrize("count", [1, 3, 7, 8, 12])
def test_after_a_crash_pages_go_on_where_they_were(count, more, tmp_path):
    path = save_animation(tmp_path / "a.webp", [100, 50, 200, 100, 100, 100, 100])
    whole = [(frame.time_s, pixels(frame)) for frame in read(opened(path, **more))]
    capture = opened(path, **more)
    capture.skip(count, -1)
    assert [(frame.time_s, pixels(frame)) for frame in read(capture)] == whole[count:]


def test_pages_in_a_folder_come_between_the_other_images(tmp_path):
    save_image(tmp_path / "1.png", value=200)
    save_pages(tmp_path / "2.tif", 2)
    save_image(tmp_path / "3.png", value=201)
    frames = read(opened(tmp_path))
    assert [pixels(frame) for frame in frames] == [200, 10, 30, 201]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["1.jpg", "1.tiff"])
def test_a_pipe_among_images_is_skipped_with_a_message(name, tmp_path, caplog):
    os.mkfifo(tmp_path / name)
    save_image(tmp_path / "2.png", value=7)
    capture = opened(tmp_path)
    assert [pixels(frame) for frame in read(capture)] == [7]
    assert capture.missed() == (0, 1)
    assert f"{tmp_path / name}: skipped, not a regular file" in caplog.text


def test_a_file_too_large_for_an_image_is_skipped_unread(tmp_path, caplog):
    with (tmp_path / "1.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(5 << 30)  # takes no room on the disk
    save_image(tmp_path / "2.png", value=7)
    capture = opened(tmp_path)
    assert [pixels(frame) for frame in read(capture)] == [7]
    assert capture.missed() == (0, 1)
    assert "1.jpg: skipped, larger than 1073741824 bytes (found 5368709120)" in caplog.text


def test_a_folder_of_pipes_alone_is_refused(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    assert refusal(tmp_path).endswith("holds no image that can be read")
