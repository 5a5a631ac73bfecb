"""Every sink shows or sends what models of any task give."""

import json
import time
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.frame import Frame
from stages.analytics.object_events import ObjectEvents, ObjectEventsSettings
from stages.analytics.presence import Presence
from stages.detections import CANDIDATES, RESULTS, Object, objects_of
from stages.drawing.palette import COLOURS
from stages.sinks.clips.clips import Clips
from stages.sinks.clips.settings import ClipsSettings
from stages.sinks.files.events import Event, Events, EventsSettings
from stages.sinks.files.pictures import Pictures, PicturesSettings
from stages.sinks.null import Draw
from stages.sinks.publish.publisher import Change
from stages.sinks.publish.webhook import Webhook, WebhookSettings
from stages.sinks.publish.zeromq import Zmq, ZmqSettings
from stages.sinks.rtsp.rtsp import Rtsp, RtspSettings
from stages.sinks.video.video import Video, VideoSettings
from stages.sinks.web.activity import ActivityLog, to_objects
from stages.sinks.web.web import Web
from stages.sinks.window import Window, WindowSettings
from tests.stages.task_frames import BEACH, GREY, RED, context_of_tasks, rotated_frame, task_frame

CONTEXT = context_of_tasks()
ATTRIBUTES = {"colour": {"label": "red", "class": 4, "score": 0.93, "votes": 5}}
KEYPOINTS = [[100.0, 140.0, 0.9], [100.0, 190.0, 0.8]]


# --- images ---


