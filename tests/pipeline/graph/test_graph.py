"""From settings to a checked graph, and from the graph to processes; nothing is started."""

import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest
from msgspec import Meta

from pipeline.config import check, known_keys, load
from pipeline.errors import ConfigError, EyelineError, GraphError, SetupError
from pipeline.graph import placement
from pipeline.graph.build import MAX_STAGES, add_stream, build
from pipeline.graph.load import load_class
from pipeline.graph.schema import schema
from pipeline.stage import Array, BatchSettings, Output, Resolved, Resources, Settings, Stage
from stages import LOCATIONS
from stages.detections import Labels
from tests.builders import CLIP, IMAGE, ROOT, graph


class Teller(msgspec.Struct, frozen=True):
    """An offer that says who makes it."""

    name: str


class Pre(Stage):
    takes = (IMAGE,)
    gives = (Array("input", "float32", (1, 3, None, None)),)


class BoxesSettings(BatchSettings, frozen=True):
    replicas: int = 2
    model: str = "good"


class Boxes(Stage):
    takes = (Array("input", "float32", (1, 3, None, None)),)
    gives = (Array("boxes", "float32", (None, 4)), Array("classes", "int32", (None,)))
    Settings = BoxesSettings

    @classmethod
    def resolve(cls, settings):
        if settings.model == "bad":
            raise SetupError("no model is called 'bad'")
        return Resolved((Labels(("person",)), Teller("boxes")), settings.replicas)


class Breeds(Stage):
    """A classifier behind the tracker: its labels are those of its own array."""

    takes = (Array("boxes", "float32", (None, 4)),)
    gives = (Array("breeds", "int32", (None,)),)

    @classmethod
    def resolve(cls, settings):
        return Resolved((Labels(("poodle", "terrier")), Teller("breeds")))


class Post(Stage):
    takes = (Array("boxes", "float32", (None, 4)), Array("masks", optional=True))
    gives = (Array("boxes", "float32", (None, 4)),)

    @classmethod
    def resolve(cls, settings):
        return Resolved((Teller("post"),))


class Ids(Stage):
    takes = (Array("boxes", "float32", (None, 4)),)
    gives = (Array("ids", "int64", (None,)),)
    ordered = True


class Log(Stage):
    ordered = True

    class Settings(Settings, frozen=True):
        path: str = ""

    @classmethod
    def resources(cls, settings):
        shared = settings.path in ("", "-")
        return Resources(writes=() if shared else (Output(Path(settings.path), per_stream=True),))


class Picky(Stage):
    takes: ClassVar = ()


class Twins(Stage):
    """Wants replicas that its settings do not speak of."""

    @classmethod
    def resolve(cls, settings):
        return Resolved(replicas=2)


REGISTRY = {
    "pre": "tests.pipeline.graph.test_graph:Pre",
    "boxes": "tests.pipeline.graph.test_graph:Boxes",
    "post": "tests.pipeline.graph.test_graph:Post",
    "ids": "tests.pipeline.graph.test_graph:Ids",
    "log": "tests.pipeline.graph.test_graph:Log",
    "picky": "tests.pipeline.graph.test_graph:Picky",
    "sink": "tests.builders:Sink",
    "twins": "tests.pipeline.graph.test_graph:Twins",
}

WHOLE = {
    "pre": {"use": "pre"},
    "boxes": {"use": "boxes"},
    "post": {"use": "post"},
    "ids": {"use": "ids"},
    "log": {"use": "log", "after": "ids"},
    "end": {"use": "sink", "after": "ids"},
}


def made(stages=WHOLE, **more):
    return graph(stages, registry=REGISTRY, **more)


def refusal(stages, kind=GraphError, **more):
    with pytest.raises(EyelineError) as caught:
        made(stages, **more)
    assert type(caught.value) is kind, repr(caught.value)
    assert str(caught.value).startswith("test.yaml: ")
    return str(caught.value).removeprefix("test.yaml: ")


