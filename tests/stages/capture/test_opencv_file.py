"""Video files: facts that OpenCV does not give, and recovery after a crash."""

import errno
import os
import struct
from itertools import pairwise

import cv2
import numpy as np
import pytest

from stages.capture.container import read_container
from stages.capture.opencv_file import VideoFile
from stages.capture.packets import codec_of, size_header
from tests.builders import CLIP
from tests.stages.capture.test_capture import mark, opened, read, refusal, write_video

CLIPS = CLIP.parent
SMALL, LARGE = CLIPS / "small.ts", CLIPS / "large.ts"
SQUARES = {"red": (0, 0, 253), "green": (0, 253, 0), "blue": (253, 0, 0), "yellow": (0, 253, 253)}


def squares(frame):
    """Return the colours of the quarters of an image, row by row; "" for another colour."""
    image = frame["image"].astype(int)
    height, width = image.shape[:2]
    found = []
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            near = [
                name for name, colour in SQUARES.items() if np.abs(image[y, x] - colour).max() <= 12
            ]
            found.append("".join(near))
    return " ".join(found)


def facts(frames):
    return [(frame.time_s, frame["image"].shape, mark(frame)) for frame in frames]


def whole(path, **more):
    capture = opened(path, **more)
    found = facts(read(capture))
    assert capture.missed() == (0, 0)
    assert capture.problem() is None
    capture.close()
    return found


def write(path, *parts):
    path.write_bytes(
        b"".join(part if isinstance(part, bytes) else part.read_bytes() for part in parts)
    )
    return path


# --- images that newer versions of OpenCV decode wrongly ---


@pytest.mark.parametrize("name", ["interlaced.mp4", "interlaced.mpg", "hlg.mp4"])
def test_interlaced_and_wide_gamut_images_have_their_colours(name):
    frames = read(opened(CLIPS / name))
    assert [squares(frame) for frame in frames] == ["red green blue yellow"] * 10


def test_a_conversion_that_fails_is_a_decode_failure(monkeypatch, tmp_path):
    capture = opened(write_video(tmp_path / "a.avi", 4))
    video, results = capture._reader, iter([False, None, "error", True])

    class Failing:
        def __init__(self, of):
            self.of = of

        def __getattr__(self, name):
            return getattr(self.of, name)

        def retrieve(self, *target):
            result = next(results)
            if result == "error":
                raise cv2.error("no conversion")
            return self.of.retrieve(*target) if result else (bool(result is None), None)

    video._capture = Failing(video._capture)
    assert len(read(capture)) == 1
    assert capture.missed() == (0, 3)


# --- sizes ---


def test_images_keep_their_size_where_it_changes_within_a_file(tmp_path):
    small, large = whole(SMALL), whole(LARGE)
    found = whole(write(tmp_path / "a.ts", SMALL, LARGE, SMALL))
    assert [(shape, mark) for _, shape, mark in found] == [
        (shape, mark) for _, shape, mark in small + large + small
    ]
    assert [time_s for time_s, _, _ in found] == pytest.approx([i / 25 for i in range(60)])


@pytest.mark.parametrize("code", ["VP80", "VP90", "MJPG"])
def test_sizes_change_in_matroska_too(code, tmp_path):
    parts, shapes = [], []
    for name, width, height in (("a", 64, 48), ("b", 96, 64)):
        path = tmp_path / f"{name}.mkv"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25.0, (width, height))
        for i in range(5):
            writer.write(np.full((height, width, 3), 40 * i, np.uint8))
        writer.release()
        parts.append(path)
        shapes += [(height, width, 3)] * 5
    found = whole(write(tmp_path / "joined.mkv", *parts))
    assert [shape for _, shape, _ in found] == shapes


@pytest.mark.parametrize("count", [1, 19, 20, 21, 39, 40, 41, 59])
def test_after_a_crash_amid_changes_of_size_the_images_are_the_same(count, tmp_path):
    path = write(tmp_path / "a.ts", SMALL, LARGE, SMALL)
    undisturbed = whole(path)
    capture = opened(path)
    capture.skip(count, round(undisturbed[count - 1][0] * 1e9))
    assert facts(read(capture)) == undisturbed[count:]
    capture.close()


def test_a_size_that_cannot_be_followed_is_a_problem(tmp_path, monkeypatch):
    class NoSection:
        change, is_over = None, True

        def __init__(self, packets):
            self.capture = cv2.VideoCapture()

        def close(self):
            pass

    monkeypatch.setattr("stages.capture.opencv_file.Section", NoSection)
    capture = opened(write(tmp_path / "a.ts", SMALL, LARGE))
    assert len(read(capture)) == 20
    assert "the size of the images changes from 64x48 at image 20" in capture.problem()
    capture.close()


