"""Small pieces of the wire that every domain needs: times, spans, and serialized messages put into others."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from google.protobuf import duration_pb2, timestamp_pb2

_MICROSECOND = timedelta(microseconds=1)


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """Returns a time as a Timestamp, exact to the microsecond."""
    micros = (moment - datetime.fromtimestamp(0, UTC)) // _MICROSECOND
    return timestamp_pb2.Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def moment(stamp: timestamp_pb2.Timestamp) -> datetime:
    """Returns a Timestamp as a time, cut to the microsecond."""
    return datetime.fromtimestamp(stamp.seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)


def duration(span: timedelta) -> duration_pb2.Duration:
    """Returns a span as a Duration."""
    micros = span // _MICROSECOND
    return duration_pb2.Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def span(length: duration_pb2.Duration) -> timedelta:
    """Returns a Duration as a span, cut to the microsecond."""
    return timedelta(seconds=length.seconds, microseconds=length.nanos // 1000)


def framed(number: int, data: bytes) -> bytes:
    """Returns a serialized message as field ``number`` (1 to 15) of another message."""
    return _head(number, len(data)) + data


def frames(number: int, messages: Iterable[bytes]) -> bytes:
    """Returns serialized messages as the repeated field ``number`` (1 to 15) of another message."""
    return b"".join([piece for message in messages for piece in (_head(number, len(message)), message)])


# A list has a hundred messages of a few lengths.
@lru_cache(maxsize=4096)
def _head(number: int, length: int) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
