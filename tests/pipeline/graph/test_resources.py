"""Files, ports and folders of a graph: two users of one are refused, and named both."""

from pathlib import Path

import pytest

from pipeline.errors import GraphError
from pipeline.graph.graph import ExternalFiles
from pipeline.graph.resources import check, file_id, left_by, part_path, stream_path
from pipeline.stage import Listen, Output, Resources, Settings, Stage
from tests.builders import CLIP, Sink, graph

HERE = "tests.pipeline.graph.test_resources"


class UserSettings(Settings, frozen=True):
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    per_stream: bool = False
    parts: bool = False
    listens: tuple[tuple[str, int], ...] = ()
    locks: tuple[str, ...] = ()


class User(Stage):
    """Uses what its settings list, whatever their names."""

    Settings = UserSettings

    @classmethod
    def resources(cls, settings):
        return Resources(
            reads=tuple(map(Path, settings.reads)),
            writes=tuple(
                Output(Path(path), settings.per_stream, settings.parts) for path in settings.writes
            ),
            listens=tuple(Listen(*listen) for listen in settings.listens),
            locks=tuple(map(Path, settings.locks)),
        )

    def process(self, frame):
        pass


class ZonesSettings(Settings, frozen=True):
    path: str


class Zones(Sink):
    """Reads the file in its `path`."""

    Settings = ZonesSettings

    @classmethod
    def resources(cls, settings):
        return Resources(reads=(Path(settings.path),))


def made(streams=("demo",), **stages):
    registry = {"user": f"{HERE}:User", "zones": f"{HERE}:Zones"}
    tables = {name: {"use": "user", "after": "capture", **table} for name, table in stages.items()}
    return graph(tables, streams, registry)


def refusal(*args, **stages):
    with pytest.raises(GraphError) as caught:
        made(*args, **stages)
    return str(caught.value).removeprefix("test.yaml: ")


def test_a_stage_that_reads_the_file_in_its_path_is_accepted(tmp_path):
    # F1 of the layout's faults: a setting was taken for an output because of its name.
    path = str(tmp_path / "zones.json")
    assert made(zones={"use": "zones", "path": path}).nodes[1].kind is Zones


def test_a_writer_of_the_file_another_stage_reads_is_refused(tmp_path):
    path = str(tmp_path / "zones.json")
    found = refusal(zones={"use": "zones", "path": path}, log={"writes": [path]})
    assert found == f"stages.log: {path} is read by stage zones; choose another file"


def test_two_writers_of_one_file_are_refused(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("")
    (tmp_path / "link.txt").symlink_to(path)
    found = refusal(one={"writes": [str(path)]}, two={"writes": [str(tmp_path / "link.txt")]})
    assert found.endswith("link.txt is written by stage one; choose another file")


def test_the_files_of_streams_count_too(tmp_path):
    one = {"writes": [str(tmp_path / "out.txt")], "per_stream": True}
    two = {"writes": [str(tmp_path / "out-b.txt")]}
    assert "out-b.txt is written by stage one" in refusal(("a", "b"), one=one, two=two)
    made(("a", "c"), one=one, two=two)


def test_the_parts_of_a_file_count_too(tmp_path):
    one = {"writes": [str(tmp_path / "out.mp4")]}
    two = {"writes": [str(tmp_path / "out.part2.mp4")], "parts": True}
    assert "is written by stage one" in refusal(one=one, two=two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "0.0.0.0"),
        ("*", "192.168.1.2"),
        ("::", "127.0.0.1"),
    ],
)
def test_two_listeners_on_one_port_are_refused(one, two):
    found = refusal(a={"listens": [[one, 8080]]}, b={"listens": [[two, 8080]]})
    assert found == f"stages.b: port 8080 of {two} is used by stage a; choose another port"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("127.0.0.1", 8080), ("127.0.0.1", 8081)),
        (("127.0.0.1", 8080), ("192.168.1.2", 8080)),
        (("127.0.0.1", 0), ("127.0.0.1", 0)),
    ],
)
def test_other_ports_other_addresses_and_free_ports_are_accepted(one, two):
    made(a={"listens": [one]}, b={"listens": [two]})


def test_two_owners_of_a_folder_or_spool_are_refused(tmp_path):
    path = str(tmp_path / "clips")
    found = refusal(a={"locks": [path]}, b={"locks": [f"{tmp_path}/x/../clips"]})
    assert "clips is used by stage a; choose another path" in found


def test_a_stage_that_fills_the_folder_of_a_source_is_refused(tmp_path):
    capture = {"use": "capture"}
    streams = {"photos": {"source": str(CLIP)}}
    with pytest.raises(GraphError, match="is the folder of stream photos; choose another folder"):
        graph(
            {"capture": capture, "sink": {"use": "user", "locks": [str(CLIP.parent)]}},
            streams,
            {"user": f"{HERE}:User", "capture": "stages.capture.capture:Capture"},
        )


