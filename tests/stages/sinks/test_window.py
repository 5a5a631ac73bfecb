"""The window: keys and the close button on a real X server, tiles and the display check without."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.drawing.mosaic import Mosaic
from stages.sinks import display as display_file
from stages.sinks.display import display_problem, window_toolkit

ROOT = Path(__file__).parents[3]
TOOLS = ("Xvfb", "openbox", "xdotool", "wmctrl", "import")  # the last of ImageMagick
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
needs_x = pytest.mark.skipif(
    bool(MISSING or not sys.platform.startswith("linux")),
    reason=f"needs an X server to test with; missing: {', '.join(MISSING)}",
)
DEADLINE_S = 30
"""Only a hang lasts as long."""

# A run of the stage without a pipeline: it prints each step on a line, and waits for keys.
PLAY = """
    import sys, time
    import numpy as np
    from pipeline.errors import EndRun
    from pipeline.frame import Frame
    from pipeline.stage import Context
    from stages.sinks.window import Window, WindowSettings

    live, streams = {live}, {streams}
    stage = Window(WindowSettings(), Context(live=live, streams=streams))
    stage.open()

    beats = 0
    def beat():
        global beats
        beats += 1
        if beats == 1:
            print("held", flush=True)
    stage.beat = beat

    def frame(seq):
        return Frame.of(
            streams[seq % len(streams)], seq, image=np.full((240, 320, 3), 40 + seq, np.uint8),
            boxes=np.array([[40, 60, 120, 200]], np.float32), scores=np.array([0.9], np.float32),
            classes=np.array([0], np.int32), ids=np.array([3], np.int64),
        )

    seq = 0
    try:
        while seq < len(streams) or not stage._exists:
            stage.process(frame(seq))
            seq += 1
        print("shown", flush=True)
        {then}
    except EndRun as wish:
        print("end:", wish, flush=True)
        stage.process(frame(seq))
        stage.idle()
    stage.close()
    print("closed", flush=True)
