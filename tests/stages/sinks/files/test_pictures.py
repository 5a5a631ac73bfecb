"""Annotated pictures: their names and formats, and what is left after anything that can happen."""

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import GraphError, RunError, SetupError
from pipeline.frame import Frame
from stages import LOCATIONS
from stages.sinks.files import pictures
from stages.sinks.files.pictures import (
    UNFINISHED,
    Pictures,
    PicturesSettings,
    encode,
    stream_folder,
)
from tests.builders import context_of, graph, save_image


def frame(seq=0, file="", stream="demo", still=True, boxes=((4, 8, 30, 40),), size=(60, 80)):
    given = Frame.of(
        stream,
        seq,
        image=np.full((*size, 3), 128, np.uint8),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.9, np.float32),
        classes=np.zeros(len(boxes), np.int32),
    )
    given.header.still = still
    if file:
        given.put_file(file)
    return given


def opened(folder, streams=("demo",), **settings):
    sink = Pictures(PicturesSettings(folder=str(folder), **settings), context_of(streams=streams))
    sink.open()
    return sink


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.mark.parametrize(
    ("name", "magic"),
    [
        ("a.jpg", b"\xff\xd8"),
        ("B.JPEG", b"\xff\xd8"),
        ("a.png", b"\x89PNG"),
        ("a.webp", b"RIFF"),
        ("a.tif", b"II*"),
        ("a.TIFF", b"II*"),
        ("a.bmp", b"BM"),
        ("a.ppm", b"P6"),
        ("größe 名.png", b"\x89PNG"),
        ("no.dot.in.front.jpg", b"\xff\xd8"),
        (os.fsdecode(b"\xff\xfe.png"), b"\x89PNG"),
    ],
)
def test_a_picture_keeps_its_name_and_format(name, magic, tmp_path):
    opened(tmp_path).process(frame(file=name))
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize("name", ["a.gif", "a.avif", "a", "a.jpg.part"])
def test_a_format_that_cannot_be_written_becomes_png(name, tmp_path):
    opened(tmp_path).process(frame(file=name))
    assert names(tmp_path) == [f"{name}.png"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_larger_than_its_format_takes_becomes_png():
    wide = np.zeros((1, 17000, 3), np.uint8)
    name, data = encode(wide, "wide.webp", 1, 90)
    assert name == "wide.webp.png"
    assert data.startswith(b"\x89PNG")


def test_one_name_with_several_endings_is_several_pictures(tmp_path):
    sink = opened(tmp_path)
    for name in ("a.jpg", "a.png", "a.gif"):
        sink.process(frame(file=name))
    assert names(tmp_path) == ["a.gif.png", "a.jpg", "a.png"]


def test_pictures_of_one_file_are_numbered(tmp_path):
    sink = opened(tmp_path)
    for name in ("a.tif", "a.tif", "a.tif", "b.gif", "b.gif", "c.jpg"):
        sink.process(frame(file=name))
    assert names(tmp_path) == [
        "a.page2.tif",
        "a.page3.tif",
        "a.tif",
        "b.gif.png",
        "b.page2.gif.png",
        "c.jpg",
    ]


def test_frames_without_a_file_are_called_by_their_number(tmp_path):
    sink = opened(tmp_path)
    for seq in (0, 7, 1234567):
        sink.process(frame(seq, still=False))
    assert names(tmp_path) == ["000000.jpg", "000007.jpg", "1234567.jpg"]


@pytest.mark.parametrize("length", [251, 252, 255])
def test_a_name_that_becomes_too_long_is_cut(length, tmp_path):
    opened(tmp_path).process(frame(file="x" * length))
    (path,) = tmp_path.iterdir()
    assert len(path.name) == 255
    assert path.suffix == ".png"


def test_boxes_are_drawn_unless_they_are_not_wanted(tmp_path):
    opened(tmp_path / "drawn").process(frame(file="a.png"))
    opened(tmp_path / "plain", annotate=False).process(frame(file="a.png"))
    assert len(np.unique(cv2.imread(str(tmp_path / "drawn" / "a.png")))) > 1
    assert (cv2.imread(str(tmp_path / "plain" / "a.png")) == 128).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_quality_is_that_of_lossy_formats(name, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    sizes = [len(encode(noise, name, 1, quality)[1]) for quality in (5, 50, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_several_streams_have_folders_of_their_own(tmp_path):
    sink = opened(tmp_path, ("door", "yard"))
    sink.process(frame(file="a.jpg", stream="door"))
    sink.process(frame(file="a.jpg", stream="yard"))
    assert names(tmp_path) == ["door/a.jpg", "yard/a.jpg"]


@pytest.mark.parametrize(
    ("folder", "streams", "path"),
    [
        ("out", ["yard"], "out"),
        ("out", ["yard", "door"], "out/yard"),
        ("out", ["door"], "out/yard"),
        ("{stream}/out", ["yard"], "yard/out"),
    ],
)
def test_the_folder_of_a_stream(folder, streams, path):
    assert stream_folder(folder, "yard", streams) == Path(path)


def test_killed_at_any_moment_files_are_whole_and_numbers_go_on(tmp_path):
    first = opened(tmp_path)
    for _ in range(2):
        first.process(frame(file="a.tif"))
    saved = first.state("demo")
    first.process(frame(file="a.tif"))  # and was killed before that was saved
    first.close()
    (tmp_path / UNFINISHED).write_bytes(b"half a picture")
    second = opened(tmp_path)
    second.restore("demo", saved)
    second.process(frame(file="a.tif"))
    second.process(frame(file="a.tif"))
    second.end("demo")
    assert names(tmp_path) == ["a.page2.tif", "a.page3.tif", "a.page4.tif", "a.tif"]


def test_a_state_of_nothing_is_restored(tmp_path):
    sink = opened(tmp_path)
    sink.process(frame(still=False))
    other = opened(tmp_path / "other")
    other.restore("demo", sink.state("demo"))
    other.process(frame(file="a.jpg"))


def test_a_full_disk_ends_the_run_in_words_and_leaves_no_part(tmp_path, monkeypatch):
    sink = opened(tmp_path)
    sink.process(frame(file="a.jpg"))
    sink.process(frame(file="b.jpg"))
    before = (tmp_path / "a.jpg").read_bytes()

    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match=r"cannot write '.*a\.jpg' \(No space.*\); free some"):
            sink.process(frame(file="a.jpg"))
    assert names(tmp_path) == ["a.jpg", "b.jpg"]
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_its_folder_deleted_it_is_made_again(tmp_path):
    sink = opened(tmp_path / "out")
    (tmp_path / "out").rmdir()
    sink.process(frame(file="a.jpg"))
    assert names(tmp_path / "out") == ["a.jpg"]


def test_a_link_of_that_name_is_replaced_and_not_written_through(tmp_path):
    source = save_image(tmp_path / "source.png")
    before = source.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(source)
    opened(tmp_path / "out").process(frame(file="a.png"))
    assert source.read_bytes() == before
    assert not (tmp_path / "out" / "a.png").is_symlink()


def test_a_second_run_into_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LOCK_TIMEOUT_S", 0)
    first = opened(tmp_path)
    with pytest.raises(SetupError, match="is being written by another run"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


# --- before the start ---


def resolve(folder):
    return Pictures.resolve(PicturesSettings(folder=str(folder)))


@pytest.mark.parametrize("folder", ["new/deep", "{stream}", "new/{stream}/deep", "x{stream}"])
def test_a_check_makes_no_folder_and_no_file(folder, tmp_path):
    resolve(tmp_path / folder)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("folder", ["file", "file/deep", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(
        SetupError, match=r"folder: cannot write in '.*' \(.+\); choose another folder"
    ):
        resolve(tmp_path / folder)


def test_a_home_folder_is_put_in_place_of_the_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert PicturesSettings(folder="~/out").folder == str(tmp_path / "out")
    with pytest.raises(SetupError, match="no home folder is known for '~nosuch'"):
        resolve("~nosuch/out")


def built(source, *folders, streams=("photos",)):
    stages = {
        "capture": {"use": "capture"},
        "boxes": {"use": "boxes"},
    }
    for i, folder in enumerate(folders):
        stages[f"out{i}"] = {"use": "pictures", "after": "boxes", "folder": str(folder)}
    named = {name: {"source": str(source)} for name in streams}
    return graph(stages, named, {**LOCATIONS, "boxes": "tests.processes.stages:Boxes"})


def test_it_does_not_write_over_its_sources(tmp_path):
    (tmp_path / "photos").mkdir()
    photo = save_image(tmp_path / "photos" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for source in (tmp_path / "photos", photo):
        for folder in (tmp_path / "photos", tmp_path / "link", tmp_path / "new/../photos"):
            with pytest.raises(GraphError, match="is the folder of stream photos; choose another"):
                built(source, folder)
    built(photo, tmp_path / "photos" / "annotated")
    built(photo, tmp_path)


def test_it_does_not_write_over_what_a_source_links_to(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to(save_image(tmp_path / "kept" / "a.png"))
    with pytest.raises(GraphError, match="is the folder of stream photos"):
        built(tmp_path / "photos", tmp_path / "kept")


def test_of_several_streams_the_folder_with_the_streams_name_counts(tmp_path):
    (tmp_path / "a").mkdir()
    save_image(tmp_path / "a" / "1.png")
    built(tmp_path / "a", tmp_path / "a", streams=("a", "b"))
    with pytest.raises(GraphError, match="is the folder of stream"):
        built(tmp_path / "a", tmp_path, streams=("a", "b"))


def test_two_stages_do_not_fill_one_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    save_image(tmp_path / "photos" / "a.png")
    with pytest.raises(GraphError, match=r"out1: .* is used by stage out0; choose another path"):
        built(tmp_path / "photos", tmp_path / "out", tmp_path / "out")