def test_a_device_is_written_by_several_stages():
    made(one={"writes": ["/dev/null"]}, two={"writes": ["/dev/null"]})


def test_the_options_of_the_command_line_count_too(tmp_path):
    found = made(log={"writes": [str(tmp_path / "a.json")]})
    external = ExternalFiles(writes={"--summary": tmp_path / "a.json"})
    with pytest.raises(GraphError, match=r"--summary .*a\.json is written by stage log; choose"):
        check(found.nodes, found.streams, ["demo"], external, "test.yaml")
    twice = ExternalFiles(writes={"--summary": tmp_path / "b", "--trace": tmp_path / "b"})
    with pytest.raises(GraphError, match=r"--trace .*b is written by --summary; choose another"):
        check(found.nodes, found.streams, ["demo"], twice, "test.yaml")


def test_the_shipped_sinks_declare_what_they_use(tmp_path):
    for use, table in {
        "events": {"path": str(tmp_path / "x")},
        "mot": {"path": str(tmp_path / "x")},
        "video": {"path": str(tmp_path / "x.mp4")},
        "pictures": {"folder": str(tmp_path / "x")},
        "clips": {"folder": str(tmp_path / "x")},
        "web": {"port": 8099},
        "rtsp": {"port": 8099},
        "zmq": {"address": "tcp://127.0.0.1:8099"},
        "webhook": {"url": "http://127.0.0.1:9/hook"},
        "mqtt": {"broker": "127.0.0.1"},
    }.items():
        with pytest.raises(GraphError, match=r"^test\.yaml: stages\.two: .* stage one"):
            shipped(use, table)


def shipped(use, table):
    """A graph with two stages that have the same settings."""
    from stages import LOCATIONS

    stages = {
        "capture": {"use": "capture"},
        "boxes": {"use": "boxes"},
        "one": {"use": use, "after": "boxes", **table},
        "two": {"use": use, "after": "boxes", **table},
    }
    registry = {**LOCATIONS, "boxes": "tests.processes.stages:Boxes"}
    return graph(stages, {"demo": {"source": str(CLIP)}}, registry)


def test_checking_makes_no_folder(tmp_path):
    # F17: `run.py check` starts nothing, and so writes nothing.
    from stages import LOCATIONS

    deep = tmp_path / "made" / "by" / "check"
    stages = {
        "capture": {"use": "capture"},
        "boxes": {"use": "boxes"},
        "events": {"use": "events", "path": str(deep / "out.jsonl")},
        "mot": {"use": "mot", "path": str(deep / "out.txt"), "after": "boxes"},
        "video": {"use": "video", "path": str(deep / "out.mp4"), "after": "boxes"},
        "pictures": {"use": "pictures", "folder": str(deep / "pictures"), "after": "boxes"},
        "clips": {"use": "clips", "folder": str(deep / "clips"), "after": "boxes"},
    }
    registry = {**LOCATIONS, "boxes": "tests.processes.stages:Boxes"}
    graph(stages, {"demo": {"source": str(CLIP)}}, registry)
    assert list(tmp_path.iterdir()) == []


# --- names ---


@pytest.mark.parametrize(
    ("path", "streams", "file"),
    [
        ("out.txt", ("yard",), "out.txt"),
        ("out.txt", ("yard", "door"), "out-yard.txt"),
        ("{stream}/out.txt", ("yard",), "yard/out.txt"),
    ],
)
def test_the_file_of_a_stream(path, streams, file):
    assert stream_path(Path(path), "yard", streams) == Path(file)


def test_the_file_of_a_part():
    assert part_path(Path("a/out.mp4"), 1) == Path("a/out.mp4")
    assert part_path(Path("a/out.mp4"), 3) == Path("a/out.part3.mp4")


def test_a_file_is_the_same_under_all_its_names(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert file_id(tmp_path / "a") == file_id(tmp_path / "b")
    assert file_id(tmp_path / "later") == file_id(tmp_path / "x" / ".." / "later")


def test_files_that_a_run_left_are_listed(tmp_path):
    for name in ("out.mp4", "out.part2.mp4", "log.txt"):
        (tmp_path / name).write_text("x")
    found = made(
        video={"writes": [str(tmp_path / "out.mp4")], "parts": True},
        log={"writes": [str(tmp_path / "log.txt")]},
        none={"writes": [str(tmp_path / "none.txt")]},
    )
    names = [[path.name for path in paths] for paths in left_by(found, ["demo"])]
    assert names == [["out.mp4", "out.part2.mp4"], ["log.txt"]]
