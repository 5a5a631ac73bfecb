"""Messages on disk that could not be sent yet; see `outbox.py` for those in memory."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipeline.context import Log

LOG = logging.getLogger(__name__)
MAX_MESSAGE_BYTES = 1 << 20
MAX_TAKE_BYTES = 1 << 20
"""Limit of the messages that are read at once; a single one may be larger."""
SQLITE = b"SQLite format 3\0"
APPLICATION_ID = 0x4579656C
"""Marks our files: "Eyel"."""
MAX_WAL_BYTES = 1 << 20


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A message to be sent."""

    stream: str
    """Name of its stream."""
    topic: str
    """Topic to send it to; empty: all messages have the same destination."""
    body: bytes

    @property
    def size(self) -> int:
        """Its size for the limits, in bytes."""
        return len(self.stream) + len(self.topic) + len(self.body)


class SpoolError(Exception):
    """The spool cannot be used; the text says why."""


class Spool:
    """Messages on disk, first in, first out; when it is full, the oldest are dropped.

    Appended messages survive the death of all processes. A loss of power may cost the last moments
    but leaves the file whole. Only one process can use the file at a time.

    Args:
        path: file of the spool; created if missing. PATH.lock, PATH-wal and PATH-shm are beside it.
        max_messages: limit of the number of messages.
        max_bytes: limit of their sizes; the file is somewhat larger.
        log: logger of the stage.

    Every method but `close` raises SpoolError if the disk fails. Messages that were read can still
    be removed then: they are not read again while the object exists.
    """

    def __init__(self, path: Path, max_messages: int, max_bytes: int, log: Log = LOG) -> None:
        self.path, self._log = path, log
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self.count = 0
        """Number of messages in it."""
        self.size = 0
        """Size of the messages in it, bytes."""
        self.newest = 0
        """Number of the newest message so far, as far as it is known."""
        self._removed = 0
        """Messages up to this number were removed, also if that is not on disk yet."""
        self._lock_fd = -1
        self._file: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self._file is not None

    def open(self) -> None:
        """Lock the file for this process, and count its messages.

        Raises:
            SpoolError: another process uses it, it is no spool, or the disk fails. A damaged spool
                is renamed to PATH.damaged, and a new one is made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._check_kind()
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._rename_damaged()
                self._connect()
        except SpoolError:
            self.close()
            raise
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise SpoolError(_text(error)) from None

    def append(self, messages: Sequence[tuple[int, Message]]) -> int:
        """Add messages, all or none.

        Args:
            messages: with their numbers, each larger than all before.

        Returns:
            Number of the oldest messages that were dropped.
        """
        rows = [(number, m.stream, m.topic, m.body, m.size) for number, m in messages]
        count, size = self.count + len(rows), self.size + sum(row[-1] for row in rows)

        def change(file: sqlite3.Connection) -> tuple[int, int]:
            file.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
            return self._delete(file, self._surplus(file, count, size))

        gone, gone_bytes = self._change(change)
        self.count, self.size = count - gone, size - gone_bytes
        if rows:
            self.newest = rows[-1][0]
        return gone

    def read(self, after: int, limit: int) -> list[tuple[int, Message]]:
        """Return the oldest messages with numbers above `after`, with their numbers.

        Args:
            after: a number, or 0.
            limit: most messages; fewer, but at least one, if they exceed `MAX_TAKE_BYTES`.
        """
        if self._file is None:
            return []
        found: list[tuple[int, Message]] = []
        try:
            rows = self._file.execute(
                "SELECT number, stream, topic, body FROM message WHERE number > ? "
                "ORDER BY number LIMIT ?",
                (max(after, self._removed), limit),
            )
            size = 0
            for number, *parts in rows:
                message = Message(*parts)
                size += message.size
                if found and size > MAX_TAKE_BYTES:
                    break
                found.append((number, message))
            rows.close()
        except sqlite3.Error as error:
            raise self._failure(error) from None
        return found

    def remove(self, through: int) -> None:
        """Remove all messages up to this number."""
        if not self.count or through <= self._removed:
            return
        self._removed = through
        gone, gone_bytes = self._change(lambda file: self._delete(file, through))
        self.count -= gone
        self.size -= gone_bytes
        if gone and not self.count:
            self._shrink_file()

    def close(self) -> None:
        """Release the file. May be called twice, and before `open`."""
        if self._file is not None:
            try:
                self._file.close()
            except sqlite3.Error:
                pass  # the disk fails; messages that were written stay
            self._file = None
            self.count = self.size = 0
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _take_lock(self) -> None:
        if self._lock_fd >= 0:
            return
        # A file of its own: SQLite's locks do not exclude the same process, and do not last.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock_fd = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(
                "another process uses it; give each sink a file of its own with `spool`"
            ) from None

    def _check_kind(self) -> None:
        # Made here with a mode that lets no other user read it.
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            start = os.read(fd, len(SQLITE))
        finally:
            os.close(fd)
        if start and not SQLITE.startswith(start):
            raise SpoolError("it is a file of another kind; choose another path")

    def _connect(self) -> None:
        # May be used by several threads: the caller makes sure that it is one at a time.
        file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(file)
            found = file.execute("SELECT count(*), max(number), sum(size) FROM message").fetchone()
        except BaseException:
            file.close()
            raise
        self._file = file
        self.count, newest, self.size = (value or 0 for value in found)
        self.newest = max(self.newest, newest)

    def _prepare(self, file: sqlite3.Connection) -> None:
        (mark,) = file.execute("PRAGMA application_id").fetchone()
        (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and mark != APPLICATION_ID:
            raise SpoolError("it is a database of another program; choose another path")
        file.execute("PRAGMA auto_vacuum = INCREMENTAL")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
        if not tables:
            file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            file.execute(
                "CREATE TABLE message (number INTEGER PRIMARY KEY, stream TEXT, topic TEXT, "
                "body BLOB, size INTEGER)"
            )

    def _rename_damaged(self) -> None:
        aside = f"{self.path}.damaged"
        os.replace(self.path, aside)
        for journal in (f"{self.path}-wal", f"{self.path}-shm"):
            Path(journal).unlink(missing_ok=True)
        self.newest = self._removed = 0
        self._log.warning("spool %r was damaged; renamed to %r", str(self.path), aside)

    def _surplus(self, file: sqlite3.Connection, count: int, size: int) -> int:
        """Return the number up to which the oldest messages exceed the limits; 0: none."""
        last = 0
        oldest = file.execute("SELECT number, size FROM message ORDER BY number")
        while count > self._max_messages or size > self._max_bytes:
            last, length = oldest.fetchone()
            count -= 1
            size -= length
        oldest.close()
        return last

    def _delete(self, file: sqlite3.Connection, through: int) -> tuple[int, int]:
        """Delete messages up to a number, and return their number and size."""
        if not through:
            return 0, 0
        where = "FROM message WHERE number <= ?"
        count, size = file.execute(f"SELECT count(*), sum(size) {where}", (through,)).fetchone()
        file.execute(f"DELETE {where}", (through,))
        return count, size or 0

    def _change(self, change: Callable[[sqlite3.Connection], tuple[int, int]]) -> tuple[int, int]:
        """Make a change in one transaction."""
        if self._file is None:
            raise SpoolError("it is not open")
        try:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                done = change(self._file)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failure(error) from None
        return done

    def _shrink_file(self) -> None:
        """Shrink the file, which is empty."""
        assert self._file is not None
        try:
            # As a script, since a statement without rows is stepped once: one page.
            self._file.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: sqlite3.Error) -> SpoolError:
        if _is_damage(error):
            self.close()  # `open` renames it
        return SpoolError(_text(error))


def default_path(name: str) -> Path:
    """Return the path of a spool: in the state directory of the service, or in runs/."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "runs"
    return Path(folder) / "spool" / name


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _text(error: OSError | sqlite3.Error) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
