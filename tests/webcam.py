"""A webcam for tests: plugged, unplugged and hung while another process reads it.

The process has `webcam.c` preloaded, which answers for `/dev/video7` in place of the kernel.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.reading import DEADLINE_S

ROOT = Path(__file__).parents[1]
INDEX = 7
BITS, SQUARE = 16, 16


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that the camera wrote into an image, (H, W, 3) uint8 BGR."""
    centres = np.arange(BITS) * SQUARE + SQUARE // 2
    return sum(1 << bit for bit in range(BITS) if image[SQUARE // 2, centres[bit], 1] > 128)


def compiler() -> str | None:
    """The C compiler; None: there is none, and so no webcam."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the webcam into a library to be preloaded."""
    library = folder / "webcam.so"
    command = [str(compiler()), "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(ROOT / "tests" / "webcam.c"), "-ldl"], check=True)
    return library


class Webcam:
    """A webcam, and a process that reads it; `said` are the reports of the process."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._library, self._file = library, folder / "webcam"
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.said: list[dict[str, Any]] = []

    def be(self, state: str, size: str = "320x240") -> None:
        """Set its state: on, silent, stuck, busy or off."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{size} {state}")
        new.replace(self._file)

    def read(self, delays: dict[str, float], **settings: Any) -> None:
        """Start a process that reads it."""
        arguments = [json.dumps({"source": INDEX, **settings}), json.dumps(delays)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reading", *arguments],
            cwd=ROOT,
            env=os.environ | {"LD_PRELOAD": str(self._library), "EYELINE_WEBCAM": str(self._file)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def hear(self) -> dict[str, Any]:
        """The next line of the process; empty at its end."""
        line = self._lines.get(timeout=DEADLINE_S)
        said: dict[str, Any] = json.loads(line) if line else {}
        self.said.append(said)
        return said

    def until(self, **what: Any) -> list[dict[str, Any]]:
        """Wait until the process reports this; return all reports up to it."""
        before = len(self.said)
        while not what.items() <= self.hear().items():
            assert self.said[-1], f"it ended: {self.said[before:]}"
        return self.said[before:]

    def images(self, count: int) -> list[dict[str, Any]]:
        """Return the reports of the next `count` images; skip the others."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            said = self.hear()
            assert said, f"it ended: {self.said[-5:]}"
            if "number" in said:
                found.append(said)
        return found

    def close(self) -> int:
        """Make the process end; return its exit status."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(DEADLINE_S)
        while self.hear():
            pass
        return status

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._listener.join()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