def check_image(image, tolerance=24, scale=1):
    """Check that an image shows all of `task_frame`."""

    def pixel(x, y):
        return image[y // scale, x // scale].astype(int)

    def is_near(found, wanted):
        return np.abs(found - wanted).max() <= tolerance

    assert image.shape == (240 // scale, 320 // scale, 3)
    tinted = 0.6 * GREY + 0.4 * np.array(COLOURS[0])
    assert is_near(pixel(70, 100), tinted), "mask"
    assert is_near(pixel(70, 170), GREY), "box without mask"
    assert not is_near(pixel(100, 165), GREY), "skeleton"
    grass = 0.6 * GREY + 0.4 * np.array(COLOURS[1])
    assert is_near(pixel(300, 150), grass), "semantic map"
    assert is_near(pixel(220, 150), GREY), "background"
    corner = image[: 16 // scale, 250 // scale :].astype(int)
    assert np.abs(corner - 48).max(axis=2).min() <= tolerance, "labels of the frame"


def from_pictures(tmp_path, frame):
    sink = Pictures(PicturesSettings(folder=str(tmp_path)), CONTEXT)
    sink.open()
    sink.process(frame)
    sink.close()
    return cv2.imread(str(tmp_path / "000000.jpg"))


def from_video(tmp_path, frame):
    sink = Video(VideoSettings(path=str(tmp_path / "out.mkv"), codec="FFV1", fps=10), CONTEXT)
    sink.open()
    sink.process(frame)
    sink.close()
    return cv2.VideoCapture(str(tmp_path / "out.mkv")).read()[1]


def from_window(tmp_path, frame):
    sink = Window(WindowSettings(status=False), CONTEXT)
    shown = []
    sink._show = shown.append
    sink.process(frame)
    return shown[0]


def from_rtsp(tmp_path, frame):
    sink = Rtsp(RtspSettings(port=0), CONTEXT)
    images = []
    mount = SimpleNamespace(watched=True, put=lambda jpeg, *times: images.append(jpeg))
    sink.open()
    try:
        sink._stream("demo").mount = mount
        sink.process(frame)
    finally:
        sink.close()
    return cv2.imdecode(np.frombuffer(images[0], np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("shown", [from_pictures, from_video, from_window, from_rtsp])
def test_images_of_a_sink_show_what_models_give(shown, tmp_path):
    check_image(shown(tmp_path, task_frame()))


@pytest.mark.parametrize("shown", [from_pictures, from_window])
def test_images_of_a_sink_show_rotated_boxes(shown, tmp_path):
    image = shown(tmp_path, rotated_frame()).astype(int)
    assert np.abs(image[128:133, 49:53] - GREY).max() > 24
    assert np.abs(image[170:190, 38:60] - GREY).max() <= 24


def frame_without_boxes():
    """Return the frame of a classifier, without a detector."""
    whole = task_frame()
    return Frame.of("demo", 0, **{name: whole[name] for name in ("image", "frame_labels")})


@pytest.mark.parametrize("shown", [from_pictures, from_video, from_window, from_rtsp])
def test_images_of_a_sink_show_labels_without_boxes(shown, tmp_path):
    image = shown(tmp_path, frame_without_boxes()).astype(int)
    assert np.abs(image[:16, 250:] - 48).max(axis=2).min() <= 24
    assert np.abs(image[20:] - GREY).max() <= 24


@pytest.mark.parametrize("kind", [Pictures, Video, Window, Rtsp, Web, Zmq, Webhook, Events, Draw])
def test_sinks_that_show_or_send_take_results_without_boxes(kind):
    others = {array.name for array in kind.takes if array not in RESULTS and not array.optional}
    assert others <= {"image"}
    assert not set(RESULTS) - set(kind.takes)
    assert not set(CANDIDATES) & set(kind.takes)


@pytest.mark.parametrize("divisor", [1, 2])
def test_clips_show_what_models_give_and_list_attributes(tmp_path, divisor):
    settings = ClipsSettings(folder=str(tmp_path), min_frames=1, codec="mp4v", width=320 // divisor)
    sink = Clips(settings, CONTEXT)
    sink.open()
    for seq in range(3):
        frame = task_frame(seq)
        frame.header.wall_ns = time.time_ns()  # clips of 1970 would be deleted as too old
        sink.process(frame)
    sink.end("demo")
    sink.close()
    check_image(cv2.imread(str(next(tmp_path.glob("*.jpg")))), scale=divisor)
    (found,) = json.loads(next(tmp_path.glob("*.json")).read_text())["objects"]
    assert found["attributes"] == ATTRIBUTES


# --- JSON ---


def check_event(event, with_mask):
    """Check the line of `task_frame`, and that it is one of the documented form."""
    msgspec.convert(event, Event)
    assert event["labels"] == [{"label": "beach", "class": 7, "score": BEACH.score}]
    (found,) = event["objects"]
    assert found["attributes"] == ATTRIBUTES
    assert np.allclose(found["keypoints"], KEYPOINTS)
    assert ("mask" in found) == with_mask
    if with_mask:
        assert found["mask"]["size"] == [240, 320]


def test_zmq_publishes_all_with_masks():
    sink = Zmq(ZmqSettings(address="tcp://127.0.0.1:0"), CONTEXT)
    sent = []
    sink._send = lambda topic, body: sent.append(json.loads(body))
    sink.process(task_frame())
    sink.process(rotated_frame(1))
    check_event(sent[0], with_mask=True)
    assert sent[1]["objects"][0]["rotated"] == [100.0, 130.0, 70.0, 70.0, 0.7854]


def test_events_sink_writes_all_with_masks(tmp_path):
    sink = Events(EventsSettings(path=str(tmp_path / "events.jsonl")), CONTEXT)
    line = msgspec.json.encode(sink.line_of(task_frame()))
    check_event(json.loads(line), with_mask=True)


def test_events_of_a_classifier_have_labels_and_no_objects(tmp_path):
    sink = Events(EventsSettings(path=str(tmp_path / "events.jsonl")), CONTEXT)
    line = json.loads(msgspec.json.encode(sink.line_of(frame_without_boxes())))
    assert line["objects"] == []
    assert line["labels"][0]["label"] == "beach"


def sent_by(kind, settings, frames):
    """Return the bodies that a publisher puts into its outbox, without a connection."""
    sink = kind(settings, CONTEXT)
    sent = []
    sink.outbox.put = lambda message: sent.append(json.loads(message.body))
    sink.wake = SimpleNamespace(set=lambda: None)
    for frame in frames:
        sink.process(frame)
    sink.end("demo")
    return sink, sent


def webhook(events):
    return Webhook, WebhookSettings(
        url="http://127.0.0.1:9/", events=events, spool=None, min_frames=1
    )


def mqtt(events):
    pytest.importorskip("paho.mqtt", reason="paho-mqtt is missing: pip install paho-mqtt")
    from stages.sinks.publish.mqtt import Mqtt
    from stages.sinks.publish.mqtt_settings import MqttSettings

    return Mqtt, MqttSettings(broker="127.0.0.1", events=events, spool=None, min_frames=1)


@pytest.mark.parametrize("of_kind", [webhook, mqtt])
def test_published_changes_carry_attributes_and_no_shapes(of_kind):
    sink, sent = sent_by(*of_kind("changes"), [task_frame(0), task_frame(1)])
    assert [change["event"] for change in sent] == ["appeared", "left"]
    for change in sent:
        msgspec.convert(change, Change)
        assert change["object"]["attributes"] == ATTRIBUTES
        assert not {"mask", "keypoints"} & change["object"].keys()
    assert len(sink.state("demo")) < 400


@pytest.mark.parametrize("of_kind", [webhook, mqtt])
def test_published_frames_carry_all_but_masks(of_kind):
    _, sent = sent_by(*of_kind("all"), [task_frame()])
    check_event(next(one for one in sent if "frame" in one), with_mask=False)


def test_the_list_of_the_page_carries_attributes():
    log, presence = ActivityLog(10), Presence((), 1, 2.0)
    for change in presence.update("demo", 0.0, 0, to_objects(task_frame(), ("person",))):
        log.add_object(change, 0)
    (activity,) = json.loads(msgspec.json.encode(log.after(0)))
    assert activity["attributes"] == ATTRIBUTES


def test_object_events_carry_attributes_only_where_there_are_any():
    stage = ObjectEvents(ObjectEventsSettings(min_frames=1), CONTEXT)
    for make, found in ((task_frame, ATTRIBUTES), (rotated_frame, None)):
        frame = make()
        stage.process(frame)
        (event,) = json.loads(frame["object_events"].tobytes())
        assert event.get("attributes") == found
        stage.end("demo")


# --- what is remembered ---


def seen(attributes=msgspec.UNSET, **shapes):
    return Object(1, "person", 0, 0.9, (0.0, 0.0, 9.0, 9.0), attributes, **shapes)


def test_a_left_object_has_the_latest_attributes_that_were_known():
    presence = Presence((), 1, 1.0)
    blue = msgspec.structs.replace(RED, label="blue")
    for time_s, found in enumerate((seen({"colour": RED}), seen({"colour": blue}), seen())):
        presence.update("yard", time_s / 10, 0, [found])
    (left,) = presence.update("yard", 9.0, 0, [])
    assert left.object.attributes == {"colour": blue}


def test_saved_states_are_not_larger_for_masks_and_keypoints():
    def size(objects):
        presence = Presence((), 1, 1.0)
        presence.update("demo", 0.0, 0, objects)
        return len(presence.state("demo"))

    frame = task_frame()
    whole = objects_of(frame, ("person",))
    assert whole[0].mask is not msgspec.UNSET
    bare = [msgspec.structs.replace(whole[0], mask=msgspec.UNSET, keypoints=msgspec.UNSET)]
    assert size(whole) == size(bare)


def test_attributes_survive_a_restart():
    before, after = Presence((), 1, 1.0), Presence((), 1, 1.0)
    before.update("yard", 0.0, 0, [seen({"colour": RED})])
    after.restore("yard", before.state("yard"))
    (left,) = after.end("yard")
    assert left.object.attributes == {"colour": RED}
