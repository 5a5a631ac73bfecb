"""The reading thread of live sources: a scripted source, and real cameras that fail."""

import http.server
import itertools
import os
import socket
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.errors import SourceError, StuckSource
from pipeline.frame import Frame
from pipeline.status import SourceState
from stages import backoff
from stages.backoff import Backoff
from stages.capture import watchdog
from stages.capture.frame_offer import DropCounter
from stages.capture.live_reader import LiveReader
from stages.capture.reader import Reader
from tests.builders import CLIP, header, pixels
from tests.camera import Camera, read_clock
from tests.reading import DEADLINE_S, Reading, held

pytestmark = pytest.mark.live

SECOND_NS = 1_000_000_000


# --- a scripted source ---


class Scripted(Reader):
    """Images from a list: a number is an image; a pair is the reason of an end; an event blocks
    until it is set or, if the reader is `gentle`, interrupted."""

    decoder = "script"
    source_ns = -1

    def __init__(self, script, gentle=True):
        self.script, self.gentle = list(script), gentle
        self.interrupted = threading.Event()
        self.entered = threading.Event()
        self.closed = 0
        self.image = self.end = None

    def grab(self):
        if not self.script:
            self.end = ("closed", "the script is over")
            return False
        what = self.script.pop(0)
        if isinstance(what, threading.Event):
            self.entered.set()
            while not what.wait(0.01):
                if self.gentle and self.interrupted.is_set():
                    return True  # with an image that was left over
            return self.grab()
        if isinstance(what, tuple):
            self.end = what
            return False
        self.image = what
        return True

    def retrieve(self, frame):
        frame.put("image", np.full((2, 2, 3), self.image, np.uint8))
        return True

    def end_reason(self):
        return self.end

    def interrupt(self):
        self.interrupted.set()

    def close(self):
        self.closed += 1


class Lab:
    """A `LiveReader` on scripted connections: readers, or the errors that opening raises."""

    def __init__(self, *connections, **options):
        self.connections, self.opened = list(connections), []
        self.drops, self.frame = DropCounter(), None
        self.notified = threading.Semaphore(0)
        chances = options.pop("backoff", None) or Backoff()
        self.live = LiveReader(
            self.connect, self.drops, self.notified.release, backoff=chances, **options
        )

    def connect(self):
        what = self.connections.pop(0) if self.connections else SourceError("none is left")
        self.opened.append(what)
        if isinstance(what, Exception):
            raise what
        return what

    def offer(self):
        self.frame = Frame(header(), "demo", memoryview(np.empty(1 << 12, np.uint8)))
        self.live.offer(self.frame)

    def wait_for(self, so):
        end = time.monotonic() + DEADLINE_S
        while not so():
            assert time.monotonic() < end, (self.live.condition, self.opened)
            time.sleep(0.001)

    def next(self):
        """Return the next image."""
        self.wait_for(lambda: self.live.collect() is not None)
        assert self.live.collect()
        value = pixels(self.frame)
        self.offer()
        return value


@pytest.fixture
def quick(monkeypatch):
    """Retry lost cameras at once."""
    monkeypatch.setattr(backoff, "INITIAL_DELAY_S", 0.02)
    monkeypatch.setattr(backoff, "MAX_DELAY_S", 0.1)


@pytest.fixture
def lab(quick):
    made = []

    def make(*connections, **options):
        made.append(Lab(*connections, newest=False, **options))
        made[-1].offer()
        return made[-1]

    yield make
    for one in made:
        one.live.stop()
        assert not one.live.is_alive()


def test_a_source_that_is_lost_is_opened_again_until_it_comes_back(lab):
    made = lab(
        Scripted([1, 2, ("closed", "gone")]),
        SourceError("no answer", "refused"),
        SourceError("no answer", "refused"),
        Scripted([3, threading.Event()]),
        first=Scripted([0]),
    )
    made.live.start()
    assert [made.next() for _ in range(4)] == [0, 1, 2, 3]
    assert made.live.condition.state == "live"
    assert [getattr(one, "kind", "open") for one in made.opened] == [
        "open",
        "refused",
        "refused",
        "open",
    ]
    assert made.opened[0].closed == 1


