"""No sink shows an unblurred pixel: what leaves each of them is read as its receiver reads it."""

import itertools

import cv2
import numpy as np
import pytest

from pipeline.frame import Frame
from pipeline.graph.load import load_class
from stages import LOCATIONS, SINKS
from stages.drawing.blur import Blur, BlurSettings
from stages.sinks import window as window_file
from stages.sinks.clips.clips import Clips
from stages.sinks.clips.settings import ClipsSettings
from stages.sinks.files.pictures import Pictures, PicturesSettings
from stages.sinks.rtsp.rtsp import Rtsp, RtspSettings
from stages.sinks.video.video import Video, VideoSettings
from stages.sinks.window import Window, WindowSettings
from tests.builders import context_of
from tests.stages.drawing.test_obscure import checkerboard
from tests.stages.sinks.rtsp.test_rtsp import Player, Viewer, url
from tests.stages.sinks.web.status_page import Page, StandIn, decode, multipart, read_part

PERSON = (80, 40, 176, 200)
"""Its clothes are a checkerboard of 4 px; all else is grey."""
HEIGHT, WIDTH = 240, 256
CONTEXT = context_of(("person",), streams=("yard",))


def frame(seq):
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    x1, y1, x2, y2 = PERSON
    image[y1:y2, x1:x2] = checkerboard(y2 - y1, x2 - x1, 4)
    return Frame.of(
        "yard",
        seq,
        seq / 10,
        image=image,
        boxes=np.array([PERSON], np.float32),
        scores=np.array([0.9], np.float32),
        classes=np.array([0], np.int32),
        ids=np.array([3], np.int64),
    )


def blurred_frame(seq):
    stage, made = Blur(BlurSettings(labels=["person"]), CONTEXT), frame(seq)
    stage.process(made)
    stage.derive(made)
    return made


def contrast(image):
    """How much neighbouring pixels differ inside of the person, away from lines and tags."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.array(PERSON) * (width / WIDTH)
    part = image[int(y1) + 40 : int(y2) - 40, int(x1) + 16 : int(x2) - 16].astype(float)
    assert height / width == pytest.approx(HEIGHT / WIDTH, abs=0.01)
    return np.abs(np.diff(part.mean(axis=2), axis=1)).mean()


def images_in(path):
    """All images of a video."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), path
    found = []
    while (read := capture.read())[0]:
        found.append(read[1])
    return found


def play(sink, make, frames=12):
    sink.open()
    for seq in range(frames):
        sink.process(make(seq))
    sink.end("yard")
    sink.close()


def read_video(make, folder, monkeypatch):
    play(Video(VideoSettings(path=f"{folder}/out.mp4"), CONTEXT), make)
    return images_in(folder / "out.mp4")


def read_pictures(make, folder, monkeypatch):
    play(Pictures(PicturesSettings(folder=str(folder), annotate=False), CONTEXT), make, 2)
    return [cv2.imread(str(path)) for path in folder.glob("*.jpg")]


def read_clips(make, folder, monkeypatch):
    # The images have no wall clock: they were made in 1970.
    settings = ClipsSettings(folder=str(folder), before_s=0.5, after_s=0.5, keep_days=None)
    play(Clips(settings, CONTEXT), make)
    [clip], [snapshot] = folder.glob("*.mp4"), folder.glob("*.jpg")
    return [*images_in(clip), cv2.imread(str(snapshot))]


def read_web(make, folder, monkeypatch):
    page = Page(StandIn(), token=None)
    try:
        with Player(page.stage, map(make, itertools.count())), multipart(page) as stream:
            return [
                decode(read_part(stream)),
                decode(read_part(stream)),
                decode(page.get("/snapshot/yard.jpg")[2]),
            ]
    finally:
        page.stage.close()


def read_rtsp(make, folder, monkeypatch):
    sink = Rtsp(RtspSettings(port=0), CONTEXT)
    sink.open()
    try:
        with Player(sink, map(make, itertools.count())), Viewer(url(sink, "yard")) as viewer:
            return [viewer.read(), viewer.read()]
    finally:
        sink.close()


def read_window(make, folder, monkeypatch):
    shown = []
    for name in ("namedWindow", "resizeWindow", "pollKey", "destroyWindow"):
        monkeypatch.setattr(window_file.cv2, name, lambda *args: -1)
    monkeypatch.setattr(window_file.cv2, "getWindowProperty", lambda *args: 1)
    monkeypatch.setattr(window_file.cv2, "imshow", lambda title, image: shown.append(image.copy()))
    play(Window(WindowSettings(), CONTEXT), make, 1)
    return shown


READERS = {
    "video": read_video,
    "pictures": read_pictures,
    "clips": read_clips,
    "web": read_web,
    "rtsp": read_rtsp,
    "window": read_window,
}
"""Sink -> function that lets it show frames, and returns the images that its receiver gets."""


def test_every_sink_that_takes_the_image_is_read_here():
    takes = {use: {array.name for array in load_class(use, LOCATIONS, "").takes} for use in SINKS}
    showing = {use for use, names in takes.items() if "image" in names}
    assert showing - {"draw"} == READERS.keys()  # draw: nothing leaves it


@pytest.mark.parametrize("use", READERS)
def test_no_image_that_leaves_a_sink_shows_what_was_hidden(use, tmp_path, monkeypatch):
    for make, hides in ((frame, False), (blurred_frame, True)):
        folder = tmp_path / make.__name__
        folder.mkdir()
        images = READERS[use](make, folder, monkeypatch)
        found = [contrast(image) for image in images]
        assert found
        # Each fourth pixel is at an edge: 255 / 4.
        assert max(found) < 4 if hides else min(found) > 30, found
