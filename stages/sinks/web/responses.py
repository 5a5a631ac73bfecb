"""HTTP responses: their headers, and errors that name no library, path or traceback."""

from __future__ import annotations

import msgspec
from aiohttp import web

SECURITY_HEADERS = {
    "Server": "Eyeline",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response."""
INTERNAL_ERROR = "internal error"
"""Text of an error whose reason the client must not see."""


class HttpError(Exception):
    """Makes the response to a request an error."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        """Set the response.

        Args:
            status: HTTP status.
            text: reason, in words; contains nothing that the client does not know.
            headers: further headers, with _ for -.
        """
        super().__init__(text)
        self.status, self.text = status, text
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def text_response(text: str, status: int = 200) -> web.Response:
    """Return a response of plain text."""
    return web.Response(text=text, status=status)


def json_response(body: bytes, status: int = 200) -> web.Response:
    """Return a response of JSON that is already encoded."""
    return web.Response(body=body, status=status, content_type="application/json")


def error_response(request: web.BaseRequest, error: HttpError) -> web.Response:
    """Return an error as JSON for the API, as plain text elsewhere."""
    if request.path.startswith("/api/"):
        response = json_response(msgspec.json.encode({"error": error.text}), error.status)
    else:
        response = text_response(f"{error.text}\n", error.status)
    response.headers.update(error.headers)
    if request.can_read_body:
        response.force_close()  # the next bytes of this connection may be the rest of the body
    return response