def test_while_a_source_is_lost_its_state_has_reason_and_retry_time(lab):
    backoff = Backoff(lambda: 0.5)
    backoff.delay_s = lambda lived_s: 1000.0
    made = lab(SourceError("wrong user or password", "unauthorized"), backoff=backoff)
    assert made.live.condition == SourceState("opening")
    made.live.start()
    made.wait_for(lambda: made.live.condition.state == "waiting")
    assert made.live.condition == SourceState(
        "waiting", "unauthorized", "wrong user or password", 1000.0
    )
    assert made.live.collect() is None
    assert made.live.decoder == ""
    assert len(made.opened) == 1  # no further attempt


def test_a_camera_with_images_too_large_for_a_slot_waits(lab):
    large = Scripted([2, 3])
    large.retrieve = lambda frame: frame.empty("image", (999, 999, 3), np.uint8)
    made = lab(Scripted([4, threading.Event()]), first=Scripted([1, ("closed", "gone")]))
    made.connections.insert(0, large)
    conditions = []
    made.live._set_condition = lambda condition, set_=made.live._set_condition: (
        conditions.append(condition),
        set_(condition),
    )
    made.live.start()
    assert [made.next(), made.next()] == [1, 4]
    assert made.drops.take() == (0, 1)
    (too_large,) = (one for one in conditions if one.kind == "unsupported")
    assert "larger than `max_frame`" in too_large.text
    assert large.closed == 1


def test_without_reconnect_a_lost_source_ends(lab):
    made = lab(first=Scripted([1, ("closed", "gone")]), reconnect=False)
    made.live.start()
    assert made.next() == 1
    made.wait_for(lambda: made.live.collect() is False)
    assert made.live.problem == "gone"
    assert made.live.condition == SourceState("ended", text="gone")


def test_an_expected_end_is_not_recovered_from(lab):
    made = lab(first=Scripted([1, ("", "")]))
    made.live.start()
    assert made.next() == 1
    made.wait_for(lambda: made.live.collect() is False)
    assert (made.live.problem, made.opened) == ("", [])


def test_silence_is_noticed_from_outside_and_late_images_dropped(lab):
    silent = Scripted([1, threading.Event()])
    made = lab(Scripted([2, threading.Event()]), first=silent, stall_timeout_s=0.1)
    made.live.start()
    assert made.next() == 1
    # Only the condition is read, as when no frame can be offered.
    made.wait_for(lambda: made.live.condition.kind == "frozen" or made.opened)
    assert silent.interrupted.is_set()
    assert made.next() == 2  # not the image that was left over
    assert silent.closed == 1


def test_an_image_that_took_too_long_is_dropped_without_a_watchdog(lab, monkeypatch):
    late = threading.Event()
    made = lab(Scripted([3]), first=Scripted([1, late, 2]), stall_timeout_s=0.05)
    monkeypatch.setattr(made.live, "check_stalled", lambda: (0.0, 1.0))
    made.live.start()
    assert made.next() == 1
    time.sleep(0.06)  # the silence itself
    late.set()
    assert made.next() == 3


def test_the_first_image_may_take_longer(lab):
    slow = threading.Event()
    made = lab(Scripted([9]), first=Scripted([slow, 1]), stall_timeout_s=0.01)
    made.live.start()
    time.sleep(0.05)  # longer than the stall timeout
    assert made.live.condition == SourceState("opening")
    slow.set()
    assert made.next() == 1


def test_a_library_that_does_not_return_raises_stuck_source(lab, monkeypatch):
    monkeypatch.setattr(watchdog, "STUCK_S", 0.5)
    hung = threading.Event()
    made = lab(first=Scripted([1, hung], gentle=False), stall_timeout_s=0.05)
    made.live.start()
    assert made.next() == 1
    try:
        with pytest.raises(StuckSource, match="has not returned for"):
            made.wait_for(lambda: made.live.collect() is not None)
        assert made.live.condition.kind == "frozen"
        made.live.stop()  # does not wait for the thread
        assert made.live.is_alive()
    finally:
        made.live.stop()
        hung.set()
        made.live.join(DEADLINE_S)


