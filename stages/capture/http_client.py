"""HTTP client for cameras: GET with login, redirects, timeouts and limits."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import SourceError
from stages.addresses import scheme_of, shown_host, split_login
from stages.capture.source import CLOSED, connection_problem, http_error

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

MAX_REDIRECTS = 5
MAX_ERROR_PAGE_BYTES = 1 << 16
"""Bytes of an error page that are read to keep its connection."""

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_REDIRECTS = (301, 302, 303, 307, 308)


class Target(NamedTuple):
    """Address of a request, in parts."""

    scheme: str
    host: str
    port: int | None
    path: str


class NotHttpError(SourceError):
    """The server answers, but not in HTTP."""


class HttpClient:
    """Requests of one address, over one connection as long as it lasts.

    One thread uses it, except for `interrupt`.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        """Prepare; nothing is connected yet.

        Args:
            address: http:// or https://, with user and password if it needs them.
            timeout_s: longest silence of the server during a request.

        Raises:
            SourceError: it is not the address of a host.
        """
        self._address, self._timeout_s = address, timeout_s
        bare, self._user, self._password = split_login(address)
        self._origin = self._target = self._split(bare)
        self._connection: HTTPConnection | None = None
        self._response: HTTPResponse | None = None
        self._challenge = ""
        """Challenge of the server, which names the login that it wants; "": none has come."""
        self._count = 0
        """Requests since the challenge, which digest authentication numbers."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._interrupted = False

    def get(self) -> HTTPResponse:
        """Send a request, and return the response with status 200, its body unread.

        Raises:
            SourceError: there is none; its `kind` says why.
            NotHttpError: the server does not speak HTTP.
        """
        for _ in range(MAX_REDIRECTS):
            response = self._send()
            status = response.status
            if status == 200:
                return response
            location = response.headers.get("Location", "")
            if status == 401 and self._accept_challenge(response):
                self._skip_body(response)
            elif status in _REDIRECTS and location:
                self.close()
                self._target = self._redirected(location)
            else:
                self.close()
                kind, text = http_error(status, self._address)
                raise SourceError(text, kind)
        raise SourceError(f"more than {MAX_REDIRECTS} redirects", "failed")

    def interrupt(self) -> None:
        """Make a waiting request fail soon; for any thread. No other can be made afterwards."""
        with self._lock:
            self._interrupted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def set_timeout(self, timeout_s: float) -> None:
        """Change the longest silence of the server, also of a running request."""
        self._timeout_s = timeout_s
        with self._lock:
            if self._socket is not None and self._socket.fileno() >= 0:
                self._socket.settimeout(timeout_s)

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            connection, self._connection, self._socket = self._connection, None, None
            response, self._response = self._response, None
        if response is not None:
            response.close()  # a connection does not know its last response
        if connection is not None:
            connection.close()

    def _send(self) -> HTTPResponse:
        """Send one request; again if the server has closed a kept connection meanwhile."""
        from http.client import HTTPException

        may_be_stale = self._connection is not None and self._connection.sock is not None
        while True:
            try:
                return self._request()
            except (HTTPException, OSError, ValueError) as error:
                self.close()
                retry = may_be_stale and isinstance(error, ConnectionError)
                if not retry or self._interrupted:
                    raise self._source_error(error) from None
                may_be_stale = False

    def _request(self) -> HTTPResponse:
        connection = self._connection
        if connection is None or connection.sock is None:
            connection = self._connect()
        headers: dict[str, str | bytes] = {"User-Agent": "Eyeline", "Accept": "*/*"}
        login = self._authorization()
        if login:
            headers["Authorization"] = login.encode()
        connection.request("GET", self._target.path, headers=headers)
        self._response = connection.getresponse()
        if self._interrupted:
            raise ConnectionAbortedError  # a response that was cut off may look like a whole one
        return self._response

    def _connect(self) -> HTTPConnection:
        import ssl
        from http.client import HTTPConnection, HTTPSConnection

        target = self._target
        if target.scheme == "https":
            # Cameras sign their certificates themselves; FFmpeg accepts that too.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: HTTPConnection = HTTPSConnection(
                target.host, target.port, timeout=self._timeout_s, context=context
            )
        else:
            connection = HTTPConnection(target.host, target.port, timeout=self._timeout_s)
        connection.connect()
        with self._lock:
            if self._interrupted:
                connection.close()
                raise ConnectionAbortedError
            self._connection, self._socket = connection, connection.sock
        return connection

    def _skip_body(self, response: HTTPResponse) -> None:
        """Read the page of an error; the connection is closed at a longer one."""
        from http.client import HTTPException

        with contextlib.suppress(HTTPException, OSError):
            response.read(MAX_ERROR_PAGE_BYTES)
        if not response.isclosed():
            self.close()

    def _source_error(self, error: Exception) -> SourceError:
        from http.client import HTTPException

        problem = connection_problem(error, self._address)
        if problem is not None:
            return SourceError(problem[1], problem[0])
        _, at = shown_host(self._address)
        if isinstance(error, ConnectionError):
            return SourceError(CLOSED[1], CLOSED[0])
        if isinstance(error, HTTPException):
            return NotHttpError(f"{at} does not speak HTTP; check the port", "failed")
        return SourceError("cannot be opened; check the address", "failed")

    def _split(self, address: str) -> Target:
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(address)
            path = parts.path or "/"
            path += f"?{parts.query}" if parts.query else ""
            # Characters that a request line cannot hold are encoded as browsers do.
            path = "".join(c if "!" <= c <= "~" else _percent(c) for c in path)
            if parts.scheme in ("http", "https") and parts.hostname:
                return Target(parts.scheme, parts.hostname, parts.port, path)
        except ValueError:
            pass
        raise SourceError("cannot be opened; check the host in the address", "failed")

    def _redirected(self, location: str) -> Target:
        from urllib.parse import urljoin

        now = self._target
        host = f"[{now.host}]" if ":" in now.host else now.host
        port = f":{now.port}" if now.port else ""
        try:
            bare, *_ = split_login(urljoin(f"{now.scheme}://{host}{port}{now.path}", location))
        except ValueError:
            raise SourceError("redirected to an address without a host", "failed") from None
        if scheme_of(bare) not in ("http", "https"):
            raise SourceError("redirected to an address that is not http:// or https://", "failed")
        return self._split(bare)

    # --- the login ---

    def _accept_challenge(self, response: HTTPResponse) -> bool:
        """Return whether to send the request again with a login; only to the original host."""
        if self._user is None or self._target.host != self._origin.host:
            return False
        offered = response.headers.get_all("WWW-Authenticate") or []
        known = sorted((o for o in offered if o.lower().startswith(("basic", "digest"))), key=_rank)
        stale = any("stale=true" in o.lower().replace(" ", "") for o in known)
        if not known or (self._challenge and not stale):
            return False
        self._challenge, self._count = known[0], 0
        return True

    def _authorization(self) -> str:
        scheme, _, challenge = self._challenge.partition(" ")
        if not scheme or self._user is None or self._target.host != self._origin.host:
            return ""
        if scheme.lower() == "basic":
            from base64 import b64encode

            return f"Basic {b64encode(f'{self._user}:{self._password}'.encode()).decode()}"
        self._count += 1
        return _digest(challenge, self._user, self._password, self._target.path, self._count)


def _rank(offer: str) -> int:
    """Return the rank of a login; basic, which shows the password, comes last."""
    return 0 if offer.lower().startswith("digest") else 1


def _digest(challenge: str, user: str, password: str, path: str, count: int) -> str:
    """Return the answer to a challenge of digest authentication (RFC 7616)."""
    from urllib.request import parse_http_list, parse_keqv_list

    challenged = parse_keqv_list([part for part in parse_http_list(challenge) if "=" in part])
    algorithm = challenged.get("algorithm", "MD5")
    name = _HASHES.get(algorithm.upper().removesuffix("-SESS"))
    if name is None:
        raise SourceError(f"login by {algorithm[:20]!r} is not supported", "failed")

    def hashed(text: str) -> str:
        return hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()

    realm, nonce = challenged.get("realm", ""), challenged.get("nonce", "")
    own, number = secrets.token_hex(8), f"{count:08x}"
    secret = hashed(f"{user}:{realm}:{password}")
    if algorithm.upper().endswith("-SESS"):
        secret = hashed(f"{secret}:{nonce}:{own}")
    request = hashed(f"GET:{path}")
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": path}
    plain = {"algorithm": algorithm} if "algorithm" in challenged else {}
    if "auth" in [word.strip() for word in challenged.get("qop", "").split(",")]:
        fields["response"] = hashed(f"{secret}:{nonce}:{number}:{own}:auth:{request}")
        fields["cnonce"] = own
        plain |= {"qop": "auth", "nc": number}
    else:
        fields["response"] = hashed(f"{secret}:{nonce}:{request}")
    if "opaque" in challenged:
        fields["opaque"] = challenged["opaque"]
    quoted = [f'{key}="{_quoted(value)}"' for key, value in fields.items()]
    return "Digest " + ", ".join(quoted + [f"{key}={value}" for key, value in plain.items()])


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
