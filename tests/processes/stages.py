"""Small stages with work, replicas and state, so that whole runs are quick and repeatable."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from pipeline.stage import Array, Resolved, Settings, Stage
from stages.inference.detector import Detector, DetectorSettings
from tests.camera import read_clock

DETECTIONS = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
)


class Boxes(Stage):
    """Boxes that depend on the pixels alone: a void or mixed-up frame would change the events."""

    takes = (Array("image", "uint8", (None, None, 3)),)
    gives = DETECTIONS

    class Settings(Settings, frozen=True):
        replicas: int = 2
        work_ms: float = 2.0

    @classmethod
    def resolve(cls, settings):
        return Resolved(replicas=settings.replicas)

    def process(self, frame):
        time.sleep(self.settings.work_ms / 1000)
        mean = frame["image"][::7, ::7].mean(axis=(0, 1))
        count = frame.seq % 5
        frame.put("boxes", np.tile(np.array([*mean, frame.width], np.float32), (count, 1)))
        frame.put("scores", np.full(count, 0.5, np.float32))
        frame.put("classes", np.zeros(count, np.int32))


class Ids(Stage):
    """Numbers every box of a stream: a lost, doubled or misplaced frame changes all later ones."""

    takes = DETECTIONS
    gives = (Array("ids", "int64", (None,)),)
    ordered = True

    def open(self):
        self._next = {}

    def process(self, frame):
        first = self._next.get(frame.stream, 0)
        self._next[frame.stream] = first + len(frame["boxes"])
        frame.put("ids", np.arange(first, self._next[frame.stream]))

    def info(self):
        return {"highest": str(max(self._next.values(), default=0))}

    def counters(self):
        return {"boxes": sum(self._next.values())}

    def state(self, stream):
        return str(self._next.get(stream, 0)).encode()

    def restore(self, stream, state):
        self._next[stream] = int(state)


class Dies(Stage):
    """Kills its process at a frame, the first time that it comes."""

    class Settings(Settings, frozen=True):
        at: int
        path: str
        """File that exists once it has."""

    def process(self, frame):
        if frame.seq == self.settings.at and not Path(self.settings.path).exists():
            Path(self.settings.path).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Long(Stage):
    """Takes long on purpose, and sends heartbeats, as a paused window does."""

    class Settings(Settings, frozen=True):
        work_s: float

    def process(self, frame):
        until_s = time.monotonic() + self.settings.work_s
        while time.monotonic() < until_s:
            self.beat()
            time.sleep(0.01)


class Age(Stage):
    """Writes the age of each frame, by the clock in its image and since its capture."""

    takes = (Array("image", "uint8", (None, None, 3)),)

    class Settings(Settings, frozen=True):
        path: str

    def open(self):
        self._file = Path(self.settings.path).open("a", buffering=1)  # noqa: SIM115 - see close

    def process(self, frame):
        now_ns, clock = time.time_ns(), read_clock(frame["image"])
        if clock is not None:
            captured_ms = (now_ns - frame.wall_ns) / 1e6
            self._file.write(f"{now_ns / 1e6 - clock.wall_ms:.1f} {captured_ms:.1f}\n")

    def close(self):
        self._file.close()


class Operator(Stage):
    """Sends the requests in a file to the run, one a line, and writes the answers."""

    isolated = True

    class Settings(Settings, frozen=True):
        path: str

    def open(self):
        self._done = 0

    def process(self, frame):
        pass

    def idle(self):
        asked = Path(self.settings.path)
        lines = asked.read_text().splitlines(keepends=True) if asked.exists() else []
        for line in lines[self._done :]:
            if not line.endswith("\n"):
                return
            request = json.loads(line)
            self._done += 1
            if request == "status":
                answer = msgspec.to_builtins(self.run.status())
            else:
                answer = self.run.ask(**request)
            with open(f"{self.settings.path}.answers", "a") as file:
                file.write(json.dumps(answer) + "\n")


class Unsound(Detector):
    """Finds objects with a session that fails, as on a GPU that was lost."""

    class Settings(DetectorSettings, frozen=True):
        at: int = 10
        """First frame that it fails on."""
        once: str = ""
        """File that exists once it has failed; empty: it fails again in every process."""
        error: str = "EPFail"

    def process(self, frame):
        failed = self.settings.once and Path(self.settings.once).exists()
        self._fails = frame.seq >= self.settings.at and not failed
        super().process(frame)

    def open(self):
        super().open()
        self._runtime._session._sess = _Session(self._runtime._session._sess, self)
        self._runtime.provider = "CUDAExecutionProvider"
        self._runtime._session._fallback_providers = ["CPUExecutionProvider"]

    def fail(self):
        if self._fails:
            if self.settings.once:
                Path(self.settings.once).touch()
            own = sys.modules["onnxruntime.capi.onnxruntime_pybind11_state"]
            raise getattr(own, self.settings.error)("CUDA failure 719: unspecified launch failure")


class _Session:
    """Stand-in for the session of onnxruntime below its Python class."""

    def __init__(self, real, stage):
        self._real, self._stage = real, stage

    def run(self, *args):
        self._stage.fail()
        return self._real.run(*args)

    def __getattr__(self, name):
        return getattr(self._real, name)
