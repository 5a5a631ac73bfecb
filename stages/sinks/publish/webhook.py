"""Changes of objects, posted to a URL: lists of JSON, one per second by default."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from msgspec import Meta

from pipeline.errors import SetupError
from pipeline.messages import name_of
from pipeline.stage import Context, Resolved
from pipeline.status import VERSION
from stages.sinks.files.output_path import expand_home
from stages.sinks.listen import is_loopback
from stages.sinks.publish.publisher import Publisher, PublisherSettings, Unreachable
from stages.sinks.publish.tls import connect_error, tls_context
from stages.sinks.publish.webhook_url import RefusedError, Url, follow_redirect, parse_url

if TYPE_CHECKING:
    import ssl

ATTEMPTS = 3
"""Refusals after which a batch is dropped."""
REDIRECTS = 3
MAX_RETRY_AFTER_S = 300.0
"""Longest wait that a server may ask for."""
MAX_ANSWER_BYTES = 64 << 10
"""Part of an answer that is read before the connection is closed; its content is not used."""
OWN_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class WebhookSettings(PublisherSettings, frozen=True, kw_only=True):
    """Settings of the webhook sink."""

    url: str
    """Address, http:// or https://. User and password in it are sent as basic authentication."""
    headers: dict[str, str] = {}
    """Further headers of each request, such as {Authorization: 'Bearer ${TOKEN}'}."""
    secret: str = ""
    """Key that signs each request: X-Eyeline-Signature is `sha256=` and the HMAC-SHA256 of the
    body with this key, in hex. Best kept in the environment: ${WEBHOOK_SECRET}."""
    ca: Annotated[str, Meta(min_length=1)] | None = None
    """File with the certificate that signed that of the server, if it is your own."""
    batch_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """Longest wait of a message for others, to be posted in one request, in seconds."""
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Most messages in one request."""
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    """Timeout of a request, including its answer, in seconds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, ca=self.ca)