"""
SERVE = "while True: stage.idle()"


@pytest.fixture
def display():
    """A display for this test alone: a server gives the numbers of windows that are gone again."""
    read, write = os.pipe()
    # Without -noreset, a client that leaves while another connects would take it down with it.
    screen = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-noreset"]
    server = subprocess.Popen(screen, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as reply:
        name = f":{reply.readline().strip()}"
    yield name
    server.terminate()
    server.wait(DEADLINE_S)


@pytest.fixture
def managed_display(display):
    """A display with a window manager, which is what has close buttons."""
    environment = {**os.environ, "DISPLAY": display}
    manager = subprocess.Popen(["openbox"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: subprocess.run(["wmctrl", "-m"], env=environment, capture_output=True))
        yield display
    finally:
        manager.terminate()
        manager.wait(DEADLINE_S)


def wait_for(run):
    """Run a command until it succeeds."""
    deadline = time.monotonic() + DEADLINE_S
    while run().returncode:
        assert time.monotonic() < deadline


class Play:
    """A process that shows a window."""

    def __init__(self, display, then=SERVE, live=True, streams=("yard",)):
        self.environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": str(ROOT)}
        then = textwrap.indent(textwrap.dedent(then), "    ").lstrip()
        script = textwrap.dedent(PLAY).format(live=live, streams=streams, then=then or "pass")
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def line(self):
        return self.process.stdout.readline().strip()

    def rest(self):
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        return output.splitlines()

    def do(self, *command):
        subprocess.run(command, env=self.environment, check=True, timeout=DEADLINE_S)

    def press(self, key):
        found = "search", "--sync", "--onlyvisible", "--name", "^Eyeline$"
        self.do("xdotool", *found, "windowfocus", "--sync")
        self.do("xdotool", "key", key)


@needs_x
@pytest.mark.processes
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_a_key_ends_the_run(display, key):
    with Play(display) as play:
        assert play.line() == "shown"
        play.press(key)
        assert play.rest() == ["end: the window was closed", "closed"]
        assert play.process.returncode == 0


@needs_x
@pytest.mark.processes
def test_the_close_button_ends_the_run(managed_display):
    with Play(managed_display) as play:
        assert play.line() == "shown"
        close = ["wmctrl", "-F", "-c", "Eyeline"]
        wait_for(lambda: subprocess.run(close, env=play.environment, stderr=subprocess.DEVNULL))
        assert play.rest() == ["end: the window was closed", "closed"]
        assert play.process.returncode == 0


@needs_x
@pytest.mark.processes
def test_other_keys_do_nothing(display):
    with Play(display, "while not stage.paused: stage.idle()") as play:
        assert play.line() == "shown"
        for key in ("Left", "Shift_L", "F2", "x", "space"):
            play.press(key)
        assert play.rest() == ["closed"]


@needs_x
@pytest.mark.processes
def test_a_run_that_ends_takes_its_window_along(display):
    with Play(display, then="") as play:
        assert play.rest() == ["shown", "closed"]
        assert play.process.returncode == 0


@needs_x
@pytest.mark.processes
def test_a_pause_holds_a_file_and_beats_until_it_is_over(display):
    then = """
        while not stage.paused: stage.idle()
        stage.process(frame(seq))
        print("continued", stage.paused, flush=True)
    """
    with Play(display, then, live=False) as play:
        assert play.line() == "shown"
        play.press("space")
        assert play.line() == "held"
        play.press("space")
        assert play.rest() == ["continued False", "closed"]


@needs_x
@pytest.mark.processes
def test_a_pause_can_be_ended_with_the_run(display):
    then = """
        while not stage.paused: stage.idle()
        stage.process(frame(seq))
    """
    with Play(display, then, live=False) as play:
        assert play.line() == "shown"
        play.press("space")
        assert play.line() == "held"
        play.press("q")
        assert play.rest() == ["end: the window was closed", "closed"]


@needs_x
@pytest.mark.processes
def test_a_pause_does_not_hold_a_live_stream(display):
    then = """
        while not stage.paused: stage.idle()
        before = stage._image.copy()
        for seq in range(100, 200): stage.process(frame(seq))
        print("same image", (stage._image == before).all(), flush=True)
    """
    with Play(display, then, live=True) as play:
        assert play.line() == "shown"
        play.press("space")
        assert play.rest() == ["same image True", "closed"]


@needs_x
@pytest.mark.processes
def test_the_tiles_of_all_streams_are_on_the_screen(display, tmp_path):
    shot = str(tmp_path / "shot.png")
    with Play(display, streams=("a", "b")) as play:
        assert play.line() == "shown"
        deadline = time.monotonic() + DEADLINE_S
        seen = None
        while seen is None or not seen.any():  # not there yet, or not painted
            assert time.monotonic() < deadline
            take = ["import", "-window", "Eyeline", shot]
            subprocess.run(take, env=play.environment, stderr=subprocess.DEVNULL)
            seen = cv2.imread(shot) if os.path.exists(shot) else None
    assert seen.shape == (240, 640, 3)
    inside_the_boxes = seen[150, 80].tolist(), seen[150, 400].tolist()
    assert inside_the_boxes == ([40] * 3, [41] * 3)


# --- without an X server ---


def picture(value, size=(100, 200)):
    return np.full((*size, 3), value, np.uint8)


def test_a_single_stream_is_shown_as_it_is():
    given = picture(9)
    assert Mosaic(("a",)).put("a", given) is given


def test_streams_stand_side_by_side_in_the_order_of_their_names():
    tiles = Mosaic(("a", "b", "c"))
    tiles.put("b", picture(2))
    whole = tiles.put("c", picture(3))
    assert whole.shape == (200, 400, 3)
    corners = [whole[y, x, 0] for y in (50, 150) for x in (100, 300)]
    assert corners == [0, 2, 3, 0]
    assert tiles.put("a", picture(1)) is whole
    assert whole[50, 100, 0] == 1


def test_a_picture_of_another_shape_keeps_it():
    tiles = Mosaic(("a", "b"))
    tiles.put("a", picture(1))
    tiles.put("b", picture(7))
    whole = tiles.put("b", picture(2, (100, 100)))
    assert (whole[:, 200:250] == 0).all()
    assert (whole[:, 250:350] == 2).all()
    assert (whole[:, 350:] == 0).all()


def test_a_stream_that_is_added_gets_a_tile_and_one_that_ends_gives_it_up():
    tiles = Mosaic(("a", "b"))
    tiles.put("a", picture(1))
    tiles.put("b", picture(2))
    whole = tiles.put("c", picture(3))
    assert whole.shape == (200, 400, 3)
    assert [whole[y, x, 0] for y in (50, 150) for x in (100, 300)] == [1, 2, 3, 0]
    whole = tiles.forget("a", whole)
    assert whole.shape == (100, 400, 3)
    assert [whole[50, x, 0] for x in (100, 300)] == [2, 3]
    assert tiles.forget("never there", whole) is whole
    given = picture(9)
    tiles.forget("b", whole)
    assert tiles.put("c", given) is given
    assert tiles.forget("c", given) is given


@pytest.mark.parametrize("streams", [2, 3, 4, 5, 16])
@pytest.mark.parametrize("size", [(2160, 3840), (1, 1), (3, 4000), (4000, 3)])
def test_tiles_of_any_picture_fit_a_screen(streams, size):
    names = tuple(map(str, range(streams)))
    tiles = Mosaic(names)
    for name in names:
        whole = tiles.put(name, picture(5, size))
    for name in names:
        tiles.put(name, picture(6, (480, 640)))
    height, width, _ = whole.shape
    assert width <= 1920 + streams
    assert height <= 1080 + streams


@pytest.mark.parametrize(
    ("information", "toolkit"),
    [
        ("\n  GUI:                           QT5\n    QT: YES", "QT5"),
        ("\n  GUI:                           NONE\n", "NONE"),
        ("\n  GUI: \n", "NONE"),
        ("", "NONE"),
    ],
)
def test_the_toolkit_is_read_from_what_opencv_says(information, toolkit):
    assert window_toolkit(information) == toolkit


@pytest.fixture
def qt(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI: QT5\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.usefixtures("qt")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no display (DISPLAY is not set)"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "OpenCV needs Xwayland"),
        ({"DISPLAY": ":0", "QT_QPA_PLATFORM": "offscreen"}, "QT_QPA_PLATFORM is 'offscreen'"),
        ({"DISPLAY": ":59999"}, "no answer from the display ':59999'"),
        ({"DISPLAY": "localhost:59999"}, "no answer from the display 'localhost:59999'"),
        ({"DISPLAY": "rubbish"}, "no answer from the display 'rubbish'"),
        ({"DISPLAY": "localhost:rubbish"}, "no answer from the display"),
    ],
)
def test_what_keeps_a_window_away_is_said(monkeypatch, environment, said):
    if "DISPLAY" in environment:
        monkeypatch.setattr(display_file.ctypes, "CDLL", lambda name: FakeX11())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert said in display_problem()


@pytest.mark.usefixtures("qt")
def test_a_missing_library_is_named(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(display_file.ctypes, "CDLL", missing)
    assert display_problem().startswith("libSM.so.6 is missing; install it")


def test_opencv_without_windows_is_reply_apart(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI: NONE\n")
    assert "install opencv-python" in display_problem()


@needs_x
@pytest.mark.processes
def test_a_display_that_answers_is_no_problem(display, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)
    assert display_problem() is None


class FakeX11:
    """libX11 where no server answers."""

    class XOpenDisplay:
        def __new__(cls, name):
            return None

    class XCloseDisplay:
        pass
