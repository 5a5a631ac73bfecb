"""The mqtt sink against a real broker: what it tells, and that none of it is lost."""

import json
import logging
import re
import shutil
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is missing: pip install paho-mqtt")

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.status import SourceState
from stages import backoff
from stages.sinks.files.events import event_of
from stages.sinks.publish import broker_connection
from stages.sinks.publish import mqtt as module
from stages.sinks.publish import publisher as delivery
from stages.sinks.publish.broker_address import Address
from stages.sinks.publish.mqtt import Mqtt
from stages.sinks.publish.mqtt_settings import MqttSettings
from stages.sinks.publish.topics import slug
from tests.broker import Broker, Listener, dropped, wait_until
from tests.builders import ROOT, context_of

LABELS = ("person", "car", "traffic light")
CONTEXT = context_of(streams=("yard",), labels=LABELS)


def frame(seq, objects=(), stream="yard", interval_s=0.5):
    """Objects are (id, class)."""
    ids = np.array([id for id, _ in objects], np.int64)
    boxes = np.array([[id, 2, id + 10, 20] for id, _ in objects], np.float32).reshape(-1, 4)
    return Frame.of(
        stream,
        seq,
        seq * interval_s,
        boxes=boxes,
        scores=np.full(len(objects), 0.9, np.float32),
        classes=np.array([number for _, number in objects], np.int32),
        ids=ids,
    )


REMEMBERS = pytest.mark.parametrize("broker", ["remembers"], indirect=True)


@pytest.fixture
def broker(tmp_path, request):
    with_files = tmp_path / "broker"
    with_files.mkdir()
    made = Broker(with_files, remembers=hasattr(request, "param"))
    yield made
    made.kill()


@pytest.fixture
def soon(monkeypatch):
    """Retries an unreachable broker soon."""
    monkeypatch.setattr(backoff, "MAX_DELAY_S", 0.3)


@pytest.fixture
def listen():
    """Makes listeners, and closes them after the test."""
    made = []

    def listen(broker, *arguments, **login):
        made.append(Listener(broker, *arguments, **login))
        return made[-1]

    yield listen
    for listener in made:
        listener.close()


@pytest.fixture
def sink(tmp_path, broker):
    """Makes opened sinks, and closes them."""
    made = []

    def sink(context=CONTEXT, port=None, run=None, **settings):
        given = {"min_frames": 1, "leave_after_s": 1.0, "spool": str(tmp_path / "spool.db")}
        given |= {"broker": f"127.0.0.1:{port or broker.port}", **settings}
        stage = Mqtt(MqttSettings(**given), context)
        Mqtt.resolve(stage.settings)
        if run is not None:
            stage.run = run
        stage.open()
        made.append(stage)
        return stage

    yield sink
    for stage in made:
        stage.close()


def events_of(listener, topic="eyeline/yard/events"):
    return [json.loads(text) for text in listener.texts(topic)]


FRAME = re.compile(r'"frame":(\d+)')


def frames_of(listener):
    """Their numbers; cheap, as it is asked for all the time."""
    return [int(FRAME.search(text)[1]) for text in listener.texts("eyeline/yard/frames")]


# --- messages ---


