"""Access to the status page: the token, and requests that a browser makes for another site."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable
from typing import Literal

from aiohttp import hdrs, web

from stages.sinks.listen import is_loopback
from stages.sinks.web.responses import HttpError
from stages.sinks.web.settings import WebSettings

WRONG_TOKEN_S = 0.5
"""Delay of the answer to a wrong token, seconds."""

Access = Literal["all", "read", "write"]
"""all: no token needed; read: needed unless the address is loopback; write: always needed."""
Penalise = Callable[[web.RequestHandler, float], Awaitable[None]]
"""Delays a connection that sent a wrong token, by so many seconds."""


class Authorizer:
    """Decides whether a request is allowed.

    Args:
        settings: settings of the stage.
        penalise: delays a connection that sent a wrong token.
    """

    def __init__(self, settings: WebSettings, penalise: Penalise) -> None:
        self._token = settings.token
        self._penalise = penalise
        self.is_local = is_loopback(settings.address)
        """Whether only this machine can connect."""
        self._listed = {host.lower() for host in settings.hosts}
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.address.lower(), *self._listed}

    async def authorize(self, request: web.Request, access: Access) -> None:
        """Check that a request is allowed.

        Raises:
            HttpError: the request is made for another site, or lacks the token that it needs.
        """
        self._refuse_other_sites(request)
        if access == "all" or (access == "read" and self.is_local):
            return
        if self._token is None:
            raise HttpError(
                403, "changes need a token; set a token in the settings of the web stage"
            )
        if not await self._has_token(request, basic=access == "read"):
            is_api = request.path.startswith("/api/")
            ways = "Bearer" if is_api or access == "write" else 'Basic realm="Eyeline", Bearer'
            raise HttpError(
                401, "expected the token, found none or a wrong one", WWW_Authenticate=ways
            )

    async def can_read(self, request: web.Request) -> bool:
        """Return whether the client of an allowed request may also see the streams."""
        return self.is_local or await self._has_token(request, basic=True)

    async def _has_token(self, request: web.Request, basic: bool) -> bool:
        given = _token_of(request, basic)
        if given is None or self._token is None:
            return False
        if hmac.compare_digest(given, self._token.encode()):
            return True
        await self._penalise(request.protocol, WRONG_TOKEN_S)
        request.protocol.close()  # after the answer: one guess per connection
        return False

    def _refuse_other_sites(self, request: web.Request) -> None:
        """Refuse a request that the browser of an allowed person makes for another site.

        Raises:
            HttpError: this is such a request.
        """
        host = request.headers.get(hdrs.HOST, "").lower()
        # The name of another site may resolve to this machine (DNS rebinding). At an address that
        # is not loopback the token stops such a site, which does not have it.
        if self.is_local and host and _host_name(host) not in self._hosts:
            raise HttpError(421, "unknown host name; add it to `hosts` of the web stage")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None:
            site = origin.lower().partition("://")[2]  # empty for "null"
            if not site or (site != host and _host_name(site) not in self._listed):
                raise HttpError(403, "requests from other sites are refused")
        if (
            request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
            and request.headers.get("Sec-Fetch-Mode") != "navigate"
        ):
            raise HttpError(403, "requests from other sites are refused")


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _token_of(request: web.Request, basic: bool) -> bytes | None:
    """Return the token that a request contains, or None.

    The token comes as `Authorization: Bearer TOKEN`; to read, also as the password of basic
    authentication, for players; of a WebSocket, for which a browser cannot set headers, as a
    subprotocol `token.` followed by the token in base64url.
    """
    try:
        scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            return value.strip().encode()
        if scheme.lower() == "basic" and basic:
            return base64.b64decode(value).partition(b":")[2]
        for protocol in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
            marker, _, value = protocol.strip().partition(".")
            if marker == "token":
                return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (ValueError, UnicodeError):
        return b""
    return None
