"""Events: what a line says, and what the file holds after anything that can happen to it."""

import errno
import json
import os

import numpy as np
import pytest

from pipeline.errors import EndRun, RunError, SetupError
from pipeline.frame import Frame
from pipeline.stage import Resolved
from stages.sinks.files.events import Events, EventsSettings, utc_ms
from tests.builders import context_of


def frame(seq=0, stream="demo", objects=(), ids=None, time_s=None):
    """Objects are rows of x1, y1, x2, y2, score, class."""
    rows = np.asarray(objects, np.float64).reshape(-1, 6)
    arrays = {
        "boxes": rows[:, :4].astype(np.float32),
        "scores": rows[:, 4].astype(np.float32),
        "classes": rows[:, 5].astype(np.int32),
    }
    if ids is not None:
        arrays["ids"] = np.asarray(ids, np.int64)
    return Frame.of(stream, seq, seq / 10 if time_s is None else time_s, **arrays)


def opened(path, **given):
    events = Events(EventsSettings(path=str(path)), context_of(**given))
    events.open()
    return events


def run(path, frames):
    events = opened(path)
    for given in frames:
        events.process(given)
    events.close()


def test_a_line_is_exactly_as_promised(tmp_path):
    events = opened(tmp_path / "out.jsonl", labels=("person", "bicycle"), streams=("demo",))
    given = frame(17, objects=[(1.005, 2, 30.126, 40, 0.91, 0)], ids=[3], time_s=1.7)
    given.header.wall_ns = 1_795_248_000_123_999_999
    events.process(given)
    assert (tmp_path / "out.jsonl").read_text() == (
        '{"stream":"demo","frame":17,"time_s":1.7,"captured_at":"2026-11-21T08:00:00.123Z",'
        '"objects":[{"id":3,"label":"person","class":0,"score":0.91,'
        '"box":[1.0,2.0,30.13,40.0]}]}\n'
    )


@pytest.mark.parametrize(
    ("name", "text"), [("größe 1.png", "größe 1.png"), (os.fsdecode(b"\xff.png"), "\ufffd.png")]
)
def test_the_file_of_a_picture_follows_its_number(name, text, tmp_path):
    given = frame(3)
    given.put_file(name)
    run(tmp_path / "out.jsonl", [given])
    line = (tmp_path / "out.jsonl").read_text()
    assert line.startswith(f'{{"stream":"demo","frame":3,"file":"{text}","time_s":')
    assert json.loads(line)["file"] == text


def test_a_frame_without_objects_has_a_line_too(tmp_path):
    run(tmp_path / "out.jsonl", [frame()])
    assert json.loads((tmp_path / "out.jsonl").read_text())["objects"] == []


@pytest.mark.parametrize("ids", [None, [-1]])
def test_an_object_without_a_track_has_the_id_null(tmp_path, ids):
    run(tmp_path / "out.jsonl", [frame(objects=[(0, 0, 9, 9, 0.5, 0)], ids=ids)])
    assert json.loads((tmp_path / "out.jsonl").read_text())["objects"][0]["id"] is None


@pytest.mark.parametrize(
    ("labels", "number", "name"),
    [((), 7, "7"), (("person",), 0, "person"), (("person",), 7, "7"), (("person",), -1, "-1")],
)
def test_a_class_without_a_name_is_called_by_its_number(tmp_path, labels, number, name):
    events = opened(tmp_path / "out.jsonl", labels=labels)
    events.process(frame(objects=[(0, 0, 9, 9, 0.5, number)]))
    found = json.loads((tmp_path / "out.jsonl").read_text())["objects"][0]
    assert (found["label"], found["class"]) == (name, number)


def test_numbers_carry_no_float32_noise(tmp_path):
    run(tmp_path / "out.jsonl", [frame(objects=[(0.1, 0.2, 1234.567, 0.7, 0.12345, 0)])])
    text = (tmp_path / "out.jsonl").read_text()
    assert '"score":0.1235,"box":[0.1,0.2,1234.57,0.7]' in text


def test_time_has_microseconds_at_most(tmp_path):
    given = frame()
    given.header.source_ns = 33_366_666
    run(tmp_path / "out.jsonl", [given])
    assert '"time_s":0.033367,' in (tmp_path / "out.jsonl").read_text()


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999_999_999, "1970-01-01T00:00:00.999Z"),
        (1_795_248_000_007_000_000, "2026-11-21T08:00:00.007Z"),
    ],
)
def test_times_are_utc_with_milliseconds(unix_ns, text):
    assert utc_ms(unix_ns) == text


def test_streams_share_the_file_in_the_order_of_arrival(tmp_path):
    path = tmp_path / "out.jsonl"
    run(path, [frame(0, "a"), frame(0, "b"), frame(1, "a")])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["stream"], line["frame"]) for line in lines] == [("a", 0), ("b", 0), ("a", 1)]


def test_a_line_is_in_the_file_as_soon_as_its_frame_is_done(tmp_path):
    events = opened(tmp_path / "out.jsonl")
    for seq in range(3):
        events.process(frame(seq))
        assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == seq + 1


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "out.jsonl"
    run(path, [frame(seq) for seq in range(5)])
    run(path, [frame(9)])
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == [9]


