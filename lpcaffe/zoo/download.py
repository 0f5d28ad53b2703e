"""A file over HTTP, piece by piece, into a `.part` file that a later run continues.

The bytes of the part file are the first ones of the whole. A later run asks for the rest (Range: bytes=N-). It
appends only an answer 206 that begins at byte N (Content-Range); any other answer restarts the file. A connection that
breaks or stalls is retried as long as retries bring new bytes, and a few times when they do not. The server must state
the known length and send all of it. The caller checks the bytes.

Proxies are those of the environment (http_proxy, https_proxy, no_proxy). Only http and https are supported, also in
redirects.
"""

from __future__ import annotations

import http
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib import request
from urllib.error import HTTPError, URLError

from lpcaffe.errors import FileError, reason
from lpcaffe.io.disk import cannot_write, sync

# Bytes taken from the connection at a time.
CHUNK = 1 << 18

# The largest caffemodel that Caffe reads: a file without a known size ends here at the latest.
MAX_BYTES = 2**31 - 1

# A connection that is silent for so many seconds is given up.
STALL = 30.0

# Seconds before the next try; from the first again whenever new bytes came.
PAUSES = (1.0, 2.0, 4.0)

# Answers that may be others next time.
_PASSING = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int], None]


class _BrokenOffError(Exception):
    """An attempt ended early; the next may go on from there."""


def check_url(url: str) -> None:
    """Raise FileError for anything but http:// and https://."""
    if not re.match(r"https?://[^/]", url):
        raise FileError("expected an address that begins with http:// or https://", path=url)


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    stall: float = STALL,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Fill the file `part` with the whole of `url`, going on after what it holds; synchronised to the disk.

    The folder of `part` is made once the server has answered. `size` is the known length in bytes. A connection silent
    for `stall` seconds is given up; `pauses` are the seconds before each further try while no new bytes come.
    `progress` gets the bytes there are and those there will be, 0 if the server does not say.

    Raises FileError, and leaves `part` behind, when the server cannot be reached, refuses, states another length, or
    keeps breaking off; every other exception passes through, interrupts included.
    """
    check_url(url)
    opener = _opener()
    best = _length(part)
    waits = iter(pauses)
    while True:
        try:
            _attempt(opener, url, part, size, progress, stall)
            return
        except _BrokenOffError as broken:
            if _length(part) > best:
                best, waits = _length(part), iter(pauses)
            wait = next(waits, None)
            if wait is None:
                hint = "run it again to go on from there" if _length(part) else None
                raise FileError(str(broken), path=url, hint=hint) from broken
        time.sleep(wait)


def _opener() -> request.OpenerDirector:
    """One that speaks http and https; `build_opener` would add file, ftp and data."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _attempt(
    opener: request.OpenerDirector, url: str, part: Path, size: int | None, progress: Progress | None, stall: float
) -> None:
    """One connection. Raises _BrokenOffError when another may do better, FileError when none will."""
    have = _length(part)
    if size is not None and have > size:
        part.unlink()
        have = 0
    if have and have == size:
        return
    answer = _open(opener, url, part, have, stall)
    if answer is None:
        return
    with answer:
        start, total = _extent(answer, part, have, url)
        if size is not None and total is not None and total != size:
            raise FileError(f"expected {size} bytes, the server has {total}", path=url)
        expected = size if total is None else total
        done = _copy(answer, part, start, expected, progress, url)
    if expected is not None and done < expected:
        raise _BrokenOffError(f"the connection broke off after {done} of {expected} bytes")


def _open(opener: request.OpenerDirector, url: str, part: Path, have: int, stall: float) -> HTTPResponse | None:
    """The answer to a request for what is missing, or None if nothing is."""
    headers = {"User-Agent": "lpcaffe", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer: HTTPResponse = opener.open(request.Request(url, headers=headers), timeout=stall)
        return answer
    except HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                if error.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{have}":
                    return None
                part.unlink(missing_ok=True)
                raise _BrokenOffError("the server has less than what is there already") from error
            words = " ".join([f"the server answered {error.code}", *str(error.reason).splitlines()[:1]])
            raise (_BrokenOffError(words) if error.code in _PASSING else FileError(words, path=url)) from error
    except URLError as error:
        why = reason(error.reason) if isinstance(error.reason, Exception) else error.reason
        words = f"the server cannot be reached: {why}"
        # A server that never answered is more likely down, or its name wrong, than busy.
        raise (_BrokenOffError(words) if have else FileError(words, path=url)) from error
    except (InvalidURL, ValueError) as error:
        raise FileError(f"not an address that can be asked: {error}", path=url) from error
    except (HTTPException, OSError) as error:
        raise _BrokenOffError(f"the server did not answer: {_reason(error)}") from error


def _extent(answer: HTTPResponse, part: Path, have: int, url: str) -> tuple[int, int | None]:
    """At which byte of the file the answer begins, and how long the whole file is, None if the server does not say."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            part.unlink(missing_ok=True)
            raise _BrokenOffError(f"asked for the bytes from {have} on, the server sent others")
        return have, None if match[2] == "*" else int(match[2])
    if answer.status != http.HTTPStatus.OK:
        raise FileError(f"the server answered {answer.status} {answer.reason}", path=url)
    return 0, answer.length


def _copy(
    answer: HTTPResponse, part: Path, start: int, expected: int | None, progress: Progress | None, url: str
) -> int:
    """Append the answer to the part file from byte `start` on; the length that the part file has then."""
    limit = MAX_BYTES if expected is None else expected
    done = start
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if start else "wb") as file:
            while chunk := _read(answer, done, expected):
                if done + len(chunk) > limit:
                    part.unlink()
                    raise FileError(f"expected {limit} bytes at most, the server sent more", path=url)
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, expected or 0)
            file.flush()
            sync(file.fileno())
    except OSError as error:
        raise cannot_write(part, error) from error
    return done


def _read(answer: HTTPResponse, done: int, expected: int | None) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (HTTPException, OSError) as error:
        of = "" if expected is None else f" of {expected}"
        raise _BrokenOffError(f"the connection broke off after {done}{of} bytes: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return reason(error)


def _length(part: Path) -> int:
    with suppress(FileNotFoundError, NotADirectoryError):
        return part.stat().st_size
    return 0