def after(of):
    return {node.name: node.after.name if node.after else None for node in of.nodes}


def names(of):
    return [worker.name for worker in of.workers]


# --- joining ---


def test_a_stage_follows_the_one_above_it_unless_it_says_otherwise():
    assert after(made()) == {
        "capture": None,
        "pre": "capture",
        "boxes": "pre",
        "post": "boxes",
        "ids": "post",
        "log": "ids",
        "end": "ids",
    }


def test_a_stage_may_stand_above_the_one_that_it_follows():
    stages = {
        "end": {"use": "sink", "after": "pre"},
        "capture": {"use": "source"},
        "pre": {"use": "pre"},
    }
    found = made(stages)
    assert after(found) == {"capture": None, "pre": "capture", "end": "pre"}
    assert [node.index for node in found.nodes] == [0, 1, 2]


def test_leaves_and_ordered_stages_are_known():
    found = made()
    assert found.ordered == ("ids", "log")
    by_name = {node.name: node for node in found.nodes}
    assert found.leaves == 1 << by_name["log"].index | 1 << by_name["end"].index
    assert [n.name for n in by_name["post"].before()] == ["boxes", "pre", "capture"]
    assert [n.name for n in by_name["post"].behind()] == ["ids", "log", "end"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            {"a": {"use": "sink", "after": "captur"}},
            "stages.a: after: no stage is named 'captur'; did you mean 'capture'?",
        ),
        (
            {"events": {"use": "sink", "after": "evnts"}},
            "stages.events: after: no stage is named 'evnts'; known: capture",
        ),
        (
            {"a": {"use": "sink", "after": "b"}, "b": {"use": "sink", "after": "a"}},
            "stages: a -> b -> a is a cycle",
        ),
        ({"a": {"use": "sink", "after": "a"}}, "stages: a -> a is a cycle"),
        (
            {
                "x": {"use": "sink", "after": "a"},
                "a": {"use": "sink", "after": "b"},
                "b": {"use": "sink", "after": "a"},
            },
            "is a cycle",
        ),
        (
            {"a": {"use": "sink"}, "capture": {"use": "source"}},
            "stages.a: the first stage must be a source (found Sink); add `capture: ",
        ),
        (
            {"capture": {"use": "source"}, "again": {"use": "source"}},
            "stages: expected one source stage (found capture, again); "
            "list cameras and files under `streams`",
        ),
        (
            {"capture": {"use": "source", "after": "a"}, "a": {"use": "sink"}},
            "stages.capture: after: a source stage cannot follow another stage; remove `after`",
        ),
    ],
)
def test_stages_that_do_not_join_are_refused(stages, words):
    assert words in refusal(stages)


def test_without_a_source_there_is_no_graph():
    with pytest.raises(GraphError, match="the first stage must be a source"):
        build(
            check({"streams": {"a": {}}, "stages": {"end": {"use": "sink"}}}, "test.yaml"),
            REGISTRY,
            "test.yaml",
        )


