"""HTTP/1.1 message heads (RFC 9112), as far as an opening handshake needs them.

What belongs here: requests, responses, and incremental parsers with limits. What does
not: anything that knows WebSocket headers (:mod:`.handshake`), sockets, deadlines.

The rule of the parsers: what two readers could understand differently is refused, never
repaired. A line ends with CRLF, a name is followed by its colon, nothing is folded. Each
byte is looked at a bounded number of times, however the stream was cut into pieces.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable

from .exceptions import InvalidMessage, SecurityError
from .headers import TOKEN, Headers, is_token, is_value, without_query

__all__ = [
    "MAX_BODY_SIZE",
    "MAX_HEADERS",
    "MAX_HEAD_SIZE",
    "MAX_LINE_SIZE",
    "Headers",
    "Request",
    "RequestParser",
    "Response",
    "ResponseParser",
]

MAX_LINE_SIZE = 8192
"""Bytes in a line without its CRLF; the usual limit of HTTP servers."""
MAX_HEADERS = 128
"""Header lines in a head."""
MAX_HEAD_SIZE = 65536
"""Bytes in a head with all its line ends; of a response: with interim responses."""
MAX_BODY_SIZE = 1 << 20
"""Bytes kept of the body of a response that refuses the handshake."""
_MAX_INTERIM_RESPONSES = 8
_CHUNK_COST = 64  # what a chunk takes us, in bytes of a body

_is_target = re.compile(r"[\x21-\x7e]+").fullmatch

_FIELD_LINE = re.compile(rf"({TOKEN}):([\t\x20-\x7e\x80-\xff]*)".encode("latin-1"))
_REQUEST_LINE = re.compile(rf"({TOKEN}) ([\x21-\x7e]+) (HTTP/[0-9]\.[0-9])".encode())
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
# All header lines of a head as we would write them ourselves, which nearly every peer does.
# Possessive: it fails as fast as it matches.
_VISIBLE = r"[\x21-\x7e\x80-\xff]++"
_plain_lines = re.compile(
    rf"(?:{TOKEN}: (?:{_VISIBLE}(?:[\t ]++{_VISIBLE})*+)?\r\n)*+\r\n".encode("latin-1")
).fullmatch
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_is_length = re.compile(r"[0-9]{1,18}").fullmatch


@dataclasses.dataclass(slots=True, repr=False)
class Request:
    """A request without a body.

    Args:
        path: The target, with its query, exactly as in the request line.
        headers: The headers.
        method: Anything but ``GET`` is refused by the handshake.

    Raises:
        ValueError: The target or the method cannot be sent.
    """

    path: str
    headers: Headers
    method: str = "GET"

    def __post_init__(self) -> None:
        self._check()

    def __repr__(self) -> str:
        return f"Request({without_query(self.path)!r}, {self.headers!r}, {self.method!r})"

    def serialize(self) -> bytes:
        """Returns the bytes to send.

        Raises:
            ValueError: An attribute was changed to something that cannot be sent.
        """
        self._check()
        return f"{self.method} {self.path} HTTP/1.1\r\n".encode() + self.headers.serialize()

    def _check(self) -> None:
        if self.method != "GET" and is_token(self.method) is None:
            raise ValueError("method must be a token")
        if _is_target(self.path) is None:
            raise ValueError("path must be visible ASCII characters; percent-encode others")


@dataclasses.dataclass(slots=True, repr=False)
class Response:
    """A response.

    Args:
        status_code: 100 to 599.
        reason_phrase: May be empty.
        headers: The headers.
        body: The body; no ``Content-Length`` is added for it.
        truncated: Of a received response: the body is longer, or the connection ended
            in the middle of it.

    Raises:
        ValueError: The status code or the reason phrase cannot be sent.
        TypeError: The body is not ``bytes``.
    """

    status_code: int
    reason_phrase: str
    headers: Headers
    body: bytes = b""
    truncated: bool = False

    def __post_init__(self) -> None:
        self._check()

    def __repr__(self) -> str:
        return (
            f"Response({int(self.status_code)}, {self.reason_phrase!r}, {self.headers!r}, "
            f"<{len(self.body)} bytes>)"
        )

    def serialize(self) -> bytes:
        """Returns the bytes to send.

        Raises:
            ValueError: An attribute was changed to something that cannot be sent.
            TypeError: The body was changed to something other than ``bytes``.
        """
        self._check()
        status_line = f"HTTP/1.1 {int(self.status_code)} {self.reason_phrase}\r\n"
        return status_line.encode("latin-1") + self.headers.serialize() + self.body

    def _check(self) -> None:
        if not 100 <= self.status_code <= 599:
            raise ValueError("status_code must be between 100 and 599")
        if is_value(self.reason_phrase) is None:
            raise ValueError("reason_phrase contains a character that cannot be sent")
        if not isinstance(self.body, bytes):
            raise TypeError(f"body must be bytes, not {type(self.body).__name__}")


def _check_request_line(line: bytes) -> None:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise InvalidMessage("the request line is malformed")
    if match[3] != b"HTTP/1.1":
        raise InvalidMessage("the version of HTTP is not 1.1", 505)


def _check_status_line(line: bytes) -> None:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise InvalidMessage("the status line is malformed: this is not HTTP/1.1")
    # RFC 9110 section 15.2: there is no 1xx in HTTP/1.0. Its other answers are worth
    # reading, for some proxies refuse in it.
    if match[1] == b"0" and match[2][:1] == b"1":
        raise InvalidMessage("the version of HTTP is not 1.1")


class _Parser:
    """Lines and heads out of a stream that comes in any pieces."""

    __slots__ = (
        "_buffer",
        "_check_first_line",
        "_fields",
        "_finished",
        "_first_line",
        "_limit",
        "_long_line_status",
        "_scanned",
        "_start",
        "rest",
    )

    def __init__(self, check_first_line: Callable[[bytes], None], long_line_status: int) -> None:
        self.rest = b""
        self._buffer = bytearray()
        self._start = 0  # where the current line begins
        self._scanned = 0  # no LF between _start and here
        self._limit = MAX_HEAD_SIZE  # no line may end beyond this offset
        self._check_first_line = check_first_line
        self._long_line_status = long_line_status  # of the first line; a header's is 431
        self._first_line: bytes | None = None
        self._fields: list[str] = []
        self._finished = False

    def _take_line(self) -> bytes | None:
        """The next whole line without its CRLF, or None."""
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n", self._scanned, start + MAX_LINE_SIZE + 2)
        if end < 0 and len(buffer) > start + MAX_LINE_SIZE + 1:
            raise SecurityError(f"a line exceeds {MAX_LINE_SIZE} bytes", self._long_line_status)
        if (len(buffer) if end < 0 else end + 1) > self._limit:
            raise SecurityError(f"the head exceeds {MAX_HEAD_SIZE} bytes", 431)
        if end < 0:
            self._scanned = len(buffer)
            return None
        self._start = self._scanned = end + 1
        # RFC 9112 section 2.2 lets a recipient accept a bare LF; proxies that differ in
        # it can be played against each other, so nothing but CRLF ends a line here.
        if buffer[end - 1 : end] != b"\r" or end == start:
            raise InvalidMessage("a line does not end with CRLF")
        return bytes(buffer[start : end - 1])

    def _take_head(self) -> tuple[bytes, Headers] | None:
        """The first line and the headers, once the empty line is here."""
        if self._first_line is None and self._scanned == self._start:
            head = self._take_plain_head()
            if head is not None:
                return head
        while (line := self._take_line()) is not None:
            if self._first_line is None:
                self._check_first_line(line)
                self._first_line = line
                self._long_line_status = 431
            elif line:
                self._add_field(line)
            else:
                head = self._first_line, Headers.from_field_lines("".join(self._fields))
                self._first_line, self._fields = None, []
                return head
        return None

    def _take_plain_head(self) -> tuple[bytes, Headers] | None:
        """The same in one step, of a short head that came at once and has nothing unusual."""
        start = self._start
        end = self._buffer.find(b"\r\n\r\n", start, min(start + MAX_LINE_SIZE, self._limit))
        if end < 0:
            return None
        line, _, lines = bytes(self._buffer[start : end + 4]).partition(b"\r\n")
        if b"\n" in line or _plain_lines(lines) is None or lines.count(b"\n") > MAX_HEADERS + 1:
            return None  # it is taken apart, and whatever is wrong gets its answer
        self._check_first_line(line)
        self._start = self._scanned = end + 4
        return line, Headers.from_field_lines(lines[:-2].decode("latin-1"))

    def _add_field(self, line: bytes) -> None:
        if len(self._fields) == MAX_HEADERS:
            raise SecurityError(f"more than {MAX_HEADERS} headers", 431)
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise InvalidMessage("a header line is malformed")
        name, value = match[1].decode(), match[2].strip(b" \t").decode("latin-1")
        self._fields.append(f"{name}: {value}\r\n")

    def _finish(self) -> None:
        self._finished = True
        self._buffer = bytearray()
        self._fields = []

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        if self._finished:
            raise RuntimeError("the parser has finished: its message is complete or invalid")
        self._buffer += data


class RequestParser(_Parser):
    """Parses one request head that comes in pieces.

    Not for use by several threads at once.

    Attributes:
        rest: Once the request is complete: the bytes that came after its head.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_check_request_line, 414)

    def feed(self, data: bytes | bytearray | memoryview) -> Request | None:
        """Takes more bytes.

        Args:
            data: At most as much as the caller is willing to see in memory at once.

        Returns:
            The request once it is complete, else ``None``.

        Raises:
            InvalidMessage: It is not a valid HTTP/1.1 request head; ``status_code`` is
                400, or 505 for another version of HTTP.
            SecurityError: It exceeds a limit; ``status_code`` is 414 or 431.
            RuntimeError: A former call returned a request or raised an exception.
        """
        self._append(data)
        try:
            # At once, for peers that speak something else, such as TLS, have no reason
            # to ever send the end of a line.
            if self._start == 0 and is_token(self._buffer[:1].decode("latin-1") or "-") is None:
                raise InvalidMessage("the request does not begin with a method")
            head = self._take_head()
        except InvalidMessage:
            self._finish()
            raise
        if head is None:
            return None
        line, headers = head
        self.rest = bytes(self._buffer[self._start :])
        self._finish()
        method, target, _ = line.decode().split(" ")
        return Request(target, headers, method)


