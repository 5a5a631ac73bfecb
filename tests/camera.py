"""A network camera for tests: an RTSP server in a process of its own, to be killed and frozen.

    python -m tests.camera --port 8554        # tests/clips/demo.mp4 at /h264, a clock at /jpeg
    ffplay rtsp://127.0.0.1:8554/h264

In a test:

    with Camera(fps=25, user="guest", password="secret") as camera:
        reader = open_it(camera.url("/jpeg"))
        camera.freeze(); camera.thaw(); camera.kill(); camera.restart(size="320x240")

`/h264` loops the H.264 of an mp4 file; it starts over, or jumps to the next key picture, when a
viewer joins. `/jpeg` are generated pictures with their number and the time of day in their top 16
rows, see `read_clock`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.sinks.rtsp.mount import Mount
from stages.sinks.rtsp.rtp_jpeg import Jpeg
from stages.sinks.rtsp.server import RtspServer
from tests.rtsp_h264 import H264, MOUNTS, CameraCredentials, H264Mount

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "tests" / "clips" / "demo.mp4"

PORTS = range(20000, 30000)
"""Ports to choose from: below those that systems give to clients, as another program could take one
of those while the camera does not run, even the reader that tries to connect."""

START_S = 30.0
"""Deadline for the process to listen."""

LATE_NS = 500_000_000
"""A camera that was frozen goes on with what it sees now, it does not catch up."""

CLOCK_BITS, NUMBER_BITS = 40, 24
CLOCK_ROWS = 16
SQUARES = CLOCK_BITS + NUMBER_BITS


# --- a clock in the pixels ---


class Clock(NamedTuple):
    """What a picture says of itself."""

    number: int
    """Of the picture since the camera started, from 0; modulo 2**24."""
    wall_ms: int
    """When it was made, milliseconds since the Unix epoch."""


def draw_clock(picture: NDArray[np.uint8], number: int, wall_ms: int) -> None:
    """Write the number and the time into the top 16 rows, as 64 black and white squares.

    Args:
        picture: (H, W, 3) uint8, at least 256 pixels wide.
        number: of the picture.
        wall_ms: milliseconds since the Unix epoch; 40 bits of them are written.
    """
    value = (number % (1 << NUMBER_BITS)) << CLOCK_BITS | wall_ms % (1 << CLOCK_BITS)
    edges = np.linspace(0, picture.shape[1], SQUARES + 1).round().astype(int)
    for bit in range(SQUARES):
        picture[:CLOCK_ROWS, edges[bit] : edges[bit + 1]] = 255 if value >> bit & 1 else 0


def read_clock(picture: NDArray[np.uint8]) -> Clock | None:
    """Read what `draw_clock` wrote; None: no clock, or a damaged one.

    Args:
        picture: (H, W, 3) uint8, of any width it was scaled to as long as the squares are clear.
    """
    width = picture.shape[1]
    rows = max(1, round(CLOCK_ROWS * 0.25)), max(2, round(CLOCK_ROWS * 0.75))
    if picture.shape[0] < CLOCK_ROWS or width < 4 * SQUARES:
        return None
    centres = ((np.arange(SQUARES) + 0.5) * width / SQUARES).astype(int)
    levels = picture[rows[0] : rows[1], centres].mean(axis=(0, 2))
    if ((levels > 80) & (levels < 175)).any() or np.ptp(levels) < 80:
        return None
    value = sum(1 << bit for bit in range(SQUARES) if levels[bit] > 128)
    low_ms, span_ms = value % (1 << CLOCK_BITS), 1 << CLOCK_BITS
    now_ms = time.time_ns() // 1_000_000
    wall_ms = now_ms - (now_ms - low_ms + span_ms // 2) % span_ms + span_ms // 2
    return Clock(value >> CLOCK_BITS, wall_ms)


def age_ms(picture: NDArray[np.uint8]) -> float | None:
    """How old a picture of the clock is now; None where there is no clock on it."""
    clock = read_clock(picture)
    return None if clock is None else time.time_ns() / 1e6 - clock.wall_ms


# --- an mp4 file ---


class Sample(NamedTuple):
    """One access unit of a file."""

    data: bytes
    """NAL units, each behind its length in 4 bytes."""
    dts_ns: int
    """When it is to be decoded, from the start of the file; it is sent then."""
    pts_ns: int
    """When it is to be shown."""
    key: bool


class Clip(NamedTuple):
    """The H.264 track of an mp4 file."""

    sps: bytes
    pps: bytes
    samples: list[Sample]
    duration_ns: int

    @property
    def fps(self) -> float:
        """Pictures per second on average."""
        return len(self.samples) / (self.duration_ns / 1e9)


def read_clip(path: Path) -> Clip:
    """Read the first H.264 track of an mp4 file (ISO 14496-12 and -15).

    Raises:
        ValueError: there is none, or it is fragmented, or its NAL units have no 4-byte lengths.
    """
    data = path.read_bytes()
    for track in _boxes(data, b"moov", b"trak"):
        table = next(_boxes(track, b"mdia", b"minf", b"stbl"), b"")
        entry = next(_boxes(table, b"stsd"), b"")[8:]
        avcc = next(_boxes(entry[86:], b"avcC"), b"") if entry[4:8] == b"avc1" else b""
        if avcc:
            header = next(_boxes(track, b"mdia", b"mdhd"))
            return _read_track(data, table, avcc, header, path)
    raise ValueError(f"{path}: expected an mp4 file with an H.264 track, found none")


def _read_track(data: bytes, table: bytes, avcc: bytes, header: bytes, path: Path) -> Clip:
    if avcc[4] & 3 != 3:
        raise ValueError(f"{path}: expected NAL units with 4-byte lengths")
    sps_size = int.from_bytes(avcc[6:8], "big")
    pps = 8 + sps_size + 1
    pps_size = int.from_bytes(avcc[pps : pps + 2], "big")
    scale = int.from_bytes(header[20:24] if header[0] else header[12:16], "big")

    sizes_box = next(_boxes(table, b"stsz"))
    same, count = struct.unpack_from(">II", sizes_box, 4)
    sizes = [same] * count if same else list(struct.unpack_from(f">{count}I", sizes_box, 12))
    durations = [d for n, d in _rows(table, b"stts", ">II") for _ in range(n)]
    shifts = [s for n, s in _rows(table, b"ctts", ">Ii") for _ in range(n)] or [0] * count
    keys = {number for (number,) in _rows(table, b"stss", ">I")} or set(range(1, count + 1))
    chunks = [at for (at,) in _rows(table, b"stco", ">I")]
    chunks = chunks or [at for (at,) in _rows(table, b"co64", ">Q")]
    runs = list(_rows(table, b"stsc", ">III"))
    if not count or not chunks or len(durations) < count:
        raise ValueError(f"{path}: expected an mp4 file that is not fragmented")

    samples, number, ticks = [], 0, 0
    for chunk, at in enumerate(chunks, start=1):
        per_chunk = next(per for first, per, _ in reversed(runs) if first <= chunk)
        for _ in range(min(per_chunk, count - number)):
            samples.append(
                Sample(
                    data[at : at + sizes[number]],
                    ticks * 1_000_000_000 // scale,
                    (ticks + shifts[number]) * 1_000_000_000 // scale,
                    number + 1 in keys,
                )
            )
            at += sizes[number]
            ticks += durations[number]
            number += 1
    sps = avcc[8 : 8 + sps_size]
    return Clip(sps, avcc[pps + 2 : pps + 2 + pps_size], samples, ticks * 1_000_000_000 // scale)


def _boxes(data: bytes, *path: bytes) -> Iterator[bytes]:
    """The contents of the boxes at a path."""
    at = 0
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        size = size or len(data) - at
        if size < head:
            return
        if data[at + 4 : at + 8] == path[0]:
            inside = data[at + head : at + size]
            if path[1:]:
                yield from _boxes(inside, *path[1:])
            else:
                yield inside
        at += size


def _rows(table: bytes, name: bytes, form: str) -> Iterator[tuple[int, ...]]:
    """The entries of a sample table; none where there is no such table."""
    box = next(_boxes(table, name), b"")
    if box:
        count = int.from_bytes(box[4:8], "big")
        yield from struct.iter_unpack(form, box[8 : 8 + count * struct.calcsize(form)])


# --- the process ---


def play_clip(
    mount: H264Mount, clip: Clip, args: argparse.Namespace, over: threading.Event
) -> None:
    """Send a clip again and again, from its start when the first viewer comes."""
    speed = (args.fps or clip.fps) / clip.fps
    interval_ns = round(clip.duration_ns / len(clip.samples) / speed)
    sent, watched, index = 0, False, 0
    due_ns = time_ns = 0
    while not over.is_set():
        if not mount.watched:
            watched = False
            over.wait(0.005)
            continue
        if not watched:
            watched, due_ns = True, time.monotonic_ns()
            index = index if args.start == "any" else 0
        late_ns = time.monotonic_ns() - due_ns
        if late_ns > LATE_NS:
            due_ns, time_ns = due_ns + late_ns, time_ns + late_ns
        if over.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
            return
        if mount.key_wanted:
            while not clip.samples[index].key:
                index = (index + 1) % len(clip.samples)
        if args.stall_after is None or sent < args.stall_after:
            sample = clip.samples[index]
            shift_ns = round((sample.pts_ns - sample.dts_ns) / speed)
            mount.put(sample.data, time_ns + shift_ns, time.time_ns() + shift_ns)
            sent += 1
        index = (index + 1) % len(clip.samples)
        time_ns += interval_ns
        due_ns += round(interval_ns / args.pace)


def play_clock(mount: Mount, args: argparse.Namespace, over: threading.Event) -> None:
    """Make pictures of the time of day as long as there is a viewer."""
    width, height = (int(side) for side in args.size.split("x"))
    interval_ns = round(1e9 / (args.fps or 25.0))
    ground = np.zeros((height, width, 3), np.uint8)
    ground[..., 0] = np.linspace(40, 200, width)
    ground[..., 1] = np.linspace(60, 160, height)[:, None]
    ground[..., 2] = 90
    number = 0
    due_ns = time_ns = time.monotonic_ns()
    while not over.is_set():
        if not mount.watched:
            over.wait(0.005)
            due_ns = time_ns = time.monotonic_ns()
            continue
        late_ns = time.monotonic_ns() - due_ns
        if late_ns > LATE_NS:
            due_ns, time_ns = due_ns + late_ns, time_ns + late_ns
        if over.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
            return
        if args.stall_after is None or number < args.stall_after:
            picture, wall_ns = ground.copy(), time.time_ns()
            draw_clock(picture, number, wall_ns // 1_000_000)
            x = number * 8 % width
            cv2.rectangle(picture, (x, height - 24), (x + 24, height), (255, 255, 255), -1)
            cv2.putText(picture, str(number), (16, height // 2), 0, height / 200, (0, 255, 0), 3)
            jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
            mount.put(jpeg.tobytes(), time_ns, wall_ns)
            number += 1
        time_ns += interval_ns
        due_ns += round(interval_ns / args.pace)


def parser() -> argparse.ArgumentParser:
    """The options of the command line, which are those of `Camera` too."""
    top = argparse.ArgumentParser(prog="python -m tests.camera", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--address", default="127.0.0.1")
    top.add_argument("--port", type=int, default=0, help="0: a free one; it is printed")
    top.add_argument("--clip", type=Path, default=CLIP, help="an mp4 file with H.264")
    top.add_argument("--h264", default="/h264", metavar="PATH", help="where the clip is served")
    top.add_argument("--jpeg", default="/jpeg", metavar="PATH", help="where the clock is served")
    top.add_argument("--fps", type=float, help="default: the clip's own, and 25 for the clock")
    top.add_argument("--size", default="640x368", metavar="WxH", help="of the clock's pictures")
    top.add_argument("--user")
    top.add_argument("--password", default="")
    top.add_argument("--scheme", choices=["digest", "basic", "both"], default="both")
    top.add_argument("--transports", default="tcp,udp")
    top.add_argument(
        "--start",
        choices=["key", "any", "after_key"],
        default="key",
        help="any: a viewer may begin amid a group of pictures; after_key: it always does, as the "
        "first key picture is left out",
    )
    top.add_argument("--pace", type=float, default=1.0, help="0.5: delivers at half pace")
    top.add_argument("--slow", action="store_const", const=0.5, dest="pace", help="--pace 0.5")
    top.add_argument(
        "--stall-after",
        type=int,
        metavar="N",
        help="answers, but gives N pictures in all",
    )
    top.add_argument("--empty", action="store_true", help="404 for every path")
    top.add_argument("--refuse", action="store_true", help="holds the port, refuses connections")
    top.add_argument("--until-eof", action="store_true", help="end when standard input does")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends the process."""
    args = parser().parse_args(argv)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with contextlib.ExitStack() as stack:
        if args.refuse:
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = _first_free(args.port, lambda port: holder.bind((args.address, port)))
        else:
            port = _serve(args, over, stack)
        print(port, flush=True)  # noqa: T201 - who started it reads it
        while not over.wait(0.05):
            if args.until_eof and select.select([0], [], [], 0)[0] and not os.read(0, 4096):
                break
        over.set()
    return 0


