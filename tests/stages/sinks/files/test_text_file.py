"""Text files of sinks: rotation of every kind, with the writer killed at any moment."""

import json
import os
from pathlib import Path

import pytest

from pipeline.errors import RunError
from stages.sinks.files.events import Events, EventsSettings
from stages.sinks.files.mot import Mot, MotSettings
from stages.sinks.files.text_file import Mark, ResumableTextFile
from tests.builders import context_of
from tests.stages.sinks.files.test_events import frame

FOREIGN = b'{"stream":"foreign"}\n'


# --- how files are rotated: each takes the name and leaves what it moved beside it ---


def truncate_to_zero(path):
    os.truncate(path, 0)


def copy_and_truncate(path):
    Path(f"{path}.1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def truncate_to_part(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def rename_and_create(path):
    path.rename(f"{path}.1")
    path.touch()


def rename(path):
    path.rename(f"{path}.1")


def move_to_another_folder(path):
    (path.parent / "old").mkdir()
    path.rename(path.parent / "old" / path.name)


def delete(path):
    path.unlink()


def delete_and_create(path):
    path.unlink()
    path.touch()


def replace_by_longer(path):
    longer = path.with_name("longer")
    longer.write_bytes(FOREIGN * 1000)
    longer.rename(path)


def replace_by_unfinished(path):
    other = path.with_name("other")
    other.write_bytes(FOREIGN + FOREIGN[:5])
    other.rename(path)


def overwrite_with_longer(path):
    path.write_bytes(FOREIGN * 1000)


def overwrite_with_unfinished(path):
    path.write_bytes(FOREIGN * 1000 + FOREIGN[:5])


KEEPING = (copy_and_truncate, rename_and_create, rename, move_to_another_folder)
"""What was written before is somewhere."""
LOSING = (
    truncate_to_zero,
    truncate_to_part,
    delete,
    delete_and_create,
    replace_by_longer,
    replace_by_unfinished,
    overwrite_with_longer,
    overwrite_with_unfinished,
)


class Killed:
    """A sink with what a worker keeps of it: killed, its successor gets the frame again."""

    def __init__(self, kind, path, streams):
        self.kind, self.path, self.streams = kind, path, streams
        self.saved = {}
        self.stage = self._opened()

    def _opened(self):
        context = context_of(streams=self.streams, labels=())
        settings = EventsSettings if self.kind is Events else MotSettings
        stage = self.kind(settings(path=str(self.path)), context)
        stage.open()
        for stream, state in self.saved.items():
            stage.restore(stream, state)
        return stage

    def kill(self):
        self.stage.close()  # only descriptors, as when a process dies
        self.stage = self._opened()

    def give(self, given, *, killed_before_saving=False):
        self.stage.process(given)
        if killed_before_saving:
            self.kill()
            self.stage.process(given)
        self.saved[given.stream] = self.stage.state(given.stream)


def frames_of(content, kind):
    """Stream and number of each frame in a file; fails on any line that is not whole."""
    if kind is Mot:
        lines = [line.split(b",") for line in content.splitlines() if line + b"\n" != FOREIGN]
        assert all(len(line) == 10 for line in lines)
        return [int(line[0]) - 1 for line in lines]
    lines = [json.loads(line) for line in content.splitlines()]
    return [(line["stream"], line["frame"]) for line in lines if line["stream"] != "foreign"]


def given_frames(kind, streams):
    seen = [frame(seq // len(streams), streams[seq % len(streams)]) for seq in range(12)]
    return [frame(f.seq, f.stream, objects=[(1, 2, 30, 40, 0.9, 0)], ids=[7]) for f in seen]


def run(kind, folder, streams, rotate, killed):
    """Twelve frames, rotated before the seventh; the contents of all files by name."""
    path = folder / "out"
    own = path if kind is Events or len(streams) == 1 else folder / f"out-{streams[0]}"
    sink = Killed(kind, path, streams)
    given = given_frames(kind, streams)
    for each in given[:6]:
        sink.give(each)
    if killed == "after a line that was not saved":
        sink.stage.process(given[6])
    rotate(own)
    if killed in ("before it was noticed", "after a line that was not saved"):
        sink.kill()
    for index, each in enumerate(given[6:]):
        sink.give(each, killed_before_saving=index == 0 and killed == "before it was saved")
        if index == 0 and killed == "after it was saved":
            sink.kill()
    for stream in streams:
        sink.stage.end(stream)
    sink.stage.close()
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}, own, given


MOMENTS = (
    "never",
    "before it was noticed",
    "before it was saved",
    "after it was saved",
    "after a line that was not saved",
)
SINKS = [(Events, ("a",)), (Events, ("a", "b")), (Mot, ("a",)), (Mot, ("a", "b"))]


def expected(kind, given, own_stream):
    if kind is Events:
        return [(each.stream, each.seq) for each in given]
    return [each.seq for each in given if each.stream == own_stream]


@pytest.mark.parametrize("killed", MOMENTS)
@pytest.mark.parametrize(("kind", "streams"), SINKS)
@pytest.mark.parametrize("rotate", KEEPING)
def test_rotated_no_line_is_lost_torn_or_doubled(rotate, kind, streams, killed, tmp_path):
    contents, own, given = run(kind, tmp_path, streams, rotate, killed)
    of_own = [c for p, c in contents.items() if p.name.startswith(own.name)]
    found = sorted(each for content in of_own for each in frames_of(content, kind))
    wanted = sorted(expected(kind, given, streams[0]))
    if killed == "after a line that was not saved":
        if rotate is move_to_another_folder:  # what cannot be known
            again = frames_of(contents[tmp_path / "old" / own.name], kind)[-1]
            wanted = sorted([*wanted, again])
        if rotate is copy_and_truncate:  # the copy has the line, and is no file of ours
            again = frames_of(contents[Path(f"{own}.1")], kind)[-1]
            wanted = sorted([*wanted, again])
    assert found == wanted
    assert not any(b"\0" in content for content in contents.values())
    assert own.exists()


@pytest.mark.parametrize("killed", MOMENTS)
@pytest.mark.parametrize(("kind", "streams"), SINKS)
@pytest.mark.parametrize("rotate", LOSING)
def test_after_a_loss_every_later_line_is_there_once(rotate, kind, streams, killed, tmp_path):
    contents, own, given = run(kind, tmp_path, streams, rotate, killed)
    found = frames_of(contents[own], kind)
    later = expected(kind, given[6:], streams[0])
    assert found[-len(later) :] == later
    assert len(found) == len(set(found))
    assert not any(b"\0" in content for content in contents.values())
    if rotate in (replace_by_longer, overwrite_with_longer, overwrite_with_unfinished):
        assert contents[own].startswith(FOREIGN * 1000)


@pytest.mark.parametrize("rotate", [*KEEPING, *LOSING])
def test_reopened_between_frames_the_old_file_is_released(rotate, tmp_path):
    path = tmp_path / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"before\n")
    rotate(path)
    file.follow()
    held = os.fstat(file._descriptor)
    assert os.path.samestat(held, path.stat())
    file.write(b"after\n")
    assert path.read_bytes().splitlines()[-1] == b"after"


@pytest.mark.parametrize("rotate", [rename, rename_and_create, delete])
def test_rotated_before_the_first_line_the_new_file_is_written(rotate, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"of an earlier run\n")
    file = ResumableTextFile(str(path))
    file.open()
    rotate(path)
    file.write(b"first\n")
    assert path.read_bytes() == b"first\n"
    moved = Path(f"{path}.1")
    assert not moved.exists() or moved.read_bytes() == b"of an earlier run\n"


def test_killed_again_after_a_frame_without_objects_the_file_is_whole(tmp_path):
    sink = Killed(Mot, tmp_path / "out", ("a",))
    sink.give(frame(0, "a", objects=[(1, 2, 30, 40, 0.9, 0)], ids=[7]))
    sink.kill()
    sink.give(frame(1, "a"))
    sink.kill()
    sink.give(frame(2, "a", objects=[(1, 2, 30, 40, 0.9, 0)], ids=[7]))
    assert frames_of((tmp_path / "out").read_bytes(), Mot) == [0, 2]


@pytest.mark.parametrize("kind", [Events, Mot])
def test_killed_before_the_first_line_an_earlier_file_is_emptied(kind, tmp_path):
    """The worker saves a state after a frame that was dropped, which no stage has seen."""
    path = tmp_path / "out"
    path.write_bytes(FOREIGN)
    sink = Killed(kind, path, ("a",))
    sink.saved["a"] = sink.stage.state("a")
    sink.kill()
    sink.give(frame(1, "a", objects=[(1, 2, 30, 40, 0.9, 0)], ids=[7]))
    assert frames_of(path.read_bytes(), kind) == expected(kind, [frame(1, "a")], "a")
    assert FOREIGN not in path.read_bytes()


def test_cut_to_part_of_a_line_while_it_writes_the_line_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"a line of some length\n")
    write = os.write

    def cut_first(descriptor, data):
        monkeypatch.setattr(os, "write", write)
        os.truncate(path, 7)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", cut_first)
    file.write(b"another line\n")
    assert path.read_bytes() == b"another line\n"
    assert file.mark.offset == path.stat().st_size


