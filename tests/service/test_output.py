"""ReadJobOutput: what a job writes, from an offset, to the present end or to the job's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, refused

STDERR = rpc.ReadJobOutputRequest.STREAM_STDERR
LINE = b"0123456789"


async def ten_bytes(alice: Caller) -> pb.Job:
    return await alice.run("/bin/sh", "-c", "printf 0123456789; printf abc >&2")


async def rest_of(call: Any) -> list[rpc.ReadJobOutputResponse]:
    """Reads what is left of a call that was read from before."""
    pieces = []
    while (piece := await call.read()) is not grpc.aio.EOF:
        pieces.append(piece)
    return pieces


async def test_both_streams(alice: Caller) -> None:
    job = await ten_bytes(alice)
    assert await alice.output_bytes(job.id) == LINE
    assert await alice.output_bytes(job.id, stream=rpc.ReadJobOutputRequest.STREAM_STDOUT) == LINE
    assert await alice.output_bytes(job.id, stream=STDERR) == b"abc"


@pytest.mark.parametrize(
    ("offset", "expected", "start"),
    [
        (0, LINE, 0),
        (3, LINE[3:], 3),
        (9, b"9", 9),
        (10, b"", 10),
        (-1, b"9", 9),
        (-4, b"6789", 6),
        (-10, LINE, 0),
        (-11, LINE, 0),
        (-(2**63), LINE, 0),
    ],
)
async def test_offsets(alice: Caller, offset: int, expected: bytes, start: int) -> None:
    job = await ten_bytes(alice)
    for follow in (False, True):
        pieces = await alice.output(job.id, offset=offset, follow=follow)
        assert b"".join(piece.data for piece in pieces) == expected
        assert pieces[0].offset == start
        assert pieces[-1].end
        assert pieces[-1].data == b""
        assert pieces[-1].offset == 10
        assert not any(piece.end for piece in pieces[:-1])


@pytest.mark.parametrize("offset", [11, 2**63 - 1])
async def test_an_offset_beyond_the_end_of_an_ended_job(alice: Caller, offset: int) -> None:
    job = await ten_bytes(alice)
    for follow in (False, True):
        with refused("OUT_OF_RANGE", "OFFSET_BEYOND_END") as error:
            await alice.output(job.id, offset=offset, follow=follow)
        assert error.metadata["size"] == "10"


async def test_an_offset_beyond_the_present_end_of_a_running_job(alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "printf 0123456789; sleep 600")
    await follow_until(alice, job.id, b"9")
    pieces = await alice.output(job.id, offset=1000)
    assert [(piece.data, piece.end) for piece in pieces] == [(b"", True)]


async def follow_until(caller: Caller, job_id: str, wanted: bytes) -> bytes:
    """Follows a job's output until something is in it."""
    call = caller.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job_id, follow=True))
    got = b""
    async for piece in call:
        got += piece.data
        if wanted in got:
            call.cancel()
            return got
    raise AssertionError(f"{wanted!r} is not in {got!r}")


async def test_follow_gives_output_as_it_grows_until_the_job_ends(alice: Caller, scratch: Path) -> None:
    gate = scratch / "gate"
    script = f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo second"
    job = await alice.submit("/bin/sh", "-c", script)
    call = alice.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
    first = await call.read()
    assert (first.data, first.offset, first.end) == (b"first\n", 0, False)
    gate.touch()
    rest = await rest_of(call)
    assert b"".join(piece.data for piece in rest) == b"second\n"
    assert rest[0].offset == 6
    assert rest[-1].end
    assert rest[-1].offset == 13
    assert (await alice.wait(job.id)).status.state == pb.JOB_STATE_COMPLETED


async def test_without_follow_it_ends_at_the_present_end(alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "echo now; sleep 600")
    await follow_until(alice, job.id, b"now\n")
    assert await alice.output_bytes(job.id) == b"now\n"
    assert (await alice.get(job.id)).status.state == pb.JOB_STATE_ACTIVE


async def test_follow_ends_when_the_job_is_canceled(alice: Caller) -> None:
    job = await alice.submit("/bin/sh", "-c", "echo now; sleep 600")
    call = alice.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
    assert (await call.read()).data == b"now\n"
    await alice.cancel(job.id)
    rest = await rest_of(call)
    assert rest[-1].end
    assert b"".join(piece.data for piece in rest) == b""


@pytest.mark.both_databases
async def test_before_the_start_there_is_none(alice: Caller) -> None:
    job = await alice.submit("/bin/echo", "late", hold=True)
    assert await alice.output_bytes(job.id) == b""
    call = alice.call("ReadJobOutput", rpc.ReadJobOutputRequest(job_id=job.id, follow=True))
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    await alice.release(job.id)
    pieces = [piece async for piece in call]
    assert b"".join(piece.data for piece in pieces) == b"late\n"
    assert pieces[-1].end


async def test_a_job_that_never_started_has_none(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.cancel(job.id)
    await alice.wait(job.id)
    for follow in (False, True):
        assert await alice.output_bytes(job.id, follow=follow) == b""


async def test_large_binary_output_is_exact(alice: Caller) -> None:
    program = (
        "import sys,hashlib;sys.stdout.buffer.write(b''.join(hashlib.sha512(b'%d'%i).digest() for i in range(40000)))"
    )
    job = await alice.run("python3", "-c", program)
    assert job.status.state == pb.JOB_STATE_COMPLETED, job.status
    expected = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(40000))
    pieces = await alice.output(job.id)
    assert b"".join(piece.data for piece in pieces) == expected
    assert max(len(piece.data) for piece in pieces) <= 256 * 1024
    offset = 0
    for piece in pieces:
        assert piece.offset == offset
        offset += len(piece.data)


async def test_an_array_has_no_output_of_its_own(alice: Caller) -> None:
    job = await alice.run("/bin/sh", "-c", "echo $0", array=pb.JobArray(first=0, last=1))
    with refused("FAILED_PRECONDITION", "ARRAY_JOB") as error:
        await alice.output(job.id)
    assert "element" in error.message
    assert await alice.output_bytes(f"{job.id}_1") == b"/bin/sh\n"


async def test_a_file_that_was_removed(alice: Caller, scratch: Path) -> None:
    out = scratch / "out"
    job = await alice.run("echo", "x", stdout_path=str(out))
    out.unlink()
    with refused("NOT_FOUND", "NOT_FOUND"):
        await alice.output(job.id)


async def test_a_device_is_no_output_file(alice: Caller) -> None:
    job = await alice.run("echo", "x", stdout_path="/dev/null")
    assert await alice.output_bytes(job.id) == b""


async def test_an_unknown_stream_is_refused(alice: Caller) -> None:
    job = await ten_bytes(alice)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD", "stream"):
        await alice.output(job.id, stream=9)


async def test_output_of_others(alice: Caller, bob: Caller, olga: Caller) -> None:
    job = await ten_bytes(alice)
    with refused("NOT_FOUND", "NOT_FOUND"):
        await bob.output(job.id)
    assert await olga.output_bytes(job.id) == LINE
