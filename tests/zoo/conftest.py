"""A server, and a made-up network to fetch from it."""

from __future__ import annotations

import hashlib
import http.server
import threading
from dataclasses import replace

import pytest
from web_server import DATA, Handler

from lpcaffe.zoo import Entry, fetch_entry


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve():
    """A function that starts a server with a script; it has `url`, and `asked`: (path, Range header) by request."""
    servers = []

    def start(*script):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *args: None  # clients that hang up are part of the tests
        server.script, server.asked, server.over = list(script), [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        server.thread.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()
        server.thread.join()


@pytest.fixture
def made_up(tmp_path):
    """An entry for DATA, published under /models/net.caffemodel of a server; keywords replace its fields."""

    def make(server, **fields):
        prototxt = tmp_path / "zoo" / "made_up" / "deploy.prototxt"
        prototxt.parent.mkdir(parents=True, exist_ok=True)
        if not prototxt.exists():
            prototxt.write_text('name: "made up"\n')
        entry = Entry(
            name="made_up",
            title="a network of the tests",
            file="net.caffemodel",
            licence="none",
            prototxt=prototxt,
            url=f"{server.url}/models/net.caffemodel" if server else None,
            size=len(DATA),
            sha256=hashlib.sha256(DATA).hexdigest(),
        )
        return replace(entry, **fields)

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def get(out):
    """Fetch an entry into `out`, with no patience."""

    def run(entry, **options):
        return fetch_entry(entry, out, **{"stall": 5, "pauses": (), **options})

    return run