def test_the_mark_of_a_stream_from_before_a_cut_does_not_count_after_it(tmp_path):
    path = tmp_path / "out"
    first = ResumableTextFile(str(path))
    first.open()
    first.write(b"x" * 200 + b"\n")
    old = first.mark
    os.truncate(path, 0)
    first.write(b"saved\n")
    saved = first.mark
    first.write(b"not saved\n")
    first.close()
    second = ResumableTextFile(str(path))
    second.open()
    for mark in (saved, old):
        second.resume(mark)
    second.write(b"not saved\n")
    assert path.read_bytes() == b"saved\nnot saved\n"


def test_a_new_file_with_the_inode_of_the_old_one_is_not_cut(tmp_path):
    """File systems give the number of a deleted file to the next one."""
    path = tmp_path / "out"
    path.write_bytes(FOREIGN * 10)
    found = path.stat()
    mark = Mark(str(path), found.st_dev, found.st_ino, 1, 30, 10, 123)
    file = ResumableTextFile(str(path))
    file.open()
    file.resume(mark)
    file.write(b"next\n")
    assert path.read_bytes() == FOREIGN * 10 + b"next\n"


def test_a_mark_of_another_path_is_no_place_in_this_one(tmp_path):
    """The settings were changed and read again."""
    first = ResumableTextFile(str(tmp_path / "one"))
    first.open()
    first.write(b"one\n")
    (tmp_path / "two").write_bytes(b"of an earlier run\n")
    second = ResumableTextFile(str(tmp_path / "two"))
    second.open()
    second.resume(first.mark)
    second.write(b"two\n")
    assert (tmp_path / "one").read_bytes() == b"one\n"
    assert (tmp_path / "two").read_bytes() == b"two\n"


