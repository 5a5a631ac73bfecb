"""A small RTSP server: live video for a few viewers, in plain Python.

RTSP 1.0 (RFC 2326) with RTP (RFC 3550) over the same connection or over UDP. One thread serves all
viewers through a selector, so no call here waits for a viewer: one that reads too slowly loses
whole images, one that reads nothing is disconnected, and memory is bounded by the number of
viewers. Sender reports relate RTP time to the wall clock, so that a viewer knows when each image
was taken.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pipeline.context import Log
from stages.sinks.rtsp.auth import Credentials
from stages.sinks.rtsp.mount import TRACK, Media, Mount
from stages.sinks.rtsp.requests import Transport, response
from stages.sinks.rtsp.session import Disconnected, Session
from stages.sinks.rtsp.udp import BURST_PAUSE_S

MAX_CLIENTS = 32
ACCEPT_PAUSE_S = 1.0
"""Pause before the next attempt to accept a connection when there are no descriptors."""
POLL_S = 0.5
REFUSAL_LOG_S = 60.0
"""At most one message about wrong passwords in this time."""


class _Opened:
    """Sockets of a server that listens, and the selector of its thread."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # Sets SO_REUSEADDR where that means: also while connections of a dead server linger.
        self.listener = socket.create_server((address, port), family=family)
        self.listener.setblocking(False)
        self.wake_out, self.wake_in = socket.socketpair()
        self.wake_out.setblocking(False)
        self.wake_in.setblocking(False)
        self.selector = selectors.DefaultSelector()

    def close(self) -> None:
        self.selector.close()
        for end in (self.listener, self.wake_out, self.wake_in):
            end.close()