@pytest.mark.parametrize(
    ("image", "codec", "header"),
    [
        (b"\0\0\0\1\x09\x10\0\0\0\1\x67abc\0\0\1\x68d\0\0\1\x65e", "H264", b"\x67abc"),
        (b"\0\0\0\1\x40\x01v\0\0\0\1\x42\x01s\0\0\1\x26\x01", "HEVC", b"\x42\x01s"),
        (b"\0\0\1\xb3\x16\x01\x20\x13\xff\0\0\1\xb8", "MPG2", b"\xb3\x16\x01\x20"),
        (b"\0\0\1\xb0\xf1\0\0\1\x20vol\0\0\1\xb6", "MP4V", b"\x20vol"),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xc0\0\x0b\x08\0\x30\0\x40", "MJPG", b"\0\x30\0\x40"),
        (b"\x10\2\0\x9d\1\x2a\x40\0\x30\0", "VP80", b"\x40\0\x30\0"),
        (b"\x82\x49\x83\x42\0\x03\xf0\x02\xf0\0", "VP90", b"\0\x03\xf0\x02\xf0\0"),
        (b"anything else", "?", b""),
        (b"", "?", b""),
        (b"\xff\xd8\xff\xe0\0\0", "MJPG", b""),
    ],
)
def test_the_size_of_a_packet_is_found_in_its_headers(image, codec, header):
    assert codec_of(image) == codec
    assert size_header(codec, image) == header


# --- time ---


def test_the_time_of_joined_recordings_goes_on(tmp_path):
    times = [time_s for time_s, _, _ in whole(write(tmp_path / "a.ts", *[SMALL] * 3))]
    assert times == pytest.approx([i / 25 for i in range(60)])


def test_a_stream_without_a_clock_is_timed_by_the_rate_of_the_settings(tmp_path):
    coded = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    path = write(tmp_path / "a.mjpeg", *[coded] * 4)
    assert [t for t, _, _ in whole(path, fps=8)] == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8])


@pytest.mark.parametrize("name", ["joined.ts", "long.avi"])
@pytest.mark.parametrize("seek_from", [1, 10**9])
def test_after_a_crash_the_images_are_the_same_sought_or_read(
    name, seek_from, tmp_path, monkeypatch
):
    monkeypatch.setattr("stages.capture.capture.MIN_SEEK", seek_from)
    path = tmp_path / name
    write(path, *[SMALL] * 4) if name == "joined.ts" else write_video(path, 120)
    undisturbed = whole(path)
    for count in (1, 19, 21, 41, len(undisturbed) - 1):
        capture = opened(path)
        capture.skip(count, round(undisturbed[count - 1][0] * 1e9))
        assert facts(read(capture)) == undisturbed[count:]
        capture.close()


def test_a_place_is_sought_only_if_the_stamps_prove_it(tmp_path):
    def sought(path, count, source_ns):
        video = VideoFile(path, None)
        try:
            return video.seek(count, source_ns), video.source_ns
        finally:
            video.close()

    assert sought(CLIP, 290, 28_900_000_000) == (True, 28_900_000_000)
    assert sought(CLIP, 290, 28_800_000_000) == (False, -1)  # not the time of that image
    joined = write(tmp_path / "a.ts", *[SMALL] * 8)
    assert sought(joined, 140, 5_560_000_000) == (False, -1)  # each stamp occurs eight times


# --- the end of a file ---


def test_a_file_truncated_while_it_is_read_is_a_problem(tmp_path):
    path = write(tmp_path / "a.mp4", CLIP)
    capture = opened(path)
    before = read(capture, 3)
    os.truncate(path, 200_000)
    after = read(capture)
    assert 3 <= len(before + after) < 300
    assert "truncated while it was read (200000 of" in capture.problem()
    capture.close()


def test_a_file_that_grows_while_it_is_read_is_a_problem(tmp_path):
    path = write(tmp_path / "a.ts", SMALL)
    capture = opened(path)
    with path.open("ab") as file:
        file.write(bytes(188))
    read(capture)
    assert "the file grew while it was read" in capture.problem()
    capture.close()


def test_a_file_replaced_or_removed_while_it_is_read_is_read_to_its_end(tmp_path):
    path = write(tmp_path / "a.mp4", CLIP)
    capture = opened(path)
    read(capture, 3)
    write(tmp_path / "b.mp4", SMALL).replace(path)
    path.unlink()
    assert len(read(capture)) == 297
    assert capture.problem() is None
    capture.close()


def test_a_file_removed_before_its_next_round_is_a_problem(tmp_path):
    path = write(tmp_path / "a.ts", SMALL)
    capture = opened(path, loop=True)
    read(capture, 3)
    path.unlink()
    assert len(read(capture)) == 17
    assert "cannot be read as a video" in capture.problem()
    capture.close()


def test_a_disk_that_fails_is_a_problem(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ts", SMALL)
    capture = opened(path)

    def broken(fd, count, at):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("stages.capture.disk_file.os.pread", broken)
    read(capture)
    assert "cannot be read to its end: Input/output error" in capture.problem()
    capture.close()


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_truncated_matroska_file_is_a_problem(name, tmp_path):
    path = tmp_path / name
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 25.0, (64, 48))
    for i in range(20):
        writer.write(np.full((48, 64, 3), i, np.uint8))
    writer.release()
    assert len(whole(path)) == 20
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    capture = opened(path)
    read(capture)
    assert "truncated" in capture.problem()
    capture.close()


