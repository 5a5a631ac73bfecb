"""Reading with GStreamer: cameras that fail, pipelines of one's own, and what closing leaves."""

import http.server
import itertools
import subprocess
import sys
import threading
import time
from functools import partial

import cv2
import numpy as np
import pytest

from pipeline.errors import SetupError, SourceError
from pipeline.frame import Frame
from stages.capture import gstreamer
from stages.capture import live_reader as live
from stages.capture.capture import CaptureSettings
from stages.capture.gstreamer import GStreamerVideo, check, missing_gstreamer
from stages.sinks.rtsp.server import RtspServer
from tests.builders import CLIP, ROOT, header
from tests.camera import Camera, read_clock
from tests.http_camera import jpeg, serving
from tests.reading import DEADLINE_S, Reading, held
from tests.rtsp_h264 import CameraCredentials
from tests.webcam import Webcam, build, compiler


def loads():
    """Why GStreamer cannot be used here; "" if it can. Asked of a process of its own."""
    asked = subprocess.run(
        [sys.executable, "-m", "stages.capture.gstreamer"], cwd=ROOT, capture_output=True, text=True
    )
    return "" if asked.returncode == 0 else asked.stdout.strip() or asked.stderr[-200:]


LACKING = loads()
needs_gstreamer = pytest.mark.skipif(bool(LACKING), reason=LACKING)
pytestmark = [
    pytest.mark.live,
    # Of its bindings, which Python's importer finds old-fashioned.
    pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning"),
]
SECOND_NS = 1_000_000_000


def settings(source="x", **others):
    return CaptureSettings(source=source, **others)


