"""What happens, posted to a URL: lists of JSON, a second's worth in each."""

from __future__ import annotations

import base64
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
from pipeline.urls import login_advice
from stages.sinks.listen import is_loopback
from stages.sinks.publish.publisher import Publisher, PublisherSettings, Unreachable
from stages.sinks.publish.tls import connect_error, tls_context

if TYPE_CHECKING:
    import ssl

ATTEMPTS = 3
"""Refusals after which a batch is dropped."""
REDIRECTS = 3
LONGEST_RETRY_S = 300.0
"""Longer is not waited, whatever the server says."""
ANSWER_BYTES = 64 << 10
"""As much is read of an answer, out of courtesy; nothing in it matters."""
OWN_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class WebhookSettings(PublisherSettings, frozen=True, kw_only=True):
    """Settings of the webhook sink."""

    url: str
    """http:// or https://. User and password in it are sent as basic authentication."""
    headers: dict[str, str] = {}
    """Sent along, {Authorization: 'Bearer ${TOKEN}'} for example."""
    secret: str = ""
    """Signs each request: X-Eyeline-Signature is `sha256=` and the HMAC-SHA256 of the body with
    this key, in hex. Best kept in the environment: ${WEBHOOK_SECRET}."""
    ca: Annotated[str, Meta(min_length=1)] | None = None
    """File with the certificate that signed the server's, if that is one of your own."""
    batch_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """How long a message waits for others, to be posted with them."""
    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """No more messages in one request than this."""
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    """For a request and its answer, in all."""