def test_moved_to_where_it_cannot_be_opened_again_writing_goes_on(tmp_path, caplog):
    path = tmp_path / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"one\n")
    path.rename(tmp_path / "out.1")
    path.mkdir()
    file.write(b"two\n")
    file.write(b"three\n")
    assert (tmp_path / "out.1").read_bytes() == b"one\ntwo\nthree\n"
    assert len(caplog.messages) == 1
    path.rmdir()
    file.write(b"four\n")
    assert path.read_bytes() == b"four\n"


def test_replaced_by_a_pipe_without_a_reader_writing_goes_on_at_once(tmp_path, monkeypatch):
    path = tmp_path / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"one\n")
    path.rename(tmp_path / "out.1")
    os.mkfifo(path)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    file.write(b"two\n")
    assert (tmp_path / "out.1").read_bytes() == b"one\ntwo\n"


def test_its_new_file_taken_by_another_run_writing_goes_on_in_the_old_one(tmp_path):
    path = tmp_path / "out"
    first = ResumableTextFile(str(path))
    first.open()
    first.write(b"one\n")
    path.rename(tmp_path / "out.1")
    second = ResumableTextFile(str(path))
    second.open()
    second.write(b"of another run\n")
    first.write(b"two\n")
    assert (tmp_path / "out.1").read_bytes() == b"one\ntwo\n"
    second.close()
    first.write(b"three\n")
    assert path.read_bytes() == b"of another run\nthree\n"


def test_deleted_and_not_to_be_opened_again_it_fails(tmp_path):
    path = tmp_path / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"one\n")
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="cannot write"):
        file.write(b"two\n")


def test_its_folder_deleted_it_is_made_again(tmp_path):
    path = tmp_path / "folder" / "out"
    file = ResumableTextFile(str(path))
    file.open()
    file.write(b"one\n")
    path.unlink()
    path.parent.rmdir()
    file.write(b"two\n")
    assert path.read_bytes() == b"two\n"
