"""Live sources: when they are tried again, their clock, and a real camera that fails them."""

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
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError, StuckSource
from pipeline.frame import Frame
from pipeline.status import SourceState
from stages.capture import live_reader as live
from stages.capture.live_reader import Backoff, Live, Missed
from stages.capture.reader import Pictures
from stages.capture.source_clock import SourceClock
from tests.builders import CLIP, header, pixels
from tests.camera import Camera, read_clock
from tests.reading import DEADLINE_S, Reading, held

pytestmark = pytest.mark.live

SECOND_NS = 1_000_000_000


# --- when to try again ---


@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_it_is_tried_again_after_half_a_second_to_half_a_minute(chances):
    backoff = Backoff(iter(chances).__next__)
    delays = [backoff.delay_s(0) for _ in chances]
    assert all(0.5 <= delay <= 30 for delay in delays)
    for i, delay in enumerate(delays):
        longest = min(30, 2**i)
        assert longest / 2 <= delay <= longest


def test_cameras_that_were_lost_together_do_not_come_back_together():
    assert len({Backoff().delay_s(0) for _ in range(20)}) == 20


@pytest.mark.parametrize(("lived_s", "delay_s"), [(0, 30), (59.9, 30), (60, 1), (1e6, 1)])
def test_after_a_healthy_minute_it_is_tried_again_as_soon_as_at_first(lived_s, delay_s):
    backoff = Backoff(lambda: 1.0)
    for _ in range(10):
        backoff.delay_s(0)
    assert backoff.delay_s(lived_s) == delay_s


# --- its clock ---


def ms(*times):
    return [round(time * 1e6) for time in times]


def told(clock, stamps_ms, came_ms):
    return [
        clock.time_ns(stamp, came) / 1e6
        for stamp, came in zip(ms(*stamps_ms), ms(*came_ms), strict=True)
    ]


def test_between_pictures_it_is_the_sources_own_clock():
    clock = SourceClock(ms(1000)[0])
    assert told(clock, [0, 40, 80, 120], [1500, 1550, 1575, 1621]) == [500, 540, 580, 620]


def test_a_source_without_stamps_is_timed_by_when_its_pictures_come():
    clock = SourceClock(ms(1000)[0])
    assert [clock.time_ns(-1, came) / 1e6 for came in ms(1500, 1550, 1575)] == [500, 550, 575]


def test_across_connections_it_goes_on_by_our_clock():
    clock = SourceClock(0)
    assert told(clock, [0, 40], [500, 540]) == [500, 540]
    clock.connect()
    assert told(clock, [0, 40], [9500, 9551]) == [9500, 9540]


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_jump_of_the_sources_clock_is_not_followed(jump_ms):
    clock = SourceClock(0)
    start = 4_000_000  # of a camera that has run for an hour
    assert told(clock, [start, start + 40], [500, 540]) == [500, 540]
    jumped = [start + jump_ms + 80, start + jump_ms + 120]
    assert told(clock, jumped, [581, 620]) == [581, 621]


def test_drift_is_followed_up_to_a_second():
    clock = SourceClock(0)
    came = [i * 40.0 for i in range(3000)]
    times = told(clock, [at * 1.02 for at in came], came)
    assert max(abs(time - at) for time, at in zip(times, came, strict=True)) <= 1000
    steps = np.diff(times)
    assert ((steps >= 19.9) & (steps <= 41)).all()  # it waits for us, and never stands still


def test_after_a_crash_it_does_not_go_back():
    clock = SourceClock(0, last_ns=ms(900)[0])
    assert told(clock, [0, 40], [800, 840])[0] > 900


@given(
    pictures=st.lists(
        st.tuples(st.integers(0, 10 * SECOND_NS), st.integers(-1, 100 * SECOND_NS), st.booleans()),
        min_size=2,
    )
)
def test_it_never_goes_back_and_is_never_far_ahead_of_us(pictures):
    clock, came_ns, times = SourceClock(0), 0, []
    for passed_ns, stamp_ns, connected in pictures:
        came_ns += passed_ns
        if connected:
            clock.connect()
        times.append(clock.time_ns(stamp_ns, came_ns))
        assert abs(times[-1] - came_ns) <= 2 * SECOND_NS or times[-1] < came_ns + SECOND_NS
    assert all(before < after for before, after in itertools.pairwise(times))


