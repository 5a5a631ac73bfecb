"""What is still to be sent: in memory while it goes through, on disk while nobody takes it.

`Outbox` is what sinks that send to others use. `Spool` is its part on disk.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

MEMORY_MESSAGES = 10_000
MEMORY_BYTES = 16 << 20
"""Bounds of what waits in memory, over all streams."""
STATE_MESSAGES = 500
STATE_BYTES = 256 << 10
"""Bounds of what is told of one stream to survive a crash; the newest count."""
MESSAGE_BYTES = 1 << 20
"""Largest message."""
TAKE_BYTES = 1 << 20
"""No more is taken at once, unless it is one message."""
RETRY_S = 10.0
"""How often a disk is tried again that could not be written."""

SQLITE = b"SQLite format 3\0"
OURS = 0x4579656C
"""Tells our files from those of other programs: "Eyel"."""
WAL_BYTES = 1 << 20


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Something to be sent."""

    stream: str
    """That it is about."""
    topic: str
    """Where it goes; empty if all go to the same place."""
    body: bytes

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return len(self.stream) + len(self.topic) + len(self.body)


class SpoolError(Exception):
    """The spool cannot be used, in words."""


class Spool:
    """Messages on disk, first in, first out; when it is full, the oldest go first.

    Whatever was appended survives the death of this process, and of all of them. A loss of power
    may cost the last moments but leaves the file whole. Nobody else can use the file meanwhile.

    Args:
        path: of the file; made if missing. Beside it lie PATH.lock, PATH-wal and PATH-shm.
        most_messages: bound.
        most_bytes: bound of their sizes; the file takes some more.

    Every method but `close` raises SpoolError if the disk fails. What was read can still be
    removed then: it does not come again while the object lives.
    """

    def __init__(self, path: Path, most_messages: int, most_bytes: int) -> None:
        self.path = path
        self._most_messages, self._most_bytes = most_messages, most_bytes
        self.count = 0
        """Messages in it."""
        self.size = 0
        """Their bytes."""
        self.newest = 0
        """Number of the newest message there ever was, as far as is known."""
        self._removed = 0
        """Up to this number they have been removed, also where the disk does not know yet."""
        self._lock_fd = -1
        self._file: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._file is not None

    def open(self) -> None:
        """Take the file for this process; what is in it is there to be read.

        Raises:
            SpoolError: another process has it, it is no spool, or the disk fails. A spool that is
                damaged is put aside as PATH.damaged, and a new one made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._refuse_strangers()
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._put_aside()
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
            How many of the oldest had to go.
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
        """The oldest messages with numbers above `after`, with their numbers.

        Args:
            after: a number, or 0.
            limit: how many at most; fewer, but one at least, where they are more than
                `TAKE_BYTES` in all.
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
                if found and size > TAKE_BYTES:
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
            self._give_back_room()

    def close(self) -> None:
        """Let go of the file. May be called twice, and before `open`."""
        if self._file is not None:
            try:
                self._file.close()
            except sqlite3.Error:
                pass  # the disk is in a bad state; what it took before stays
            self._file = None
            self.count = self.size = 0
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _take_lock(self) -> None:
        if self._lock_fd >= 0:
            return
        # A file of its own: SQLite's locks do not keep out the same process, and let go at times.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock_fd = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolError(
                "another process uses it; give each sink a file of its own with `spool`"
            ) from None

    def _refuse_strangers(self) -> None:
        # Made here, so that nobody else may read what was seen.
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            start = os.read(fd, len(SQLITE))
        finally:
            os.close(fd)
        if start and not SQLITE.startswith(start):
            raise SpoolError("it is a file of another kind; choose another path")

    def _connect(self) -> None:
        # Without a thread of its own: whoever uses it sees to it that only one does at a time.
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
        if tables and mark != OURS:
            raise SpoolError("it is a database of another program; choose another path")
        file.execute("PRAGMA auto_vacuum = INCREMENTAL")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        if not tables:
            file.execute(f"PRAGMA application_id = {OURS}")
            file.execute(
                "CREATE TABLE message (number INTEGER PRIMARY KEY, stream TEXT, topic TEXT, "
                "body BLOB, size INTEGER)"
            )

    def _put_aside(self) -> None:
        aside = f"{self.path}.damaged"
        os.replace(self.path, aside)
        for journal in (f"{self.path}-wal", f"{self.path}-shm"):
            Path(journal).unlink(missing_ok=True)
        self.newest = self._removed = 0
        logging.warning("the spool %r was damaged; it is put aside as %r", str(self.path), aside)

    def _surplus(self, file: sqlite3.Connection, count: int, size: int) -> int:
        """Up to which number the oldest are too many; 0: none are."""
        last = 0
        oldest = file.execute("SELECT number, size FROM message ORDER BY number")
        while count > self._most_messages or size > self._most_bytes:
            last, length = oldest.fetchone()
            count -= 1
            size -= length
        oldest.close()
        return last

    def _delete(self, file: sqlite3.Connection, through: int) -> tuple[int, int]:
        """Delete up to this number; how many these were, and their bytes."""
        if not through:
            return 0, 0
        where = "FROM message WHERE number <= ?"
        count, size = file.execute(f"SELECT count(*), sum(size) {where}", (through,)).fetchone()
        file.execute(f"DELETE {where}", (through,))
        return count, size or 0

    def _change(self, change: Callable[[sqlite3.Connection], tuple[int, int]]) -> tuple[int, int]:
        """Carry out a change as a whole or not at all."""
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

    def _give_back_room(self) -> None:
        """Make the file small again, now that it is empty."""
        assert self._file is not None
        try:
            # As a script, since a statement without rows is stepped once: one page.
            self._file.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: sqlite3.Error) -> SpoolError:
        if _is_damage(error):
            self.close()  # opened again, it is put aside
        return SpoolError(_text(error))


