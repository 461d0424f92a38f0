"""Stopping: health first, a last bookmark for every watch, and quickly; and what cannot be started twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from datetime import datetime

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openfacility.jobs.v1 import jobs_service_pb2 as rpc
from openfacility.jobs.v1 import jobs_service_pb2_grpc

from tests.faults.server_support import CHANNEL, calling, current_revision, passes, raw_watch, responses, serving, until
from tests.support.calls import Refused, refused
from tests.support.server import Server

_log = logging.getLogger(__name__)

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


def _seconds_to_stop(server: Server) -> float:
    """From the signal to the last word, by the server's own clock."""
    times = {line["event"]: datetime.fromisoformat(line["time"]) for line in server.log_lines() if "event" in line}
    return (times["stopped"] - times["stopping"]).total_seconds()


def _busy() -> float:
    """How many times slower this machine may be just now."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.slow
async def test_stop_with_a_thousand_watches() -> None:
    async with serving({"events": {"bookmark_interval": 30}}) as server, contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(calling(server))
        after = await current_revision(alice)
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, CHANNEL)) for _ in range(4)
        ]
        calls = [
            raw_watch(channel, server.tokens[name], rpc.WatchJobsRequest(after_revision=after))
            for channel, name in zip(channels, ("alice", "bob", "olga", "ada"), strict=True)
            for _ in range(250)
        ]
        for first in await asyncio.gather(*(call.read() for call in calls)):
            assert first.caught_up
        health = health_pb2_grpc.HealthStub(channels[0]).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == SERVING
        job = await alice.submit("/bin/true", hold=True)
        async with asyncio.timeout(60):
            for call in calls[:250] + calls[500:]:
                while (await call.read()).revision < job.revision:
                    pass
        server.signal(signal.SIGTERM)
        ended = await asyncio.gather(*(responses(call) for call in calls))
        assert (await health.read()).status == NOT_SERVING
        assert await asyncio.to_thread(server.wait_stopped) == 0
        for received, error in ended:
            assert error is not None
            told = Refused(error)
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
            last = received[-1]
            assert isinstance(last, rpc.WatchJobsResponse)
            # The last bookmark: the watch is complete up to where the server was.
            assert last.revision >= job.revision
        seconds = _seconds_to_stop(server)
        _log.info("stopped in %.2f s", seconds)
        assert seconds < 2 * _busy()


async def test_health_says_not_serving_before_watches_end_and_calls_are_served_meanwhile() -> None:
    async with serving({"shutdown": {"drain": 3}}) as server:  # noqa: SIM117 -- too long in one
        async with calling(server) as alice, grpc.aio.insecure_channel(server.address, CHANNEL) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", _JOBS)]
            for watch in watches:
                assert (await watch.read()).status == SERVING
            async with alice.watch() as jobs:
                await jobs.caught_up()
                server.signal(signal.SIGTERM)
                for watch in watches:
                    assert (await watch.read()).status == NOT_SERVING
                # Draining: told to send no more, but what comes is served.
                async with httpx.AsyncClient(timeout=20) as client:
                    assert (await client.get(f"{server.http_url}/readyz")).status_code == 503
                    assert (await client.get(f"{server.http_url}/livez")).status_code == 200
                job = await alice.submit("/bin/true", hold=True)
                assert await jobs.until(lambda changed: changed.id == job.id)
                with refused("UNAVAILABLE", "SERVER_STOPPING"):
                    await jobs.end()
            assert await asyncio.to_thread(server.wait_stopped) == 0


_JOBS = "openfacility.jobs.v1.JobsService"


async def test_a_second_signal_ends_the_process_at_once() -> None:
    async with serving({"shutdown": {"drain": 300}}) as server:
        server.signal(signal.SIGTERM)
        server.wait_line(lambda line: line.get("event") == "stopping")
        server.signal(signal.SIGINT)
        assert server.wait_stopped() == 1


async def test_stopping_with_calls_at_work_answers_or_refuses_each() -> None:
    async with serving() as server:
        async with calling(server) as alice:
            tasks = [
                asyncio.create_task(alice.submit("/bin/true", hold=True, name=str(number), request_id=f"r{number}"))
                for number in range(200)
            ]
            await tasks[0]
            server.signal(signal.SIGTERM)
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.to_thread(server.wait_stopped) == 0
        acknowledged = {job.spec.name: job.id for job in done if not isinstance(job, BaseException)}
        for refusal in done:
            if isinstance(refusal, BaseException):
                assert isinstance(refusal, grpc.aio.AioRpcError)
                assert passes(refusal), refusal
        server.start()
        async with calling(server) as again:
            for name, job_id in acknowledged.items():
                assert (await again.get(job_id)).spec.name == name


async def test_a_second_server_cannot_take_the_port_or_the_sockets() -> None:
    async with serving(start=False) as server:
        server.config["grpc"]["unix_socket"] = str(server.directory / "grpc.sock")
        server.config["http"]["unix_socket"] = str(server.directory / "http.sock")
        server.start()
        taken = {
            "port": {"grpc": {"listen": [server.address]}},
            "HTTP port": {"http": {"listen": f"127.0.0.1:{server.http_port}"}},
            "gRPC socket": {"grpc": {"unix_socket": server.config["grpc"]["unix_socket"]}},
            "HTTP socket": {"http": {"unix_socket": server.config["http"]["unix_socket"]}},
        }
        for what, overrides in taken.items():
            async with serving(overrides, start=False) as second:
                second.start(wait=False)
                assert await asyncio.to_thread(second.wait_stopped) == 1, what
                (line,) = [line for line in second.log_lines() if line["level"] == "error"]
                assert line["event"].startswith("cannot start"), what
                assert "Traceback" not in second.log_text()
        # The first one never noticed.
        async with calling(server) as alice:
            await alice.list()
        async with grpc.aio.insecure_channel(f"unix:{server.directory}/grpc.sock") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == SERVING
        assert _connects(server, "http.sock")
        # A server that was killed leaves its sockets behind; the next one takes their place.
        server.restart(kill=True)
        async with grpc.aio.insecure_channel(f"unix:{server.directory}/grpc.sock") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == SERVING
        assert _connects(server, "http.sock")
        assert (server.directory / "grpc.sock").stat().st_mode & 0o777 == 0o600


def _connects(server: Server, name: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.directory / name))
        return True


async def test_what_cannot_be_opened_is_said_in_one_line() -> None:
    async with serving({"state": {"directory": "/proc/none"}}, start=False) as server:
        server.start(wait=False)
        await until(lambda: not server.running)
        assert server.wait_stopped() == 1
        (line,) = server.log_lines()
        assert line["event"].startswith("cannot start: ")
        assert "Traceback" not in server.log_text()


@pytest.mark.slow
async def test_stop_is_not_held_up_by_those_who_do_not_listen() -> None:
    """Watches and output whose readers stall, health watchers, event streams over HTTP."""
    narrow = [("grpc.http2.lookahead_bytes", 65_535), ("grpc.http2.bdp_probe", 0)]
    async with serving({"events": {"bookmark_interval": 600}}) as server, contextlib.AsyncExitStack() as stack:
        alice = await stack.enter_async_context(calling(server))
        job = await alice.submit("/bin/sh", "-c", "head -c 30000000 /dev/zero", environment={"BIG": "x" * 60_000})
        await alice.wait(job.id)
        metadata = (("authorization", f"Bearer {server.tokens['alice']}"),)
        stalled = []
        for _ in range(20):
            options = [*CHANNEL, *narrow]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options))
            request = rpc.ReadJobOutputRequest(job_id=job.id, follow=True)
            stalled.append(jobs_service_pb2_grpc.JobsServiceStub(channel).ReadJobOutput(request, metadata=metadata))
            stalled.append(raw_watch(channel, server.tokens["alice"], rpc.WatchJobsRequest()))
            health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == SERVING
            stalled.append(health)
        for call in stalled[:-1:3] + stalled[1::3]:
            await call.read()
        held = await alice.submit("/bin/true", hold=True)
        for number in range(60):
            labels = {"test": alice.label, "n": str(number)}
            await alice.update(held.id, ["spec.labels", "spec.name"], labels=labels, name="x" * 200)
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
        headers = {"authorization": f"Bearer {server.tokens['alice']}", "accept": "text/event-stream"}
        for _ in range(5):
            url = f"{server.http_url}/v1/jobs:watch"
            stream = await stack.enter_async_context(client.stream("GET", url, headers=headers))
            assert stream.status_code == 200
            await anext(stream.aiter_raw())
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait_stopped) == 0
        seconds = _seconds_to_stop(server)
        _log.info("stopped in %.2f s", seconds)
        assert seconds < 2 * _busy()