class RtspServer:
    """Serves mounts to viewers from a thread of its own, from `open` to `close`.

    Args:
        address: address of the interface to listen on, IPv4 or IPv6.
        port: 0: a free one, see `port`.
        credentials: None: no password is needed.
        transports: ways to send RTP.
        max_clients: connections at a time; further ones are answered with 503.
        log: logger of its messages.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 0,
        credentials: Credentials | None = None,
        transports: Sequence[Transport] = ("tcp", "udp"),
        max_clients: int = MAX_CLIENTS,
        log: Log = logging.getLogger(),  # noqa: B008 - the root logger, always the same object
    ) -> None:
        self.address, self.port = address, port
        self.credentials, self.transports = credentials, tuple(transports)
        self.mounts: dict[str, Mount] = {}
        self._max_clients, self._log = max_clients, log
        self._sessions: set[Session] = set()
        self._removed: deque[Mount] = deque()
        self._closing = False
        self._refusal_logged_s = float("-inf")
        self._accept_at_s = 0.0
        """Monotonic time of the next attempt to accept a connection; 0: at any time."""
        self._opened: _Opened | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Listen, and start the thread.

        Raises:
            OSError: the address or port is not available.
        """
        opened = self._opened = _Opened(self.address, self.port)
        self.port = opened.listener.getsockname()[1]
        opened.selector.register(opened.listener, selectors.EVENT_READ, self._accept)
        opened.selector.register(opened.wake_in, selectors.EVENT_READ, self._on_wake)
        self._thread = threading.Thread(target=self._run, name="rtsp", daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        """Return the address of a mount, without credentials."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"rtsp://{host}:{self.port}{path}"

    def add(self, path: str, media: Media, kind: type[Mount] = Mount) -> Mount:
        """Serve a kind of video under a path; at any time, from any thread.

        Args:
            path: beginning with a slash, of characters that need no escape in an address.
            media: its kind of video.
            kind: class of the mount.
        """
        self.remove(path)
        mount = self.mounts[path] = kind(path, media, self._wake)
        return mount

    def remove(self, path: str) -> None:
        """Stop serving a path; its viewers get BYE and are disconnected. From any thread."""
        mount = self.mounts.pop(path, None)
        if mount is not None:
            self._removed.append(mount)
            self._wake()

    def close(self) -> None:
        """Disconnect all viewers, and end the thread. May be called twice, and before `open`."""
        if self._thread is None:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        self._thread = None
        self._sockets.close()
        self._opened = None

    # --- for sessions ---

    def find(self, url: str) -> Mount | None:
        """Return the mount of a request's address, which may name its track."""
        path = re.sub(r"^[a-zA-Z]+://[^/]*", "", url).partition("?")[0]
        path = "/" + path.strip("/")
        return self.mounts.get(path) or self.mounts.get(path.removesuffix(f"/{TRACK}"))

    def is_served(self, mount: Mount) -> bool:
        """Return whether a mount has not been removed."""
        return self.mounts.get(mount.path) is mount

    def count_refusal(self, peer: str) -> None:
        """Log a wrong password; rarely, as a client may be trying many."""
        now_s = time.monotonic()
        if now_s - self._refusal_logged_s > REFUSAL_LOG_S:
            self._refusal_logged_s = now_s
            self._log.warning("wrong user or password from %s", peer)

    def watch(self, session: Session, end: socket.socket, serve: Callable[[int], None]) -> None:
        """Call `serve` when there is something to read from a socket of a session."""

        def guarded(events: int) -> None:
            if session in self._sessions:  # it may have been closed since this was selected
                with self._guard(session):
                    serve(events)

        self._sockets.selector.register(end, selectors.EVENT_READ, guarded)

    def set_events(self, end: socket.socket, events: int) -> None:
        """Wait for other events of a watched socket."""
        selector = self._sockets.selector
        key = selector.get_key(end)
        if key.events != events:
            selector.modify(end, events, key.data)

    def unwatch(self, end: socket.socket) -> None:
        """Stop watching a socket."""
        self._sockets.selector.unregister(end)

    # --- the thread ---

    @property
    def _sockets(self) -> _Opened:
        assert self._opened is not None, "open first"
        return self._opened

    def _wake(self) -> None:
        opened = self._opened
        if opened is not None:
            with contextlib.suppress(OSError):  # full: the thread wakes anyway; or just closed
                opened.wake_out.send(b"\0")

    def _on_wake(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._sockets.wake_in.recv(4096)

    def _run(self) -> None:
        try:
            while not self._closing:
                has_burst = any(session.has_burst for session in self._sessions)
                timeout_s = BURST_PAUSE_S if has_burst else POLL_S
                for key, events in self._sockets.selector.select(timeout_s):
                    key.data(events)
                self._distribute()
                self._housekeep(time.monotonic())
        finally:
            for session in list(self._sessions):
                session.send_bye()
                self._disconnect(session, "the server closes")

    def _accept(self, events: int) -> None:
        opened = self._sockets
        try:
            connection, peer = opened.listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # The listener stays readable: without a pause this would be a busy loop.
                opened.selector.unregister(opened.listener)
                self._accept_at_s = time.monotonic() + ACCEPT_PAUSE_S
            return
        connection.setblocking(False)
        try:
            if len(self._sessions) >= self._max_clients:
                connection.send(response(503))
                connection.close()
                return
            session = Session(self, connection, peer[0])
        except OSError:  # the client has closed the connection already
            connection.close()
            return
        self._sessions.add(session)
        self.watch(session, connection, session.serve)

    def _distribute(self) -> None:
        """Hand the new images to the viewers, and disconnect those of removed mounts."""
        for mount in list(self.mounts.values()):
            while mount.pending:
                image = mount.pending.popleft()
                for viewer in self._viewers_of(mount):
                    viewer.give(image)
            for viewer in self._viewers_of(mount):
                with self._guard(viewer):
                    viewer.send_pending()
        while self._removed:
            for viewer in self._viewers_of(self._removed.popleft()):
                viewer.send_bye()
                self._disconnect(viewer, "the stream has ended")

    def _viewers_of(self, mount: Mount) -> list[Session]:
        return [viewer for viewer in mount.viewers if isinstance(viewer, Session)]

    def _housekeep(self, now_s: float) -> None:
        for session in list(self._sessions):
            with self._guard(session):
                session.housekeep(now_s)
        if self._accept_at_s and now_s >= self._accept_at_s:
            self._accept_at_s = 0.0
            listener = self._sockets.listener
            self._sockets.selector.register(listener, selectors.EVENT_READ, self._accept)

    @contextlib.contextmanager
    def _guard(self, session: Session) -> Iterator[None]:
        """Disconnect a session whose work fails, so that no other session notices."""
        try:
            yield
        except Disconnected as reason:
            self._disconnect(session, str(reason))
        except OSError as error:
            self._disconnect(session, error.strerror or type(error).__name__)
        except Exception as error:
            self._log.exception("disconnecting a viewer after an unexpected error")
            self._disconnect(session, type(error).__name__)

    def _disconnect(self, session: Session, reason: str) -> None:
        if session in self._sessions:
            self._sessions.remove(session)
            self._log.debug("%s disconnected: %s", session.peer, reason)
            session.close()