def test_objects_that_appear_and_leave_are_published_as_documented(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink()
    for seq, objects in enumerate([[], [(3, 0)], [(3, 0)], [], [], []]):
        stage.process(frame(seq, objects))
    wait_until(lambda: len(events_of(listener)) == 2)
    assert listener.texts("eyeline/yard/events") == [
        '{"event":"appeared","stream":"yard","time_s":0.5,"captured_at":"1970-01-01T00:00:00.500Z",'
        '"object":{"id":3,"label":"person","class":0,"score":0.9,"box":[3.0,2.0,13.0,20.0]},'
        '"count":1}',
        '{"event":"left","stream":"yard","time_s":1.0,"captured_at":"1970-01-01T00:00:01.000Z",'
        '"object":{"id":3,"label":"person","class":0,"score":0.9,"box":[3.0,2.0,13.0,20.0]},'
        '"count":0,"seen_s":0.5}',
    ]


def test_counts_and_presence_follow(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(labels=["person", "traffic light"])
    stage.process(frame(0))
    listener.wait_for("eyeline/yard/traffic_light/present", "OFF")
    stage.process(frame(1, [(1, 0), (2, 0), (3, 1), (4, 2)]))
    listener.wait_for("eyeline/yard/person/count", "2")
    listener.wait_for("eyeline/yard/person/present", "ON")
    listener.wait_for("eyeline/yard/traffic_light/count", "1")
    stage.process(frame(2, [(1, 0), (2, 0), (3, 1)]))
    stage.process(frame(9, [(1, 0)]))
    listener.wait_for("eyeline/yard/person/count", "1")
    listener.wait_for("eyeline/yard/traffic_light/present", "OFF")
    assert listener.last("eyeline/yard/person/present") == "ON"
    assert not [h for h in listener.heard if "car" in h.topic + h.text]


@pytest.mark.parametrize(("retain", "kept"), [(True, "0"), (False, None)])
def test_states_are_kept_by_the_broker_and_events_are_not(broker, listen, sink, retain, kept):
    early = listen(broker.start())
    stage = sink(labels=["person"], retain=retain)
    stage.process(frame(0))
    early.wait_for("eyeline/yard/person/count", "0")
    early.wait_for("eyeline/availability", "online")
    late = listen(broker)
    late.publish("marker", "comes after all that was kept")
    wait_until(lambda: late.last("marker"))
    assert late.last("eyeline/availability") == "online"
    assert late.last("eyeline/yard/availability") == "online"
    assert late.last("eyeline/yard/person/count") == kept


@pytest.mark.parametrize(
    ("wanted", "frames"), [("changes", []), ("objects", [1]), ("all", [0, 1, 2])]
)
def test_frames_are_published_on_request_as_in_the_events_sink(
    broker, listen, sink, wanted, frames
):
    listener = listen(broker.start())
    stage = sink(events=wanted)
    for seq, objects in enumerate([[], [(1, 0), (2, 1)], []]):
        stage.process(frame(seq, objects))
    stage.end("yard")
    wait_until(lambda: len(events_of(listener)) == 4)
    assert frames_of(listener) == frames
    if frames:
        as_event = event_of(frame(1, [(1, 0), (2, 1)]), LABELS)
        told = listener.texts("eyeline/yard/frames")[frames.index(1)]
        assert told == msgspec.json.encode(as_event).decode()


def test_frames_hold_only_what_is_of_interest(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(events="objects", labels=["car"])
    stage.process(frame(0, [(1, 0)]))
    stage.process(frame(1, [(1, 0), (2, 1)]))
    wait_until(lambda: frames_of(listener))
    (told,) = events_of(listener, "eyeline/yard/frames")
    assert (told["frame"], [o["label"] for o in told["objects"]]) == (1, ["car"])


def test_at_the_end_of_a_stream_all_have_left_and_it_is_offline(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink()
    stage.process(frame(0, [(1, 0)]))
    listener.wait_for("eyeline/yard/availability", "online")
    listener.wait_for("eyeline/yard/person/present", "ON")
    stage.end("yard")
    listener.wait_for("eyeline/yard/availability", "offline")
    listener.wait_for("eyeline/yard/person/present", "OFF")
    assert [event["event"] for event in events_of(listener)] == ["appeared", "left"]


def test_a_lost_stream_is_offline_until_it_returns(broker, listen, sink, monkeypatch):
    monkeypatch.setattr(module, "STREAMS_S", 0.02)

    class Stream:
        name = "yard"
        condition = SourceState("live")

    class Run:
        def status(self):
            return type("Status", (), {"streams": [Stream]})

    listener = listen(broker.start())
    stage = sink(run=Run())
    stage.process(frame(0))
    listener.wait_for("eyeline/yard/availability", "online")
    Stream.condition = SourceState("waiting", "timeout")
    listener.wait_for("eyeline/yard/availability", "offline")
    Stream.condition = SourceState("live")
    listener.wait_for("eyeline/yard/availability", "online")


def test_another_prefix_and_qos(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(prefix="home/cellar", qos=2, events="all")
    stage.process(frame(0))
    wait_until(lambda: listener.texts("home/cellar/yard/frames"))
    listener.wait_for("home/cellar/availability", "online")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_many_messages_arrive_in_order(broker, listen, sink, qos):
    listener = listen(broker.start())
    stage = sink(qos=qos, events="all")
    for seq in range(2000):
        stage.process(frame(seq))
    wait_until(lambda: len(frames_of(listener)) >= 2000)
    assert frames_of(listener) == list(range(2000))
    wait_until(lambda: stage.counters()["sent"] == 2000)


# --- an unreachable broker ---


def arrived(listener):
    """Frames in the order they first came; what comes again must have come before."""
    return list(dict.fromkeys(frames_of(listener)))


def lines(caplog):
    """What was logged, with each number of seconds as N."""
    told = [r.getMessage() for r in caplog.records]
    return [re.sub(r"\b\d+ s\b", "N s", re.sub(r":\d{4,5}\b", "", line)) for line in told]


def test_an_unreachable_broker_at_the_start_is_no_error(broker, listen, sink, soon, caplog):
    caplog.set_level(logging.INFO)
    stage = sink(events="all")
    for seq in range(50):
        stage.process(frame(seq))
    wait_until(lambda: stage.counters()["spooled"] == 50)
    for seq in range(50, 100):
        stage.process(frame(seq))
    broker.start()
    listener = listen(broker)
    wait_until(lambda: stage.counters()["waiting"] == 0)
    assert stage.counters()["sent"] == 100
    assert lines(caplog)[0] == (
        "stages.stage: 127.0.0.1 unreachable: connection refused; spooling to disk, retrying in N s"
    )
    assert re.fullmatch(
        r"stages.stage: 127.0.0.1 reachable again after N s; sending \d+ messages from the spool",
        lines(caplog)[1],
    )
    assert len(caplog.records) == 2
    listener.wait_for("eyeline/availability", "online")


@pytest.mark.soak
@REMEMBERS
def test_a_broker_killed_again_and_again_misses_nothing(broker, listen, sink, soon, caplog):
    caplog.set_level(logging.INFO)
    listener = listen(broker.start(), keep=True)
    stage = sink(events="all")
    for seq in range(600):
        stage.process(frame(seq, [(1, 0)]))
        if seq % 200 == 100:
            wait_until(lambda seq=seq: stage.sent > seq - 100)
            broker.kill()
        elif seq % 200 == 199:
            broker.start()
    wait_until(lambda: stage.counters()["waiting"] == 0)
    wait_until(lambda: len(arrived(listener)) == 600)
    assert arrived(listener) == list(range(600))
    assert not dropped(stage)
    assert "connection lost" in caplog.text


@REMEMBERS
def test_a_broker_that_freezes_is_taken_for_away_and_nothing_is_lost(
    broker, listen, sink, soon, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(broker_connection, "ANSWER_S", 0.3)
    monkeypatch.setattr(broker_connection, "CONNECT_S", 0.5)
    listener = listen(broker.start(), keep=True)
    stage = sink(events="all")
    stage.process(frame(0))
    wait_until(lambda: stage.counters()["sent"] == 1)
    broker.signal(signal.SIGSTOP)
    for seq in range(1, 300):
        stage.process(frame(seq))
    wait_until(lambda: "confirms nothing" in caplog.text)
    wait_until(lambda: "but no answer" in caplog.text)
    broker.signal(signal.SIGCONT)
    wait_until(lambda: len(arrived(listener)) == 300)
    assert arrived(listener) == list(range(300))


def test_messages_that_wait_at_the_end_are_reported(sink):
    stage = sink(broker="mqtt://127.0.0.1:1", events="all")
    for seq in range(5):
        stage.process(frame(seq))
    stage.close()
    assert stage.counters()["waiting"] == 5


def test_beyond_the_bound_the_oldest_are_dropped_and_counted(broker, listen, sink, soon):
    stage = sink(events="all", spool_messages=100)
    for seq in range(1000):
        stage.process(frame(seq))
    wait_until(lambda: stage.counters()["spooled"] == 1000)
    assert dropped(stage) == {"spool_full": 900}
    listener = listen(broker.start())
    wait_until(lambda: stage.counters()["waiting"] == 0)
    stage.process(frame(1000))
    wait_until(lambda: 1000 in frames_of(listener))
    wait_until(lambda: stage.counters()["sent"] == 101)


def test_what_is_left_at_the_end_is_sent_by_the_next_run(broker, listen, sink, caplog):
    caplog.set_level(logging.INFO)
    first = sink(events="all")
    for seq in range(20):
        first.process(frame(seq))
    first.end("yard")
    wait_until(lambda: "unreachable" in caplog.text)
    first.close()
    assert "0 messages sent, 20 wait in the spool" in caplog.text
    listener = listen(broker.start())
    second = sink(events="all")
    second.process(frame(0))
    wait_until(lambda: len(frames_of(listener)) == 21)
    assert frames_of(listener) == [*range(20), 0]


@REMEMBERS
def test_states_are_not_spooled_but_published_after_a_reconnect(broker, listen, sink):
    listener = listen(broker.start(), keep=True)
    stage = sink()
    stage.process(frame(0, [(1, 0)]))
    listener.wait_for("eyeline/yard/person/count", "1")
    broker.kill()
    for seq in range(1, 40):
        stage.process(frame(seq, [] if seq % 8 < 4 else [(1, 0), (2, 0), (3, 0)]))
    stage.process(frame(40, [(2, 0)]))
    stage.process(frame(44, [(2, 0)]))
    broker.start()
    wait_until(lambda: len(events_of(listener)) > 20)
    listener.wait_for("eyeline/yard/person/count", "1")
    wait_until(lambda: stage.counters()["waiting"] == 0)
    told = listener.texts("eyeline/yard/person/count")
    assert set(told) == {"1"}, "what it was in between is over"


def test_a_run_too_short_to_connect_still_publishes_all(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(events="all")
    for seq in range(300):
        stage.process(frame(seq, [(1, 0)]))
    stage.end("yard")
    stage.close()
    assert stage.counters()["waiting"] == 0
    wait_until(lambda: len(frames_of(listener)) == 300)
    listener.wait_for("eyeline/yard/person/present", "OFF")
    listener.wait_for("eyeline/availability", "offline")


def test_closing_is_bounded_whatever_the_broker_does(broker, sink, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_S", 0.3)
    broker.start()
    stage = sink(events="all")
    stage.process(frame(0))
    wait_until(lambda: stage.counters()["sent"] == 1)
    broker.signal(signal.SIGSTOP)
    for seq in range(1, 100):
        stage.process(frame(seq))
    stage.close()
    broker.signal(signal.SIGCONT)
    assert stage._thread is None
    left = sink(events="all")
    wait_until(lambda: left.counters()["sent"] == 99)


# --- crashes ---


def test_after_a_crash_who_was_there_is_still_there_and_nothing_is_lost(broker, listen, sink):
    first = sink()
    first.process(frame(0, [(1, 0)]))
    wait_until(lambda: first.counters()["spooled"] == 1)
    first.process(frame(1, [(1, 0), (2, 1)]))
    saved = first.state("yard")
    first.outbox._memory.clear()  # the process is dead: its memory is gone
    first.outbox._of_stream.clear()
    first.close()
    listener = listen(broker.start())
    second = sink()
    second.restore("yard", saved)
    second.process(frame(2, [(2, 1)]))
    second.process(frame(6, [(2, 1)]))
    wait_until(lambda: "left" in [e["event"] for e in events_of(listener)])
    told = [(e["event"], e["object"]["label"], e.get("seen_s")) for e in events_of(listener)]
    assert list(dict.fromkeys(told)) == [
        ("appeared", "person", None),
        ("appeared", "car", None),
        ("left", "person", 0.5),
    ]
    listener.wait_for("eyeline/yard/car/count", "1")
    listener.wait_for("eyeline/yard/person/count", "0")


CHILD = """
import json, sys
sys.path.insert(0, {root!r})
from stages.sinks.publish.mqtt import Mqtt
from stages.sinks.publish.mqtt_settings import MqttSettings
from tests.stages.sinks.publish.test_mqtt import CONTEXT, frame
stage = Mqtt(MqttSettings(**json.loads(sys.argv[1])), CONTEXT)
stage.open()
for seq in range(10_000):
    stage.process(frame(seq, [(1, 0)]))
    if seq == 500:
        print("ready", flush=True)
        sys.stdin.readline()
"""


def child(broker, tmp_path, **settings):
    given = {"broker": f"127.0.0.1:{broker.port}", "spool": str(tmp_path / "spool.db")}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT)), json.dumps(given | settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_when_the_process_is_killed_the_broker_says_offline(broker, listen, tmp_path):
    listener = listen(broker.start())
    process = child(broker, tmp_path)
    try:
        listener.wait_for("eyeline/availability", "online")
        listener.wait_for("eyeline/yard/person/present", "ON")
    finally:
        kill(process)
    listener.wait_for("eyeline/availability", "offline")


def test_what_was_spooled_when_the_process_is_killed_is_sent_by_the_next(
    broker, listen, sink, tmp_path
):
    process = child(broker, tmp_path, events="all")
    found = tmp_path / "spool.db-wal"
    try:
        wait_until(lambda: found.exists() and found.stat().st_size > 50_000)
    finally:
        kill(process)
    listener = listen(broker.start())
    stage = sink(events="all")
    wait_until(lambda: stage.counters()["waiting"] == 0 and stage.counters()["sent"] > 100)
    wait_until(lambda: len(frames_of(listener)) + len(events_of(listener)) == stage.sent)
    assert frames_of(listener) == list(range(len(frames_of(listener))))


def test_what_an_earlier_run_left_at_the_broker_is_put_right(broker, listen, sink):
    listener = listen(broker.start())
    for topic, text in (("count", "3"), ("present", "ON")):
        listener.publish(f"eyeline/yard/dog/{topic}", text, retain=True)
        listener.publish(f"eyeline/street/dog/{topic}", text, retain=True)
    stage = sink()
    stage.process(frame(0))
    listener.wait_for("eyeline/yard/dog/count", "0")
    listener.wait_for("eyeline/yard/dog/present", "OFF")
    assert listener.last("eyeline/street/dog/count") == "3", "of another installation"


def test_an_offline_that_comes_late_is_put_right(broker, listen, sink):
    listener = listen(broker.start())
    sink()
    listener.wait_for("eyeline/availability", "online")
    listener.publish("eyeline/availability", "offline", retain=True)
    listener.wait_for("eyeline/availability", "online")


# --- Home Assistant ---


def configs(listener):
    return {h.topic: json.loads(h.text) for h in listener.heard if h.topic.endswith("/config")}


def test_home_assistant_gets_a_device_per_stream_two_entities_per_label(broker, listen, sink):
    listener = listen(broker.start())
    sink(
        context=context_of(streams=("yard", "gate"), labels=LABELS),
        labels=["person", "traffic light"],
        discovery="homeassistant",
    )
    wait_until(lambda: len(configs(listener)) == 8)
    found = configs(listener)
    present = found["homeassistant/binary_sensor/eyeline_yard_traffic_light_present/config"]
    assert present == {
        "name": "Traffic light",
        "unique_id": "eyeline_yard_traffic_light_present",
        "state_topic": "eyeline/yard/traffic_light/present",
        "payload_on": "ON",
        "payload_off": "OFF",
        "device_class": "occupancy",
        "availability": [
            {"topic": "eyeline/availability"},
            {"topic": "eyeline/yard/availability"},
        ],
        "availability_mode": "all",
        "device": {
            "identifiers": ["eyeline_yard"],
            "name": "yard",
            "manufacturer": "Eyeline",
            "model": "Video stream",
            "sw_version": present["device"]["sw_version"],
        },
        "origin": present["origin"],
    }
    count = found["homeassistant/sensor/eyeline_gate_person_count/config"]
    assert count["state_topic"] == "eyeline/gate/person/count"
    assert count["state_class"] == "measurement"
    assert count["device"]["identifiers"] == ["eyeline_gate"]
    assert len({config["unique_id"] for config in found.values()}) == 8
    late = listen(broker)
    wait_until(lambda: len(configs(late)) == 8)
    assert all(h.retained for h in late.heard if h.topic.endswith("/config"))


def test_without_a_choice_of_labels_it_finds_those_that_were_seen(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(discovery="ha")
    stage.process(frame(0, [(1, 1)]))
    wait_until(lambda: len(configs(listener)) == 2)
    assert sorted(configs(listener)) == [
        "ha/binary_sensor/eyeline_yard_car_present/config",
        "ha/sensor/eyeline_yard_car_count/config",
    ]


def test_discovery_is_published_again_when_home_assistant_has_started(broker, listen, sink):
    listener = listen(broker.start())
    sink(labels=["person"], discovery="homeassistant")
    wait_until(lambda: len(configs(listener)) == 2)
    listener.heard.clear()
    listener.publish("homeassistant/status", "offline")
    listener.publish("homeassistant/status", "online")
    wait_until(lambda: len(configs(listener)) == 2)


def test_discovery_is_not_published_without_the_setting(broker, listen, sink):
    listener = listen(broker.start())
    stage = sink(labels=["person"])
    stage.process(frame(0, [(1, 0)]))
    listener.wait_for("eyeline/yard/person/present", "ON")
    assert configs(listener) == {}


# --- access ---


@pytest.fixture
def guarded(tmp_path):
    """A broker that asks for user and password."""
    folder = tmp_path / "guarded"
    folder.mkdir()
    passwords = folder / "passwords"
    passwd = shutil.which("mosquitto_passwd")
    if passwd is None:
        pytest.skip("mosquitto_passwd is missing: apt-get install mosquitto")
    subprocess.run([passwd, "-b", "-c", passwords, "eyeline", "right horse"], check=True)
    made = Broker(folder, f"password_file {passwords}")
    made.start()
    yield made
    made.kill()


def test_with_user_and_password(guarded, listen, sink):
    listener = listen(guarded, user="eyeline", password="right horse")
    sink(port=guarded.port, user="eyeline", password="right horse")
    listener.wait_for("eyeline/availability", "online")


@pytest.mark.parametrize(
    "login", [{}, {"user": "eyeline", "password": "wrong horse"}, {"user": "unknown"}]
)
def test_a_wrong_password_is_reported_but_not_shown(guarded, sink, caplog, login):
    caplog.set_level(logging.DEBUG)
    stage = sink(port=guarded.port, **login)
    wait_until(lambda: "trouble" in stage.info())
    assert stage.info()["trouble"] == "not authorized; see user and password"
    assert "horse" not in caplog.text + repr(stage.info())


@pytest.fixture
def certificates(tmp_path):
    """Folder with ca.pem, broker.pem and .key for 127.0.0.1, and client.pem and .key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    folder = tmp_path / "tls"
    folder.mkdir()

    def run(*arguments):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Own CA")
    for name, subject, extension in (
        ("broker", "/CN=broker", "subjectAltName=IP:127.0.0.1"),
        ("client", "/CN=eyeline", "subjectAltName=DNS:eyeline"),
    ):
        (folder / "extension").write_text(extension)
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "extension", "-out", f"{name}.pem"),
        )
    return folder


@pytest.fixture
def secure(tmp_path, certificates):
    """A broker with TLS that asks for a certificate."""
    folder = tmp_path / "secure"
    folder.mkdir()
    made = Broker(
        folder,
        f"cafile {certificates}/ca.pem",
        f"certfile {certificates}/broker.pem",
        f"keyfile {certificates}/broker.key",
        "require_certificate true",
    )
    made.start()
    yield made
    made.kill()


def test_tls_with_certificates_of_ones_own(secure, certificates, sink):
    stage = sink(
        broker=f"mqtts://127.0.0.1:{secure.port}",
        ca=str(certificates / "ca.pem"),
        certificate=str(certificates / "client.pem"),
        key=str(certificates / "client.key"),
        events="all",
    )
    for seq in range(500):
        stage.process(frame(seq))
    wait_until(lambda: stage.counters()["sent"] == 500, str(stage.info()))
    assert "trouble" not in stage.info()


LEFT_TO_THE_COLLECTOR = pytest.mark.filterwarnings(
    "ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
"""A socket whose handshake failed, by paho-mqtt."""


@LEFT_TO_THE_COLLECTOR
def test_a_certificate_of_an_unknown_authority_is_not_accepted(secure, sink):
    stage = sink(broker=f"mqtts://127.0.0.1:{secure.port}")
    wait_until(lambda: "trouble" in stage.info())
    assert "certificate is not trusted" in stage.info()["trouble"]
    assert "set ca" in stage.info()["trouble"]


@LEFT_TO_THE_COLLECTOR
def test_a_certificate_for_another_host_is_not_accepted(secure, certificates, sink):
    stage = sink(broker=f"mqtts://localhost:{secure.port}", ca=str(certificates / "ca.pem"))
    wait_until(lambda: "trouble" in stage.info())
    assert "certificate is not trusted" in stage.info()["trouble"]


@LEFT_TO_THE_COLLECTOR
def test_tls_to_a_broker_without_tls_is_reported(broker, sink):
    broker.start()
    stage = sink(broker=f"mqtts://127.0.0.1:{broker.port}")
    wait_until(lambda: "trouble" in stage.info())
    assert re.search("no TLS|connection reset|connection lost|no answer", stage.info()["trouble"])


@pytest.mark.parametrize(
    ("address", "reason"),
    [("nowhere.invalid", "unknown host"), ("127.0.0.1:1", "connection refused")],
)
def test_the_reason_of_a_failed_connection_is_reported(sink, address, reason):
    stage = sink(broker=address)
    wait_until(lambda: "trouble" in stage.info())
    assert stage.info()["trouble"] == reason


def test_two_clients_with_one_id_are_reported(broker, sink, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        delivery, "Backoff", lambda: type("Backoff", (), {"delay_s": lambda *_: 0.05})()
    )
    broker.start()
    sink(client_id="same")
    sink(client_id="same", spool=None)
    wait_until(lambda: "does another client use the client_id same?" in caplog.text)


def test_a_password_in_the_clear_is_warned_of(sink, caplog):
    sink(broker="192.0.2.1:1883", user="eyeline", password="right horse")
    assert "are sent to 192.0.2.1:1883 unencrypted; set `tls: true`" in caplog.text
    assert "horse" not in caplog.text


def test_the_client_id_stays_in_every_run_and_depends_on_prefix_and_spool(
    sink, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    ids = [
        sink(prefix=prefix, spool=spool)._own_client_id()
        for prefix, spool in (("a", None), ("a", None), ("b", None), ("a", "auto"))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert [path.parent.name for path in tmp_path.glob("runs/spool/*.db")] == ["spool"]
    assert all(re.fullmatch(r"eyeline-[0-9a-f]{12}", id) for id in ids)


# --- settings ---


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({"broker": "lan"}, Address("lan", 1883, False)),
        ({"broker": "lan:1884"}, Address("lan", 1884, False)),
        ({"broker": "lan", "port": 1884}, Address("lan", 1884, False)),
        ({"broker": "lan", "tls": True}, Address("lan", 8883, True)),
        ({"broker": "mqtt://lan/"}, Address("lan", 1883, False)),
        ({"broker": "mqtts://lan"}, Address("lan", 8883, True)),
        ({"broker": "lan:1883", "port": 1883, "tls": True}, Address("lan", 1883, True)),
        ({"broker": "fd00::1"}, Address("fd00::1", 1883, False)),
        ({"broker": "mqtts://[fd00::1]:99"}, Address("fd00::1", 99, True)),
    ],
)
def test_the_address_of_the_broker(given, address):
    assert MqttSettings(**given).address == address


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"broker": "http://lan"}, "broker: expected HOST"),
        ({"broker": "lan:99999"}, "port from 1 to 65535"),
        ({"broker": "lan 1"}, "broker: expected HOST"),
        ({"broker": "mqtt://lan", "tls": True}, "mqtts://"),
        ({"broker": "lan:1", "port": 2}, "port: expected 1"),
        ({"broker": "mqtt://me:horse@lan"}, "give user and password as such"),
        ({"password": "horse"}, "needs `user`"),
        ({"prefix": "a/#"}, "prefix: expected a topic"),
        ({"prefix": "/a"}, "prefix: expected a topic"),
        ({"prefix": "a/"}, "prefix: expected a topic"),
        ({"prefix": "$SYS"}, "prefix: expected a topic"),
        ({"discovery": "home assistant"}, "discovery: expected a topic"),
        ({"ca": "/nowhere.pem"}, "ca: '/nowhere.pem': No such file"),
        ({"certificate": "/nowhere.pem"}, "certificate: .*No such file"),
        ({"certificate": str(ROOT / "run.py")}, "certificate, key: .*not in PEM format"),
        ({"key": "/nowhere.key"}, "needs `certificate`"),
        ({"spool": "/tmp"}, "spool: '/tmp' is a directory"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_without_credentials(given, words):
    with pytest.raises(SetupError, match=words) as refused:
        Mqtt.resolve(MqttSettings(**given))
    assert "\n" not in str(refused.value)
    assert "horse" not in str(refused.value)


def test_a_label_that_the_model_does_not_know_is_refused(broker, sink):
    with pytest.raises(SetupError, match="no label 'persn'; did you mean 'person'"):
        sink(labels=["persn"])


@pytest.mark.parametrize(
    ("text", "made"),
    [("person", "person"), ("traffic light", "traffic_light"), ("a-b_c", "a-b_c")],
)
def test_plain_labels_stay_what_they_are_in_topics(text, made):
    assert slug(text) == made


def test_other_labels_become_topics_that_differ():
    made = [slug(text) for text in ("a/b", "a+b", "a#b", "Füchse", "Fächse", "", "狐", "犬")]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]*", text) for text in made)


def test_the_spool_of_each_broker_and_prefix_is_its_own():
    names = [
        Mqtt.spool_name(MqttSettings(broker=broker, prefix=prefix))
        for broker, prefix in (("a", "x"), ("b", "x"), ("a", "y"), ("a:1884", "x"), ("[::1]", "x"))
    ]
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"mqtt-[\w.-]+\.db", name) for name in names)


def test_closing_without_having_opened_leaves_no_trace(tmp_path):
    stage = Mqtt(MqttSettings(spool=str(tmp_path / "spool.db")), CONTEXT)
    stage.close()
    assert list(tmp_path.iterdir()) == []


def test_it_may_be_closed_twice(broker, sink):
    broker.start()
    stage = sink()
    stage.close()
    stage.close()
    assert stage.outbox.in_memory == 0