def test_opening_leaves_the_file_alone_until_the_first_frame(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    events = opened(path)
    assert path.read_text() == "before\n"
    events.close()
    assert path.read_text() == "before\n"


def test_a_stream_without_frames_leaves_an_empty_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    events = opened(path)
    events.end("demo")
    assert path.read_text() == ""


@pytest.mark.parametrize("died_after", range(6))
@pytest.mark.parametrize("part", [b"", b'{"stream":"b","fra'])
def test_after_a_crash_the_file_is_as_without_it(tmp_path, died_after, part):
    """Two streams; the writer dies after writing a frame and before that was saved."""
    frames = [frame(seq // 2, "ab"[seq % 2]) for seq in range(6)]
    run(tmp_path / "undisturbed.jsonl", frames)

    path, saved = tmp_path / "out.jsonl", {}
    first = opened(path)
    for index, given in enumerate(frames[: died_after + 1]):
        first.process(given)
        if index < died_after:
            saved[given.stream] = first.state(given.stream)
    first.close()  # as the system does with the files of a dead process
    with path.open("ab") as file:
        file.write(part)

    second = opened(path)
    for stream, state in saved.items():
        second.restore(stream, state)
    for given in frames[died_after:]:
        second.process(given)
    second.end("a")
    second.end("b")
    second.close()
    assert path.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_a_crash_after_the_last_frame_leaves_what_was_saved(tmp_path):
    path = tmp_path / "out.jsonl"
    first = opened(path)
    first.process(frame(0))
    saved = first.state("demo")
    first.process(frame(1))
    first.close()
    second = opened(path)
    second.restore("demo", saved)
    second.end("demo")
    assert path.read_bytes().count(b"\n") == 1


def test_a_stream_that_was_silent_since_a_crash_keeps_its_state(tmp_path):
    first = opened(tmp_path / "out.jsonl")
    first.process(frame(0, "a"))
    saved = first.state("a")
    first.close()
    second = opened(tmp_path / "out.jsonl")
    second.restore("a", saved)
    assert second.state("a") == saved


def test_a_file_that_was_emptied_meanwhile_is_not_filled_with_zeros(tmp_path):
    path = tmp_path / "out.jsonl"
    first = opened(path)
    first.process(frame(0))
    path.write_bytes(b"")
    first.close()
    second = opened(path)
    second.restore("demo", first.state("demo"))
    second.process(frame(1))
    assert path.read_bytes().startswith(b'{"stream"')


def test_standard_output_gets_the_lines_and_stays_open(capfd):
    run("-", [frame(0), frame(1)])
    os.write(1, b"after\n")
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["frame"] for line in lines[:2]] == [0, 1]
    assert lines[2:] == ["after"]


def test_a_pipe_whose_reader_has_gone_ends_the_run(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    events = opened(path)
    events.process(frame())
    os.close(reader)
    with pytest.raises(EndRun, match=r"reader of .*pipe.* has closed it"):
        events.process(frame(1))
    events.close()


def test_a_device_is_written_as_it_is():
    run("/dev/null", [frame(0), frame(1)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_run_in_words():
    events = opened("/dev/full")
    with pytest.raises(RunError, match=r"cannot write '/dev/full' \(No space left.*\); free some"):
        events.process(frame())


def test_a_full_disk_leaves_whole_lines_only(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    events = opened(path)
    events.process(frame(0))
    write = os.write

    def full(descriptor, data):
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:-20])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="No space left"):
            events.process(frame(1))
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


def test_a_line_written_in_pieces_is_whole(tmp_path, monkeypatch):
    events = opened(tmp_path / "out.jsonl")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    events.process(frame(4))
    assert json.loads((tmp_path / "out.jsonl").read_text())["frame"] == 4


def test_close_may_be_called_twice_and_without_open(tmp_path):
    events = Events(EventsSettings(path=str(tmp_path / "out.jsonl")), context_of())
    events.close()
    events.open()
    events.close()
    events.close()


def resolve(path):
    return Events.resolve(EventsSettings(path=str(path)))


def test_the_folder_is_made_on_opening_and_not_by_a_check(tmp_path):
    path = tmp_path / "new" / "deep" / "out.jsonl"
    resolve(path)
    assert list(tmp_path.iterdir()) == []
    opened(path).close()
    assert path.exists()


def test_checking_leaves_an_existing_file_as_it_is(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("before\n")
    resolve(path)
    assert path.read_text() == "before\n"


def test_a_home_folder_is_put_in_place_of_the_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EventsSettings(path="~/out.jsonl").path == str(tmp_path / "out.jsonl")
    assert EventsSettings(path="~out.jsonl").path == "~out.jsonl"
    assert resolve(EventsSettings(path="~/new/out.jsonl").path) == Resolved()
    with pytest.raises(SetupError, match=r"no home folder is known for '~nosuch'; write the whole"):
        resolve("~nosuch/out.jsonl")
    for path in ("~\0/out.jsonl", "~\ud800/out.jsonl"):
        with pytest.raises(SetupError):
            resolve(EventsSettings(path=path).path)


def test_standard_output_needs_no_check():
    assert resolve("-") == Resolved()


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(SetupError, match="is a directory; give the name of a file in it"):
        resolve(tmp_path)


def test_a_path_that_ends_in_a_slash_is_refused(tmp_path):
    with pytest.raises(SetupError, match="is a directory"):
        resolve(f"{tmp_path}/new/")


@pytest.mark.parametrize("path", ["a\0b", "a\0b/out.jsonl"])
def test_a_path_with_a_nul_character_is_refused(tmp_path, path):
    with pytest.raises(SetupError, match="has a NUL character in it; choose another name"):
        resolve(tmp_path / path)


@pytest.mark.parametrize("path", ["file/out.jsonl", "file/deep/out.jsonl", "x" * 300])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(SetupError, match=r"path: cannot write '.*' \(.+\); choose another path"):
        resolve(tmp_path / path)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system has no /proc")
def test_a_directory_that_takes_no_files_is_refused():
    with pytest.raises(SetupError, match=r"cannot write '/proc/out\.jsonl'"):
        resolve("/proc/out.jsonl")


def test_a_file_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    with pytest.raises(SetupError, match="Permission denied"):
        resolve(path)