class Webhook(Publisher):
    """Posts objects that appeared or left, and optionally each frame.

    Messages are delivered at least once, in order per stream; a retried request has the same
    `Idempotency-Key`. Answers 2xx accept the messages. Answers 4xx (except 408, 425 and 429) and
    redirections to other hosts refuse them: after three attempts they are dropped and counted.
    Everything else is retried without a limit.
    """

    Settings = WebhookSettings

    settings: WebhookSettings

    def __init__(self, settings: WebhookSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._url = parse_url(settings.url)
        self._headers = {
            "User-Agent": f"Eyeline/{VERSION}",
            "Content-Type": "application/json",
            "Connection": "close",
            **({"Authorization": self._url.authorization} if self._url.authorization else {}),
            **settings.headers,
        }
        self._tls: ssl.SSLContext | None = None
        self._retry_size = 0
        """Number of messages of a failed batch, which is posted again unchanged; 0: none."""
        self._refusals = 0
        """Number of times that this batch was refused."""
        self._socket: socket.socket | None = None
        """Socket of the request in flight."""

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """Check the settings, without a request to the server.

        Raises:
            SetupError: they contradict each other, or a file cannot be used.
        """
        url = parse_url(settings.url)
        _check_headers(settings.headers)
        if url.authorization and any(name.lower() == "authorization" for name in settings.headers):
            raise SetupError(
                "headers: Authorization is set by the user in `url` already; remove one of them"
            )
        if url.is_secure:
            tls_context(settings.ca)
        elif settings.ca is not None:
            raise SetupError("ca: allowed with https:// only; remove it, or use https://")
        return super().resolve(settings)

    def open(self) -> None:
        """Start to post; an unreachable server is no error.

        Raises:
            SetupError: a label in the settings is none of the model's.
        """
        self._tls = tls_context(self.settings.ca) if self._url.is_secure else None
        is_open = not self._url.is_secure and not is_loopback(self._url.host)
        if is_open and (self._url.authorization or "authorization" in _lower(self._headers)):
            self.context.log.warning(
                "credentials are sent to %s unencrypted; use https://", self.destination
            )
        super().open()

    # --- for the base class ---

    @property
    def destination(self) -> str:
        """Scheme and host; the path is not shown, since it is often a secret."""
        return self._url.origin

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """Return the name of the file: one per URL."""
        url = parse_url(settings.url)
        digest = hashlib.sha256(settings.url.encode()).hexdigest()[:8]
        return f"webhook-{re.sub('[^A-Za-z0-9.-]', '_', url.host)}-{url.port}-{digest}.db"

    def send_pending(self) -> None:
        """Wait until a batch of messages is complete, and post it."""
        if not self.outbox.in_memory and not self.outbox.in_spool:
            self.wake.wait(1.0)
            return
        if not self._retry_size:
            self._wait_for_batch()
        batch = self.outbox.take(self._retry_size or self.settings.batch_size)
        if not batch:  # sent already, but the full disk still has them
            self.wake.wait(1.0)
            return
        self._retry_size = len(batch)
        last = batch[-1][0]
        try:
            self._post(b"[" + b",".join(message.body for _, message in batch) + b"]")
        except RefusedError as refused:
            self._refusals += 1
            if refused.status == 413 and len(batch) > 1:
                self._retry_size, self._refusals = len(batch) // 2, 0
            elif self._refusals >= ATTEMPTS:
                self.refused += len(batch)
                self._retry_size = self._refusals = 0
                self.outbox.done(last)
            raise Unreachable(str(refused)) from None
        self._retry_size = self._refusals = 0
        self.outbox.done(last)
        self.sent += len(batch)
        self.connected()

    def interrupt(self) -> None:
        """Abort the request in flight."""
        connected = self._socket
        if connected is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    def _wait_for_batch(self) -> None:
        """Wait until a batch is full or `batch_s` is over; not if messages are in the spool."""
        until_s = time.monotonic() + self.settings.batch_s
        while (
            not self.is_closing
            and not self.outbox.in_spool
            and self.outbox.in_memory < self.settings.batch_size
            and (left_s := until_s - time.monotonic()) > 0
        ):
            self.wake.wait(min(left_s, 1.0))

    def _post(self, body: bytes) -> None:
        """Post to the URL, following redirections within the same host.

        Raises:
            Unreachable: to be retried.
            RefusedError: the server refuses the messages.
        """
        headers = {
            **self._headers,
            "Idempotency-Key": hashlib.sha256(body).hexdigest()[:32],
        }
        if self.settings.secret:
            digest = hmac.new(self.settings.secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Eyeline-Signature"] = f"sha256={digest}"
        url = self._url
        for _ in range(REDIRECTS + 1):
            status, reason, location, retry_after = self._request(url, body, headers)
            if 200 <= status < 300:
                return
            said = f"{status} {_plain(reason)}".strip()
            if status in (307, 308):
                url = follow_redirect(url, location, said)
                continue
            if status in (408, 425, 429) or status >= 500 or status < 200:
                raise Unreachable(f"answered {said}", _retry_after(retry_after))
            if 300 <= status < 400:
                raise RefusedError(
                    status, f"answered {said}; set `url` to the address that takes POST"
                )
            raise RefusedError(status, f"answered {said}")
        raise RefusedError(508, "redirects in a circle; set `url` to the final address")

    def _request(self, url: Url, body: bytes, headers: Mapping[str, str]) -> _Answer:
        """Send one request, and return the answer.

        Raises:
            Unreachable: there was no answer.
        """
        from http.client import (
            HTTPConnection,
            HTTPException,
            HTTPSConnection,
            RemoteDisconnected,
        )

        timeout_s = self.settings.timeout_s
        connection: HTTPConnection
        if self._tls is not None:
            connection = HTTPSConnection(url.host, url.port, timeout=timeout_s, context=self._tls)
        else:
            connection = HTTPConnection(url.host, url.port, timeout=timeout_s)
        # The timeout of a socket starts again with every byte; this one is for the whole request.
        is_late = threading.Event()

        def abort() -> None:
            is_late.set()
            self.interrupt()

        deadline = threading.Timer(timeout_s, abort)
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            self._socket = connection.sock
            connection.request("POST", url.target, body, dict(headers))
            answer = connection.getresponse()
            with contextlib.suppress(OSError, HTTPException, ValueError):
                answer.read(MAX_ANSWER_BYTES)
            location, retry_after = (
                answer.headers.get(name) or "" for name in ("Location", "Retry-After")
            )
            return _Answer(answer.status, answer.reason, location, retry_after)
        except (OSError, HTTPException, ValueError) as error:
            if is_late.is_set():
                raise Unreachable(f"no answer within {timeout_s:g} s") from None
            if isinstance(error, RemoteDisconnected):
                raise Unreachable("connection closed without an answer") from None
            if isinstance(error, HTTPException):
                raise Unreachable(f"answer is not HTTP ({type(error).__name__})") from None
            raise Unreachable(connect_error(error, timeout_s)) from None
        finally:
            deadline.cancel()
            self._socket = None
            connection.close()


class _Answer(NamedTuple):
    """Answer of the server."""

    status: int
    reason: str
    """Text of the status."""
    location: str
    """Header of this name; empty: missing."""
    retry_after: str
    """Header of this name; empty: missing."""


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise SetupError(f"headers: expected the name of a header (found {name_of(name)})")
        if name.lower() in OWN_HEADERS:
            raise SetupError(f"headers: {name} is set by the sink itself; remove it")
        if not (value.isascii() and value.isprintable()):
            raise SetupError(f"headers: {name}: expected a line of printable ASCII")


def _retry_after(text: str) -> float | None:
    """Return the wait that the server asks for, in seconds; None: it does not, or by a date."""
    return min(float(text), MAX_RETRY_AFTER_S) if re.fullmatch(r"\d{1,9}", text.strip()) else None


def _plain(reason: str) -> str:
    """Return the text of a server with printable characters only, for the log."""
    return "".join(c if c.isprintable() else " " for c in reason)[:60].strip()


def _lower(headers: Mapping[str, str]) -> list[str]:
    return [name.lower() for name in headers]