def test_a_pause_releases_the_source(lab):
    first = Scripted([1, threading.Event()])
    made = lab(Scripted([2, threading.Event()]), first=first)
    made.live.start()
    assert made.next() == 1
    assert first.entered.wait(DEADLINE_S)
    made.live.pause()
    assert made.live.condition == SourceState("paused")
    made.wait_for(lambda: first.closed)
    assert (made.opened, made.live.collect()) == ([], None)
    made.live.resume()
    assert made.live.condition.state in ("opening", "live")
    assert made.next() == 2


def test_a_pause_that_is_over_before_it_was_noticed_is_not_a_loss(lab):
    first = Scripted([1, threading.Event()])
    made = lab(Scripted([2, threading.Event()]), first=first, reconnect=False)
    made.live.start()
    assert made.next() == 1
    assert first.entered.wait(DEADLINE_S)
    made.live.pause()
    made.live.resume()
    assert made.next() == 2


def test_a_source_that_waits_can_be_paused_and_resumed_at_once(lab):
    backoff = Backoff()
    backoff.delay_s = lambda lived_s: 1000.0
    made = lab(SourceError("no", "refused"), Scripted([1]), backoff=backoff)
    made.live.start()
    made.wait_for(lambda: made.live.condition.state == "waiting")
    made.live.pause()
    made.wait_for(lambda: made.live.condition.state == "paused")
    made.live.resume()  # retries at once
    assert made.next() == 1


@pytest.mark.parametrize("finite", [False, True])
def test_stopping_while_paused_closes_the_source(finite, lab):
    first = Scripted([1, threading.Event(), 2])
    first.finite = finite
    made = lab(first=first)
    made.live.start()
    assert made.next() == 1
    made.live.pause()
    first.script and first.script[0].set()
    made.live.stop()
    assert first.closed == 1


def test_a_reader_that_was_never_started_is_closed_too(lab):
    first = Scripted([1])
    made = lab(first=first)
    made.live.stop()
    assert first.closed == 1


def test_counts_of_several_threads_are_complete():
    missed, threads = DropCounter(), []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: [missed.add(1, 2) for _ in range(2000)]))
        threads[-1].start()
    total = np.zeros(2, int)
    while any(thread.is_alive() for thread in threads):
        total += missed.take()
    total += missed.take()
    assert total.tolist() == [8000, 16000]


# --- a real camera ---


@pytest.fixture
def camera():
    with Camera(fps=25) as made:
        yield made


def whole(frame):
    """Return number and time from an image of the clock; each image must be readable."""
    clock = read_clock(frame.image)
    assert clock is not None
    return clock


def in_order(reading):
    """Check that each image came once, and that the clock went on over all connections."""
    times = [frame.source_ns for frame in reading.frames]
    assert all(before < after for before, after in itertools.pairwise(times))
    walls = [whole(frame).wall_ms for frame in reading.frames]
    assert all(before < after for before, after in itertools.pairwise(walls))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_returns_with_another_size_is_followed(camera, transport, quick):
    with Reading(camera.url("/jpeg"), transport=transport) as reading:
        assert {p.image.shape for p in reading.more(10)} == {(368, 640, 3)}
        camera.kill()
        reading.until_state("waiting", "refused")
        before = len(reading.frames)
        reading.step(0.3)
        assert len(reading.frames) == before  # none, black, repeated or otherwise
        camera.restart(size="320x240")
        assert {p.image.shape for p in reading.more(10)} == {(240, 320, 3)}
        assert reading.states[-3:] == ["live", "waiting", "live"]
        assert "closed" in reading.kinds
        in_order(reading)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_froze_gives_no_old_image(camera, transport, quick):
    with Reading(camera.url("/jpeg"), transport=transport, stall_timeout_s=0.5) as reading:
        reading.more(5)
        camera.freeze()
        reading.until_state("waiting", "frozen")
        before, thawed_ms = len(reading.frames), time.time_ns() // 1_000_000
        camera.thaw()
        assert len(reading.more(5)) == 5
        assert all(whole(p).wall_ms >= thawed_ms for p in reading.frames[before:])
        in_order(reading)


def test_a_camera_that_answers_but_gives_no_more_images_is_frozen(quick):
    with (
        Camera(fps=50, stall_after=40) as camera,
        Reading(camera.url("/jpeg"), stall_timeout_s=0.5) as reading,
    ):
        reading.until_state("waiting", "frozen")
        assert reading.frames
        assert "no new image for 0.5 s" in reading.conditions[-1].text
        camera.restart(stall_after=None)
        reading.more(3)
        in_order(reading)


