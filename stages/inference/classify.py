"""The classes of the whole frame: what kind of scene it shows.

The best class of single frames changes back and forth where two of them are close. So a class is
shown once it has been the best for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.transform import Transform
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved
from stages.analytics.object_events import OBJECT_EVENTS, ObjectEvent, put_events
from stages.details import FRAME_LABELS, FrameLabel, FrameLabels, put_frame_labels
from stages.inference.class_scores import ClassScores
from stages.inference.model import ModelSettings, OwnModel, ViewModelStage

SCENE_CHANGED = "scene_changed"
"""Kind of the object event for another class of the frame."""
NO_CLASS = -1
"""Number in place of a class where none reaches `min_score`."""


class ClassifySettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of the classifier of frames."""

    top: Annotated[int, Meta(ge=1, le=100)] = 1
    """Most classes that are given for a frame."""
    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Score that a class needs."""
    steady_s: Annotated[float, Meta(ge=0)] = 1.0
    """Seconds for which another class must be the best before it takes the first place; so too
    where no class reaches min_score. 0: the best of each frame."""
    every_s: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds between two runs of the model; frames between them have the classes of the last run.
    0: it runs on every frame."""
    events: bool = False
    """Whether a change of the first class is an object event of kind scene_changed. Sinks behind
    this stage then take all events from the stages before them, so an `object_events` stage is
    needed for the objects that appear and leave."""


class Scene(msgspec.Struct):
    """The classes of one stream, from frame to frame. All times are in nanoseconds."""

    time_ns: int
    """Time of the newest frame."""
    clock_ns: int = 0
    """The same time from the first frame on, but never going back."""
    shown: int | None = None
    """Class in the first place, or `NO_CLASS`; None: the model has not run."""
    rival: int | None = None
    """Another class that is the best now."""
    since_ns: int = 0
    """Time since which it is."""
    ran_ns: int = 0
    """Time of the last run of the model."""
    labels: list[FrameLabel] = []
    """Result of that run."""


class Classify(ViewModelStage):
    """Gives `frame_labels`: the classes of the whole frame that reach `min_score`, best first.

    The first one is steady: another class takes its place once it has been the best for
    `steady_s`. Its score is always that of the newest run of the model. Still images are unrelated
    to each other, so each has the best class of its own.
    """

    Settings = ClassifySettings
    tasks = ("classify",)
    takes = (Array("image", "uint8", (None, None, 3)),)
    gives = (FRAME_LABELS, OBJECT_EVENTS)
    ordered = True

    settings: ClassifySettings

    def __init__(self, settings: ClassifySettings, context: Context) -> None:
        super().__init__(settings, context)
        if context.get_before(FrameLabels) is not None:
            raise SetupError(
                "another stage before it gives the labels of the frame; put the two into separate "
                "branches with `after`, or remove one"
            )
        self._scores = ClassScores(self._contract, context.log)
        self._scenes: dict[str, Scene] = {}

    @classmethod
    def resolve(cls, settings: ClassifySettings) -> Resolved:  # type: ignore[override]
        """Offer the labels of the model.

        Raises:
            SetupError: the model cannot be used, or the device is not available.
        """
        contract = cls.contract_of(settings)
        return Resolved((OwnModel(contract), FrameLabels(contract.labels)))

    def process(self, frame: Frame) -> None:
        """Add `frame_labels`, and `object_events` if that is set."""
        if frame.still:
            scores = self._scores_of(frame)
            put_frame_labels(frame, self._best(scores, _best_class(scores, self.settings)))
            if self.settings.events:
                put_events(frame, [])
            return
        scene = self._scenes.get(frame.stream) or Scene(_time_ns(frame))
        clock_ns = scene.clock_ns + max(0, _time_ns(frame) - scene.time_ns)
        waits = clock_ns - scene.ran_ns < round(self.settings.every_s * 1e9)
        events: list[ObjectEvent] = []
        if scene.shown is None or not waits:
            scores = self._scores_of(frame)
            if self._steady(scene, _best_class(scores, self.settings), clock_ns):
                events = self._changed(frame, scene, scores)
            assert scene.shown is not None
            scene.labels = self._best(scores, scene.shown)
            scene.ran_ns = clock_ns
        scene.time_ns, scene.clock_ns = _time_ns(frame), clock_ns
        self._scenes[frame.stream] = scene
        put_frame_labels(frame, scene.labels)
        if self.settings.events:
            put_events(frame, events)

    def infer(self, frame: Frame) -> tuple[Sequence[NDArray[Any]], Transform]:
        """Return the model's raw outputs for the image, and the transform to its input.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        [result] = self.run_views([frame["image"]])
        return result

    def end(self, stream: str) -> None:
        """Forget the classes of a stream."""
        self._scenes.pop(stream, None)

    def state(self, stream: str) -> bytes:
        """Return the classes of a stream."""
        scene = self._scenes.get(stream)
        return b"" if scene is None else msgspec.msgpack.encode(scene)

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with the classes of a stream."""
        if state:
            self._scenes[stream] = msgspec.msgpack.decode(state, type=Scene)

    def _scores_of(self, frame: Frame) -> NDArray[np.float32]:
        raw, transform = self.infer(frame)
        assert self._family is not None
        return self._scores.read(self._family, raw, transform)

    def _steady(self, scene: Scene, best: int, clock_ns: int) -> bool:
        """Take the best class of a run into account; return whether the shown class changes."""
        if best == scene.shown:
            scene.rival = None
            return False
        if best != scene.rival:
            scene.rival, scene.since_ns = best, clock_ns
        first = scene.shown is None
        if not first and clock_ns - scene.since_ns < round(self.settings.steady_s * 1e9):
            return False
        scene.shown, scene.rival = best, None
        return True

    def _best(self, scores: NDArray[np.float32], shown: int) -> list[FrameLabel]:
        """Return the shown class, then the others that reach `min_score`, best first."""
        order = np.argsort(-scores, kind="stable")[: self.settings.top + 1].tolist()
        good = [n for n in order if n != shown and scores[n] >= self.settings.min_score]
        numbers = [*([] if shown == NO_CLASS else [shown]), *good][: self.settings.top]
        return [
            FrameLabel(self._scores.label(number), number, round(float(scores[number]), 4))
            for number in numbers
        ]

    def _changed(
        self, frame: Frame, scene: Scene, scores: NDArray[np.float32]
    ) -> list[ObjectEvent]:
        """Return the event of another shown class; none where no class is shown."""
        number = scene.shown
        if number is None or number == NO_CLASS:
            return []
        score = round(float(scores[number]), 4)
        box = (0.0, 0.0, float(frame.width), float(frame.height))
        time_s = round(frame.time_s, 6)
        name = self._scores.label(number)
        return [ObjectEvent(SCENE_CHANGED, None, name, score, box, time_s)]


def _best_class(scores: NDArray[np.float32], settings: ClassifySettings) -> int:
    """Return the class with the best score; `NO_CLASS` where it does not reach `min_score`."""
    best = int(scores.argmax()) if len(scores) else NO_CLASS
    return best if best != NO_CLASS and scores[best] >= settings.min_score else NO_CLASS


def _time_ns(frame: Frame) -> int:
    return round(frame.time_s * 1e9)