def _serve(args: argparse.Namespace, over: threading.Event, stack: contextlib.ExitStack) -> int:
    credentials = None
    if args.user is not None:
        schemes = {"both": ("digest", "basic")}.get(args.scheme, (args.scheme,))
        credentials = CameraCredentials(args.user, args.password, schemes)
    clip = read_clip(args.clip)
    transports = args.transports.split(",")
    server = RtspServer(args.address, 0, credentials, transports)

    def listen(port: int) -> None:
        server.port = port
        server.open()

    _first_free(args.port, listen)
    stack.callback(server.close)
    if not args.empty:
        # Readers should use the declared rate, as they do with real cameras.
        h264 = H264(clip.sps, clip.pps, args.fps or clip.fps)
        mount = server.add(args.h264, h264, MOUNTS[args.start])
        players = (
            threading.Thread(
                target=play_clip,
                args=(mount, clip, args, over),
            ),
            threading.Thread(
                target=play_clock,
                args=(server.add(args.jpeg, Jpeg(args.fps or 25.0)), args, over),
            ),
        )
        for player in players:
            player.start()
            stack.callback(player.join)
    return server.port


def _first_free(port: int, listen: Any) -> int:
    """Listen at a port; of 0, at a free one of `PORTS`."""
    for candidate in [port] if port else random.sample(PORTS, 50):
        try:
            listen(candidate)
            return candidate
        except OSError:
            if port:
                raise
    raise OSError("no free port")


