"""The choice of the reader that opens a source."""

from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from pipeline.errors import SourceError
from stages.capture import BACKENDS, opening
from stages.capture.settings import CaptureSettings


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_names_a_callable(backend):
    module, _, name = BACKENDS[backend].partition(":")
    assert callable(getattr(import_module(module), name))


def test_each_backend_of_the_settings_is_in_the_table():
    choices = get_args(get_type_hints(CaptureSettings)["backend"])
    assert set(choices) - {"auto"} <= BACKENDS.keys()


@pytest.fixture
def opened(monkeypatch):
    """Record which backends are used; none of them opens anything."""
    used = []

    def refuse(backend, settings):
        used.append(backend)
        raise SourceError("not supported", "unsupported")

    monkeypatch.setattr(opening, "_open", refuse)
    return used


@pytest.mark.parametrize(
    ("settings", "backends"),
    [
        ({"source": "rtsp://cam/x"}, ["opencv", "gstreamer"]),
        ({"source": "HTTP://cam/x"}, ["http", "gstreamer"]),
        ({"source": 0}, ["opencv", "gstreamer"]),
        ({"source": "rtsp://cam/x", "backend": "opencv"}, ["opencv"]),
        ({"source": "rtsp://cam/x", "backend": "gstreamer"}, ["gstreamer"]),
        ({"source": "x", "pipeline": "videotestsrc"}, ["gstreamer"]),
    ],
)
def test_a_source_is_tried_with_the_backends_that_suit_it(settings, backends, opened):
    with pytest.raises(SourceError, match="not supported"):
        opening.open_source(CaptureSettings(**settings), log=None)
    assert opened == backends