class Webhook(Publisher):
    """Posts who came and who left, and frames if asked to.

    At least once, in order per stream. Requests that were tried again have the same
    `Idempotency-Key`. An answer 2xx means: taken. 4xx (but 408, 425 and 429) and redirections to
    other hosts mean: refused; after three attempts the messages are dropped, and counted.
    Everything else is tried again for ever.
    """

    Settings = WebhookSettings

    settings: WebhookSettings

    def __init__(self, settings: WebhookSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._url = url_of(settings.url)
        self._headers = {
            "User-Agent": f"Eyeline/{VERSION}",
            "Content-Type": "application/json",
            "Connection": "close",
            **({"Authorization": self._url.authorization} if self._url.authorization else {}),
            **settings.headers,
        }
        self._tls: ssl.SSLContext | None = None
        self._again = 0
        """Messages of the batch that did not arrive; it is posted again as it was."""
        self._refusals = 0
        """Of this batch."""
        self._socket: socket.socket | None = None
        """Of a request that is under way."""

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """See that the settings can work, without asking the server.

        Raises:
            SetupError: they cannot.
        """
        url = url_of(settings.url)
        _check_headers(settings.headers)
        if url.authorization and any(name.lower() == "authorization" for name in settings.headers):
            raise SetupError("headers: Authorization is given already, by the user in `url`")
        if url.is_secure:
            tls_context(settings.ca)
        elif settings.ca is not None:
            raise SetupError("ca: is for https:// only")
        return super().resolve(settings)

    def open(self) -> None:
        """Begin to post; an unreachable server is no error.

        Raises:
            SetupError: the model knows no such label.
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
        """Scheme and host; the path of many hooks is a secret."""
        return self._url.origin

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """One per URL."""
        url = url_of(settings.url)
        digest = hashlib.sha256(settings.url.encode()).hexdigest()[:8]
        return f"webhook-{re.sub('[^A-Za-z0-9.-]', '_', url.host)}-{url.port}-{digest}.db"

    def send_pending(self) -> None:
        """Wait for messages, and for more of them, and post them."""
        if not self.outbox.in_memory and not self.outbox.in_spool:
            self.wake.wait(1.0)
            return
        if not self._again:
            self._gather()
        batch = self.outbox.take(self._again or self.settings.batch_size)
        if not batch:  # what was sent is still on a disk that is full
            self.wake.wait(1.0)
            return
        self._again = len(batch)
        last = batch[-1][0]
        try:
            self._post(b"[" + b",".join(message.body for _, message in batch) + b"]")
        except _Refused as refused:
            self._refusals += 1
            if refused.status == 413 and len(batch) > 1:
                self._again, self._refusals = len(batch) // 2, 0
            elif self._refusals >= ATTEMPTS:
                self.refused += len(batch)
                self._again = self._refusals = 0
                self.outbox.done(last)
            raise Unreachable(str(refused)) from None
        self._again = self._refusals = 0
        self.outbox.done(last)
        self.sent += len(batch)
        self.connected()

    def interrupt(self) -> None:
        """End a request that is under way."""
        connected = self._socket
        if connected is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    # --- ---

    def _gather(self) -> None:
        """Wait until it is time, or there are enough; not if messages have waited already."""
        until_s = time.monotonic() + self.settings.batch_s
        while (
            not self.is_closing
            and not self.outbox.in_spool
            and self.outbox.in_memory < self.settings.batch_size
            and (left_s := until_s - time.monotonic()) > 0
        ):
            self.wake.wait(min(left_s, 1.0))

    def _post(self, body: bytes) -> None:
        """Post to the URL, or to where it redirects on the same host.

        Raises:
            Unreachable: try again.
            _Refused: it is not wanted.
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
                url = _redirected(url, location, said)
                continue
            if status in (408, 425, 429) or status >= 500 or status < 200:
                raise Unreachable(f"it answers {said}", _retry_after(retry_after))
            if 300 <= status < 400:
                raise _Refused(status, f"it answers {said}; give the url that takes POST itself")
            raise _Refused(status, f"it answers {said}")
        raise _Refused(508, "it redirects in a circle")

    def _request(self, url: Url, body: bytes, headers: Mapping[str, str]) -> _Answer:
        """Post once.

        Raises:
            Unreachable: there is none.
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
        # A timeout of sockets starts again with every byte: this is one for all of them.
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self.interrupt()

        deadline = threading.Timer(timeout_s, give_up)
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            self._socket = connection.sock
            connection.request("POST", url.target, body, dict(headers))
            answer = connection.getresponse()
            with contextlib.suppress(OSError, HTTPException, ValueError):
                answer.read(ANSWER_BYTES)
            location, retry_after = (
                answer.headers.get(name) or "" for name in ("Location", "Retry-After")
            )
            return _Answer(answer.status, answer.reason, location, retry_after)
        except (OSError, HTTPException, ValueError) as error:
            if is_late.is_set():
                raise Unreachable(f"no answer within {timeout_s:g} s") from None
            if isinstance(error, RemoteDisconnected):
                raise Unreachable("it closes the connection without an answer") from None
            if isinstance(error, HTTPException):
                raise Unreachable(f"its answer is not HTTP ({type(error).__name__})") from None
            raise Unreachable(connect_error(error, timeout_s)) from None
        finally:
            deadline.cancel()
            self._socket = None
            connection.close()


class _Answer(NamedTuple):
    """What matters of it."""

    status: int
    reason: str
    """The status in words."""
    location: str
    retry_after: str
    """Headers of these names; empty if missing."""


class _Refused(Exception):  # noqa: N818 - what the server did
    """The server does not want it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Url(NamedTuple):
    """Where to post."""

    is_secure: bool
    host: str
    port: int
    target: str
    """Path and query."""
    authorization: str
    """Value of the header, or empty."""

    @property
    def origin(self) -> str:
        """Scheme, host and port, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.is_secure else 80
        port = "" if self.port == usual else f":{self.port}"
        return f"{'https' if self.is_secure else 'http'}://{host}{port}"


def url_of(text: str) -> Url:
    """Take an address apart.

    Raises:
        SetupError: it is none; the text is not shown, as it may hold credentials.
    """
    found = re.fullmatch(
        r"(https?)://(?:([^/?#@\s]*)@)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))"
        r"(?::(\d{1,5}))?(/[^\s#]*|\?[^\s#]*)?(?:#\S*)?",
        text,
        re.IGNORECASE,
    )
    if found is None or not text.isascii():
        advice = login_advice(text)
        raise SetupError(
            "url: expected https://HOST/PATH or http://HOST/PATH, in ASCII"
            + (f"; {advice}" if advice else "")
        )
    scheme, userinfo, ipv6, name, port, target = found.groups()
    is_secure = scheme.lower() == "https"
    number = int(port) if port else 443 if is_secure else 80
    if not 1 <= number <= 65535:
        raise SetupError(f"url: expected a port from 1 to 65535, found {number}")
    target = target or "/"
    if target.startswith("?"):
        target = "/" + target
    authorization = ""
    if userinfo:
        plain = re.sub(r"%([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), userinfo)
        authorization = "Basic " + base64.b64encode(plain.encode("latin-1")).decode()
    return Url(is_secure, ipv6 or name, number, target, authorization)


def _redirected(url: Url, location: str, said: str) -> Url:
    """Where a redirection leads, if that is the same host.

    Raises:
        _Refused: it is not.
    """
    if location.startswith("/") and not location.startswith("//"):
        location = url.origin + location
    try:
        found = url_of(location)
    except SetupError:
        raise _Refused(308, f"it answers {said}, to no address that can be posted to") from None
    if (found.is_secure, found.host.lower(), found.port) != (
        url.is_secure,
        url.host.lower(),
        url.port,
    ):
        raise _Refused(
            308, f"it redirects to {found.origin}, which is not followed; if it is right, set url"
        )
    return found


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise SetupError(f"headers: {name_of(name)} is no name of a header")
        if name.lower() in OWN_HEADERS:
            raise SetupError(f"headers: {name} is set by the sink itself; leave it out")
        if not (value.isascii() and value.isprintable()):
            raise SetupError(f"headers: {name}: expected a line of printable ASCII")


def _retry_after(text: str) -> float | None:
    """Seconds the server asks to wait, if it says so in seconds."""
    return min(float(text), LONGEST_RETRY_S) if re.fullmatch(r"\d{1,9}", text.strip()) else None


def _plain(reason: str) -> str:
    """A server's words, fit for a log."""
    return "".join(c if c.isprintable() else " " for c in reason)[:60].strip()


def _lower(headers: Mapping[str, str]) -> list[str]:
    return [name.lower() for name in headers]
