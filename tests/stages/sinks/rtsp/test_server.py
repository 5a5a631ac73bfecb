"""The RTSP server as its readers see it: over real sockets, one request after the other."""

import base64
import contextlib
import hashlib
import itertools
import logging
import os
import re
import socket
import struct
import time

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from stages.sinks.rtsp import auth, rtp_sender, session
from stages.sinks.rtsp.auth import Credentials
from stages.sinks.rtsp.mount import MAX_PENDING
from stages.sinks.rtsp.rtp_jpeg import PAYLOAD_BYTES, Jpeg
from stages.sinks.rtsp.rtp_sender import MAX_WAITING_BYTES
from stages.sinks.rtsp.server import RtspServer
from tests.rtsp_h264 import H264, MOUNTS, CameraCredentials

DEADLINE_S = 20.0
SPS, PPS = b"\x67\x64\x00\x1e\xac", b"\x68\xee\x3c\x80"
WALL_NS = 1_800_000_000_123_000_000


def jpeg(value=0, width=64, height=48):
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def large_jpeg(number, width=640, height=480):
    """About 200 kB, or 50 kB for 320x240; each number has other tables."""
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 60 + number % 35])[1].tobytes()


def access_unit(*nals):
    return b"".join(struct.pack(">I", len(nal)) + nal for nal in nals)


def wait_until(condition, why="nothing came of it"):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, why
        time.sleep(0.002)