def test_very_many_stages_are_refused():
    stages = {f"s{i}": {"use": "sink"} for i in range(MAX_STAGES)}
    assert "stages: too many (found 201); use at most 200" in refusal(stages)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "stages.a: use: expected the name of a stage, found nothing"),
        ({"use": 3}, "stages.a: use: expected the name of a stage, found 3"),
        ({"use": "sink", "after": 3}, "stages.a: after: expected a name, found 3"),
        ({"use": "sink", "process": [1]}, "stages.a: process: expected a name, found a list"),
        ({"use": "snik"}, "stages.a: use: no stage is called 'snik'; did you mean 'sink'?"),
        ({"use": "no.such:X"}, "stages.a: use: 'no.such:X': no module named 'no'"),
        (
            {"use": "tests.builders:Snik"},
            "tests/builders.py) has no class 'Snik'; correct the name",
        ),
        (
            {"use": "pathlib:Path"},
            "stages.a: use: 'pathlib:Path' is not a Stage; derive it from pipeline.stage.Stage",
        ),
        ({"use": ":Sink"}, "stages.a: use: no stage is called a text of 5 characters"),
        ({"use": "sink", "zz": 1}, "stages.a: zz: unknown key; known: after, process, use"),
        ({"use": "sink", "proces": "p"}, "proces: unknown key; did you mean 'process'?"),
        ({"use": "boxes", "batsh": 1}, "batsh: unknown key; did you mean 'batch'?"),
        ({"use": "boxes", "batch": "x"}, "stages.a: batch: expected `int`, got `str`"),
        ({"use": "source", "livee": True}, "livee: unknown key; did you mean 'live'?"),
    ],
)
def test_a_stage_that_is_wrong_is_refused(table, words):
    assert words in refusal({"capture": {"use": "source"}, "a": table}, ConfigError)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"slot": 3}, "streams.yard: slot: unknown key; did you mean 'slots'?"),
        ({"livee": True}, "streams.yard: livee: unknown key; did you mean 'live'?"),
        ({"slots": 0}, "streams.yard: slots: expected `int` >= 1, found 0"),
        ({"slots": 257}, "streams.yard: slots: expected `int` <= 256, found 257"),
        ({"max_age_ms": 0}, "streams.yard: max_age_ms: expected `float` > 0.0, found 0"),
        ({"live": "yes"}, "streams.yard: live: expected `bool`, got `str`"),
    ],
)
def test_a_stream_that_is_wrong_is_refused(table, words):
    assert words in refusal(WHOLE, ConfigError, streams={"yard": table})


def test_streams_take_missing_settings_from_the_source_stage():
    stages = {"capture": {"use": "source", "live": True}, "end": {"use": "sink"}}
    found = made(stages, streams={"a": {}, "b": {"live": False}})
    assert [stream.live for stream in found.streams] == [True, False]


