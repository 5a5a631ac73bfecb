"""Events over ZeroMQ: what real subscribers get, who is let in, and what a slow one costs."""

import contextlib
import itertools
import json
import logging
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest
import zmq
import zmq.utils.monitor

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Resolved
from stages.sinks.files.events import Events, EventsSettings
from stages.sinks.publish.zeromq import ALIVE_TOPIC, Zmq, ZmqSettings
from tests.builders import context_of
from tests.processes.runs import CLIP, ROOT, Run

DEADLINE_S = 30.0
GRAPH = """\
streams:
  demo: {{source: {source}, mode: live}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  ids:     {{use: "tests.processes.stages:Ids"}}
  events:  {{use: events, after: ids, path: {out}/events.jsonl}}
  zmq:     {{use: zmq, after: ids, address: "ADDRESS"}}
supervisor: {{restarts: 1000}}
"""


def frame(seq, stream="demo", objects=1):
    """Objects whose boxes tell the frame."""
    return Frame.of(
        stream,
        seq,
        seq / 10,
        boxes=np.array([[seq, 1, seq + 5, 9]] * objects, np.float32),
        scores=np.full(objects, 0.9, np.float32),
        classes=np.zeros(objects, np.int32),
        ids=np.arange(objects),
    )


def keys():
    """A public and a secret key."""
    return [key.decode() for key in zmq.curve_keypair()]


@pytest.fixture
def opened():
    """Opens sinks, and closes them after the test."""
    sinks = []

    def make(address="tcp://127.0.0.1:0", **settings):
        sink = Zmq(
            ZmqSettings(address=address, **{"alive_s": 0.1} | settings), context_of(labels=("cat",))
        )
        sink.resolve(sink.settings)
        sinks.append(sink)
        sink.open()
        return sink

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def subscribe():
    """Makes subscribers in a context of their own, as in another program."""
    context = zmq.Context()
    made = []

    def make(sink, topics=("",), curve=None, **options):
        subscriber = context.socket(zmq.SUB)
        made.append(subscriber)  # pyzmq complains of those that are forgotten
        for name, value in {"linger": 0, "rcvtimeo": int(DEADLINE_S * 1000), **options}.items():
            setattr(subscriber, name, value)
        if curve:
            (public, secret), server = curve
            subscriber.curve_publickey, subscriber.curve_secretkey = (
                public.encode(),
                secret.encode(),
            )
            subscriber.curve_serverkey = server.encode()
        for topic in topics:
            subscriber.subscribe(topic)
        subscriber.connect(sink if isinstance(sink, str) else sink.info()["address"])
        return subscriber

    yield make
    context.destroy(0)


def join(sink, *subscribers):
    """Let the sink tell that it is alive until all have heard of it."""
    until = time.monotonic() + DEADLINE_S
    for subscriber in subscribers:
        while not subscriber.poll(2):
            assert time.monotonic() < until, "nothing came"
            sink.idle()


def received(subscriber):
    """The next event: its topic and what it says; or (ALIVE_TOPIC, ...)."""
    topic, body = subscriber.recv_multipart()
    return topic, json.loads(body)


def events(subscriber, count):
    """Return the next events, without the alive messages in between."""
    found = (received(subscriber) for _ in itertools.count())
    return list(itertools.islice((event for event in found if event[0] != ALIVE_TOPIC), count))


def test_a_message_is_the_stream_and_what_the_events_sink_writes(opened, subscribe, tmp_path):
    sink = opened()
    subscriber = subscribe(sink, ("demo", ALIVE_TOPIC.decode()))
    join(sink, subscriber)
    written = Events(EventsSettings(path=str(tmp_path / "out.jsonl")), context_of(labels=("cat",)))
    written.open()
    for seq in range(3):
        sink.process(frame(seq))
        written.process(frame(seq))
    written.close()
    messages = []
    while len(messages) < 3:
        topic, body = subscriber.recv_multipart()
        if topic != ALIVE_TOPIC:
            messages.append((topic, body))
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert messages == [(b"demo", line) for line in lines]
    assert json.loads(lines[2])["objects"][0]["label"] == "cat"


