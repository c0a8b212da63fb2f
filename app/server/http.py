"""The HTTP protocol of the server: uvicorn's, with bounds on what a client can make it keep, wait for or do.

uvicorn trusts its clients: it keeps all trailers, reads on after an early answer, drops the body of a request that asks
for another protocol, and waits for ever for a client that does not read. The limits of bodies are in `app.api.uploads`.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.problems import MEDIA_TYPE, problem
from app.server.closing import ClosingTransport
from app.server.connections import Connections, Wait

MAX_HEADERS_BYTES = 64 * 1024
MAX_HEADERS = 256
# Parsed at once, so that the event loop is never busy for long: of a body of known length, and of anything else, where
# each byte may be work.
BODY_SLICE_BYTES, SLICE_BYTES = 64 * 1024, 4 * 1024
HEAD_END = b"\r\n\r\n"
FRAMING = (b"content-length", b"transfer-encoding")
REFUSALS = {
    "malformed-request": (400, "This is no request of HTTP/1.1: send one, with one Host and without TLS."),
    "malformed-target": (400, "This is no path with a query: escape all that is not ASCII, as in %C3%A9, and spaces."),
    "request-timeout": (408, "The headers did not arrive in time: send the request again."),
    "headers-too-large": (431, f"Send at most {MAX_HEADERS} headers and {MAX_HEADERS_BYTES} bytes of them."),
    "too-many-connections": (503, "There are too many connections from this address: close some, or wait."),
}


class RefusedRequest(Exception):
    """A request that is refused while it is parsed. `name` is one of REFUSALS."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class BoundedHttp(HttpToolsProtocol):
    """One connection. The headers of a request must arrive within `header_s`.

    Their timer starts when the connection opens, and again at the first byte after a request. Trailers and the framing
    of chunks may be as many bytes again, and an eighth of the body.
    """

    transport: ClosingTransport  # type: ignore[assignment]

    def __init__(self, *args: Any, header_s: float, pool: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_s, self._pool = header_s, pool
        self._header_timer: asyncio.TimerHandle | None = None
        self._reads_headers, self._has_begun = True, False
        self._unparsed = self.url = b""
        self._next_slice: asyncio.Handle | None = None
        # Of a request: all but its body, its body as far as it came, and its declared length, 0 if there is none.
        self._overhead_bytes = self._body_bytes = self._length_bytes = 0
        self._refusal: str | None = None  # the name for a request that is refused after the answers to earlier ones
        self._replays_head = False  # while the head of a request is parsed again, without its wish for an upgrade

    # Called by the event loop.

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(ClosingTransport(transport, self._is_receiving))  # type: ignore[arg-type]
        self._start_headers()
        if not self._pool.admit(self):
            self._refuse("too-many-connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_header_timer()
        self._unparsed = b""
        self._pool.discard(self)
        self.transport.lost()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.transport.is_closing():
            self.transport.discard(len(data))
            return
        self._unset_keepalive_if_required()
        if self._is_idle and not self._reads_headers:
            self._start_headers()
        self._unparsed += data
        if self._next_slice is None:
            self._parse()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """See httptools: called at the first byte of a request."""
        if self._replays_head:
            return
        super().on_message_begin()
        if not self._reads_headers:
            self._start_headers()
        self._has_begun = True

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        if not self._replays_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools: called for trailers as well, which no route reads."""
        if not self._reads_headers:
            return
        if len(self.headers) >= MAX_HEADERS:
            raise RefusedRequest("headers-too-large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools: called after the last header."""
        if self._replays_head:
            return
        self._stop_header_timer()
        self._reads_headers = False
        self._length_bytes = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        version, hosts = self.parser.get_http_version(), [name for name, _ in self.headers].count(b"host")
        if version not in ("1.0", "1.1") or (version == "1.1" and hosts != 1):  # RFC 9112, sections 2.3 and 3.2
            raise RefusedRequest("malformed-request")
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        self._has_begun = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body_bytes += len(body)
        self._overhead_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools: called too early for a request that asks for an upgrade, since its body is still to come."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    # Called by uvicorn and by the pool.

    def on_response_complete(self) -> None:
        """Called after each answer. The rest of a body that was not read is not waited for."""
        self._pool.answered(self)
        if self.cycle.response_complete and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()
        if self._refusal is not None:
            self._refuse(self._refusal)
        self._parse()

    def shutdown(self) -> None:
        """See HttpToolsProtocol: called when the server ends."""
        if self._is_idle or self.transport.is_closing():
            self.transport.close_now()
        else:
            super().shutdown()

    @property
    def wait(self) -> Wait | None:
        """See Connection."""
        if self.transport.is_closing():
            return Wait.END
        if self.transport.has_unread:
            return Wait.READER
        if self._has_begun and self._is_idle:
            return Wait.HEADERS
        if self._is_idle:
            return Wait.FIRST_BYTE if self.cycle is None else Wait.NEXT_REQUEST
        if self._unparsed and self._must_answer_first:
            return Wait.EARLIER_ANSWERS
        return Wait.BODY if self.cycle.more_body else None

    def displace(self) -> None:
        """See Connection. Who is within a request is told."""
        if self._has_begun or not self._is_idle:
            self._refuse("too-many-connections")
        self.transport.close_now()

    @property
    def _is_idle(self) -> bool:
        """Whether all requests that began were answered."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _is_receiving(self) -> bool:
        """Whether the client is within a request."""
        if self._unparsed or (self.cycle is not None and self.cycle.more_body):
            return True
        return self._has_begun

    def _parse(self) -> None:
        """Parse some of what has arrived. Requests that wait for earlier answers are not parsed before their turn."""
        if self.transport.is_closing():
            self._unparsed = b""
            return
        if self._unparsed and not self._must_answer_first:
            size = self._slice_bytes()
            data, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse_slice(data)
        if self._unparsed and not self._must_answer_first and self._next_slice is None:
            self._next_slice = self.loop.call_soon(self._parse_next)
        self.transport.hold(bool(self._unparsed))

    def _parse_next(self) -> None:
        self._next_slice = None
        self._parse()

    def _slice_bytes(self) -> int:
        """At most what belongs to one request, as far as that can be told without parsing it."""
        if not self._reads_headers and (left_bytes := self._length_bytes - self._body_bytes) > 0:
            return min(BODY_SLICE_BYTES, left_bytes)
        # Within chunks, such an end may be one of the body; then slices are not to be too small.
        end = self._unparsed.find(HEAD_END, 0 if self._reads_headers else SLICE_BYTES // 16, SLICE_BYTES)
        return SLICE_BYTES if end < 0 else end + len(HEAD_END)

    def _parse_slice(self, data: bytes) -> None:
        self._overhead_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (offset,) = upgrade.args
            self._unparsed = data[offset:] + self._unparsed
            self._overhead_bytes -= len(data) - offset
            try:
                self._go_on_without_upgrade()
            except httptools.HttpParserError:  # such as for a transfer coding that there is not
                self._refuse("malformed-request")
        except httptools.HttpParserInvalidURLError:
            self._refuse("malformed-target")
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(refused.name if isinstance(refused, RefusedRequest) else "malformed-request")
        else:
            allowed_bytes = MAX_HEADERS_BYTES * (1 if self._reads_headers else 2) + self._body_bytes // 8
            if self._overhead_bytes > allowed_bytes:
                self._refuse("headers-too-large")

    @property
    def _must_answer_first(self) -> bool:
        """Whether what was parsed has to be answered before anything else is parsed."""
        is_answering = not self._is_idle and not self.cycle.more_body
        return is_answering or bool(self.pipeline) or self._refusal is not None

    def _go_on_without_upgrade(self) -> None:
        """Let the body of a request follow that asks for another protocol: servers may ignore that (RFC 9110, 7.8).

        The parser stops after such a head, so another one is told how the body is framed.
        """
        framing = [name + b": " + value + b"\r\n" for name, value in self.headers if name in FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._replays_head = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")
        finally:
            self._replays_head = False

    def _start_headers(self) -> None:
        self._stop_header_timer()
        self._reads_headers, self._overhead_bytes, self._body_bytes = True, 0, 0
        self._header_timer = self.loop.call_later(self._header_s, self._headers_timed_out)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_timed_out(self) -> None:
        if not self._is_idle:  # an earlier request is still being answered, and must not get this answer
            self._header_timer = self.loop.call_later(self._header_s, self._headers_timed_out)
        elif self._has_begun:
            self._refuse("request-timeout")
        else:
            self.transport.close()

    def _wants_no_body(self, name: str, is_answering: bool) -> bool:
        """Whether the refused request is one for HEAD. Before its path, the parser has an earlier one's method."""
        if is_answering:
            return bool(self.cycle.scope["method"] == "HEAD")
        return (bool(self.url) or name == "malformed-target") and self.parser.get_method() == b"HEAD"

    def _refuse(self, name: str) -> None:
        """Answer with a problem, in its turn and unless the answer has begun, and close."""
        is_answering = not self._is_idle
        if self.pipeline or (is_answering and not self.cycle.more_body):
            self._refusal = name
            return
        status, detail = REFUSALS[name]
        if not is_answering:  # a request that no middleware sees
            self.app_state["metrics"].refusals.labels(name).inc()
        if not is_answering or not self.cycle.response_started:
            body = json.dumps(problem(status, name, detail).model_dump()).encode()
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\n"
            head += f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + (b"" if self._wants_no_body(name, is_answering) else body))
        self.transport.close()
        if is_answering:  # its route waits for a body that will not come
            self.cycle.scope["state"]["refusal"] = status, name
            self.cycle.disconnected = True
            self.cycle.message_event.set()