class Outbox:
    """What waits to be sent, in the order it came; oldest first, first lost where there is no room.

    While messages go through they stay in memory, and `unsaved` tells what of them a crash would
    cost; a disk (an SD card, often) is written only while nobody takes them. One thread puts
    messages in and never waits for a disk; another one sends them, and has all other methods but
    `unsaved` and those that tell counts.

    Args:
        name: of the sink, for the log.
        spool: where to keep what cannot be sent; None: in memory alone.
        wake: called when there is something new to send.
    """

    def __init__(self, name: str, spool: Spool | None, wake: Callable[[], None]) -> None:
        self._name, self._spool, self._wake = name, spool, wake
        self._lock = threading.Lock()
        """Of what lies in memory."""
        self._disk = threading.RLock()
        """Of the spool; taken before the other one."""
        self._memory: deque[tuple[int, Message]] = deque()
        self._memory_bytes = 0
        self._of_stream: dict[str, deque[Message]] = {}
        """The same messages, by stream."""
        self._number = 0
        """Of the newest message."""
        self._taken = 0
        """Up to this number they have been taken to be sent."""
        self._retry_at_s = 0.0
        self._trouble = ""
        """Why the disk cannot be written; empty if it can, or has not been tried."""
        self.dropped: Counter[str] = Counter()
        """Cause -> messages that were lost here: "spool full", "memory full", "too large"."""
        self.spooled = 0
        """Messages that went to the disk."""

    def open(self) -> None:
        """Find what an earlier run has left. A disk that fails is no error: see `trouble`."""
        with self._disk:
            self._open_spool()

    @property
    def in_spool(self) -> int:
        """Messages on disk."""
        return self._spool.count if self._spool is not None and self._spool.is_open else 0

    @property
    def in_memory(self) -> int:
        """Messages in memory."""
        return len(self._memory)

    @property
    def trouble(self) -> str:
        """Why the disk cannot be used; empty: it can."""
        return self._trouble

    def put(self, message: Message) -> None:
        """Add a message; never waits."""
        if message.size > MESSAGE_BYTES:
            self._count_dropped("too large", 1)
            return
        with self._lock:
            self._number += 1
            self._memory.append((self._number, message))
            self._of_stream.setdefault(message.stream, deque()).append(message)
            self._memory_bytes += message.size
            gone = 0
            while len(self._memory) > MEMORY_MESSAGES or self._memory_bytes > MEMORY_BYTES:
                self._forget_oldest()
                gone += 1
        self._count_dropped("memory full", gone)
        self._wake()

    def unsaved(self, stream: str) -> list[Message]:
        """What of a stream is in memory alone: the newest, oldest first."""
        with self._lock:
            kept: list[Message] = []
            size = 0
            for message in reversed(self._of_stream.get(stream, ())):
                size += message.size
                if size > STATE_BYTES or len(kept) == STATE_MESSAGES:
                    break
                kept.append(message)
        return kept[::-1]

    def take(self, limit: int) -> list[tuple[int, Message]]:
        """The next messages to send, with their numbers; they stay here until they are `done`.

        Args:
            limit: how many at most; there may be fewer although more wait.
        """
        with self._disk:
            taken: list[tuple[int, Message]] = []
            if self._spool is not None and self._spool.count:
                try:
                    taken = self._spool.read(self._taken, limit)
                except SpoolError as error:
                    # What is in memory goes on. It must not be taken for what the disk holds when
                    # it is confirmed; that is read when the disk is well again.
                    self._spool.close()
                    self._cannot(error)
            if not taken:
                taken = self._take_from_memory(limit)
            if taken:
                self._taken = taken[-1][0]
            return taken

    def done(self, through: int) -> None:
        """All messages up to this number have arrived."""
        with self._disk:
            if self._spool is not None and self._spool.is_open:
                try:
                    self._spool.remove(through)
                except SpoolError as error:
                    self._cannot(error)
            with self._lock:
                while self._memory and self._memory[0][0] <= through:
                    self._forget_oldest()

    def back(self) -> None:
        """What was taken and is not done is to be taken again."""
        self._taken = 0

    def store(self) -> None:
        """Move what is in memory to the disk, if there is one that can be written."""
        with self._disk:
            if self._spool is None or time.monotonic() < self._retry_at_s:
                return
            if not self._spool.is_open and not self._open_spool():
                return
            if not self._memory:
                return
            with self._lock:
                messages = list(self._memory)
            try:
                gone = self._spool.append(messages)
            except SpoolError as error:
                self._cannot(error)
                return
            with self._lock:
                while self._memory and self._memory[0][0] <= messages[-1][0]:
                    self._forget_oldest()
            self._can()
            self._count_dropped("spool full", gone)
            self.spooled += len(messages)

    def close(self) -> None:
        """Store what is left, and let go of the disk. May be called twice."""
        with self._disk:
            if self._memory:
                self._retry_at_s = 0.0
                self.store()
            if self._spool is not None:
                self._spool.close()
            self._spool = None

    def _take_from_memory(self, limit: int) -> list[tuple[int, Message]]:
        taken: list[tuple[int, Message]] = []
        size = 0
        with self._lock:
            rest = itertools.dropwhile(lambda item: item[0] <= self._taken, self._memory)
            for number, message in itertools.islice(rest, limit):
                size += message.size
                if taken and size > TAKE_BYTES:
                    break
                taken.append((number, message))
        return taken

    def _open_spool(self) -> bool:
        """Whether the spool can be used now."""
        if self._spool is None:
            return False
        with self._lock:
            if self._memory and self._memory[0][0] <= self._taken:
                return False  # numbers that are under way must stay what they are
        try:
            self._spool.open()
        except SpoolError as error:
            self._cannot(error)
            return False
        with self._lock:
            # What it holds is older than what is in memory.
            if self._spool.newest >= (self._memory[0][0] if self._memory else self._number + 1):
                start = max(self._number, self._spool.newest) + 1
                self._memory = deque(enumerate((m for _, m in self._memory), start))
                self._number = start + len(self._memory) - 1
            self._taken = 0
        self._can()
        return True

    def _cannot(self, error: SpoolError) -> None:
        assert self._spool is not None
        self._retry_at_s = time.monotonic() + RETRY_S
        if not self._trouble:
            logging.warning(
                "%s: cannot use the spool %r (%s); until it can, messages are kept in memory, %d "
                "at most",
                self._name,
                str(self._spool.path),
                error,
                MEMORY_MESSAGES,
            )
        self._trouble = str(error)

    def _can(self) -> None:
        assert self._spool is not None
        if self._trouble:
            logging.info("%s: the spool %r can be used again", self._name, str(self._spool.path))
        self._trouble = ""

    def _forget_oldest(self) -> None:
        """Forget the oldest message in memory; the lock is held."""
        _, message = self._memory.popleft()
        self._memory_bytes -= message.size
        of_stream = self._of_stream[message.stream]
        of_stream.popleft()
        if not of_stream:
            del self._of_stream[message.stream]

    def _count_dropped(self, cause: str, count: int) -> None:
        if not count:
            return
        before = self.dropped[cause]
        self.dropped[cause] += count
        # At the first, and each time that there are ten times as many.
        if not before or len(str(before + count)) > len(str(before)):
            which = "a message is" if cause == "too large" else "the oldest messages are"
            logging.warning(
                "%s: %s: %s dropped, %d so far", self._name, cause, which, before + count
            )


def default_path(name: str) -> Path:
    """Where the spool of this name lies: where systemd keeps the service's state, or in runs/."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "runs"
    return Path(folder) / "spool" / name


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _text(error: OSError | sqlite3.Error) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