# --- a scripted source ---


class Scripted(Pictures):
    """Pictures as a test lays them out: a number is a picture; a pair, why there is none; an
    event blocks until it is set, or until it is interrupted if it is `gentle`."""

    decoder = "script"
    source_ns = -1

    def __init__(self, script, gentle=True):
        self.script, self.gentle = list(script), gentle
        self.interrupted = threading.Event()
        self.entered = threading.Event()
        self.closed = 0
        self.picture = self.end = None

    def grab(self):
        if not self.script:
            self.end = ("closed", "the script is over")
            return False
        what = self.script.pop(0)
        if isinstance(what, threading.Event):
            self.entered.set()
            while not what.wait(0.01):
                if self.gentle and self.interrupted.is_set():
                    return True  # with what was left over
            return self.grab()
        if isinstance(what, tuple):
            self.end = what
            return False
        self.picture = what
        return True

    def retrieve(self, frame):
        frame.put("image", np.full((2, 2, 3), self.picture, np.uint8))
        return True

    def trouble(self):
        return self.end

    def interrupt(self):
        self.interrupted.set()

    def close(self):
        self.closed += 1


class Lab:
    """A `Live` on scripted connections: of each, its pictures or the error that opening raises."""

    def __init__(self, *connections, **options):
        self.connections, self.opened = list(connections), []
        self.missed, self.frame = Missed(), None
        self.notified = threading.Semaphore(0)
        chances = options.pop("backoff", None) or Backoff()
        self.live = Live(
            self.connect, self.missed, self.notified.release, backoff=chances, **options
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
        """The next picture."""
        self.wait_for(lambda: self.live.collect() is not None)
        assert self.live.collect()
        value = pixels(self.frame)
        self.offer()
        return value


@pytest.fixture
def quick(monkeypatch):
    """Cameras are tried again at once."""
    monkeypatch.setattr(live, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(live, "LONGEST_DELAY_S", 0.1)


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
        SourceError("nobody there", "refused"),
        SourceError("nobody there", "refused"),
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


def test_while_it_is_away_it_says_why_and_when_it_is_tried_again(lab):
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
    assert len(made.opened) == 1  # and nothing else is done meanwhile


def test_a_camera_whose_pictures_are_larger_than_a_slot_waits_until_they_are_not(lab):
    large = Scripted([2, 3])
    large.retrieve = lambda frame: frame.empty("image", (999, 999, 3), np.uint8)
    made = lab(Scripted([4, threading.Event()]), first=Scripted([1, ("closed", "gone")]))
    made.connections.insert(0, large)
    conditions = []
    made.live._tell = lambda condition, tell=made.live._tell: (
        conditions.append(condition),
        tell(condition),
    )
    made.live.start()
    assert [made.next(), made.next()] == [1, 4]
    assert made.missed.take() == (0, 1)
    (too_large,) = (told for told in conditions if told.kind == "unsupported")
    assert "larger than max_frame" in too_large.text
    assert large.closed == 1


def test_a_source_that_is_not_to_be_opened_again_ends(lab):
    made = lab(first=Scripted([1, ("closed", "gone")]), reconnect=False)
    made.live.start()
    assert made.next() == 1
    made.wait_for(lambda: made.live.collect() is False)
    assert made.live.problem == "gone"
    assert made.live.condition == SourceState("ended", text="gone")


def test_an_end_that_was_to_be_expected_is_none_to_recover_from(lab):
    made = lab(first=Scripted([1, ("", "")]))
    made.live.start()
    assert made.next() == 1
    made.wait_for(lambda: made.live.collect() is False)
    assert (made.live.problem, made.opened) == ("", [])


def test_silence_is_noticed_from_outside_and_what_comes_with_its_end_is_thrown_away(lab):
    silent = Scripted([1, threading.Event()])
    made = lab(Scripted([2, threading.Event()]), first=silent, stall_timeout_s=0.1)
    made.live.start()
    assert made.next() == 1
    # The condition alone is asked for, as when no frame can be offered.
    made.wait_for(lambda: made.live.condition.kind == "frozen" or made.opened)
    assert silent.interrupted.is_set()
    assert made.next() == 2  # and not what was left over
    assert silent.closed == 1


def test_a_picture_that_took_too_long_is_thrown_away_even_if_nobody_watched(lab, monkeypatch):
    late = threading.Event()
    made = lab(Scripted([3]), first=Scripted([1, late, 2]), stall_timeout_s=0.05)
    monkeypatch.setattr(made.live, "_judge", lambda: (0.0, 1.0))
    made.live.start()
    assert made.next() == 1
    time.sleep(0.06)  # the silence itself
    late.set()
    assert made.next() == 3


def test_the_first_picture_may_take_longer(lab):
    slow = threading.Event()
    made = lab(Scripted([9]), first=Scripted([slow, 1]), stall_timeout_s=0.01)
    made.live.start()
    time.sleep(0.05)  # longer than the stall timeout and what is added to it
    assert made.live.condition == SourceState("opening")
    slow.set()
    assert made.next() == 1


def test_a_library_that_does_not_return_is_given_up_with_its_process(lab, monkeypatch):
    monkeypatch.setattr(live, "STUCK_S", 0.5)
    hung = threading.Event()
    made = lab(first=Scripted([1, hung], gentle=False), stall_timeout_s=0.05)
    made.live.start()
    assert made.next() == 1
    try:
        with pytest.raises(StuckSource, match="has not returned for"):
            made.wait_for(lambda: made.live.collect() is not None)
        assert made.live.condition.kind == "frozen"
        made.live.stop()  # does not wait for what will not come
        assert made.live.is_alive()
    finally:
        made.live.stop()
        hung.set()
        made.live.join(DEADLINE_S)


def test_a_pause_lets_go_of_the_source(lab):
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


def test_a_pause_that_is_over_before_it_was_noticed_is_no_loss(lab):
    first = Scripted([1, threading.Event()])
    made = lab(Scripted([2, threading.Event()]), first=first, reconnect=False)
    made.live.start()
    assert made.next() == 1
    assert first.entered.wait(DEADLINE_S)
    made.live.pause()
    made.live.resume()
    assert made.next() == 2


def test_a_source_that_is_away_may_be_paused_and_closed_at_once(lab):
    backoff = Backoff()
    backoff.delay_s = lambda lived_s: 1000.0
    made = lab(SourceError("no", "refused"), Scripted([1]), backoff=backoff)
    made.live.start()
    made.wait_for(lambda: made.live.condition.state == "waiting")
    made.live.pause()
    made.wait_for(lambda: made.live.condition.state == "paused")
    made.live.resume()  # tries at once
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


def test_what_was_never_started_is_closed_too(lab):
    first = Scripted([1])
    made = lab(first=first)
    made.live.stop()
    assert first.closed == 1


def test_counts_of_two_threads_are_all_there():
    missed, threads = Missed(), []
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


def whole(picture):
    """The number and time that a picture of the clock tells; every one of them can be read."""
    clock = read_clock(picture.image)
    assert clock is not None
    return clock


def in_order(reading):
    """Each picture once, and the clock goes on over all connections."""
    times = [picture.source_ns for picture in reading.pictures]
    assert all(before < after for before, after in itertools.pairwise(times))
    walls = [whole(picture).wall_ms for picture in reading.pictures]
    assert all(before < after for before, after in itertools.pairwise(walls))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_that_dies_and_comes_back_with_another_size_is_followed(camera, transport, quick):
    with Reading(camera.url("/jpeg"), transport=transport) as reading:
        assert {p.image.shape for p in reading.more(10)} == {(368, 640, 3)}
        camera.kill()
        reading.until_state("waiting", "refused")
        before = len(reading.pictures)
        reading.step(0.3)
        assert len(reading.pictures) == before  # none, black, repeated or otherwise
        camera.restart(size="320x240")
        assert {p.image.shape for p in reading.more(10)} == {(240, 320, 3)}
        assert reading.states[-3:] == ["live", "waiting", "live"]
        assert "closed" in reading.kinds
        in_order(reading)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_of_a_camera_that_froze_no_old_picture_comes(camera, transport, quick):
    with Reading(camera.url("/jpeg"), transport=transport, stall_timeout_s=0.5) as reading:
        reading.more(5)
        camera.freeze()
        reading.until_state("waiting", "frozen")
        before, thawed_ms = len(reading.pictures), time.time_ns() // 1_000_000
        camera.thaw()
        assert len(reading.more(5)) == 5
        assert all(whole(p).wall_ms >= thawed_ms for p in reading.pictures[before:])
        in_order(reading)


def test_a_camera_that_answers_but_gives_no_more_pictures_is_frozen(quick):
    with (
        Camera(fps=50, stall_after=40) as camera,
        Reading(camera.url("/jpeg"), stall_timeout_s=0.5) as reading,
    ):
        reading.until_state("waiting", "frozen")
        assert reading.pictures
        assert "no new picture has come for 0.5 s" in reading.conditions[-1].text
        camera.restart(stall_after=None)
        reading.more(3)
        in_order(reading)


def test_a_slow_camera_is_not_taken_for_lost_and_its_clock_does_not_run_away(quick):
    with Camera(fps=100, slow=True) as camera, Reading(camera.url("/jpeg")) as reading:
        reading.until(lambda: reading.pictures and reading.pictures[-1].source_ns > 3 * SECOND_NS)
        assert reading.states[-1] == "live"
        assert "waiting" not in reading.states
        in_order(reading)
        for picture in reading.pictures:
            came_ns = picture.captured_ns - reading.started_ns
            assert abs(picture.source_ns - came_ns) <= SECOND_NS


def test_a_viewer_that_joins_amid_a_group_of_pictures_gets_whole_ones_only(quick):
    with Reading(str(CLIP), frames=300) as reading:
        reading.to_the_end()
        clip = {p.image.tobytes() for p in reading.pictures}
    with Camera(start="after_key") as camera, Reading(camera.url("/h264")) as reading:
        found = [p.image.tobytes() for p in reading.more(12)]
    assert set(found) <= clip
    assert len(set(found)) == len(found)


def test_the_newest_picture_wins_and_the_others_are_counted(quick):
    with Camera(fps=50) as camera, Reading(camera.url("/jpeg")) as reading:
        reading.more(3)
        reading.until(lambda: reading.capture.collect() is True)
        asleep_until = time.monotonic() + 1.0
        while time.monotonic() < asleep_until:  # a pipeline that is busy offers nothing
            reading.missed += reading.capture.missed()
            time.sleep(0.05)
        assert reading.missed[0] >= 10
        first, second = reading.more(2)
        assert whole(second).number - whole(first).number >= 10
        in_order(reading)


def test_a_daemons_camera_need_not_be_there_at_the_start(camera, quick):
    camera.kill()
    started = time.monotonic()
    with Reading(camera.url("/jpeg"), wait=True) as reading:
        assert time.monotonic() - started < DEADLINE_S
        reading.until_state("waiting", "refused")
        camera.restart()
        reading.more(3)
        assert reading.states[-2:] == ["waiting", "live"]
        assert reading.capture.info()["decoder"] == "OpenCV FFmpeg MJPG"


def test_after_a_crash_a_camera_is_waited_for_without_being_told_so(camera, quick):
    camera.kill()
    with pytest.raises(SourceError), Reading(camera.url("/jpeg")):
        pass
    with Reading(camera.url("/jpeg"), context={"restarted": True}) as reading:
        reading.until_state("waiting", "refused")
        camera.restart()
        reading.more(3)


def test_a_camera_that_is_not_to_be_opened_again_ends_the_run(camera, quick):
    with Reading(camera.url("/jpeg"), reconnect=False) as reading:
        reading.more(3)
        camera.kill()
        reading.to_the_end()
        assert reading.capture.problem() == (
            f"{camera.url('/jpeg')}: the other side has ended the stream"
        )
        assert reading.conditions[-1].state in ("live", "ended")


def test_so_many_pictures_of_a_camera_are_an_end_that_was_asked_for(camera, quick):
    with Reading(camera.url("/jpeg"), frames=7) as reading:
        reading.to_the_end()
        assert len(reading.pictures) + reading.missed[0] == 7
        assert reading.capture.problem() is None


def test_a_paused_camera_is_let_go_of_and_comes_back(camera, quick):
    before = held()
    with Reading(camera.url("/jpeg")) as reading:
        reading.more(3)
        reading.capture.pause()
        reading.until_state("paused")
        reading.until(lambda: held()[0] <= before[0])  # its sockets, and FFmpeg's pipe
        paused_ms = time.time_ns() // 1_000_000
        before_pause = len(reading.pictures)
        reading.capture.resume()
        reading.more(3)
        # One that was in the frame already is still handed out.
        assert all(whole(p).wall_ms >= paused_ms for p in reading.pictures[before_pause + 1 :])
        assert set(reading.states) == {"opening", "live", "paused"} or set(reading.states) == {
            "live",
            "paused",
        }


def test_lossless_a_camera_is_read_picture_by_picture(camera, quick):
    with Reading(camera.url("/jpeg"), mode="lossless") as reading:
        numbers = [whole(picture).number for picture in reading.more(10)]
        assert numbers == list(range(numbers[0], numbers[0] + 10))
        assert reading.missed.tolist() == [0, 0]
        camera.restart()
        reading.more(3)


def nothing_more_than(before):
    """No descriptor and no thread; fewer, if an earlier test's were collected meanwhile."""
    now = held()
    return now[0] <= before[0] and now[1] <= before[1]


def test_closing_takes_everything_back(camera, quick):
    with Reading(camera.url("/jpeg")) as reading:
        reading.more(1)  # whatever a library keeps for good, it has now
    before = held()
    for _ in range(10):
        with Reading(camera.url("/jpeg")) as reading:
            reading.more(1)
    camera.freeze()
    with Reading(camera.url("/jpeg"), wait=True) as reading:
        reading.step(0.1)  # the thread opens it, in vain
    camera.kill()
    assert nothing_more_than(before)
    assert "pump" not in [thread.name for thread in threading.enumerate()]


def test_two_hundred_flapping_cameras_exhaust_nothing(quick):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening: refuses
        url = f"rtsp://127.0.0.1:{nobody.getsockname()[1]}/x"
        with Reading(url, wait=True) as reading:
            reading.until_state("waiting", "refused")
        before = held()
        for _ in range(200):
            with Reading(url, wait=True) as reading:
                reading.until_state("waiting", "refused")
        assert nothing_more_than(before)


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
    """A server of files, and the address of a video of 20 pictures."""
    writer = cv2.VideoWriter(
        str(tmp_path / "grey.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (320, 240)
    )
    noise = np.random.default_rng(1)
    for i in range(20):
        picture = noise.integers(0, 255, (240, 320, 3)).astype(np.uint8)
        picture[:40] = i * 10
        writer.write(picture)
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
        assert len(reading.pictures) + reading.missed[0] == 20
        assert reading.capture.problem() is None
        assert "waiting" not in reading.states


def test_a_file_behind_an_address_whose_server_dies_is_a_problem_and_not_begun_again(
    served, quick, monkeypatch
):
    monkeypatch.setattr(Quiet, "cut", 0.5)
    with Reading(served, mode="lossless") as reading:
        reading.to_the_end()
        count = len(reading.pictures)
        assert 5 <= count <= 15
        assert f"ended after {count} of 20 pictures" in reading.capture.problem()
        assert "waiting" not in reading.states


def test_after_a_crash_a_file_behind_an_address_is_not_begun_again(served, quick):
    reading = Reading(served, context={"restarted": True}, mode="lossless")
    reading.capture.open()
    reading.capture.skip(15, -1)
    reading.capture.start(lambda: None)
    reading._offer()
    reading.to_the_end()
    reading.capture.close()
    assert [round(int(pixels_of(p)) / 10) for p in reading.pictures] == [15, 16, 17, 18, 19]


def pixels_of(picture):
    return picture.image[10, 100, 0]


def test_files_that_are_paused_are_not_read(tmp_path):
    with Reading(str(CLIP)) as reading:
        reading.more(2)
        reading.capture.pause()
        before = len(reading.pictures)
        for _ in range(3):
            reading.step(0.01)
        assert len(reading.pictures) <= before + 1  # one was in the frame already
        assert reading.conditions[-1].state == "paused"
        reading.capture.resume()
        reading.more(2)
        assert [round(p.source_ns / 1e8) for p in reading.pictures] == list(
            range(len(reading.pictures))
        )


def test_what_is_said_of_a_file_is_said_of_its_own_state():
    with Reading(str(CLIP), frames=3) as reading:
        reading.to_the_end()
        reading.conditions.append(reading.capture.condition)
        assert reading.states == ["live", "ended"]


def test_descriptors_are_counted_where_there_are_some():
    before = held()[0]
    with Path(os.devnull).open():
        assert held()[0] == before + 1