def test_a_class_of_the_users_own_is_a_stage(tmp_path, monkeypatch):
    (tmp_path / "my_stage.py").write_text(
        "from pipeline.stage import Stage\nclass Mine(Stage):\n    gives = ()\nclass Broken: pass\n"
    )
    (tmp_path / "my_wrong_stage.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = made({"a": {"use": "my_stage:Mine"}})
    assert found.nodes[1].kind.__name__ == "Mine"
    words = refusal({"a": {"use": "my_wrong_stage:Mine"}}, ConfigError)
    assert "'my_wrong_stage:Mine': cannot be imported: SyntaxError" in words
    for name in ("my_stage", "my_wrong_stage"):
        sys.modules.pop(name, None)


def test_what_a_stage_refuses_is_said_with_its_place():
    stages = {**WHOLE, "boxes": {"use": "boxes", "model": "bad"}}
    assert refusal(stages, SetupError) == "stages.boxes: no model is called 'bad'"


def test_two_stages_that_write_the_same_file_are_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    stages = {
        "one": {"use": "log", "path": str(path)},
        "other": {"use": "log", "path": f"{tmp_path}/x/../out.jsonl", "after": "capture"},
    }
    assert "is written by stage one; choose another file" in refusal(stages)
    for shared in ("/dev/null", "-"):
        stages["one"]["path"] = stages["other"]["path"] = shared
        made(stages)


def reader(monkeypatch, *paths):
    monkeypatch.setattr(Pre, "resources", classmethod(lambda *_: Resources(reads=paths)))
    return {"pre": {"use": "pre"}, "log": {"use": "log", "after": "capture"}}


def test_a_stage_that_writes_what_another_reads_is_refused(monkeypatch, tmp_path):
    (tmp_path / "model.onnx").write_text("")
    os.link(tmp_path / "model.onnx", tmp_path / "other.txt")
    stages = reader(monkeypatch, tmp_path / "model.onnx", tmp_path / "later.onnx")
    for path in (f"{tmp_path}/other.txt", f"{tmp_path}/x/../later.onnx"):
        stages["log"]["path"] = path
        assert refusal(stages) == f"stages.log: {path} is read by stage pre; choose another file"
    stages["log"]["path"] = f"{tmp_path}/log.txt"
    made(stages)


@pytest.mark.parametrize("path", ["log.txt", "log-{stream}.txt"])
def test_the_file_of_each_stream_counts(path, monkeypatch, tmp_path):
    stages = reader(monkeypatch, tmp_path / "log-b.txt")
    stages["log"]["path"] = str(tmp_path / path)
    assert "log-b.txt is read by stage pre" in refusal(stages, streams=["a", "b"])
    made(stages, streams=["a", "c"])


def test_a_stream_that_comes_later_must_not_read_what_is_written(tmp_path):
    clip = tmp_path / "b.mp4"
    shutil.copy(CLIP, clip)
    stages = {"capture": {"use": "capture"}, "log": {"use": "log", "path": str(clip)}}
    found = graph(stages, {"a": {"source": str(CLIP)}}, {**REGISTRY, **LOCATIONS})
    with pytest.raises(GraphError, match=r"b\.mp4 is the file of stream b; choose another"):
        add_stream(found, 1, "b", {"source": str(clip)}, "b")


# --- arrays ---


def picky(monkeypatch, *takes):
    monkeypatch.setattr(Picky, "takes", takes)
    return {"pre": {"use": "pre"}, "boxes": {"use": "boxes"}, "picky": {"use": "picky"}}


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (
            Array("masks"),
            "stages.picky: takes the array 'masks', which no stage before it gives "
            "(found image, input, boxes, classes)",
        ),
        (
            Array("boxes", "float64", (None, 4)),
            "stages.picky: takes 'boxes' (float64 ? x 4), but boxes gives 'boxes' (float32 ? x 4)",
        ),
        (
            Array("boxes", "float32", (None, 5)),
            "stages.picky: takes 'boxes' (float32 ? x 5), but boxes gives 'boxes' (float32 ? x 4)",
        ),
        (
            Array("boxes", None, (None, None, None)),
            "stages.picky: takes 'boxes' (any type ? x ? x ?), but boxes gives",
        ),
        (
            Array("boxes", "int64", None, optional=True),
            "stages.picky: takes 'boxes' (int64 ), but boxes gives",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(takes, words, monkeypatch):
    assert words in refusal(picky(monkeypatch, takes))


@pytest.mark.parametrize(
    "takes",
    [
        Array("boxes", "float32", (None, 4)),
        Array("boxes"),
        Array("boxes", None, (7, 4)),
        Array("boxes", "float32", (None, None)),
        Array("masks", "uint8", (None,), optional=True),
        Array("image", "uint8", (None, None, 3)),
    ],
)
def test_arrays_that_fit_are_taken(takes, monkeypatch):
    made(picky(monkeypatch, takes))


def test_what_another_branch_gives_is_not_there():
    stages = {
        "pre": {"use": "pre"},
        "boxes": {"use": "boxes"},
        "ids": {"use": "ids", "after": "capture"},
    }
    assert "takes the array 'boxes', which no stage before it gives (found image)" in refusal(
        stages
    )


def test_the_last_stage_that_gives_an_array_counts(monkeypatch):
    monkeypatch.setattr(Post, "gives", (Array("boxes", "float16", (None, 4)),))
    stages = {name: WHOLE[name] for name in ("pre", "boxes", "post", "ids")}
    assert "post gives 'boxes' (float16 ? x 4)" in refusal(stages)


# --- offers ---


def test_an_offer_reaches_the_stages_before_and_behind():
    contexts = {node.name: node.context for node in made().nodes}
    for name in ("capture", "pre", "boxes", "post", "ids", "log", "end"):
        assert contexts[name].get(Labels) == Labels(("person",))
        assert contexts[name].streams == ("demo",)
        assert contexts[name].stage == name


def test_the_nearest_offer_before_a_stage_wins_over_those_behind():
    found = {node.name: node.context.get(Teller).name for node in made().nodes}
    assert found == {
        "capture": "boxes",
        "pre": "boxes",
        "boxes": "boxes",
        "post": "post",
        "ids": "post",
        "log": "post",
        "end": "post",
    }


def test_labels_are_those_of_the_stage_that_gives_the_classes():
    stages = {
        "pre": {"use": "pre"},
        "boxes": {"use": "boxes"},
        "ids": {"use": "ids"},
        "breeds": {"use": "tests.pipeline.graph.test_graph:Breeds"},
        "log": {"use": "log"},
    }
    contexts = {node.name: node.context for node in made(stages).nodes}
    assert contexts["log"].get(Labels) == Labels(("person",))
    assert contexts["breeds"].get(Labels) == Labels(("person",))
    assert contexts["log"].get(Teller) == Teller("breeds")


def test_every_stage_knows_the_confidence_and_the_offers_behind_it():
    contexts = {node.name: node.context for node in made(confidence=0.4).nodes}
    assert {context.confidence for context in contexts.values()} == {0.4}
    assert contexts["boxes"].get_behind(Teller) == Teller("post")
    assert contexts["post"].get_behind(Teller) is None
    assert made().nodes[1].context.confidence is None


def test_the_drawing_shows_values_in_use_for_open_settings(monkeypatch):
    monkeypatch.setattr(Post, "effective", lambda self: {"min_score": 0.1, "max_iou": 0.45})
    assert "post  Post  min_score 0.1, max_iou 0.45\n" in made().draw()


def test_offers_of_one_branch_do_not_reach_the_other():
    stages = {
        "pre": {"use": "pre"},
        "boxes": {"use": "boxes"},
        "other": {"use": "sink", "after": "capture"},
    }
    contexts = {node.name: node.context for node in made(stages).nodes}
    assert contexts["other"].get(Labels) is None
    assert contexts["capture"].get(Labels) is not None


def test_how_often_a_stage_is_replicated_is_its_own_affair():
    found = made()
    assert {node.name: node.replicas for node in found.nodes if node.replicas > 1} == {"boxes": 2}


# --- placement ---


def test_on_two_cores_stages_share_processes():
    assert names(made(cores=2)) == ["capture+pre", "boxes+post.1", "boxes+post.2", "ids+log+end"]


def test_where_there_are_cores_each_stage_has_a_process_of_its_own():
    apart = ["capture", "pre", "boxes.1", "boxes.2", "post", "ids", "log", "end"]
    assert names(made(cores=8)) == apart
    assert names(made(cores=7)) != apart
    assert names(made(cores=1, placement="separate")) == apart


def test_a_replicated_stage_with_one_replica_is_still_numbered():
    stages = {**WHOLE, "boxes": {"use": "boxes", "replicas": 1}}
    assert names(made(stages)) == ["capture+pre", "boxes+post.1", "ids+log+end"]


def test_every_stream_has_a_capture_process_of_its_own():
    found = made(streams=["a", "b"])
    assert names(found)[:2] == ["capture+pre.a", "capture+pre.b"]
    assert [worker.stream for worker in found.workers] == [0, 1, None, None, None]
    assert found.workers_of(found.nodes[0]) == [0, 1]
    assert found.workers_of(found.nodes[2]) == [2, 3]
    assert found.workers[0].title == "eyeline:capture+pre.a"


def test_stages_without_a_detector_share_what_they_can():
    stages = {"a": {"use": "sink"}, "log": {"use": "log"}, "b": {"use": "sink"}}
    assert names(made(stages)) == ["capture+a", "log+b"]


def test_stages_of_one_process_name_share_it():
    stages = {
        "a": {"use": "sink", "process": "x"},
        "b": {"use": "sink"},
        "c": {"use": "sink", "process": "x"},
    }
    found = made(stages, placement="separate")
    assert names(found) == ["capture", "a+c", "b"]
    assert [node.name for node in found.workers[1].nodes] == ["a", "c"]


def test_all_stages_may_share_captures_process_if_there_is_one_stream():
    stages = {name: {**table, "process": "one"} for name, table in WHOLE.items()}
    stages = {"capture": {"use": "source", "process": "one"}, **stages}
    stages["boxes"]["replicas"] = 1
    assert names(made(stages)) == ["capture+pre+boxes+post+ids+log+end"]


def test_replicas_that_share_a_process_are_replicated_together():
    stages = {
        **WHOLE,
        "boxes": {"use": "boxes", "process": "x", "replicas": 3},
        "post": {"use": "post", "process": "x"},
    }
    assert names(made(stages))[1:4] == ["boxes+post.1", "boxes+post.2", "boxes+post.3"]


def share(*which, **changed):
    stages = {"capture": {"use": "source"}, **WHOLE}
    return {
        name: {**table, **({"process": "x"} if name in which else {}), **changed.get(name, {})}
        for name, table in stages.items()
    }


def test_an_ordered_stage_cannot_share_with_replicas():
    assert refusal(share("boxes", "ids"), placement="separate") == (
        "process 'x' (boxes, ids): ids must see frames in order and cannot be replicated; give "
        "it another process, or set replicas: 1"
    )
    made(share("boxes", "ids", boxes={"replicas": 1}))


def test_a_replicated_stage_cannot_share_with_capture():
    words = refusal(share("capture", "pre", "boxes"), placement="separate")
    assert words.startswith("process 'x' (capture, pre, boxes): capture cannot be replicated")


def test_an_ordered_stage_cannot_share_with_several_captures():
    stages = {
        "capture": {"use": "source", "process": "x"},
        "log": {"use": "log", "process": "x"},
    }
    made(stages)
    assert refusal(stages, streams=["a", "b"]) == (
        "process 'x' (capture, log): each stream has its own capture process, and log must run "
        "in one process; give it another one"
    )


def test_a_stage_behind_another_process_cannot_share_with_capture():
    stages = {
        "capture": {"use": "source", "process": "x"},
        "a": {"use": "sink"},
        "b": {"use": "sink", "process": "x"},
    }
    assert refusal(stages, placement="separate") == (
        "process 'x' (capture, b): b follows a of another process, and the process of "
        "capture takes no frames from others; give b another process"
    )


def test_a_stage_with_replicas_but_no_setting_for_them_is_placed():
    assert names(made({"twins": {"use": "twins"}})) == ["capture", "twins.1", "twins.2"]


# --- slots ---


def slots(live, replicas=2, streams=None, **boxes):
    stages = {**WHOLE, "boxes": {"use": "boxes", "replicas": replicas, **boxes}}
    found = made(stages, streams=streams or {"a": {"live": live}})
    return [stream.slots for stream in found.streams]


def test_a_live_stream_has_a_slot_per_replica_and_one_to_capture_into():
    assert slots(live=True, replicas=2) == [3]
    assert slots(live=True, replicas=8) == [9]
    assert slots(live=True, replicas=1) == [3]


def test_a_file_has_enough_slots_that_no_replica_waits():
    assert slots(live=False, replicas=2) == [8]
    assert slots(live=False, replicas=8) == [20]


def test_a_batch_needs_as_many_slots():
    assert slots(live=True, replicas=1, batch=4) == [6]
    assert slots(live=False, replicas=2, batch=4) == [20]


def test_slots_can_be_set_and_are_each_streams_own():
    assert slots(True, streams={"a": {"live": True, "slots": 7}, "b": {}}) == [7, 8]


def test_a_slot_holds_the_largest_picture_and_the_arrays():
    largest = made(max_frame="7680x4320").slot_bytes
    assert largest >= 7680 * 4320 * 3 + (40 << 20)
    assert largest % (1 << 20) == 0
    assert made(max_frame="640x480").slot_bytes < made().slot_bytes < largest


# --- cores ---


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("800000 100000", 4),
        ("", 4),
    ],
)
def test_a_quota_of_the_control_group_counts(quota, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(placement.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(
        placement, "open", lambda path: (tmp_path / "cpu.max").open(), raising=False
    )
    assert placement.usable_cores() == cores


# --- drawing ---


def test_the_graph_is_drawn_with_its_streams_and_processes():
    found = made(streams={"yard": {"live": True}, "clip": {}})
    assert found.draw() == "\n".join(
        [
            "yard:  (live, 3 slots)",
            "clip:  (lossless, 8 slots)",
            "capture  Nothing",
            "└─ pre  Pre",
            "   └─ boxes x2  Boxes",
            "      └─ post  Post",
            "         └─ ids  Ids",
            "            ├─ log  Log",
            "            └─ end  Sink",
            "5 processes: capture+pre.yard, capture+pre.clip, boxes+post.1, boxes+post.2, "
            "ids+log+end",
        ]
    )


def test_a_password_is_not_drawn():
    stages = {"capture": {"use": "capture"}, "end": {"use": "null"}}
    config = check(
        {"streams": {"a": {"source": "rtsp://u:secret@cam/x"}}, "stages": stages}, "test.yaml"
    )
    drawn = build(config, LOCATIONS, "test.yaml").draw()
    assert "secret" not in drawn
    assert "a: rtsp://cam/x (live," in drawn


# --- the shipped files and the schema ---


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_every_shipped_file_makes_a_graph(path, cores, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("YARD_URL", "rtsp://camera/stream")
    found = build(check(load(path), path.name), LOCATIONS, path.name, cores)
    assert found.nodes[0].name == "capture"


class Bounds(Settings, frozen=True):
    low: Annotated[float, Meta(ge=0)] = 0.0
    """How low."""
    high: Annotated[float, Meta(le=1, description="How high.")] = 1.0


class Bounded(Stage):
    """Has bounds."""

    Settings = Bounds


@functools.cache
def shipped():
    return json.loads(json.dumps(schema(LOCATIONS)))


def parts(value):
    """All tables of a schema, at any depth."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from parts(child)
    elif isinstance(value, list):
        for child in value:
            yield from parts(child)


TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def test_types_and_references_of_the_schema_are_valid():
    whole = shipped()
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for part in parts(whole):
        kinds = part.get("type", [])
        if isinstance(kinds, str | list):
            assert set([kinds] if isinstance(kinds, str) else kinds) <= TYPES
        if isinstance(part.get("$ref"), str):
            at = whole
            for step in part["$ref"].removeprefix("#/").split("/"):
                at = at[step]
            assert isinstance(at, dict)


def top_of(whole):
    return whole["$defs"][whole["$ref"].rpartition("/")[2]]["properties"]


def settings_in(whole, use):
    """The properties of a stage's table."""
    for branch in top_of(whole)["stages"]["additionalProperties"]["allOf"]:
        if branch["if"]["properties"]["use"]["const"] == use:
            return branch["then"]["properties"]
    raise KeyError(use)


@pytest.mark.parametrize("use", LOCATIONS)
def test_the_schema_names_every_setting_of_a_stage_with_a_description(use):
    whole = shipped()
    properties = settings_in(whole, use)
    kind = load_class(use, LOCATIONS, "test")
    own = set(known_keys(kind.Settings, ""))
    for settings in kind.variants.values():
        own |= {"kind", *known_keys(settings, "")}
    assert set(properties) == own | {"use", "after", "process"}
    assert properties["after"]["description"]
    assert [name for name in own if not properties[name].get("description")] == []


def test_the_schema_names_every_key_of_a_stream_with_a_description():
    streams = top_of(shipped())["streams"]["additionalProperties"]
    assert {"source", "slots", "max_age_ms", "loop", "frames", "mode"} <= set(streams["properties"])
    assert {"required": ["source"]} in streams["anyOf"]
    assert streams["additionalProperties"] is False
    assert all(value["description"] for value in streams["properties"].values())


def test_the_schema_refuses_unknown_keys_and_holds_bounds_and_descriptions():
    registry = {
        "capture": "stages.capture.capture:Capture",
        "b": "tests.pipeline.graph.test_graph:Bounded",
    }
    whole = json.loads(json.dumps(schema(registry)))
    properties = settings_in(whole, "b")
    assert properties["low"]["minimum"] == 0
    assert properties["low"]["description"] == "How low."
    assert properties["high"]["maximum"] == 1
    assert properties["high"]["description"] == "How high."
    [_, branch] = top_of(whole)["stages"]["additionalProperties"]["allOf"]
    assert branch["then"]["additionalProperties"] is False
    assert branch["then"]["description"] == "Has bounds."


PYTHON = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}


def follow(part, whole):
    """A schema that stands elsewhere, where there is a reference."""
    while "$ref" in part:
        target = whole
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = {**target, **{key: value for key, value in part.items() if key != "$ref"}}
    return part


def is_valid(value, part, whole):
    """Whether a value is as a schema wants it, by the keywords that ours has."""
    part = follow(part, whole)
    kinds = part.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(
        isinstance(value, PYTHON[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in kinds
    ):
        return False
    if value not in part.get("enum", [value]) or value != part.get("const", value):
        return False
    if isinstance(value, str) and not re.search(part.get("pattern", ""), value):
        return False
    if isinstance(value, dict):
        known, more = part.get("properties", {}), part.get("additionalProperties", True)
        if not set(part.get("required", ())) <= set(value):
            return False
        for key, child in value.items():
            own = known.get(key, more)
            if own is False or (own is not True and not is_valid(child, own, whole)):
                return False
    if "if" in part and is_valid(value, part["if"], whole):
        part = {**part, "allOf": [*part.get("allOf", ()), part["then"]]}
    if not all(is_valid(value, each, whole) for each in part.get("allOf", ())):
        return False
    return "anyOf" not in part or any(is_valid(value, each, whole) for each in part["anyOf"])


def is_valid_stage(table):
    stages = {"capture": {"use": "capture"}, "x": table}
    return is_valid({"streams": {"a": {"source": 0}}, "stages": stages}, shipped(), shipped())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_is_valid_by_the_schema(path, monkeypatch):
    monkeypatch.setenv("YARD_URL", "rtsp://camera/stream")
    raw = load(path)
    assert is_valid(raw, shipped(), shipped())
    assert not is_valid({**raw, "stagess": {}}, shipped(), shipped())


def test_by_the_schema_a_stage_must_have_what_it_cannot_do_without():
    assert is_valid_stage({"use": "events", "path": "x"})
    for use in ("events", "mot", "video", "webhook"):
        assert not is_valid_stage({"use": use})
    assert is_valid_stage({"use": "clips"})


def test_by_the_schema_a_stage_is_one_that_is_known_or_of_the_users_own():
    assert is_valid_stage({"use": "my_package.module:Class", "anything": 1})
    assert not is_valid_stage({"use": "event", "path": "x"})
    assert not is_valid_stage({"use": 3})
    assert not is_valid_stage({})


def test_the_source_reads_the_clip_that_is_shipped():
    stages = {"capture": {"use": "capture"}, "end": {"use": "null"}}
    raw = {"streams": {"a": {"source": str(CLIP)}}, "stages": stages}
    [stream] = build(check(raw, "test.yaml"), LOCATIONS, "test.yaml").streams
    assert (stream.name, stream.source, stream.live) == ("a", str(CLIP), False)
