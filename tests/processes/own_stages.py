"""Stages with the mistakes that people make in theirs."""

from __future__ import annotations

import numpy as np

from pipeline.stage import Array, Resolved, Resources, Settings, Stage


class Wrong(Stage):
    """Raises an unexpected error in the method that its settings name."""

    ordered = True

    class Settings(Settings, frozen=True):
        method: str = ""

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.fail("__init__")

    def fail(self, method):
        """Raise, if it is this method's turn."""
        if self.settings.method == method:
            raise ValueError(f"{method} went\nwrong")

    @classmethod
    def resolve(cls, settings):
        """Raise, if it is this method's turn."""
        cls.fail(type("", (), {"settings": settings}), "resolve")
        return Resolved()

    @classmethod
    def resources(cls, settings):
        """Raise, if it is this method's turn."""
        cls.fail(type("", (), {"settings": settings}), "resources")
        return Resources()

    def effective(self):
        """Raise, if it is this method's turn."""
        self.fail("effective")
        return {}

    def open(self):
        """Raise, if it is this method's turn."""
        self.fail("open")

    def process(self, frame):
        """Do nothing."""

    def idle(self):
        """Raise, if it is this method's turn."""
        self.fail("idle")

    def end(self, stream):
        """Raise, if it is this method's turn."""
        self.fail("end")

    def info(self):
        """Raise, if it is this method's turn."""
        self.fail("info")
        return {}

    def counters(self):
        """Raise, if it is this method's turn."""
        self.fail("counters")
        return {}

    def state(self, stream):
        """Raise, if it is this method's turn, or return a text."""
        self.fail("state")
        return "text" if self.settings.method == "text" else b""

    def restore(self, stream, state):
        """Raise, if it is this method's turn."""
        self.fail("restore")


class WrongArray(Stage):
    """Gives other arrays than it declares."""

    gives = (Array("scores", "float32", (None,)),)

    class Settings(Settings, frozen=True):
        kind: str = "float64"

    def process(self, frame):
        """Give an array."""
        values = {"shape": np.zeros((2, 2), np.float32), "object": np.array([None])}
        frame.put("scores", values.get(self.settings.kind, np.zeros(2)))


class Varying(Stage):
    """Fails on every frame, with the number of the frame in the text."""

    ordered = True

    def process(self, frame):
        """Fail."""
        raise ValueError(f"no face in frame {frame.seq}")
