"""Maps of classes: PNG of every kind with one number per pixel, in every usual folder."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from models import datasets
from models.datasets.semantic import IGNORED, read_class_map
from models.errors import DataError
from tests.models.datasets.builders import image, text

CLASSES = np.tile(np.array([[0, 1, 0, 2], [1, 1, IGNORED, 0]], np.uint8), (25, 25))
"""(50, 100)"""


def png(path, values, depth=8, colour=3):
    """Write a PNG with a palette, with the numbers packed in so many bits."""
    height, width = values.shape
    bits = np.unpackbits(values[..., None].astype(np.uint8), axis=2)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(height, width * depth), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    palette = np.random.default_rng(0).integers(0, 256, 3 * 2**depth, np.uint8).tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_numbers_of_any_depth_are_read_with_and_without_palette(tmp_path, depth, colour):
    values = np.random.default_rng(1).integers(0, 2**depth, (13, 21), np.uint8)
    found = read_class_map(png(tmp_path / "a.png", values, depth, colour))
    np.testing.assert_array_equal(found, values)


def a_set(root, images="images", masks="masks", name="a"):
    image(root / images / f"{name}.jpg")
    png(root / masks / f"{name}.png", CLASSES)


@pytest.mark.parametrize(
    ("images", "masks", "split"),
    [
        ("images", "masks", None),
        ("val/images", "val/masks", "val"),
        ("images/val", "masks/val", "val"),
    ],
)
def test_maps_are_found_beside_their_images(tmp_path, images, masks, split):
    a_set(tmp_path, images, masks)
    data = datasets.read(tmp_path, split=split)
    assert (data.format, data.task, data.labels) == ("semantic", "semantic", ("0", "1", "2"))
    [item] = data.images
    assert (item.name, item.size) == ("a.jpg", (100, 50))
    assert item.class_map == tmp_path / masks / "a.png"
    assert data.notes == ()


def test_labels_come_from_a_file_and_images_without_map_are_counted(tmp_path):
    a_set(tmp_path)
    image(tmp_path / "images/b.jpg")
    text(tmp_path / "classes.txt", "road\ncar\ntree\n")
    data = datasets.read(tmp_path)
    assert data.labels == ("road", "car", "tree")
    assert [item.name for item in data.images] == ["a.jpg"]
    assert "1 image has no PNG of its name in masks/, and is left out (first: b.jpg)" in data.notes


def test_maps_are_read_as_they_were_written(tmp_path):
    a_set(tmp_path / "in")
    data = datasets.read(tmp_path / "in")
    datasets.write(data, tmp_path / "out", "semantic")
    [item] = datasets.read(tmp_path / "out").images
    np.testing.assert_array_equal(read_class_map(item.class_map), CLASSES)


def test_files_that_hold_no_classes_are_refused_in_one_line(tmp_path):
    colour = tmp_path / "colour.png"
    assert cv2.imwrite(str(colour), np.zeros((5, 5, 3), np.uint8))
    deep = tmp_path / "deep.png"
    assert cv2.imwrite(str(deep), np.zeros((5, 5), np.uint16))
    cut = tmp_path / "cut.png"
    cut.write_bytes(colour.read_bytes()[:20])
    huge = png(tmp_path / "huge.png", CLASSES)
    data = bytearray(huge.read_bytes())
    data[16:24] = struct.pack(">II", 2**20, 2**20)
    huge.write_bytes(data)

    for path, complaint in (
        (colour, "found colour type 2, 8 bits"),
        (deep, "found colour type 0, 16 bits"),
        (cut, "not a PNG"),
        (huge, "cannot be decoded"),
        (image(tmp_path / "photo.jpg"), "not a PNG"),
    ):
        with pytest.raises(DataError, match=complaint):
            read_class_map(path)