def test_a_subscriber_gets_the_streams_it_asked_for(opened, subscribe):
    sink = opened()
    yard, both = subscribe(sink, ("yard",)), subscribe(sink)
    while not yard.poll(2):
        sink.process(frame(0, "yard"))
    join(sink, both)
    for seq in range(1, 4):
        sink.process(frame(seq, "street"))
        sink.process(frame(seq, "yard"))
    streams = [(topic, event["frame"]) for topic, event in events(both, 6) if event["frame"]]
    assert [s for s in streams if s[0] == b"street"] == [(b"street", n) for n in (1, 2, 3)]
    while (event := received(yard))[1]["frame"] < 3:
        assert event[0] == b"yard"


def test_alive_messages_show_a_lost_connection_and_the_missed_events(opened, subscribe):
    sink = opened()
    for seq in range(5):
        sink.process(frame(seq))
    subscriber = subscribe(sink)
    join(sink, subscriber)
    sink.process(frame(5))
    sink.end("demo")
    told = []
    while not told or told[-1][1].get("events") != {"demo": 6}:
        told.append(received(subscriber))
    first = told[0]
    assert first[0] == ALIVE_TOPIC
    assert first[1]["events"] == {"demo": 5}
    assert [event["frame"] for topic, event in told if topic == b"demo"] == [5]
    # A stream that is over is not counted any more, and the same name begins again.
    join(sink, subscriber)
    last = received(subscriber)
    assert last[1]["events"] == {}
    assert last[1]["since"] == first[1]["since"] <= first[1]["now"]


def test_alive_messages_are_no_more_frequent_than_set(opened, subscribe):
    sink = opened(alive_s=3600)
    sink.idle()
    subscriber = subscribe(sink)
    while not subscriber.poll(2):
        sink.process(frame(0))
    for _ in range(1000):
        sink.idle()
    sink.process(frame(1))
    found = []
    while not found or found[-1][1].get("frame") != 1:
        found.append(received(subscriber))
    assert ALIVE_TOPIC not in {topic for topic, _ in found}


def test_a_slow_subscriber_loses_events_and_no_other_does(opened, subscribe, caplog):
    # ZeroMQ notices only once a millisecond that the fast one has read: its queue must hold that.
    sink = opened(high_water=200)
    fast = subscribe(sink, ("demo",), rcvhwm=0)
    # Small buffers, or the network would hold thousands of messages for it.
    slow = subscribe(sink, rcvhwm=1, rcvbuf=1024)
    while not fast.poll(2):
        sink.process(frame(0))
    join(sink, slow)
    seq = 0
    with caplog.at_level(logging.WARNING):
        while not caplog.messages:
            seq += 1
            assert seq < 10_000, "a subscriber that reads nothing lost nothing"
            sink.process(frame(seq, objects=300))
            # The fast one reads as fast as it is written to.
            while (event := received(fast)[1])["frame"] != seq:
                assert event["frame"] in (0, seq - 1)
    assert caplog.messages == [
        "stages.stage: a subscriber is too slow and loses events: 200 wait for it (x1)"
    ]
    for more in range(1, 200):
        sink.process(frame(seq + more))
        assert received(fast)[1]["frame"] == seq + more

    # It reads again, and can tell from the counts that it has missed some.
    got = 0
    until = time.monotonic() + DEADLINE_S
    while True:
        assert time.monotonic() < until, "it never heard of the last one"
        sink.idle()
        if not slow.poll(2):
            continue
        topic, told = received(slow)
        got += topic == b"demo"
        if topic == ALIVE_TOPIC and told["events"]["demo"] == sink._published["demo"]:
            break
    assert 0 < got < told["events"]["demo"]
    sink.process(frame(seq + 200))
    assert events(slow, 1)[0][1]["frame"] == seq + 200


def test_what_is_left_at_the_end_still_arrives(opened, subscribe):
    sink = opened()
    subscriber = subscribe(sink, ("demo", ALIVE_TOPIC.decode()))
    join(sink, subscriber)
    for seq in range(500):
        sink.process(frame(seq))
    sink.end("demo")
    sink.close()
    assert [event["frame"] for _, event in events(subscriber, 500)] == list(range(500))
    assert received(subscriber)[1]["events"] == {"demo": 500}