# --- for tests ---


class Camera:
    """A camera in a process of its own, at one port for as long as this object lives.

    Args:
        options: those of the command line, with underscores: `fps=10`, `stall_after=40`; True for
            those that take no value.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.port = int(options.pop("port", 0))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Camera:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def url(self, path: str = "/h264", user: str | None = None, password: str = "") -> str:
        """The address of a path, with the camera's own credentials, or those given; "": none."""
        if user is None and "user" in self.options:
            user, password = self.options["user"], self.options.get("password", "")
        login = f"{user}:{password}@" if user else ""
        return f"rtsp://{login}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Start it and wait until it listens; at the same port as before.

        Raises:
            RuntimeError: it does not.
        """
        assert self.process is None, "it runs already"
        command = [sys.executable, "-m", "tests.camera", "--until-eof", "--port", str(self.port)]
        for name, value in self.options.items():
            if value is not None and value is not False:
                command.append("--" + name.replace("_", "-"))
                command += [] if value is True else [str(value)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        output = self.process.stdout
        assert output is not None
        ready = select.select([output], [], [], START_S)[0]
        line = output.readline() if ready else b""
        if not line.strip().isdigit():
            self.kill()
            raise RuntimeError("the camera has not started: see its complaint on stderr")
        self.port = int(line)

    def kill(self) -> None:
        """Let it die at once, as if its power had failed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order: viewers get BYE. Does nothing if it does not run."""
        self.thaw()
        self._end(signal.SIGTERM)

    def restart(self, **changed: Any) -> None:
        """Kill it if it runs, and start it again at the same port, with some options changed."""
        self.kill()
        self.options.update(changed)
        self.start()

    def freeze(self) -> None:
        """Make it answer no request, while its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(START_S)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


if __name__ == "__main__":
    sys.exit(main())
