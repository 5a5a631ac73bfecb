"""Analytics give the array `object_events`; sinks behind take it in place of their own work."""

import json
import time

import numpy as np
import pytest

from pipeline.frame import Frame
from pipeline.testing import run_stages
from stages import LOCATIONS
from stages.analytics import object_events
from stages.analytics.changes import ObjectEvent
from stages.analytics.object_events import (
    ChangeReader,
    ObjectEvents,
    ObjectEventsSettings,
    put_events,
)
from stages.analytics.presence import Presence
from stages.detections import Detections, to_objects
from stages.sinks.clips.clips import Clips
from stages.sinks.clips.settings import ClipsSettings
from stages.sinks.publish.webhook import Webhook, WebhookSettings
from stages.sinks.web.activity import ActivityLog
from tests.builders import context_of, graph
from tests.stages.analytics.zone import LINE, Zone, ZoneSettings

LABELS = ("person", "car")


def frames(count=30):
    """A person who walks to the right: its feet are in the zone from frame 10 to 19."""
    for seq in range(count):
        frame = Frame.of(
            "yard",
            seq,
            seq / 10,
            image=np.full((200, 320, 3), 60, np.uint8),
            boxes=np.array([[10 * seq, 50, 10 * seq + 20, 150]], np.float32),
            scores=np.array([0.75], np.float32),
            classes=np.zeros(1, np.int32),
            ids=np.array([7], np.int64),
        )
        frame.header.wall_ns += time.time_ns()  # clips of 1970 would be deleted at once
        yield frame


def zone():
    settings = ZoneSettings(box=(110.0, 100.0, 210.0, 200.0), name="gate")
    return Zone(settings, context_of(labels=LABELS))


def events_in(frame):
    return json.loads(frame["object_events"].tobytes())


def test_the_array_is_a_list_of_events_as_json():
    done = run_stages([zone()], frames())
    assert [len(events_in(frame)) for frame in done] == [int(n in (10, 20)) for n in range(30)]
    assert events_in(done[10]) == [
        {
            "kind": "entered",
            "id": 7,
            "label": "person",
            "score": 0.75,
            "box": [100.0, 50.0, 120.0, 150.0],
            "time_s": 1.0,
            "place": "gate",
            "count": 1,
        }
    ]
    assert events_in(done[20])[0]["kind"] == "exited"


def test_the_stage_gives_the_objects_that_appeared_and_left():
    settings = ObjectEventsSettings(min_frames=3, leave_after_s=0.5)
    stage = ObjectEvents(settings, context_of(labels=LABELS))
    gone = [Frame.of("yard", 30 + n, 3 + n / 10, **empty()) for n in range(10)]
    done = run_stages([stage], [*frames(), *gone])
    found = [(frame.seq, event["kind"]) for frame in done for event in events_in(frame)]
    assert found == [(2, "appeared"), (35, "left")]


def empty():
    return {
        "boxes": np.zeros((0, 4), np.float32),
        "scores": np.zeros(0, np.float32),
        "classes": np.zeros(0, np.int32),
        "ids": np.zeros(0, np.int64),
    }


def test_its_state_survives_a_crash():
    settings = ObjectEventsSettings(min_frames=3)
    whole = ObjectEvents(settings, context_of(labels=LABELS))
    done = run_stages([whole], frames(6))
    first, second = (ObjectEvents(settings, context_of(labels=LABELS)) for _ in range(2))
    before = run_stages([first], []) or list(frames(2))
    for frame in before:
        first.process(frame)
    second.restore("yard", first.state("yard"))
    rest = [frame for frame in frames(6) if frame.seq >= 2]
    for frame in rest:
        second.process(frame)
    assert [events_in(f) for f in [*before, *rest]] == [events_in(f) for f in done]


def test_events_of_several_stages_add_up():
    frame = next(frames())
    for place in ("a", "b"):
        put_events(frame, [ObjectEvent("entered", 1, "person", 0.5, (), 0.0, place)])
    assert [event["place"] for event in events_in(frame)] == ["a", "b"]


# --- sinks ---


def reader():
    return ChangeReader(Presence((), 1, 1.0), LABELS, ("person",))


def test_without_the_array_changes_are_worked_out():
    changes = reader()
    frame = next(frames())
    [change] = changes.update(frame, to_objects(Detections.of(frame), LABELS))
    assert (change.kind, change.place, changes.counts("yard")) == ("appeared", None, {"person": 1})


def test_with_the_array_nothing_is_worked_out():
    changes, found = reader(), []
    for frame in run_stages([zone()], frames(15)):
        found += changes.update(frame, to_objects(Detections.of(frame), LABELS))
    assert [(change.kind, change.place) for change in found] == [("entered", "gate")]
    assert found[0].object.number == 0
    assert changes.counts("yard") == {"person": 1}
    again = reader()
    again.restore("yard", changes.state("yard"))
    assert [change.kind for change in again.end("yard")] == ["left"]
    assert again.counts("yard") == {}


def test_labels_that_are_not_wanted_are_left_out():
    changes = ChangeReader(Presence((), 1, 1.0), LABELS, ("car",))
    for frame in run_stages([zone()], frames(15)):
        assert changes.update(frame, []) == []


def test_clips_begin_when_a_zone_is_entered(tmp_path):
    settings = ClipsSettings(folder=str(tmp_path), before_s=0.5, after_s=0.5, fps=10)
    sink = Clips(settings, context_of(labels=LABELS, streams=("yard",)))
    run_stages([zone(), sink], frames())
    [description] = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    [found] = description["objects"]
    assert (found["id"], found["from_s"]) == (7, 1.0)


def test_messages_name_kind_and_place_of_a_zone(tmp_path):
    settings = WebhookSettings(url="http://127.0.0.1:9/hook", spool=None)
    sink = Webhook(settings, context_of(labels=LABELS, streams=("yard",)))
    sent = []
    sink.outbox.put = lambda message: sent.append(json.loads(message.body))
    for frame in run_stages([zone()], frames()):
        sink.process(frame)
    assert [(m["event"], m["place"], m["count"]) for m in sent] == [
        ("entered", "gate", 1),
        ("exited", "gate", 0),
    ]


def test_the_page_shows_kind_and_place_of_a_zone():
    log, changes = ActivityLog(10), reader()
    for frame in run_stages([zone()], frames(15)):
        for change in changes.update(frame, []):
            log.add_object(change, frame.wall_ns)
    assert [activity.text for activity in log.after(0)] == ["entered gate"]


@pytest.mark.parametrize("use", ["clips", "mqtt", "webhook", "web"])
def test_the_graph_joins_a_zone_with_the_sinks(use, tmp_path):
    given = {"clips": {"folder": str(tmp_path)}, "webhook": {"url": "http://127.0.0.1:9/x"}}
    stages = {
        "boxes": {"use": "boxes"},
        "zone": {"use": "zone", "box": [0, 0, 10, 10]},
        "sink": {"use": use, **given.get(use, {})},
    }
    registry = {**LOCATIONS, "boxes": "tests.processes.stages:Boxes"}
    registry[LINE[0]] = LINE[1]
    assert [node.name for node in graph(stages, registry=registry).nodes][1:] == list(stages)


def test_an_array_without_a_byte_has_no_event():
    frame = Frame.of(object_events=np.zeros(0, np.uint8))
    assert object_events._decode(frame) == []


def test_events_that_are_not_as_described_name_the_array():
    frame = Frame.of(object_events=np.frombuffer(b'[{"kind": 3}]', np.uint8))
    with pytest.raises(ValueError, match="array 'object_events': expected a list of events"):
        object_events._decode(frame)