def test_close_does_not_wait_for_one_who_does_not_read(opened, subscribe):
    sink = opened(high_water=20)
    subscriber = subscribe(sink, rcvhwm=1, rcvbuf=1024)
    join(sink, subscriber)
    large = frame(0, objects=300)
    for _ in range(10_000):
        sink.process(large)
        if sink._overflows:
            break
    assert sink._overflows
    sink.close()
    sink.close()


# --- who is let in ---


@pytest.fixture
def server():
    return keys()


def test_curve_lets_in_those_it_knows(opened, subscribe, server):
    one, other = keys(), keys()
    sink = opened(secret_key=server[1], clients=(one[0], other[0]))
    assert sink.info()["public_key"] == server[0]
    subscribers = [subscribe(sink, curve=(pair, server[0])) for pair in (one, other)]
    join(sink, *subscribers)
    sink.process(frame(7))
    for subscriber in subscribers:
        assert events(subscriber, 1)[0][1]["frame"] == 7


def test_any_client_is_let_in_if_it_knows_the_public_key_and_asked_for(opened, subscribe, server):
    sink = opened(secret_key=server[1], clients="any")
    subscriber = subscribe(sink, curve=(keys(), server[0]))
    join(sink, subscriber)
    sink.process(frame(7))
    assert events(subscriber, 1)[0][1]["frame"] == 7


NO_CURVE = "it does not use CURVE, or not with the public key of this sink"


@pytest.mark.parametrize(
    ("clients", "who", "said"),
    [
        ("known", "unknown", "its public key is not among clients"),
        ("known", "wrong server", NO_CURVE),
        ("known", "plain", NO_CURVE),
        ("any", "wrong server", NO_CURVE),
        ("any", "plain", NO_CURVE),
    ],
)
def test_curve_keeps_out_all_others_and_says_why(
    opened, subscribe, server, caplog, clients, who, said
):
    known = keys()
    sink = opened(secret_key=server[1], clients=(known[0],) if clients == "known" else clients)
    curve = {
        "unknown": (keys(), server[0]),
        "wrong server": (known, keys()[0]),
        "plain": None,
    }[who]
    refused = subscribe(sink, curve=curve)
    until = time.monotonic() + DEADLINE_S
    with caplog.at_level(logging.WARNING):
        while not caplog.messages:
            assert time.monotonic() < until, "no subscriber was refused"
            sink.process(frame(0))
            sink.idle()
            time.sleep(0.001)
    assert caplog.messages == [f"stages.stage: subscriber refused: {said} (x1)"]
    assert not refused.poll(0)


def test_the_key_may_be_in_a_file(opened, subscribe, server, tmp_path):
    (tmp_path / "key").write_text(server[1] + "\n")
    sink = opened(secret_key_file=str(tmp_path / "key"), clients="any")
    assert sink.info()["public_key"] == server[0]


def test_clients_of_other_protocols_are_refused_and_harm_no_other(opened, subscribe, caplog, rng):
    sink = opened()
    subscriber = subscribe(sink)
    join(sink, subscriber)
    host, port = sink.info()["address"].removeprefix("tcp://").split(":")
    strangers = []
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            stranger = socket.create_connection((host, int(port)))
            strangers.append(stranger)
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL".ljust(54, b"\0")
            with contextlib.suppress(OSError):
                stranger.sendall((greeting if number % 2 else b"") + rng.bytes(2000))
        until = time.monotonic() + DEADLINE_S
        while not caplog.messages:
            assert time.monotonic() < until, "no subscriber was refused"
            sink.idle()
    for stranger in strangers:
        stranger.close()
    assert "it does not speak ZeroMQ" in caplog.messages[0]
    sink.process(frame(7))
    assert events(subscriber, 1)[0][1]["frame"] == 7


# --- addresses ---