def test_a_slow_camera_is_not_lost_and_its_clock_stays_near(quick):
    with Camera(fps=100, slow=True) as camera, Reading(camera.url("/jpeg")) as reading:
        reading.until(lambda: reading.frames and reading.frames[-1].source_ns > 3 * SECOND_NS)
        assert reading.states[-1] == "live"
        assert "waiting" not in reading.states
        in_order(reading)
        for frame in reading.frames:
            came_ns = frame.captured_ns - reading.started_ns
            assert abs(frame.source_ns - came_ns) <= SECOND_NS


def test_a_viewer_that_joins_amid_a_group_gets_whole_images_only(quick):
    with Reading(str(CLIP), frames=300) as reading:
        reading.to_the_end()
        clip = {p.image.tobytes() for p in reading.frames}
    with Camera(start="after_key") as camera, Reading(camera.url("/h264")) as reading:
        found = [p.image.tobytes() for p in reading.more(12)]
    assert set(found) <= clip
    assert len(set(found)) == len(found)


def test_the_newest_image_wins_and_the_others_are_counted(quick):
    with Camera(fps=50) as camera, Reading(camera.url("/jpeg")) as reading:
        reading.more(3)
        reading.until(lambda: reading.capture.collect() is True)
        asleep_until = time.monotonic() + 1.0
        while time.monotonic() < asleep_until:  # a busy pipeline offers no frame
            reading.missed += reading.capture.missed()
            time.sleep(0.05)
        assert reading.missed[0] >= 10
        first, second = reading.more(2)
        assert whole(second).number - whole(first).number >= 10
        in_order(reading)


def test_with_wait_a_camera_may_be_missing_at_the_start(camera, quick):
    camera.kill()
    started = time.monotonic()
    with Reading(camera.url("/jpeg"), wait=True) as reading:
        assert time.monotonic() - started < DEADLINE_S
        reading.until_state("waiting", "refused")
        camera.restart()
        reading.more(3)
        assert reading.states[-2:] == ["waiting", "live"]
        assert reading.capture.info()["decoder"] == "OpenCV FFmpeg MJPG"


def test_after_a_crash_a_camera_is_waited_for_without_the_setting(camera, quick):
    camera.kill()
    with pytest.raises(SourceError), Reading(camera.url("/jpeg")):
        pass
    with Reading(camera.url("/jpeg"), context={"restarted": True}) as reading:
        reading.until_state("waiting", "refused")
        camera.restart()
        reading.more(3)


def test_without_reconnect_a_lost_camera_ends_the_run(camera, quick):
    with Reading(camera.url("/jpeg"), reconnect=False) as reading:
        reading.more(3)
        camera.kill()
        reading.to_the_end()
        assert reading.capture.problem() == (
            f"{camera.url('/jpeg')}: stream ended by the other side"
        )
        assert reading.conditions[-1].state in ("live", "ended")


def test_a_limit_of_frames_is_an_expected_end_of_a_camera(camera, quick):
    with Reading(camera.url("/jpeg"), frames=7) as reading:
        reading.to_the_end()
        assert len(reading.frames) + reading.missed[0] == 7
        assert reading.capture.problem() is None


def test_a_paused_camera_is_released_and_resumed(camera, quick):
    before = held()
    with Reading(camera.url("/jpeg")) as reading:
        reading.more(3)
        reading.capture.pause()
        reading.until_state("paused")
        reading.until(lambda: held()[0] <= before[0])  # its sockets, and FFmpeg's pipe
        paused_ms = time.time_ns() // 1_000_000
        before_pause = len(reading.frames)
        reading.capture.resume()
        reading.more(3)
        # An image that was in the frame already still counts.
        assert all(whole(p).wall_ms >= paused_ms for p in reading.frames[before_pause + 1 :])
        assert set(reading.states) == {"opening", "live", "paused"} or set(reading.states) == {
            "live",
            "paused",
        }


def test_lossless_a_camera_is_read_image_by_image(camera, quick):
    with Reading(camera.url("/jpeg"), mode="lossless") as reading:
        numbers = [whole(frame).number for frame in reading.more(10)]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert reading.missed.tolist() == [0, 0]
        camera.restart()
        reading.more(3)


