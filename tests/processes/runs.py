"""Starts run.py as a user does, looks at its processes, and reads what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "clips" / "demo.mp4"
DEADLINE_S = 60.0

GRAPH = """\
streams:
  demo: {{source: {source}}}
stages:
  capture: {{use: capture}}
  pre:     {{use: fault}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  post:    {{use: fault}}
  ids:     {{use: "tests.processes.stages:Ids"}}
  events:  {{use: events, after: ids, path: {out}/events.jsonl}}
  end:     {{use: "null", after: ids}}
supervisor: {{restarts: 1000, hang_s: 1}}
"""


class Run:
    """One run of the command line in a process of its own."""

    def __init__(self, folder: Path, *args: str, source: object = CLIP, graph: str = GRAPH) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.yaml"
        config.write_text(graph.format(source=source, out=folder))
        self.summary_path = folder / "summary.json"
        command = [sys.executable, ROOT / "run.py", config, "--summary", self.summary_path, *args]
        self.errors = folder / "stderr.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "TMPDIR": str(folder)},
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit status; a run that does not end is an error."""
        return self.process.wait(timeout_s)

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def summary(self) -> dict:
        return json.loads(self.summary_path.read_text())

    @property
    def ledger(self) -> dict:
        stream = self.summary["streams"]["demo"]
        return {k: stream[k] for k in ("captured", "delivered", "dropped", "failed", "in_flight")}

    @property
    def lines(self) -> list[dict]:
        """What was written of each frame, but for the wall clock."""
        text = (self.folder / "events.jsonl").read_text()
        events = [json.loads(line) for line in text.splitlines()]
        for event in events:
            del event["captured_at"]
        return events

    def workers(self) -> dict[str, int]:
        """Process title -> pid of the workers that live now."""
        found = {}
        for pid in children(self.process.pid):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if title.startswith("eyeline:"):
                found[title.removeprefix("eyeline:")] = pid
        return found

    def wait_for_events(self, count: int) -> None:
        """Until so many lines are written, or the run has ended."""
        path = self.folder / "events.jsonl"
        self.wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count)

    def wait_until(self, condition) -> None:
        wait_until(lambda: self.process.poll() is not None or condition())

    def strike(self, stage: str, number: signal.Signals) -> None:
        """Send a signal to a worker that runs a stage."""
        self.wait_until(lambda: self._find(stage) is not None)
        pid = self._find(stage)
        if pid is not None:
            os.kill(pid, number)

    def _find(self, stage: str) -> int | None:
        for title, pid in self.workers().items():
            if stage in re.split(r"[+.]", title):
                return pid
        return None


def wait_until(condition) -> None:
    """Wait until a condition is true, up to the deadline."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def sockets(pids) -> set[str]:
    """Names of the abstract sockets that processes are bound to."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            if match:
                inodes.add(match[1])
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {field[7] for field in fields if len(field) == 8 and field[6] in inodes}


def all_sockets() -> set[str]:
    return set(re.findall(r"@\S+", Path("/proc/net/unix").read_text()))