def test_a_local_socket_works_as_well_and_leaves_no_file(opened, subscribe, tmp_path):
    path = tmp_path / "made" / "events.sock"
    sink = opened(f"ipc://{path}")
    subscriber = subscribe(sink)
    join(sink, subscriber)
    sink.process(frame(7))
    assert events(subscriber, 1)[0][1]["frame"] == 7
    assert stat.S_ISSOCK(path.stat().st_mode)
    sink.close()
    assert not path.exists()


def test_a_local_socket_without_a_file(opened, subscribe):
    sink = opened(f"ipc://@eyeline-test-{os.getpid()}")
    subscriber = subscribe(sink)
    join(sink, subscriber)


def test_a_socket_that_was_left_behind_is_used_again(opened, subscribe, tmp_path):
    path = tmp_path / "events.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    sink = opened(f"ipc://{path}")
    join(sink, subscribe(sink))


def test_a_socket_in_use_is_not_taken_away(opened, subscribe, tmp_path):
    address = f"ipc://{tmp_path}/events.sock"
    sink = opened(address)
    with pytest.raises(SetupError, match=r"'.*events\.sock' is used by another program; set"):
        opened(address)
    join(sink, subscribe(sink))


def test_a_file_of_another_kind_is_not_removed(opened, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(SetupError, match=r"notes\.txt' exists and is no socket; choose another"):
        opened(f"ipc://{tmp_path}/notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_a_port_in_use_is_said_in_a_line(opened):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"{address} is used by another program; set an"):
            opened(address)


def test_an_address_of_another_machine_is_said_in_a_line(opened, server):
    with pytest.raises(SetupError, match=r"this machine has no address tcp://192\.0"):
        opened("tcp://192.0.2.7:5556", secret_key=server[1], clients="any")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"address": "tcp://0.0.0.0:5556"},
            r"is reachable from other machines; set `secret_key` and `clients`",
        ),
        ({"address": "tcp://*:5556"}, "or use tcp://127.0.0.1:5556"),
        ({"address": "tcp://[::]:5556"}, "is reachable from other machines"),
        ({"address": "tcp://192.168.1.9:5556"}, "is reachable from other machines"),
        ({"address": "5556"}, r"expected tcp://ADDRESS:PORT or ipc://PATH .found 5556"),
        ({"address": "tcp://127.0.0.1"}, "expected tcp://ADDRESS:PORT"),
        ({"address": "tcp://127.0.0.1:70000"}, "expected tcp://ADDRESS:PORT"),
        ({"address": "udp://127.0.0.1:5"}, "expected tcp://ADDRESS:PORT"),
        ({"address": "tcp://cam.example:5"}, "expected an IP address of this machine, or *"),
        ({"address": "tcp://::1:5"}, "expected tcp://ADDRESS:PORT"),
        ({"address": "ipc://"}, "expected ipc:// and the path of a file"),
        ({"address": "ipc:///run/"}, "expected ipc:// and the path of a file"),
        ({"address": "ipc:///" + "x" * 107}, "of at most 107 bytes"),
        ({"clients": "any"}, "clients: needs `secret_key`"),
        ({"secret_key": "k" * 40}, "clients: expected the public keys of the allowed clients"),
        (
            {"secret_key": "k" * 40, "clients": ("short",)},
            "40 characters .found a text of 5 characters",
        ),
        ({"secret_key": "k" * 40, "secret_key_file": "f"}, "expected one of them .found both"),
        (
            {"secret_key_file": "/nowhere"},
            r"secret_key_file: the file cannot be read \(No such file",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(settings, said):
    with pytest.raises(SetupError, match=said):
        Zmq.resolve(ZmqSettings(**settings))


@pytest.mark.parametrize("secret", ["too-short-secret", "#" * 40, "ü" * 40])
def test_a_wrong_secret_is_not_shown(secret, tmp_path):
    (tmp_path / "key").write_text(secret)
    for settings in ({"secret_key": secret}, {"secret_key_file": str(tmp_path / "key")}):
        with pytest.raises(SetupError, match="expected a key of 40 characters") as refused:
            Zmq.resolve(ZmqSettings(clients="any", **settings))
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://[::1]:1", "ipc://x", "ipc://@x"]
)
def test_this_machine_alone_needs_no_keys(address):
    assert Zmq.resolve(ZmqSettings(address=address)) == Resolved()