def assert_nothing_more_than(before):
    """Check that no descriptor and no thread is left; an earlier test's may have gone."""
    end = time.monotonic() + 2.0
    while True:
        now = held()
        if now[0] <= before[0] and now[1] <= before[1]:
            return
        # The system's thread ends a little after Python's has been joined.
        assert time.monotonic() < end, (before, now, threading.enumerate())
        time.sleep(0.01)


def test_closing_releases_all_descriptors_and_threads(camera, quick):
    with Reading(camera.url("/jpeg")) as reading:
        reading.more(1)  # a library has now all that it keeps
    before = held()
    for _ in range(10):
        with Reading(camera.url("/jpeg")) as reading:
            reading.more(1)
    camera.freeze()
    with Reading(camera.url("/jpeg"), wait=True) as reading:
        reading.step(0.1)  # the thread fails to open it
    camera.kill()
    assert_nothing_more_than(before)
    assert "pump" not in [thread.name for thread in threading.enumerate()]


def test_two_hundred_flapping_cameras_leak_nothing(quick):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening: refuses
        url = f"rtsp://127.0.0.1:{bound.getsockname()[1]}/x"
        with Reading(url, wait=True) as reading:
            reading.until_state("waiting", "refused")
        before = held()
        for _ in range(200):
            with Reading(url, wait=True) as reading:
                reading.until_state("waiting", "refused")
        assert_nothing_more_than(before)


# --- files behind an address ---


class Quiet(http.server.SimpleHTTPRequestHandler):
    cut = 1.0

    def log_message(self, *args):
        pass

    def copyfile(self, source, target):
        data = source.read()
        target.write(data[: int(len(data) * self.cut)])


@pytest.fixture
def served(tmp_path):
    """A server of files, and the address of a video of 20 images."""
    writer = cv2.VideoWriter(
        str(tmp_path / "grey.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (320, 240)
    )
    noise = np.random.default_rng(1)
    for i in range(20):
        image = noise.integers(0, 255, (240, 320, 3)).astype(np.uint8)
        image[:40] = i * 10
        writer.write(image)
    writer.release()
    handler = partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/grey.avi"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_behind_an_address_ends_like_a_file(served, quick):
    with Reading(served) as reading:
        reading.to_the_end()
        assert len(reading.frames) + reading.missed[0] == 20
        assert reading.capture.problem() is None
        assert "waiting" not in reading.states


def test_a_file_behind_an_address_whose_server_dies_is_a_problem(served, quick, monkeypatch):
    monkeypatch.setattr(Quiet, "cut", 0.5)
    with Reading(served, mode="lossless") as reading:
        reading.to_the_end()
        count = len(reading.frames)
        assert 5 <= count <= 15
        assert f"ended after {count} of 20 images" in reading.capture.problem()
        assert "waiting" not in reading.states


def test_after_a_crash_a_file_behind_an_address_goes_on(served, quick):
    reading = Reading(served, context={"restarted": True}, mode="lossless")
    reading.capture.open()
    reading.capture.skip(15, -1)
    reading.capture.start(lambda: None)
    reading._offer()
    reading.to_the_end()
    reading.capture.close()
    assert [round(int(pixels_of(p)) / 10) for p in reading.frames] == [15, 16, 17, 18, 19]


def pixels_of(frame):
    return frame.image[10, 100, 0]


def test_files_that_are_paused_are_not_read(tmp_path):
    with Reading(str(CLIP)) as reading:
        reading.more(2)
        reading.capture.pause()
        before = len(reading.frames)
        for _ in range(3):
            reading.step(0.01)
        assert len(reading.frames) <= before + 1  # one was in the frame already
        assert reading.conditions[-1].state == "paused"
        reading.capture.resume()
        reading.more(2)
        assert [round(p.source_ns / 1e8) for p in reading.frames] == list(
            range(len(reading.frames))
        )


def test_the_condition_of_a_file_is_its_own_state():
    with Reading(str(CLIP), frames=3) as reading:
        reading.to_the_end()
        reading.conditions.append(reading.capture.condition)
        assert reading.states == ["live", "ended"]


def test_held_counts_open_descriptors():
    before = held()[0]
    with Path(os.devnull).open():
        assert held()[0] == before + 1