def test_a_long_damaged_stretch_is_not_the_end(tmp_path):
    data = bytearray(CLIP.read_bytes())
    start, end = len(data) * 3 // 10, len(data) * 8 // 10
    data[start:end] = b"\xff" * (end - start)
    capture = opened(write(tmp_path / "a.mp4", bytes(data)))
    frames = read(capture)
    assert frames[-1].time_s == 29.9
    assert 100 < capture.missed()[1] <= 300 - len(frames)
    capture.close()


# --- messages about files that cannot be read ---


def test_an_mp4_without_its_index_is_reported_as_incomplete(tmp_path):
    data = (CLIPS / "interlaced.mp4").read_bytes()
    path = write(tmp_path / "a.mp4", data[: data.index(b"moov") - 4])
    assert "the file is incomplete: its index (moov) is missing" in refusal(path)
    size = data.index(b"mdat") + 100
    path.write_bytes(data[:size])
    assert f"the file is incomplete ({size} of" in refusal(path)


def test_a_codec_that_is_not_decoded_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "stages.capture.gstreamer_bindings.missing_gstreamer", lambda: "not installed"
    )
    data = (CLIPS / "interlaced.mp4").read_bytes()
    for code, name in ((b"av01", "AV1 (av01)"), (b"vvc1", "vvc1")):
        path = write(tmp_path / "a.mp4", data.replace(b"avc1", code).replace(b"avcC", b"av1C"))
        words = refusal(path)
        assert f"OpenCV does not decode its codec, {name}; convert the file to H.264" in words
        assert "make gstreamer" in words


# --- packets between the images ---


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def part(kind, *parts):
    return chunk(b"LIST", kind + b"".join(parts))


def avi_with_sound(images, sounds):
    """Write an AVI file with so many packets of sound before each image."""
    coded = cv2.imencode(".jpg", np.full((16, 16, 3), 99, np.uint8))[1].tobytes()
    head = struct.pack("<14I", 10**6, 0, 0, 0, images, 0, 2, 0, 16, 16, 0, 0, 0, 0)
    stream = "<4s4sIHHIIIIIIII4H"
    video = struct.pack(stream, b"vids", b"MJPG", *[0] * 4, 1, 1, 0, images, *[0] * 7)
    image = struct.pack("<IiiHH4sIiiII", 40, 16, 16, 1, 24, b"MJPG", 768, 0, 0, 0, 0)
    audio = struct.pack(stream, b"auds", b"", *[0] * 4, 1, 8000, 0, 1, 0, 0, 1, *[0] * 4)
    wave = struct.pack("<HHIIHHH", 1, 1, 8000, 8000, 1, 8, 0)
    headers = part(
        b"hdrl",
        chunk(b"avih", head),
        part(b"strl", chunk(b"strh", video), chunk(b"strf", image)),
        part(b"strl", chunk(b"strh", audio), chunk(b"strf", wave)),
    )
    between = chunk(b"01wb", b"\x80\x80") * sounds
    movie = part(b"movi", *[between + chunk(b"00dc", coded)] * images)
    return chunk(b"RIFF", b"AVI " + headers + movie)


@pytest.mark.parametrize("more", [{}, {"frames": 3}])
def test_sound_between_images_is_not_counted_as_lost(more, tmp_path):
    path = write(tmp_path / "a.avi", avi_with_sound(3, 5000))
    assert len(whole(path, **more)) == 3


# --- orientation ---


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), "red green blue yellow"),
        ((-1, 0, 0, 1), "green red yellow blue"),
        ((1, 0, 0, -1), "blue yellow red green"),
        ((-1, 0, 0, -1), "yellow blue green red"),
        ((0, 1, -1, 0), "blue red yellow green"),
        ((0, -1, 1, 0), "green yellow red blue"),
        ((0, 1, 1, 0), "red blue green yellow"),
        ((0, -1, -1, 0), "yellow green blue red"),
    ],
)
@pytest.mark.parametrize("box", [b"tkhd", b"mvhd"])
def test_an_image_is_turned_and_mirrored_by_its_files_headers(box, matrix, shown, tmp_path):
    data = bytearray((CLIPS / "hlg.mp4").read_bytes())
    at = data.index(box) + 4 + (40 if box == b"tkhd" else 36)
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames = read(opened(write(tmp_path / "a.mp4", bytes(data))))
    assert [squares(frame) for frame in frames] == [shown] * 10
    turned = matrix[0] == 0
    assert frames[0]["image"].shape == ((128, 96, 3) if turned else (96, 128, 3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 64,
        b"\0\0\0\x08moov",
        b"\0\0\0\1moov" + b"\xff" * 8,
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7,
        b"\x1a\x45\xdf\xa3",
        struct.pack(">I4s", 8, b"free") * 20_000,
    ],
)
def test_damaged_headers_are_no_error(data, tmp_path):
    with write(tmp_path / "a", data).open("rb") as file:
        read_container(file)


def test_every_time_of_a_file_is_later_than_the_one_before(tmp_path):
    for parts in ([SMALL, LARGE], [LARGE] * 3):
        times = [time_s for time_s, _, _ in whole(write(tmp_path / "a.ts", *parts))]
        assert all(a < b for a, b in pairwise(times))