@pytest.mark.parametrize(
    "settings", [{"high_water": 0}, {"alive_s": 0}, {"clients": "all"}, {"address": ""}]
)
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, ZmqSettings)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("tcp://127.0.0.1:0", r"tcp://127\.0\.0\.1:[1-9]\d*"),
        ("tcp://localhost:0", r"tcp://127\.0\.0\.1:[1-9]\d*"),
        ("tcp://0.0.0.0:0", r"tcp://0\.0\.0\.0:[1-9]\d*"),
        ("tcp://*:0", r"tcp://\[::\]:[1-9]\d*"),
    ],
)
def test_the_shown_address_has_the_chosen_free_port(opened, server, address, shown):
    sink = opened(address, secret_key=server[1], clients="any")
    assert re.fullmatch(shown, sink.info()["address"])


# --- a run ---


@contextlib.contextmanager
def example(number, **replaced):
    """One of the subscribers in the documentation, in a process of its own."""
    text = (ROOT / "docs" / "sinks.md").read_text()
    section = next(part for part in text.split("\n## ") if part.startswith("zmq\n"))
    script = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]
    for word, value in replaced.items():
        assert word in script
        script = script.replace(word, value)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def lines_of(sink, process):
    """What a program prints once it has heard of the sink."""
    seq = itertools.count()
    while not select.select([process.stdout], [], [], 0.01)[0]:
        assert process.poll() is None, "it has ended"
        sink.process(frame(next(seq)))
    return process.stdout.readline()


def test_the_subscriber_in_the_documentation_works(opened):
    sink = opened()
    address = sink.info()["address"]
    with example(0, **{"tcp://127.0.0.1:5556": address}) as process:
        assert re.fullmatch(r"demo \d+ \['cat'\]\n", lines_of(sink, process))


def test_the_subscriber_with_keys_in_the_documentation_works(opened, server):
    public, secret = keys()
    sink = opened(secret_key=server[1], clients=(public,))
    address = sink.info()["address"]
    replaced = {"tcp://eyeline.lan:5556": address, "SERVER_PUBLIC": server[0]}
    replaced |= {"CLIENT_PUBLIC": public, "CLIENT_SECRET": secret}
    with example(1, **replaced) as process:
        assert lines_of(sink, process) == "demo\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_subscriber_follows_a_run_through_a_crash_of_the_sink(tmp_path, subscribe):
    address = f"tcp://127.0.0.1:{free_port()}"
    subscriber = subscribe(address, ("demo",), reconnect_ivl=10)
    with Run(tmp_path, graph=GRAPH.replace("ADDRESS", address)) as run:
        before = [event for _, event in events(subscriber, 5)]
        run.strike("zmq", signal.SIGKILL)
        after = [event for _, event in events(subscriber, 10)]
        # From the restarted sink, since the old one cannot be connected to.
        other = subscribe(address, (ALIVE_TOPIC.decode(),))
        since = received(other)[1]["since"]
        assert since > before[-1]["captured_at"]
        frames = [event["frame"] for event in before + after]
        assert frames[0] < frames[5]
        assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(frames))
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        assert run.summary["stages"]["zmq"]["restarts"] == 1
        ledger = run.ledger
    assert ledger["captured"] == ledger["delivered"] + sum(ledger["dropped"].values())
    written = {
        event["frame"]: event
        for line in (tmp_path / "events.jsonl").read_text().splitlines()
        if (event := json.loads(line))
    }
    for event in before + after:
        assert event == written[event["frame"]]


def test_a_run_whose_port_is_taken_ends_with_status_2(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with Run(tmp_path, graph=GRAPH.replace("ADDRESS", address), source=CLIP) as run:
            assert run.wait() == 2
        assert f"stages.zmq: {address} is used by another program; set another port" in run.stderr
        assert "Traceback" not in run.stderr
