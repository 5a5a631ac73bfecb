"""Rules for every request: its time limit, its errors, access, and the headers of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from pipeline.context import Log
from stages.sinks.web.auth import Authorizer
from stages.sinks.web.connections import ConnectionLimiter
from stages.sinks.web.responses import (
    INTERNAL_ERROR,
    SECURITY_HEADERS,
    HttpError,
    error_response,
)
from stages.sinks.web.routes import Route
from stages.sinks.web.viewers import STREAM_NAME

MAX_BODY_BYTES = 64 << 10
"""Length of the body of a request."""
REQUEST_TIMEOUT_S = 20
"""Time for the body of a request to come and for its answer to be sent, seconds."""

TEXTS = {
    404: "path not found",
    413: f"expected a body of at most {MAX_BODY_BYTES} bytes",
}
"""Status of an error that aiohttp raises -> our text for it."""


def make_application(
    table: Iterable[Route], authorizer: Authorizer, limiter: ConnectionLimiter, log: Log
) -> web.Application:
    """Return an application that answers each route of a table.

    Args:
        table: routes.
        authorizer: checks each request.
        limiter: counts which connections are busy.
        log: logger of the stage.
    """
    policy = _Policy(authorizer, limiter, log)
    application = web.Application(
        middlewares=(policy.limit_time, policy.redact_errors, policy.check_access),
        client_max_size=MAX_BODY_BYTES,
    )
    # A signal and no middleware, which would come too late for streams: they send their headers
    # before they return.
    application.on_response_prepare.append(_set_security_headers)
    for route in table:
        path = route.path.replace("{name}", f"{{name:{STREAM_NAME.pattern}}}")
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            added = application.router.add_route(
                method, path, route.handler, expect_handler=_ignore_expect
            )
            policy.routes[added] = route
    return application


class _Policy:
    """The middlewares, outermost first.

    Args:
        authorizer: checks each request.
        limiter: counts which connections are busy.
        log: logger of the stage.
    """

    def __init__(self, authorizer: Authorizer, limiter: ConnectionLimiter, log: Log) -> None:
        self._authorizer, self._limiter, self._log = authorizer, limiter, log
        self.routes: dict[web.AbstractRoute, Route] = {}
        """Route of the application -> its line in the table."""

    @web.middleware
    async def limit_time(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Abort a connection whose request, or whose answer, takes too long."""
        connection = request.protocol
        route = self.routes.get(request.match_info.route)
        self._limiter.busy.add(connection)
        try:
            if route is not None and route.is_stream:
                return await handler(request)
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                response = await handler(request)
                await response.prepare(request)
                await response.write_eof()
                return response
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from None
        finally:
            self._limiter.busy.discard(connection)

    @web.middleware
    async def redact_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer errors in words of our own, which name no library, path or traceback."""
        try:
            return await handler(request)
        except HttpError as error:
            return error_response(request, error)
        except web.HTTPMethodNotAllowed as error:
            allowed = sorted(error.allowed_methods - {"HEAD"})
            text = f"expected method {' or '.join(allowed)}"
            return error_response(request, HttpError(405, text, Allow=", ".join(allowed)))
        except web.HTTPException as error:
            return error_response(
                request, HttpError(error.status, TEXTS.get(error.status, INTERNAL_ERROR))
            )
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            self._log.debug("%s %s: %r", request.method, request.path, error)
            if request.writer.output_size:
                raise ConnectionResetError from None  # part of the answer is sent already
            return error_response(request, HttpError(500, INTERNAL_ERROR))

    @web.middleware
    async def check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request that is not allowed."""
        route = self.routes.get(request.match_info.route)
        if route is not None:
            await self._authorizer.authorize(request, route.access)
        return await handler(request)


async def _set_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


async def _ignore_expect(request: web.Request) -> None:
    """Send no `100 Continue`, which would come before the token is checked."""
