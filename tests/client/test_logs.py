"""Output over reconnects: every byte once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openfacility_client as of
import pytest
from openfacility.jobs.v1 import jobs_service_pb2 as pb

from tests.client.scripted import Failure, reason

pytestmark = pytest.mark.timeout(30)

TEXT = b"".join(b"line %d\n" % number for number in range(40))
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def output(*breaks: Any, piece: int = 7, overlap: int = 0) -> Any:
    """Read TEXT in pieces; break after every third piece, as told. A resumed read begins `overlap` bytes too early."""
    left = list(breaks)

    async def read(request: pb.ReadJobOutputRequest) -> AsyncIterator[pb.ReadJobOutputResponse]:
        start = request.offset if request.offset >= 0 else max(0, len(TEXT) + request.offset)
        start = max(0, start - (overlap if start else 0))
        for count, offset in enumerate(range(start, len(TEXT), piece)):
            if left and count == 3:
                broken = left.pop(0)
                if broken == "eof":
                    return
                raise broken
            yield pb.ReadJobOutputResponse(data=TEXT[offset : offset + piece], offset=offset)
        yield pb.ReadJobOutputResponse(offset=len(TEXT), end=True)

    return read


async def collect(pieces: Any) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("follow", [False, True])
async def test_every_byte_once(client, server, follow, overlap):
    breaks = (Failure(UNAVAILABLE), "eof", Failure(grpc.StatusCode.INTERNAL, "RST_STREAM"))
    server.on("ReadJobOutput", output(*breaks, overlap=overlap))
    reader = client.jobs.logs("j1", follow=follow)
    assert await collect(reader) == TEXT
    assert reader.offset == len(TEXT)
    assert len(server.calls) == 4
    assert server.calls[0].request.stream == pb.ReadJobOutputRequest.STREAM_STDOUT
    assert all(call.request.follow == follow for call in server.calls)


async def test_from_an_offset_and_from_the_end(client, server):
    server.on("ReadJobOutput", output(Failure(UNAVAILABLE)))
    assert await collect(client.jobs.logs("j1", stream="stderr", offset=10)) == TEXT[10:]
    assert await collect(client.jobs.logs("j1", offset=-5)) == TEXT[-5:]
    assert server.calls[0].request.stream == pb.ReadJobOutputRequest.STREAM_STDERR


async def test_the_offset_is_that_of_what_was_handed_out(client, server):
    server.on("ReadJobOutput", output())
    reader = client.jobs.logs("j1")
    piece = await anext(reader)
    assert reader.offset == len(piece)


async def test_an_offset_beyond_the_end_is_an_error(client, server):
    server.on("ReadJobOutput", Failure(grpc.StatusCode.OUT_OF_RANGE, "beyond", (reason("OFFSET"),)))
    with pytest.raises(of.OutOfRange):
        await collect(client.jobs.logs("j1", offset=10_000))


async def test_what_is_not_followed_is_given_up(connect):
    client = connect("127.0.0.1:1", timeout=0.3)
    with pytest.raises(of.Unavailable):
        await asyncio.wait_for(collect(client.jobs.logs("j1")), 10)