class ResponseParser(_Parser):
    """Parses one response that comes in pieces; its body too, unless it is a 101.

    Interim responses (1xx but 101) are skipped, 8 at most. Of a body no more than 1 MiB is
    kept; then the response is complete, with ``truncated`` set, and the rest of the
    stream is of no use. Not for use by several threads at once.

    Args:
        connect: Whether the request was a CONNECT: then a 2xx has no body, either.

    Attributes:
        rest: After a 101, or a 2xx to a CONNECT: the bytes behind its head, which are of
            another protocol.
    """

    __slots__ = ("_body", "_chunked", "_connect", "_interim", "_left", "_overhead", "_response")

    def __init__(self, connect: bool = False) -> None:
        super().__init__(_check_status_line, 431)
        self._connect = connect
        self._response: Response | None = None
        self._interim = 0
        self._body = bytearray()
        self._chunked = False
        # Bytes to come of the body, or of the chunk and then its CRLF. None: up to the
        # end of the stream, or the line with a chunk's size comes next.
        self._left: int | None = None
        self._overhead = 0

    @property
    def head_complete(self) -> bool:
        """Whether only the body is missing, so that :meth:`feed_eof` does not raise.

        It may be called when time is up: the status says more than a timeout.
        """
        return self._response is not None

    def feed(self, data: bytes | bytearray | memoryview) -> Response | None:
        """Takes more bytes.

        Args:
            data: At most as much as the caller is willing to see in memory at once.

        Returns:
            The response once it is complete, else ``None``.

        Raises:
            InvalidMessage: It is not a valid HTTP/1.1 response.
            SecurityError: It exceeds a limit.
            RuntimeError: A former call returned a response or raised an exception.
        """
        self._append(data)
        try:
            response = self._response or self._take_response()
            if response is None or not self._take_body(response):
                return None
        except InvalidMessage:
            self._finish()
            raise
        return self._complete(response)

    def feed_eof(self) -> Response:
        """Says that the stream has ended.

        Returns:
            The response; ``truncated`` if more of its body was announced.

        Raises:
            InvalidMessage: The stream ended before or inside the head.
            RuntimeError: The parser had finished.
        """
        self._append(b"")
        response = self._response
        if response is None:
            nothing = not self._buffer
            self._finish()
            raise InvalidMessage(
                "the connection was closed "
                + ("without a response" if nothing else "in the middle of the response's head")
            )
        response.truncated = self._chunked or self._left is not None
        if not self._chunked:
            self._body = self._buffer[self._start :]
        return self._complete(response)

    def _complete(self, response: Response) -> Response:
        response.body = bytes(self._body)
        self._body = bytearray()
        self._finish()
        return response

    def _take_response(self) -> Response | None:
        """The final response without its body, once its head is complete."""
        while (head := self._take_head()) is not None:
            line, headers = head
            status_code = int(line[9:12])
            if status_code >= 200 or status_code == 101:
                self._response = Response(status_code, line[13:].decode("latin-1"), headers)
                self._limit = sys.maxsize
                self._frame_body(self._response)
                return self._response
            self._interim += 1
            if self._interim > _MAX_INTERIM_RESPONSES:
                raise SecurityError(f"more than {_MAX_INTERIM_RESPONSES} interim responses")
        return None

    def _frame_body(self, response: Response) -> None:
        # RFC 9112 section 6.3, in its order.
        if self._switches(response) or response.status_code in (204, 304):
            self._left = 0
            return
        codings = ",".join(response.headers.get_all("Transfer-Encoding"))
        lengths = set(response.headers.get_all("Content-Length"))
        if codings:
            self._chunked = codings.lower().rpartition(",")[2].strip(" \t") == "chunked"
        elif lengths:
            length = lengths.pop()
            if lengths or _is_length(length) is None:
                raise InvalidMessage("the Content-Length is malformed")
            self._left = int(length)

    def _switches(self, response: Response) -> bool:
        # RFC 9112 section 6.3: after CONNECT, a 2xx opens the tunnel, whatever its headers say.
        status_code = response.status_code
        return status_code == 101 or (self._connect and 200 <= status_code < 300)

    def _take_body(self, response: Response) -> bool:
        """Whether the body is complete, or no more of it is kept."""
        if self._switches(response):
            self.rest = bytes(self._buffer[self._start :])
            return True
        if self._chunked:
            return self._take_chunks(response)
        # One byte beyond the limit shows that there is more.
        wanted = MAX_BODY_SIZE + 1 if self._left is None else min(self._left, MAX_BODY_SIZE + 1)
        if len(self._buffer) - self._start < wanted:
            return False
        response.truncated = wanted > MAX_BODY_SIZE
        self._body = self._buffer[self._start : self._start + min(wanted, MAX_BODY_SIZE)]
        return True

    def _take_chunks(self, response: Response) -> bool:
        # RFC 9112 section 7.1. Nothing is expected after the body, so trailers need not
        # be read.
        buffer, body = self._buffer, self._body
        while True:
            if self._left is None:
                line = self._take_line()
                if line is None:
                    break
                match = _CHUNK_LINE.fullmatch(line)
                if match is None:
                    raise InvalidMessage("the size of a chunk is malformed")
                self._left = int(match[1], 16)
                self._overhead += len(line) + _CHUNK_COST
                if self._left == 0:
                    return True
                if self._overhead > MAX_BODY_SIZE:
                    response.truncated = True
                    return True
            if self._left > 0:
                piece = buffer[
                    self._start : self._start + min(self._left, MAX_BODY_SIZE - len(body))
                ]
                body += piece
                self._left -= len(piece)
                self._start += len(piece)
                if self._left > 0:
                    if len(body) == MAX_BODY_SIZE:
                        response.truncated = True
                        return True
                    break
            end = buffer[self._start : self._start + 2]
            if not b"\r\n".startswith(end):
                raise InvalidMessage("a chunk does not end with CRLF")
            if len(end) < 2:
                break
            self._start += 2
            self._scanned = self._start
            self._left = None
        if self._start > 0:
            del buffer[: self._start]
            self._scanned = max(self._scanned - self._start, 0)
            self._start = 0
        return False
