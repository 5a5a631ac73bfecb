"""A camera that speaks HTTP, for tests: what it answers is a function of the test's own."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np


def jpeg(value=100, width=16, height=8):
    """A grey JPEG."""
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append(
            (self.path, self.headers.get("Authorization"), self.client_address)
        )
        self.server.answer(self)

    def give(self, body=b"", kind="image/jpeg", status=200, **headers):
        self.send_response(status)
        headers = {"Content_Type": kind, "Content_Length": str(len(body)), **headers}
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked = answer, []

    def url(self, path="/", login=""):
        return f"http://{login}127.0.0.1:{self.server_address[1]}{path}"


@contextmanager
def serving(answer: Callable[[Any], None]) -> Iterator[Server]:
    """A server in a thread of its own."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stream(parts, boundary="frame"):
    """An answer that is an MJPEG stream of these bytes."""

    def answer(handler):
        handler.give(kind=f"multipart/x-mixed-replace; boundary={boundary}", Content_Length="")
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return answer


def part(body, line=b"--frame", length=True, end=b"\r\n", kind=b"image/jpeg"):
    headers = b"Content-Type: " + kind + b"\r\n"
    headers += b"Content-Length: %d\r\n" % len(body) if length else b""
    return line + b"\r\n" + headers + b"\r\n" + body + end