@pytest.fixture
def video():
    """Makes readers, and closes them."""
    made = []

    def make(source="x", **others):
        made.append(GStreamerVideo(settings(str(source), **others)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def empty_frame():
    memory = np.full(1 << 22, 99, np.uint8)
    return Frame(header(limit=memory.nbytes), "demo", memoryview(memory))


def image(of):
    frame = empty_frame()
    assert of.retrieve(frame)
    return frame["image"]


def images(of, most=1000):
    found = []
    while len(found) < most and of.grab():
        found.append(image(of).copy())
    return found


# --- without GStreamer ---


def test_what_is_missing_is_said_before_the_run_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(gstreamer, "find_spec", lambda name: None)
    gstreamer._load.cache_clear()
    assert "`make gstreamer` installs" in missing_gstreamer()
    for line in (None, "videotestsrc ! appsink"):
        with pytest.raises(SetupError, match="make gstreamer"):
            check(settings(backend="gstreamer", pipeline=line))
        with pytest.raises(SetupError, match="make gstreamer"):
            GStreamerVideo(settings(backend="gstreamer", pipeline=line))


def test_to_import_and_to_ask_loads_nothing():
    code = (
        "import sys; from stages.capture import capture, gstreamer; gstreamer.missing_gstreamer(); "
        "sys.exit(any(name.partition('.')[0] == 'gi' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- pipelines of one's own ---


@needs_gstreamer
@pytest.mark.parametrize(
    "line",
    [
        "videotestsrc ! appsink",
        "videotestsrc",
        "videotestsrc ! video/x-raw,format=YUY2 ! appsink name=mine max-buffers=9",
        "rtspsrc location=rtsp://u:p@host/x ! decodebin ! appsink",
        "videotestsrc ! tee name=t  t. ! queue ! fakesink  t. ! queue ! appsink",
    ],
)
def test_a_pipeline_may_end_in_an_appsink_or_where_one_can_follow(line):
    pipeline, sink = gstreamer._parse(line, own=True)
    assert sink.get_factory().get_name() == "appsink"
    assert sink.get_parent() == pipeline


REFUSED = [
    ("videotestsrc ! nonsense ! appsink", 'no element "nonsense"'),
    ("videotestsrc patern=ball ! appsink", 'no property "patern"'),
    ("videotestsrc ! autovideosink", "`! appsink` at its end"),
    ("appsink", "could not link"),
    ("videotestsrc ! ! appsink", "syntax error"),
    ("videotestsrc ! tee name=t t. ! appsink t. ! appsink", "has 2 appsinks"),
    ("$(touch here) ! appsink", "syntax error"),
    ("rtspsrc location=rtsp://guest:secret@h/x protocols=morse ! appsink", "protocols"),
]


@needs_gstreamer
@pytest.mark.parametrize(("line", "complaint"), REFUSED)
def test_a_pipeline_that_cannot_be_made_is_refused_in_one_line(line, complaint, video):
    with pytest.raises(SetupError) as refused:
        video(pipeline=line)
    text = str(refused.value)
    assert text.startswith("pipeline: ")
    assert complaint in text
    assert "\n" not in text
    assert "secret" not in text


@needs_gstreamer
def test_it_is_refused_before_the_run(video):
    check(settings(pipeline="videotestsrc ! appsink"))
    line, complaint = REFUSED[-1]
    with pytest.raises(SetupError, match=f"^pipeline: .*{complaint}") as refused:
        check(settings(pipeline=line))
    assert "secret" not in str(refused.value)


@needs_gstreamer
@pytest.mark.parametrize("width", [320, 321, 322, 323])
@pytest.mark.parametrize("form", ["BGR", "BGRx", "RGB", "I420", "YUY2"])
def test_rows_of_any_width_come_without_their_padding(form, width, video):
    bars = images(
        video(
            pipeline=f"videotestsrc num-buffers=2 pattern=smpte ! "
            f"video/x-raw,format={form},width={width},height=31"
        )
    )
    assert [bar.shape for bar in bars] == [(31, width, 3)] * 2
    assert (bars[0][:8] == bars[0][0]).all()  # upright bars: not a row is shifted
    first, last = bars[0][0, 2].tolist(), bars[0][0, width - 3].tolist()
    assert len(set(first)) == 1  # white
    assert last[0] > 150  # blue, in BGR
    assert last[2] < 40


@needs_gstreamer
def test_a_file_is_read_to_its_end_each_picture_once(video):
    own = video(pipeline=f"filesrc location={CLIP} ! decodebin ! appsink")
    assert own.finite
    stamps = []
    while own.grab():
        stamps.append(own.source_ns)
    assert own.trouble() == ("", "")
    assert stamps == [round(i * SECOND_NS / 10) for i in range(300)]
    assert own.decoder == "GStreamer avdec_h264"
    assert not own.grab()


@needs_gstreamer
def test_it_gives_the_same_pictures_as_opencv(video):
    with Reading(str(CLIP), frames=5) as reading:
        reading.to_the_end()
    for ours, theirs in zip(images(video(CLIP), 5), reading.pictures, strict=True):
        apart = np.abs(ours.astype(int) - theirs.image)
        assert apart.mean() < 2  # they round, and weigh colour, each in their own way


@needs_gstreamer
def test_a_picture_without_a_timestamp_has_none(video):
    own = video(
        pipeline="fakesrc num-buffers=3 sizetype=fixed sizemax=27648 ! "
        "video/x-raw,format=BGR,width=96,height=96,framerate=0/1",
        mode="lossless",
    )
    stamps = []
    while own.grab():
        stamps.append(own.source_ns)
    assert stamps == [-1, -1, -1]


@needs_gstreamer
def test_a_test_picture_is_played_at_its_own_pace(video):
    own = video(pipeline="videotestsrc ! video/x-raw,framerate=50/1 ! appsink")
    assert not own.finite
    began = time.monotonic_ns()
    assert len(images(own, 26)) == 26
    assert time.monotonic_ns() - began > 0.4 * SECOND_NS


@needs_gstreamer
@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("filesrc location=/no/such ! decodebin", "not_found", 'No such file "..."'),
        (f"filesrc location={ROOT}/README.md ! decodebin", "unsupported", "text file"),
        ("rtspsrc location=rtsp://a:secret@127.0.0.1:1/ ! decodebin", "failed", "rtspsrc"),
        ("videotestsrc num-buffers=0", "closed", "the pipeline has ended"),
        ("videotestsrc ! audio/x-raw ! decodebin", "", "could not link"),
    ],
)
def test_what_goes_wrong_in_a_pipeline_is_told_in_its_own_words(line, kind, text, video):
    with pytest.raises(SetupError) as error:
        video(pipeline=line)
    assert text in str(error.value)
    assert getattr(error.value, "kind", "") == kind
    assert "secret" not in str(error.value)


@needs_gstreamer
def test_a_pipeline_that_gives_nothing_is_given_up(video, monkeypatch):
    monkeypatch.setattr(gstreamer, "OPEN_TIMEOUT_S", 0.5)
    with pytest.raises(SourceError, match=r"no picture has come within 0\.5 s") as error:
        video(pipeline="appsrc is-live=true ! appsink")
    assert error.value.kind == "frozen"


# --- decoders ---


@needs_gstreamer
def test_a_decoder_in_hardware_that_fails_gives_way_to_one_in_software(video):
    code = """
import sys
from stages.capture import gstreamer
from stages.capture.capture import CaptureSettings
parts = gstreamer._load()
Gst = parts.gst
from gi.repository import GObject

def template(name, direction, caps):
    return Gst.PadTemplate.new(name, direction, Gst.PadPresence.ALWAYS, Gst.Caps.from_string(caps))

class Broken(Gst.Element):
    __gstmetadata__ = ("Broken", "Codec/Decoder/Video/Hardware", "Is there and fails", "us")
    __gsttemplates__ = (
        template("sink", Gst.PadDirection.SINK, "video/x-h264"),
        template("src", Gst.PadDirection.SRC, "video/x-raw,format=NV12"),
    )

    def __init__(self):
        super().__init__()
        for made in self.__gsttemplates__:
            self.add_pad(Gst.Pad.new_from_template(made, made.name_template))
        self.get_static_pad("sink").set_chain_function_full(self.fail)
        self.get_static_pad("sink").set_event_function_full(self.event)

    def event(self, pad, parent, event):
        if event.type == Gst.EventType.CAPS:
            caps = Gst.Caps.from_string("video/x-raw,format=NV12,width=64,height=64,framerate=1/1")
            return self.get_static_pad("src").push_event(Gst.Event.new_caps(caps))
        return self.get_static_pad("src").push_event(event)

    def fail(self, pad, parent, buffer):
        tried.append(1)
        problem = GLib.Error.new_literal(Gst.StreamError.quark(), "no", Gst.StreamError.DECODE)
        self.post_message(Gst.Message.new_error(self, problem, "no such engine"))
        return Gst.FlowReturn.ERROR

tried = []
GLib = parts.glib
assert Gst.Element.register(None, "broken", gstreamer.HARDWARE_RANK, Broken)
for source in sys.argv[1:]:
    made = gstreamer.GStreamerVideo(CaptureSettings(source=source))
    assert made.grab(), made.trouble()
    print(made.decoder, len(tried))
    made.close()
"""
    with Camera() as camera:
        done = subprocess.run(
            [sys.executable, "-c", code, str(CLIP), camera.url(), camera.url()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout.splitlines() == ["GStreamer avdec_h264 1"] * 3, done.stderr


# --- real cameras ---


@pytest.fixture
def quick(monkeypatch):
    """Cameras are tried again at once."""
    monkeypatch.setattr(live, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(live, "LONGEST_DELAY_S", 0.1)


@pytest.fixture(scope="module")
def camera_with_password():
    with Camera(user="guest", password="s:e@c/r%t") as made:
        yield made


@needs_gstreamer
@pytest.mark.parametrize(
    ("login", "path", "kind", "text"),
    [
        ("", "/jpeg", "unauthorized", "put USER:PASSWORD@ before the host's name"),
        ("guest:wrong@", "/jpeg", "unauthorized", "wrong user or password"),
        ("guest:s%3Ae%40c%2Fr%25t@", "/nope", "not_found", "has no such stream"),
    ],
)
def test_refusals_are_told_apart(camera_with_password, login, path, kind, text, video):
    with pytest.raises(SourceError) as error:
        video(f"rtsp://{login}127.0.0.1:{camera_with_password.port}{path}")
    assert error.value.kind == kind
    assert text in str(error.value)
    assert "wrong@" not in str(error.value)


@needs_gstreamer
def test_a_wrong_password_is_tried_once(video):
    """Or a camera would lock its user out."""
    refused = []
    server = RtspServer("127.0.0.1", 0, CameraCredentials("guest", "right"), ["tcp"])
    server.refused = refused.append
    server.open()
    try:
        with pytest.raises(SourceError, match="wrong user or password"):
            video(f"rtsp://guest:wrong@127.0.0.1:{server.port}/x")
    finally:
        server.close()
    assert len(refused) == 1


@needs_gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_any_password_opens_the_door(camera_with_password, transport, video):
    port = camera_with_password.port
    own = video(f"rtsp://guest:s%3Ae%40c%2Fr%25t@127.0.0.1:{port}/jpeg", transport=transport)
    assert own.grab()
    assert image(own).shape == (368, 640, 3)
    assert own.decoder == "GStreamer jpegdec"


@needs_gstreamer
@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("rtsp://guest:secret@127.0.0.1:1/x", "refused"),
        ("rtsp://guest:secret@no.such.invalid/x", "unknown_host"),
        ("rtsp://guest:secret@255.255.255.255/x", "unreachable"),
        ("rtsp://guest:secret@127.0.0.1:port/x", "failed"),
        ("http://guest:secret@127.0.0.1:1/x", "refused"),
        ("foo://guest:secret@bar", "unsupported"),
        ("/dev/video99", "no_device"),
    ],
)
def test_what_cannot_be_opened_says_why(address, kind, video):
    with pytest.raises(SourceError) as error:
        video(address)
    assert error.value.kind == kind
    assert "secret" not in str(error.value)


@needs_gstreamer
def test_a_camera_that_does_not_send_by_udp_says_so(video):
    with Camera(transports="tcp") as camera, pytest.raises(SourceError, match="UDP") as error:
        video(camera.url(), transport="udp")
    assert error.value.kind == "unsupported"


@needs_gstreamer
def test_a_camera_that_does_not_answer_is_given_up_in_time(video):
    with Camera() as camera:
        camera.freeze()
        began = time.monotonic()
        with pytest.raises(SourceError, match="does not answer") as error:
            video(camera.url())
        assert error.value.kind == "timeout"
        assert time.monotonic() - began < 3 * gstreamer.OPEN_TIMEOUT_S


def whole(picture):
    """The number and time that a picture of the clock tells; every one of them can be read."""
    clock = read_clock(picture.image)
    assert clock is not None
    return clock


def reads_in_order(reading):
    """Each picture once, and the clock goes on over all connections."""
    times = [picture.source_ns for picture in reading.pictures]
    assert all(before < after for before, after in itertools.pairwise(times))
    numbers = [whole(picture).wall_ms for picture in reading.pictures]
    assert all(before < after for before, after in itertools.pairwise(numbers))


@needs_gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_dies_and_comes_back_with_another_size_is_followed(transport, quick):
    with (
        Camera(fps=25) as camera,
        Reading(camera.url("/jpeg"), backend="gstreamer", transport=transport) as reading,
    ):
        assert {p.image.shape for p in reading.more(10)} == {(368, 640, 3)}
        camera.kill()
        reading.until_state("waiting", "refused")
        assert "closed" in reading.kinds
        before = len(reading.pictures)
        reading.step(0.3)
        assert len(reading.pictures) == before
        camera.restart(size="328x248")
        assert {p.image.shape for p in reading.more(10)} == {(248, 328, 3)}
        reads_in_order(reading)


@needs_gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_of_a_camera_that_froze_no_old_picture_comes(transport, quick):
    with (
        Camera(fps=25) as camera,
        Reading(
            camera.url("/jpeg"), backend="gstreamer", transport=transport, stall_timeout_s=0.5
        ) as reading,
    ):
        reading.more(5)
        camera.freeze()
        reading.until_state("waiting", "frozen")
        assert "no new picture has come for 0.5 s" in reading.conditions[-1].text
        before, thawed_ms = len(reading.pictures), time.time_ns() // 1_000_000
        camera.thaw()
        reading.more(5)
        assert all(whole(p).wall_ms >= thawed_ms for p in reading.pictures[before:])
        reads_in_order(reading)


@needs_gstreamer
def test_a_silent_camera_is_given_up_by_the_reader_itself(video):
    with Camera(fps=50, stall_after=30) as camera:
        own = video(camera.url("/jpeg"), stall_timeout_s=0.5)
        while own.grab():
            pass
        assert own.trouble() == ("frozen", "no new picture has come for 0.5 s")


@needs_gstreamer
def test_a_reader_that_waits_is_called_back(video):
    with Camera(fps=50, stall_after=1) as camera:
        own = video(camera.url("/jpeg"), stall_timeout_s=60)
        assert own.grab()
        threading.Timer(0.1, own.interrupt).start()
        began = time.monotonic()
        assert not own.grab()
        assert time.monotonic() - began < DEADLINE_S
        assert own.trouble() == ("", "")


@needs_gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_viewer_that_joins_amid_a_group_of_pictures_gets_whole_ones_only(transport, video):
    own, clip = video(CLIP), set()
    while own.grab():
        clip.add(hash(image(own).tobytes()))
    with Camera(start="after_key", fps=50) as camera:
        own, found = video(camera.url(), transport=transport), []
        while len(found) < 12:
            assert own.grab()
            found.append(hash(image(own).tobytes()))
    assert set(found) <= clip
    assert len(set(found)) == len(found)


LIVE = "videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1 ! appsink"
PERIOD_NS = SECOND_NS // 50


@needs_gstreamer
def test_a_reader_that_comes_late_gets_the_newest_picture_and_counts_the_others(video):
    own = video(pipeline=LIVE)
    assert own.grab()
    skipped, was_ns = 0, own.source_ns
    while own.source_ns < SECOND_NS:
        time.sleep(0.06)  # three pictures
        assert own.grab()
        passed, was_ns = round((own.source_ns - was_ns) / PERIOD_NS), own.source_ns
        if own.skipped < gstreamer.MOST_WAITING - 1:  # else the machine slept longer than that
            assert passed == 1 + own.skipped
        skipped += own.skipped
    assert skipped >= 10


@needs_gstreamer
def test_lossless_no_picture_is_left_out(video):
    own = video(pipeline=LIVE, mode="lossless")
    stamps = []
    for _ in range(20):
        time.sleep(0.03)  # slower than they come
        assert own.grab()
        stamps.append(own.source_ns)
    assert stamps == [number * PERIOD_NS for number in range(20)]


@needs_gstreamer
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_cameras_wall_clock_comes_with_its_pictures(transport, video):
    with Camera(fps=25) as camera:
        own = video(camera.url("/jpeg"), transport=transport)
        end = time.monotonic() + DEADLINE_S
        while own.ntp_ns < 0:  # until a sender report has come
            assert time.monotonic() < end
            assert own.grab()
        origin_ns = own.ntp_ns - own.source_ns
        for _ in range(5):
            made_ms = read_clock(image(own)).wall_ms
            assert abs(own.ntp_ns / 1e6 - made_ms) < 1000  # 1970 or 1900, UTC or not
            assert abs(own.ntp_ns - own.source_ns - origin_ns) < SECOND_NS / 100
            assert own.grab()


@needs_gstreamer
def test_closing_takes_everything_back():
    with Camera(fps=100) as camera:
        sources = [
            {"source": camera.url("/jpeg")},
            {"source": camera.url("/h264"), "transport": "udp"},
            {"source": camera.url("/nope")},
            {"source": "rtsp://127.0.0.1:1/"},
            {"source": "x", "pipeline": f"filesrc location={CLIP} ! decodebin"},
        ]

        def go_through_all():
            for one in sources:
                try:
                    own = GStreamerVideo(settings(**one))
                except SourceError:
                    continue
                assert own.grab()
                image(own)
                own.close()
                own.close()

        go_through_all()
        idle = least_held(for_s=2.0)
        for _ in range(6):
            go_through_all()
        descriptors, threads = least_held(for_s=DEADLINE_S, enough=idle)
        assert descriptors <= idle[0]
        assert threads <= idle[1]


def least_held(for_s, enough=(0, 0)):
    """Descriptors and threads; those of GStreamer's pool end when they have been idle a while."""
    least, end = held(), time.monotonic() + for_s
    while time.monotonic() < end and (least[0] > enough[0] or least[1] > enough[1]):
        time.sleep(0.05)
        now = held()
        least = min(least[0], now[0]), min(least[1], now[1])
    return least


# --- a webcam ---


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if compiler() is None:
        pytest.skip("there is no C compiler to build the webcam with: install gcc")
    folder = tmp_path_factory.mktemp("webcam")
    command = [str(compiler()), "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    ours = folder / "gstreamer.so"
    source = ROOT / "tests" / "webcam_gstreamer.c"
    subprocess.run([*command, "-o", str(ours), str(source), "-ldl"], check=True)
    return f"{ours} {build(folder)}"


@pytest.fixture
def webcam(library, tmp_path):
    made = Webcam(library, tmp_path)
    made.be("on")
    yield made
    made.end()


QUICK = {"FIRST_DELAY_S": 0.02, "LONGEST_DELAY_S": 0.1}


def in_order(said):
    numbers = [one["number"] for one in said if "number" in one]
    assert numbers == sorted(set(numbers))
    assert numbers


@needs_gstreamer
def test_a_webcam_is_read_in_the_size_nearest_to_what_is_asked(webcam):
    webcam.read(QUICK, backend="gstreamer", width=1920, height=1080, fps=29.97)
    assert {tuple(one["shape"]) for one in webcam.pictures(10)} == {(240, 320, 3)}
    assert webcam.close() == 0
    in_order(webcam.said)


@needs_gstreamer
def test_a_webcam_that_is_unplugged_is_waited_for(webcam):
    webcam.read(QUICK, backend="gstreamer")
    webcam.pictures(5)
    webcam.be("off")
    said = webcam.until(state="waiting", kind="no_device")[-1]
    assert "is it plugged in?" in said["text"]
    webcam.be("on", "640x480")
    webcam.until(state="live")
    assert webcam.pictures(5)[-1]["shape"] == [480, 640, 3]
    assert webcam.close() == 0
    in_order(webcam.said)


@needs_gstreamer
def test_a_webcam_that_falls_silent_is_opened_again(webcam):
    webcam.read(QUICK, backend="gstreamer", stall_timeout_s=0.5)
    webcam.pictures(5)
    webcam.be("silent")
    webcam.until(state="waiting", kind="frozen")
    webcam.be("on")
    webcam.until(state="live")
    webcam.pictures(5)
    assert webcam.close() == 0
    in_order(webcam.said)


@needs_gstreamer
def test_a_webcam_whose_driver_hangs_is_given_up_with_its_process(webcam):
    webcam.read(QUICK | {"STUCK_OPENING_S": 5.0}, backend="gstreamer", stall_timeout_s=0.5)
    webcam.pictures(5)
    webcam.be("stuck")
    webcam.until(error="StuckSource")  # it cannot even be closed
    assert webcam.close() == 1


@needs_gstreamer
def test_a_webcam_that_another_program_has_is_told(webcam):
    webcam.be("busy")
    webcam.read(QUICK, backend="gstreamer")
    said = webcam.until(error="SourceError")[-1]
    assert said["kind"] == "failed"
    assert "another program uses it" in said["text"]
    assert webcam.close() == 1


# --- files behind an address ---


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path.startswith("/live"):
            self.send_pictures()
            return
        if self.path.startswith("/locked") and "Authorization" not in self.headers:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def send_pictures(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        for number in range(5):
            picture = np.full((48, 64, 3), number * 40, np.uint8)
            jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
        self.wfile.write(b"--next\r\n")
        self.server.over.wait(DEADLINE_S)

    def translate_path(self, path):
        return super().translate_path(path.replace("/locked", ""))


@pytest.fixture
def served():
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(CLIP.parent))
    )
    server.over = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@needs_gstreamer
@pytest.mark.parametrize("place", ["{}/demo.mp4", "guest:secret@{}/locked/demo.mp4"])
def test_a_file_behind_an_address_ends_like_one(place, served, video):
    own = video("http://" + place.format(served))
    assert own.finite
    count = 0
    while own.grab():
        count += 1
    assert (count, own.trouble()) == (300, ("", ""))


@needs_gstreamer
@pytest.mark.parametrize(
    ("path", "kind"),
    [("nope.mp4", "not_found"), ("locked/demo.mp4", "unauthorized"), ("ORIGIN.md", "unsupported")],
)
def test_refusals_of_a_web_server_are_told_apart(path, kind, served, video):
    with pytest.raises(SourceError) as error:
        video(f"http://{served}/{path}")
    assert error.value.kind == kind


@needs_gstreamer
def test_a_camera_that_sends_jpegs_over_http_is_read_as_they_come(served, video):
    own = video(f"http://{served}/live", mode="lossless", stall_timeout_s=0.5)
    assert not own.finite
    greys = []
    while own.grab():
        greys.append(round(image(own).mean()))
    assert greys == [0, 40, 80, 120, 160]
    assert own.trouble()[0] == "frozen"


@needs_gstreamer
def test_the_clock_of_jpegs_over_http_is_not_believed(served, video):
    own = video(f"http://{served}/live", mode="lossless", stall_timeout_s=0.5)
    assert own.grab()
    assert own.rate_known is False


@needs_gstreamer
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (jpeg(), "image/jpeg", "answers with one picture; remove `backend: gstreamer`"),
        (b"<html><body>Login</body></html>", "text/html", "is a web page, not a video"),
    ],
    ids=["snapshot", "page"],
)
def test_what_is_no_stream_over_http_is_told_apart(body, kind, words, video):
    with serving(lambda handler: handler.give(body, kind)) as server:
        try:
            own = video(server.url())
            while own.grab():
                pass
            text = own.trouble()[1]
        except SourceError as error:
            text = str(error)
    assert words in text


@needs_gstreamer
def test_a_worker_that_is_forked_after_asking_and_checking_can_use_it():
    code = """
import os, sys
from stages.capture import capture
from stages.capture import gstreamer
from stages.capture.capture import CaptureSettings
import cv2
settings = CaptureSettings(source="x", pipeline=f"filesrc location={sys.argv[1]} ! decodebin")
gstreamer.check(settings)
for _ in range(2):
    if not (child := os.fork()):
        video = gstreamer.GStreamerVideo(settings)
        os._exit(7 if video.grab() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(CLIP)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["7", "7"], done.stderr
