"""A client of gRPC streams that costs next to nothing, so that 1,000 of them fit beside the server they watch.

A client of grpc.aio takes longer to receive a message than the server takes to send it. This one speaks just enough
HTTP/2: it opens streams, takes what comes in large pieces, and never holds the server back by flow control.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK = 1, 1
_LARGEST = (1 << 31) - 1


class Connection:
    """One connection with many streams of one method. ``received(stream, message, now)`` gets every message."""

    def __init__(self, port: int, received: Callable[[int, bytes, float], None]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ended = 0
        self._received = received
        self._buffer = b""
        self._partial: dict[int, bytes] = {}
        self._next = 1
        # No table for compressed headers, a window that is never used up, and large frames.
        settings = struct.pack(">HIHIHI", 1, 0, 4, _LARGEST, 5, (1 << 24) - 1)
        window = struct.pack(">I", _LARGEST - 65_535)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, window))

    def open(self, method: str, request: bytes, token: str) -> None:
        """Opens a stream with its one request."""
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", f"Bearer {token}"),
        )
        stream, self._next = self._next, self._next + 2
        data = b"\0" + struct.pack(">I", len(request)) + request
        self.socket.sendall(
            _frame(_HEADERS, 4, stream, b"".join(map(_literal, headers))) + _frame(_DATA, _END_STREAM, stream, data)
        )

    def read(self) -> None:
        """Takes what has arrived. Raises ConnectionError when the server closes."""
        fresh = self.socket.recv(1 << 20)
        now = time.time()
        if not fresh:
            raise ConnectionError("the server closed the connection")
        buffer = self._buffer + fresh if self._buffer else fresh
        position, end = 0, len(buffer)
        while end - position >= 9:
            length = int.from_bytes(buffer[position : position + 3], "big")
            if end - position < 9 + length:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream = int.from_bytes(buffer[position + 5 : position + 9], "big")
            position += 9
            if kind == _DATA:
                self._data(stream, buffer[position : position + length], now)
            else:
                self._control(kind, flags, buffer[position : position + length])
            position += length
        self._buffer = buffer[position:]

    def _data(self, stream: int, data: bytes, now: float) -> None:
        if stream in self._partial:
            data = self._partial.pop(stream) + data
        while len(data) >= 5:
            length = int.from_bytes(data[1:5], "big") + 5
            if len(data) < length:
                break
            self._received(stream, data[5:length], now)
            data = data[length:]
        if data:
            self._partial[stream] = data

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _RESET or (kind == _HEADERS and flags & _END_STREAM):
            self.ended += 1
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server said goodbye: {payload[8:]!r}")


def pump(connections: Sequence[Connection], done: Callable[[], bool]) -> None:
    """Reads from all connections until ``done``."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while not done():
            for key, _ in selector.select(0.05):
                key.data.read()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(header: tuple[str, str]) -> bytes:
    """A header field in full, never to be put into a table."""
    return b"\x10" + b"".join(_string(text.encode()) for text in header)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, out = len(text) - 127, b"\x7f"
    while rest > 127:
        out += bytes((rest & 127 | 128,))
        rest >>= 7
    return out + bytes((rest,)) + text
