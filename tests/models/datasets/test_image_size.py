"""Sizes from heads of files are those that OpenCV decodes, after its rotation by EXIF."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets import image_size
from models.datasets.image_size import read_size
from tests.models.datasets.builders import image


def exif(orientation, order="<"):
    """An EXIF block with two tags, of which the second is the orientation."""
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HIH", 42, 8, 2)
    other = struct.pack(f"{order}HHIHH", 0x0100, 3, 1, 7, 0)
    return head + other + struct.pack(f"{order}HHIHHI", 0x0112, 3, 1, orientation, 0, 0)


def in_jpeg(data, blocks):
    for block in reversed(blocks):
        body = b"Exif\0\0" + block
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    return data


def in_png(data, block, late):
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    at = len(data) - 12 if late else 33
    return data[:at] + chunk + data[at:]


def decoded(path):
    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if found is None else (found.shape[1], found.shape[0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 20), (300, 257)])
def test_size_is_that_of_the_decoded_image(tmp_path, suffix, width, height):
    path = image(tmp_path / f"a.{suffix}", width, height)
    assert read_size(path) == decoded(path) == (width, height)


def test_size_of_lossy_webp_is_read(tmp_path):
    data = cv2.imencode(".webp", np.zeros((30, 70, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 50])
    path = tmp_path / "a.webp"
    path.write_bytes(data[1].tobytes())
    assert path.read_bytes()[12:16] == b"VP8 "
    assert read_size(path) == (70, 30)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp"])
def test_usual_kinds_are_read_without_decoding(tmp_path, suffix, monkeypatch):
    path = image(tmp_path / f"a.{suffix}", 20, 10)
    monkeypatch.setattr(image_size, "_decoded", lambda path: pytest.fail("decoded"))
    assert read_size(path) == (20, 10)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_jpeg_is_rotated_by_its_exif(tmp_path, orientation, order):
    path = image(tmp_path / "a.jpg", 40, 20)
    path.write_bytes(in_jpeg(path.read_bytes(), [exif(orientation, order)]))
    assert read_size(path) == decoded(path)
    assert (read_size(path) == (20, 40)) == (5 <= orientation <= 8)


@pytest.mark.parametrize("orientations", [(1, 6), (6, 1), (6, 8)])
def test_first_exif_of_a_jpeg_counts(tmp_path, orientations):
    path = image(tmp_path / "a.jpg", 40, 20)
    path.write_bytes(in_jpeg(path.read_bytes(), [exif(number) for number in orientations]))
    assert read_size(path) == decoded(path)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_png_is_rotated_by_its_exif(tmp_path, orientation, late):
    path = image(tmp_path / "a.png", 40, 20)
    path.write_bytes(in_png(path.read_bytes(), exif(orientation), late))
    assert read_size(path) == decoded(path)
    assert (read_size(path) == (20, 40)) == (orientation > 4)


def test_no_image_has_no_size(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "b.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "c.jpg")
    for name in ("a.jpg", "b.jpg", "c.jpg", "missing.jpg", "."):
        assert read_size(tmp_path / name) is None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of an image of each kind, and a place for damaged ones."""
    folder = tmp_path_factory.mktemp("sizes")
    kinds = ("jpg", "png", "bmp", "gif", "webp")
    return folder / "x", [image(folder / f"a.{kind}", 33, 21).read_bytes() for kind in kinds]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.integers(0, 60), st.binary(min_size=1, max_size=4), st.booleans())
def test_damaged_head_gives_a_size_or_none(files, kind, at, noise, cut):
    path, good = files
    data = good[kind][:at] + noise + (b"" if cut else good[kind][at + len(noise) :])
    path.write_bytes(data)
    size = read_size(path)
    assert size is None or all(0 < side <= 10**6 for side in size)