class Answer:
    def __init__(self, head, body):
        lines = head.split("\r\n")
        self.code = int(lines[0].split(" ")[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            self.headers.setdefault(name.lower(), []).append(value)
        self.body = body

    def __getitem__(self, name):
        return self.headers[name.lower()][0]


class Reader:
    """A viewer that speaks RTSP by hand."""

    def __init__(self, server, receive_bytes=None):
        self.server = server
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect((server.address, server.port))
        self.buffer = b""
        self.packets = []
        """(channel, packet) that came between answers."""
        self.cseq = 0
        self.session = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def ask(self, method, path="/a", **headers):
        self.cseq += 1
        fields = {"CSeq": self.cseq, **headers}
        if self.session and "Session" not in fields:
            fields["Session"] = self.session
        lines = [f"{method} {self.server.url(path)} RTSP/1.0"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = self.answer()
        assert answer["CSeq"] == str(self.cseq)
        return answer

    def answer(self):
        while True:
            item = self._next()
            if isinstance(item, Answer):
                return item
            self.packets.append(item)

    def packet(self, channel=0):
        """The next packet of a channel."""
        while True:
            for index, (of, packet) in enumerate(self.packets):
                if of == channel:
                    del self.packets[index]
                    return packet
            item = self._next()
            assert not isinstance(item, Answer)
            self.packets.append(item)

    def picture(self):
        """The packets of the next picture, and their headers."""
        packets = [Rtp(self.packet())]
        while not packets[-1].marker:
            packets.append(Rtp(self.packet()))
        return packets

    def setup(self, path="/a", transport="RTP/AVP/TCP;unicast;interleaved=0-1"):
        answer = self.ask("SETUP", path + "/track1", Transport=transport)
        if answer.code == 200:
            self.session = answer["Session"].partition(";")[0]
        return answer

    def play(self, path="/a"):
        assert self.setup(path).code == 200
        assert self.ask("PLAY", path).code == 200
        return self

    def is_over(self):
        """Whether the server closes the connection; reads what is left."""
        with contextlib.suppress(ConnectionError):
            while self._read():
                pass
        return True

    def _read(self):
        data = self.socket.recv(1 << 16)
        self.buffer += data
        return bool(data)

    def _next(self):
        while True:
            if self.buffer[:1] == b"$" and len(self.buffer) >= 4:
                end = 4 + int.from_bytes(self.buffer[2:4], "big")
                if len(self.buffer) >= end:
                    item = self.buffer[1], self.buffer[4:end]
                    self.buffer = self.buffer[end:]
                    return item
            elif self.buffer[:5] == b"RTSP/":
                head, found, rest = self.buffer.partition(b"\r\n\r\n")
                match = re.search(rb"Content-Length: (\d+)", head)
                size = int(match[1]) if match else 0
                if found and len(rest) >= size:
                    self.buffer = rest[size:]
                    return Answer(head.decode(), rest[:size].decode())
            else:
                assert len(self.buffer) < 5, f"neither a packet nor an answer: {self.buffer[:40]}"
            if not self._read():
                raise EOFError


class Rtp:
    def __init__(self, packet):
        head, kind, self.sequence, self.time, self.ssrc = struct.unpack(">BBHII", packet[:12])
        assert head == 0x80
        self.marker, self.kind, self.payload = bool(kind & 0x80), kind & 0x7F, packet[12:]


class Report:
    """A compound RTCP packet."""

    def __init__(self, packet):
        self.kinds = []
        at = 0
        while at < len(packet):
            self.kinds.append(packet[at + 1])
            at += 4 + 4 * int.from_bytes(packet[at + 2 : at + 4], "big")
        assert at == len(packet)
        (
            self.ssrc,
            seconds,
            fraction,
            self.time,
            self.packets,
            self.bytes,
        ) = struct.unpack(">IIIIII", packet[4:28])
        self.wall_s = seconds - 2_208_988_800 + fraction / 2**32


@pytest.fixture
def server():
    made = RtspServer()
    made.open()
    yield made
    made.close()


@pytest.fixture
def mount(server):
    return server.add("/a", Jpeg())


def put(mount, *pictures, time_ns=0, wall_ns=WALL_NS):
    for index, picture in enumerate(pictures):
        mount.put(picture, time_ns + index * 40_000_000, wall_ns + index * 40_000_000)


# --- requests ---


def test_the_description_lists_the_streams(server, mount):
    with Reader(server) as reader:
        assert "DESCRIBE" in reader.ask("OPTIONS")["Public"]
        answer = reader.ask("DESCRIBE", Accept="application/sdp")
        assert answer.code == 200
        assert answer["Content-Type"] == "application/sdp"
        assert answer["Content-Base"] == server.url("/a/")
        assert "m=video 0 RTP/AVP 26\r\n" in answer.body
        assert "a=control:track1\r\n" in answer.body


@pytest.mark.parametrize("method", ["DESCRIBE", "SETUP"])
def test_an_unknown_path_is_not_found(server, mount, method):
    with Reader(server) as reader:
        assert reader.ask(method, "/b", Transport="RTP/AVP/TCP;interleaved=0-1").code == 404


@pytest.mark.parametrize("path", ["/a", "/a/", "/a?x=1", "//a", "/a/track1"])
def test_a_path_may_be_written_in_several_ways(server, mount, path):
    with Reader(server) as reader:
        assert reader.ask("DESCRIBE", path).code == 200


@pytest.mark.parametrize("path", ["/track1", "/my-track1", "/a/track1/b", "/live/a"])
def test_any_path_can_be_served(server, mount, path):
    other = server.add(path, Jpeg())
    with Reader(server) as reader:
        assert reader.ask("DESCRIBE", path).code == 200
        reader.play(path)
        assert (other.watched, mount.watched) == (True, False)


@pytest.mark.parametrize("method", ["PLAY", "TEARDOWN"])
def test_without_a_session_nothing_plays(server, mount, method):
    with Reader(server) as reader:
        assert reader.ask(method).code == 454
        assert reader.setup().code == 200
        assert reader.ask(method, Session="another").code == 454


def test_a_session_of_another_connection_is_not_found(server, mount):
    with Reader(server) as one, Reader(server) as other:
        one.setup()
        assert other.ask("PLAY", Session=one.session).code == 454


def test_a_reader_may_ask_for_nothing_to_stay(server, mount):
    with Reader(server) as reader:
        assert reader.ask("GET_PARAMETER").code == 200
        reader.play()
        assert reader.ask("GET_PARAMETER")["Session"] == reader.session
        assert reader.ask("GET_PARAMETER", Session="another").code == 454


@pytest.mark.parametrize(
    "transport",
    [
        "",
        "RTP/AVP;multicast",
        "RTP/SAVP/TCP;unicast;interleaved=0-1",
        "RTP/AVP;unicast",
        "RTP/AVP;unicast;client_port=x",
        "RTP/AVP;unicast;client_port=0-1",
        "RTP/AVP;unicast;client_port=70000-70001",
        "RTP/AVP/TCP;unicast;interleaved=300-301",
        'RTP/AVP/TCP;unicast;interleaved=0-1;mode="RECORD"',
        ";;;,,,===",
    ],
)
def test_what_it_cannot_send_by_is_refused(server, mount, transport):
    with Reader(server) as reader:
        assert reader.setup(transport=transport).code == 461
        assert reader.setup().code == 200


def test_the_first_transport_that_does_is_taken(server, mount):
    with Reader(server) as reader:
        answer = reader.setup(
            transport="RTP/AVP;multicast, RTP/AVP/TCP;unicast;interleaved=4-5;mode=PLAY"
        )
        assert "interleaved=4-5" in answer["Transport"]
        reader.ask("PLAY")
        put(mount, jpeg())
        assert Rtp(reader.packet(4)).marker


def test_a_transport_that_is_switched_off_is_refused():
    server = RtspServer(transports=("udp",))
    server.open()
    server.add("/a", Jpeg())
    try:
        with Reader(server) as reader:
            assert reader.setup().code == 461
    finally:
        server.close()


def test_a_session_plays_one_path(server, mount):
    server.add("/b", Jpeg())
    with Reader(server) as reader:
        reader.setup()
        assert reader.setup("/b").code == 455
        reader.ask("PLAY")
        assert reader.setup().code == 455


def test_what_is_not_served_is_said(server, mount):
    with Reader(server) as reader:
        answer = reader.ask("RECORD")
        assert answer.code == 501
        assert "PLAY" in answer["Public"]


def test_after_teardown_no_image_comes_and_setup_works_again(server, mount):
    with Reader(server) as reader:
        reader.play()
        assert mount.watched
        assert reader.ask("TEARDOWN").code == 200
        assert not mount.watched
        reader.session = None
        reader.play()
        put(mount, jpeg())
        assert reader.picture()


# --- pictures ---


def test_a_picture_arrives_whole_by_tcp(server, mount):
    file = large_jpeg(0)
    with Reader(server) as reader:
        reader.play()
        put(mount, file)
        packets = reader.picture()
        assert [packet.payload for packet in packets] == Jpeg().payloads(file)
        first = packets[0].sequence
        assert [p.sequence for p in packets] == [(first + n) % 65536 for n in range(len(packets))]
        assert {(p.kind, p.ssrc, p.time) for p in packets} == {
            (26, packets[0].ssrc, packets[0].time)
        }


def test_the_answer_to_play_has_the_first_sequence_number(server, mount):
    with Reader(server) as reader:
        reader.setup()
        told = int(re.search(r"seq=(\d+)", reader.ask("PLAY")["RTP-Info"])[1])
        put(mount, jpeg())
        assert reader.picture()[0].sequence == told


def test_rtp_time_is_that_of_the_pictures(server, mount):
    with Reader(server) as reader:
        reader.play()
        times = []
        for time_ns in (5_000_000_000, 5_040_000_000, 5_120_000_000):
            put(mount, jpeg(), time_ns=time_ns)
            times.append(reader.picture()[0].time)
        assert [(b - a) % 2**32 for a, b in itertools.pairwise(times)] == [3600, 7200]


def test_a_report_ties_rtp_time_to_the_wall_clock(server, mount, monkeypatch):
    monkeypatch.setattr(rtp_sender, "REPORT_S", 0.02)
    with Reader(server) as reader:
        reader.play()
        for step in (0, 7):
            time_ns, wall_ns = step * 1_000_000_000, WALL_NS + step * 1_000_000_000
            put(mount, jpeg(), time_ns=time_ns, wall_ns=wall_ns)
            packet = reader.picture()[-1]
            # One of the reports is of this picture.
            while (report := Report(reader.packet(1))).time != packet.time:
                pass
            assert report.kinds == [200, 202]
            assert report.ssrc == packet.ssrc
            assert report.wall_s == pytest.approx(wall_ns / 1e9, abs=1e-6)
            assert report.packets == step // 7 + 1


def test_the_first_report_comes_before_the_first_picture(server, mount):
    with Reader(server) as reader:
        reader.play()
        put(mount, jpeg())
        reader.picture()
        assert [channel for channel, _ in reader.packets] == [1]


def udp_pair():
    """Two neighbouring ports, the first one even."""
    while True:
        rtp, rtcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
        rtp.bind(("127.0.0.1", 0))
        port = rtp.getsockname()[1]
        with contextlib.suppress(OSError):
            if port % 2 == 0:
                rtcp.bind(("127.0.0.1", port + 1))
                for end in (rtp, rtcp):
                    end.settimeout(DEADLINE_S)
                return rtp, rtcp, port
        rtp.close()
        rtcp.close()


@pytest.fixture
def ports():
    rtp, rtcp, port = udp_pair()
    yield rtp, rtcp, port
    rtp.close()
    rtcp.close()


def test_a_picture_arrives_whole_by_udp(server, mount, ports):
    rtp, rtcp, port = ports
    file = large_jpeg(0, 320, 240)  # several bursts, but no more than a socket holds
    with Reader(server) as reader:
        answer = reader.setup(transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}")
        theirs = re.search(r"server_port=(\d+)-(\d+)", answer["Transport"])
        assert int(theirs[1]) % 2 == 0
        assert int(theirs[2]) == int(theirs[1]) + 1
        reader.ask("PLAY")
        put(mount, file)
        packets = []
        while not packets or not packets[-1].marker:
            data, sender = rtp.recvfrom(2048)
            assert sender[1] == int(theirs[1])
            packets.append(Rtp(data))
        assert [packet.payload for packet in packets] == Jpeg().payloads(file)
        data, sender = rtcp.recvfrom(2048)
        assert Report(data).time == packets[0].time
        assert sender[1] == int(theirs[2])


def test_one_who_has_gone_without_a_word_is_noticed_by_udp(server, mount, ports):
    rtp, _, port = ports
    with Reader(server) as reader:
        reader.setup(transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}")
        reader.ask("PLAY")
        rtp.close()

        def gone():
            put(mount, jpeg())
            return not mount.watched

        wait_until(gone)
        assert reader.is_over()


def test_pictures_go_to_the_one_who_asks_and_nowhere_else(server, mount, ports):
    rtp, _, port = ports
    with Reader(server) as reader:
        answer = reader.setup(
            transport=f"RTP/AVP;unicast;destination=192.0.2.1;client_port={port}-{port + 1}"
        )
        assert "destination" not in answer["Transport"]
        reader.ask("PLAY")
        put(mount, jpeg())
        assert Rtp(rtp.recv(2048)).marker


def test_a_silent_viewer_by_udp_is_disconnected(server, mount, ports, monkeypatch):
    _, rtcp, port = ports
    with Reader(server) as reader:
        answer = reader.setup(transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}")
        reader.ask("PLAY")
        theirs = int(re.search(r"server_port=\d+-(\d+)", answer["Transport"])[1])
        heard_s = mount.viewers[0].received_s
        rtcp.sendto(b"\x80\xc9\x00\x01abcd", ("127.0.0.1", theirs))
        wait_until(lambda: mount.viewers[0].received_s > heard_s, "a report is a sign of life")
        monkeypatch.setattr(session, "SESSION_TIMEOUT_S", 0.2)
        assert reader.is_over()
        assert not mount.watched


def test_without_viewers_nothing_is_cut_or_kept(server, mount):
    mount.put(b"not a JPEG at all", 0, 0)
    assert not mount.watched
    assert not mount.pending
    with Reader(server) as reader:
        reader.play()
        assert mount.watched
        with pytest.raises(ValueError, match="not a JPEG"):
            mount.put(b"not a JPEG at all", 0, 0)


# --- H.264 and where a viewer begins ---

KEY, OTHER = access_unit(b"\x65" + bytes(50)), access_unit(b"\x41" + bytes(50))


def kinds(reader, pictures):
    """Types of the NAL units of so many pictures."""
    return [[p.payload[0] & 31 for p in reader.picture()] for _ in range(pictures)]


@pytest.mark.parametrize(
    ("start", "want"),
    [
        ("key", [[7, 8, 5], [1], [7, 8, 5]]),
        ("any", [[1], [7, 8, 5], [1]]),
        ("after_key", [[1], [7, 8, 5], [1]]),
    ],
)
def test_a_viewer_begins_where_it_is_let_in(server, start, want):
    media = H264(SPS, PPS)
    media.payloads(KEY)
    mount = server.add("/a", media, MOUNTS[start])
    with Reader(server) as reader:
        reader.play()
        assert mount.key_wanted == (start != "any")
        first = [OTHER] if start != "after_key" else [OTHER, KEY]
        put(mount, *first, *([KEY] if start == "key" else []), OTHER, KEY, OTHER)
        got = kinds(reader, 3)
        assert got == want if start != "any" else got == [[1], [1], [7, 8, 5]]
        assert not mount.key_wanted


def test_a_busy_server_keeps_few_images_and_continues_with_a_key_image(server):
    mount = server.add("/a", H264(SPS, PPS), MOUNTS["key"])
    with Reader(server) as reader:
        reader.play()
        put(mount, KEY)
        assert kinds(reader, 1) == [[7, 8, 5]]
        mount._wake = lambda: None  # it does not look
        put(mount, *[OTHER] * (MAX_PENDING + 10))
        assert len(mount.pending) <= MAX_PENDING
        mount._wake = server._wake
        put(mount, OTHER, KEY)
        seen = kinds(reader, 1)
        while seen[-1] == [1]:  # it may have looked of its own accord, now and then
            seen += kinds(reader, 1)
        assert seen[-1] == [7, 8, 5]
        assert len(seen) <= MAX_PENDING


# --- slow, dead and hostile clients ---


def test_a_slow_viewer_loses_images_and_delays_no_other(server, mount):
    files = [large_jpeg(number) for number in range(60)]
    with Reader(server, receive_bytes=4096) as slow, Reader(server) as quick:
        slow.play()
        quick.play()
        for number, file in enumerate(files):
            put(mount, file, time_ns=number * 40_000_000)
            assert [p.payload for p in quick.picture()] == Jpeg().payloads(file)
        viewer = max(mount.viewers, key=lambda viewer: viewer.unsent_bytes)
        assert len(viewer.sender.waiting) <= 1
        assert not mount.pending
        # What it got is whole pictures without a gap in the numbers, and the newest is among it.
        got, want = [], [Jpeg().payloads(file) for file in files]
        while not got or got[-1] != want[-1]:
            packets = slow.picture()
            got.append([packet.payload for packet in packets])
            assert got[-1] in want
        assert len(got) < len(files) / 2
        assert slow.ask("GET_PARAMETER").code == 200


def test_behind_lost_pictures_h264_goes_on_with_a_key_picture(server):
    mount = server.add("/a", H264(SPS, PPS), MOUNTS["key"])
    number = 0

    def unit(kind):
        nonlocal number
        number += 1
        return access_unit(bytes([kind]) + struct.pack(">I", number) + bytes(60_000))

    with Reader(server, receive_bytes=4096) as slow, Reader(server) as quick:
        slow.play()
        quick.play()
        for _ in range(10):
            for kind in (0x65, *[0x41] * 19):
                put(mount, unit(kind))
                quick.picture()
        viewer = max(mount.viewers, key=lambda viewer: viewer.unsent_bytes)
        assert viewer.sender.waiting_bytes <= MAX_WAITING_BYTES
        put(mount, unit(0x65))
        quick.picture()
        numbers, keys = [], []
        while not numbers or numbers[-1] < number:
            packets = [p for p in slow.picture() if p.payload[0] & 31 == 28]
            numbers.append(int.from_bytes(packets[0].payload[2:6], "big"))
            keys.append(packets[0].payload[1] & 31 == 5)
        behind_gaps = [
            key
            for before, after, key in zip(numbers, numbers[1:], keys[1:], strict=False)
            if after != before + 1
        ]
        assert behind_gaps
        assert all(behind_gaps)


def test_one_who_takes_nothing_is_sent_away(server, mount, monkeypatch):
    monkeypatch.setattr(session, "STALL_S", 0.3)
    file = large_jpeg(0)
    with Reader(server, receive_bytes=4096) as frozen:
        frozen.play()

        def gone():
            put(mount, file)
            return not mount.watched

        wait_until(gone)


def test_one_who_asks_for_nothing_is_sent_away(server, mount, monkeypatch):
    monkeypatch.setattr(session, "SETUP_S", 0.3)
    with Reader(server) as silent, Reader(server) as half:
        half.socket.sendall(b"DESCRIBE rtsp://127.0.0.1/a RTSP/1.0\r\nCSeq")
        assert silent.is_over()
        assert half.is_over()


def test_too_many_viewers_get_an_error():
    server = RtspServer(max_clients=3)
    server.open()
    server.add("/a", Jpeg())
    try:
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(Reader(server)) for _ in range(3)]
            for reader in readers:
                reader.ask("OPTIONS")
            with Reader(server) as late:
                assert late.answer().code == 503
                assert late.is_over()
            readers[0].socket.close()

            def let_in():
                with Reader(server) as again:
                    try:
                        return again.ask("OPTIONS").code == 200
                    except (ConnectionError, KeyError):
                        return False

            wait_until(let_in)
    finally:
        server.close()


RUBBISH = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600) + b"\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nCSeq: -1\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nno colon\r\n\r\n",
    b"OPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n",
    b"OPTIONS\r\n\r\n",
    b"DESCRIBE rtsp://a/\nX: y RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    b"\0" * 10_000,
    b"OPTIONS * RTSP/1.0\r\nX: " + b"a" * 10_000,
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
def test_what_is_no_request_is_refused_and_the_connection_ended(server, mount, rubbish):
    with Reader(server) as reader:
        reader.socket.sendall(rubbish)
        assert reader.answer().code in (400, 413, 505)
        assert reader.is_over()


def test_a_body_and_reports_of_the_reader_are_passed_over(server, mount):
    with Reader(server) as reader:
        reader.socket.sendall(
            b"$\x01\x00\x08" + bytes(8) + b"\r\n"
            b"GET_PARAMETER rtsp://a/a RTSP/1.0\r\nCSeq: 7\r\nContent-Length: 5\r\n\r\nhello"
            b"$\x00\x00\x00OPTIONS * RTSP/1.0\r\nCSeq: 8\r\n\r\n"
        )
        assert [reader.answer()["CSeq"] for _ in range(2)] == ["7", "8"]


def test_requests_may_come_in_any_pieces(server, mount):
    with Reader(server) as reader:
        for byte in b"OPTIONS * RTSP/1.0\r\nCSeq: 3\r\n\r\n":
            reader.socket.sendall(bytes([byte]))
        assert reader.answer()["CSeq"] == "3"


def test_a_flood_of_requests_waits_until_its_answers_are_read(server, mount):
    asked = b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    with Reader(server, receive_bytes=4096) as flood:
        flood.socket.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += flood.socket.send(asked * 1000)
        assert sent < 64 << 20, "the server heard all of it and kept the answers"
        with Reader(server) as other:
            assert other.ask("DESCRIBE").code == 200
        flood.socket.settimeout(DEADLINE_S)
        for _ in range(sent // len(asked)):
            assert flood.answer().code == 200


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    some.lists(
        some.one_of(
            some.binary(max_size=200),
            some.sampled_from(
                [
                    b"SETUP rtsp://x/a RTSP/1.0\r\n",
                    b"PLAY rtsp://x/a RTSP/1.0\r\n",
                    b"CSeq: 1\r\n",
                    b"Transport: RTP/AVP/TCP\r\n",
                    b"Authorization: Digest\r\n",
                    b"Session: \r\n",
                    b"\r\n",
                    b"$\x00\xff\xff",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_rubbish_harms_no_other_viewer(server, mount, parts):
    with socket.create_connection((server.address, server.port)) as rude:
        rude.sendall(b"".join(parts))
    with Reader(server) as reader:
        assert reader.ask("DESCRIBE").code == 200


def test_many_who_come_and_go_leave_nothing_behind(server, mount):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for number in range(200):
        with Reader(server) as reader:
            if number % 2:
                reader.setup(transport="RTP/AVP;unicast;client_port=40000-40001")
                reader.ask("PLAY")
            else:
                reader.play()
    wait_until(lambda: not mount.watched and descriptors() <= before)


# --- who may look ---


def digest(challenge, method, uri, user="guest", password="secret", **more):
    """The answer to a digest challenge, worked out by the book (RFC 7616, 3.4)."""
    nonce = re.search(r'nonce="([^"]*)"', challenge)[1]
    realm = re.search(r'realm="([^"]*)"', challenge)[1]

    def md5(text):
        return hashlib.md5(text.encode()).hexdigest()

    middle = "".join(f"{more[key]}:" for key in ("nc", "cnonce", "qop") if key in more)
    ha1, ha2 = md5(f"{user}:{realm}:{password}"), md5(f"{method}:{uri}")
    fields = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": uri,
        "response": md5(f"{ha1}:{nonce}:{middle}{ha2}"),
        **more,
    }
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


def basic(user="guest", password="secret"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def locked():
    made = RtspServer(credentials=CameraCredentials("guest", "secret"))
    made.open()
    made.add("/a", Jpeg())
    yield made
    made.close()


def test_the_example_of_rfc_7616_is_right(monkeypatch):
    # Section 3.9.1, for MD5.
    monkeypatch.setattr(auth, "REALM", "http-auth@example.org")
    header = (
        'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", '
        'algorithm=MD5, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
        'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
        'response="8ca523f5e9506fed4657c9700eebdbec", '
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    assert Credentials("Mufasa", "Circle of Life").accepts(header, "GET", nonce)
    assert not Credentials("Mufasa", "Circle of Strife").accepts(header, "GET", nonce)
    assert not Credentials("Mufasa", "Circle of Life").accepts(header, "PUT", nonce)
    assert not Credentials("Mufasa", "Circle of Life").accepts(header, "GET", "another")


@pytest.mark.parametrize("method", ["DESCRIBE", "SETUP", "PLAY", "TEARDOWN", "GET_PARAMETER"])
@pytest.mark.parametrize("path", ["/a", "/b"])
def test_without_a_password_no_stream_is_described(locked, method, path):
    with Reader(locked) as reader:
        answer = reader.ask(method, path)
        assert answer.code == 401
        offers = [line.partition(" ")[0] for line in answer.headers["www-authenticate"]]
        assert offers == ["Digest", "Basic"]


@pytest.mark.parametrize("more", [{}, {"qop": "auth", "nc": "00000001", "cnonce": "abc"}])
def test_a_digest_is_let_in(locked, more):
    with Reader(locked) as reader:
        challenge = reader.ask("DESCRIBE")["WWW-Authenticate"]
        uri = locked.url("/a")
        header = digest(challenge, "DESCRIBE", uri, **more)
        assert reader.ask("DESCRIBE", Authorization=header).code == 200
        assert reader.ask("SETUP", Authorization=header).code == 401, "an answer is to one method"


def test_a_basic_password_is_let_in_where_it_is_offered(locked):
    with Reader(locked) as reader:
        assert reader.ask("DESCRIBE", Authorization=basic()).code == 200
    locked.credentials = Credentials("guest", "secret")
    with Reader(locked) as reader:
        answer = reader.ask("DESCRIBE", Authorization=basic())
        assert answer.code == 401
        assert [v.partition(" ")[0] for v in answer.headers["www-authenticate"]] == ["Digest"]


def test_a_digest_of_another_connection_is_worth_nothing(locked):
    with Reader(locked) as one, Reader(locked) as other:
        header = digest(one.ask("DESCRIBE")["WWW-Authenticate"], "DESCRIBE", "x")
        assert other.ask("DESCRIBE", Authorization=header).code == 401
        assert one.ask("DESCRIBE", Authorization=header).code == 200


@pytest.mark.parametrize(
    "header",
    [
        basic(password="wrong"),
        basic(user="wrong"),
        "Basic",
        "Basic \xe4",
        "Digest",
        "Bearer secret",
        'Digest username="guest", response=""',
    ],
)
def test_a_wrong_password_is_refused_and_those_who_try_many_are_cut_off(locked, header, caplog):
    with Reader(locked) as reader:
        for _ in range(session.MAX_REFUSALS):
            assert reader.ask("DESCRIBE", Authorization=header).code == 401
        assert reader.is_over()
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines == ["wrong user or password from 127.0.0.1"]


def test_no_password_is_shown(locked):
    assert "secret" not in repr(locked.credentials)


# --- coming and going ---


def test_a_path_that_is_removed_says_goodbye_and_is_not_found(server, mount):
    with Reader(server) as reader, Reader(server) as waiting:
        reader.play()
        waiting.setup()
        put(mount, jpeg())
        reader.picture()
        reader.packet(1)
        server.remove("/a")
        assert Report(reader.packet(1)).kinds == [200, 202, 203]
        assert reader.is_over()
        assert waiting.ask("PLAY").code == 404
        assert waiting.ask("DESCRIBE").code == 404
        server.add("/a", Jpeg())
        assert waiting.ask("DESCRIBE").code == 200


def test_a_server_that_closes_says_goodbye(mount, server):
    with Reader(server) as reader:
        reader.play()
        put(mount, jpeg())
        reader.picture()
        reader.packet(1)
        server.close()
        assert Report(reader.packet(1)).kinds == [200, 202, 203]
        assert reader.is_over()
    server.close()  # twice is once


def test_a_port_can_be_taken_again_at_once(mount, server):
    with Reader(server) as reader:
        reader.play()
        server.close()  # the closing side keeps the connection in TIME_WAIT
        again = RtspServer(port=server.port)
        again.open()
        again.close()


def test_a_port_that_is_taken_is_an_error(server):
    with pytest.raises(OSError, match="in use"):
        RtspServer(port=server.port).open()


def test_it_listens_at_an_ipv6_address(ports):
    server = RtspServer("::1")
    try:
        server.open()
    except OSError:
        pytest.skip("this machine has no IPv6")
    mount = server.add("/a", Jpeg())
    try:
        assert server.url("/a") == f"rtsp://[::1]:{server.port}/a"
        with socket.create_connection(("::1", server.port)) as connection:
            connection.sendall(
                b"SETUP rtsp://[::1]/a RTSP/1.0\r\nCSeq: 1\r\n"
                b"Transport: RTP/AVP;unicast;client_port=40000-40001\r\n\r\n"
            )
            assert b"server_port=" in connection.recv(4096)
        assert not mount.watched
    finally:
        server.close()


def test_packets_fit_an_ethernet_frame(server, mount):
    with Reader(server) as reader:
        reader.play()
        put(mount, large_jpeg(0))
        assert max(len(p.payload) for p in reader.picture()) <= PAYLOAD_BYTES
