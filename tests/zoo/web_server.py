"""A real HTTP server whose every answer is written by the test."""

from __future__ import annotations

import http.server
import re

import numpy as np

# Several chunks, and not a whole number of them.
DATA = np.random.default_rng(5).integers(0, 256, 1_000_003, np.uint8).tobytes()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the n-th request with the n-th step of `server.script`, and with the last one from then on."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        script, asked = self.server.script, self.server.asked
        asked.append((self.path, self.headers.get("Range")))
        script[min(len(asked), len(script)) - 1](self)
        self.close_connection = True

    def log_message(self, *args):
        pass

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


def whole(data=DATA, ranges=True, cut=None, hang=False, length=None, content_range=None):
    """A step that serves `data`, from where it is asked if it knows ranges.

    It stops after `cut` bytes, by breaking off or (`hang`) by saying nothing more. `length` and `content_range` are
    lies.
    """

    def step(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
        start = int(asked[1]) if asked else 0
        if asked and start >= len(data):
            return handler.start(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
        headers = {"Content-Length": len(data) - start if length is None else length}
        if asked:
            headers["Content-Range"] = content_range or f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.start(206 if asked else 200, headers)
        handler.wfile.write(data[start:][:cut])
        if hang:
            handler.server.over.wait(20)
        return None

    return step


def chunked(data=DATA, cut=None):
    """A step that serves `data` in chunks, without saying how many, perhaps breaking off within one."""

    def step(handler):
        handler.start(200, {"Transfer-Encoding": "chunked"})
        stream = (
            b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (data[:70_000], data[70_000:])) + b"0\r\n\r\n"
        )
        handler.wfile.write(stream[:cut])

    return step


def status(code, **headers):
    """A step that answers with nothing but a status."""
    return lambda handler: handler.start(code, {"Content-Length": 0, **headers})
