"""The chain, on a real server: what callers of each of the four kinds of RPC are told, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from openfacility_server.config import Auth, Limits

from tests.support.kinds_service import KINDS, STREAMED, Note, Rig, assert_silent, error_info, running, until
from tests.unit.auth_support import KeyServer, auth_settings, bearer, claims_for, rsa_key, sign

USER = "a-token-of-a-user"
OPERATOR = "a-token-of-an-operator"
AUTH = Auth.model_validate(
    {
        "dev_tokens": [
            {"token": USER, "username": "una", "role": "user"},
            {"token": OPERATOR, "username": "otto", "role": "operator"},
        ]
    }
)
Code = grpc.StatusCode
each_kind = pytest.mark.parametrize("kind", KINDS)


def _as(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


# What callers are told.


@each_kind
async def test_ok(kind: str) -> None:
    async with running() as rig:
        answer = await rig.invoke(kind, "ok", metadata=(("x-request-id", "mine"),))
        assert answer == [Note(text="ok")]
        (line,) = await rig.logged()
        assert (line["code"], line["request_id"]) == ("OK", "mine")


@pytest.mark.parametrize("text", ["refused", "late refused"])
@each_kind
async def test_error_has_error_info_once(kind: str, text: str) -> None:
    if text.startswith("late") and kind not in STREAMED:
        text = "refused"
    async with running() as rig:
        error = await rig.fails(kind, text, metadata=(("x-request-id", "mine"),))
        assert error.code() is Code.FAILED_PRECONDITION
        info = error_info(error)
        assert (info.reason, dict(info.metadata)) == ("JOB_STATE", {"job_id": "1", "request_id": "mine"})
        (line,) = await rig.logged()
        assert (line["code"], line["reason"], line["request_id"]) == ("FAILED_PRECONDITION", "JOB_STATE", "mine")


@pytest.mark.parametrize("text", ["uncaught", "late uncaught"])
@each_kind
async def test_uncaught_error_says_nothing_of_the_inside(
    kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    if text.startswith("late") and kind not in STREAMED:
        text = "uncaught"
    async with running() as rig:
        error = await rig.fails(kind, text)
        assert error.code() is Code.INTERNAL
        info = error_info(error)
        assert info.reason == "INTERNAL"
        assert_silent(error)
        # The operator finds it by the request id that the caller was given.
        (record,) = [record for record in caplog.records if record.message == "unexpected error"]
        assert record.__dict__["request_id"] == info.metadata["request_id"]
        assert "secret" in str(record.exc_info)


@each_kind
async def test_inner_cancellation_is_an_error_and_no_hang(kind: str) -> None:
    async with running() as rig:
        error = await rig.fails(kind, "inner cancellation", timeout=60)
        assert error.code() is Code.INTERNAL
        assert error_info(error).reason == "INTERNAL"
        (line,) = await rig.logged()
        # Far from the caller's deadline: nothing waited.
        assert line["ms"] < 1000


@each_kind
async def test_denials(kind: str) -> None:
    async with running(auth=AUTH) as rig:
        error = await rig.fails(f"Guarded{kind}", "ok")
        assert (error.code(), error_info(error).reason) == (Code.UNAUTHENTICATED, "SIGN_IN_REQUIRED")
        assert_silent(error)
        error = await rig.fails(f"Guarded{kind}", "ok", metadata=_as(USER))
        assert (error.code(), error_info(error).reason) == (Code.PERMISSION_DENIED, "ROLE_REQUIRED")
        assert_silent(error)
        error = await rig.fails(kind, "ok", metadata=_as("some-other-token"))
        assert error.code() is Code.UNAUTHENTICATED
        assert error_info(error).reason.startswith("TOKEN_")
        assert_silent(error)
        error = await rig.fails(kind, "ok", metadata=_as(USER) + _as(OPERATOR))
        assert error.code() is Code.UNAUTHENTICATED
        assert error_info(error).reason == "TOKEN_SEVERAL"
        assert rig.service.begun.is_set() is False
        assert await rig.invoke(f"Guarded{kind}", "ok", metadata=_as(OPERATOR)) == [Note(text="ok")]


async def test_unknown_method_and_service_say_no_more_than_that() -> None:
    async with running() as rig:
        for path in ("/openfacility.test.v1.KindsService/Nothing", "/nothing.v1.Nothing/Nothing", "/"):
            stub = rig.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub(b"", timeout=20)
            # grpc.aio answers these itself, before any interceptor could add details.
            assert failed.value.code() is Code.UNIMPLEMENTED
            assert failed.value.details() == "Method not found!"
            assert_silent(failed.value)


@each_kind
async def test_request_that_is_no_message_is_refused_properly(kind: str) -> None:
    async with running() as rig:
        if kind in ("ClientStream", "Bidi"):
            stub, request = rig.channel.stream_unary, iter([b"\xff\xff"])
        else:
            stub, request = rig.channel.unary_unary, b"\xff\xff"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub(f"/openfacility.test.v1.KindsService/{kind}")(request, timeout=20)
        assert (failed.value.code(), error_info(failed.value).reason) == (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
        assert_silent(failed.value)


async def test_request_to_health_that_is_no_message_is_refused_properly() -> None:
    async with running() as rig:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rig.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff", timeout=20)
        assert (failed.value.code(), error_info(failed.value).reason) == (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")


@pytest.mark.parametrize("given", ["", "x" * 65, "two words", "<script>", 'a"b'])
async def test_request_id_of_another_form_is_replaced(given: str) -> None:
    async with running() as rig:
        error = await rig.fails("Unary", "refused", metadata=(("x-request-id", given),))
        made = error_info(error).metadata["request_id"]
        assert made != given
        assert len(made) == 32
        assert dict(error.trailing_metadata() or ())["x-request-id"] == made


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_that_fails_midway_says_so_in_its_last_line_over_json(kind: str) -> None:
    async with running() as rig:
        call = rig.call(kind, "late refused", metadata=(("x-openfacility-json", "1"),), timeout=20)
        first, last = await call.read(), await call.read()
        assert (first.text, last.text) == ("first", "")
        assert last.error.code == Code.FAILED_PRECONDITION.value[0]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert error_info(failed.value).reason == "JOB_STATE"
        # Nothing was sent yet: the HTTP status can still say it.
        call = rig.call(kind, "refused", metadata=(("x-openfacility-json", "1"),), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()


# The ends of calls.


@each_kind
async def test_client_cancel_runs_finally_and_is_raised(kind: str) -> None:
    async with running(Limits(unary_concurrency=1, streams=1)) as rig:
        call = rig.call(kind, "hang", timeout=60)
        await rig.service.begun.wait()
        call.cancel()
        await _ended_as_cancelled(rig)
        (line,) = await rig.logged()
        assert line["code"] == "CANCELLED"
        # Its place is free again.
        assert await rig.invoke(kind, "ok") == [Note(text="ok")]


@each_kind
async def test_client_deadline_runs_finally_and_is_raised(kind: str) -> None:
    async with running(Limits(unary_concurrency=1, streams=1)) as rig:
        error = await rig.fails(kind, "hang", timeout=0.3)
        assert error.code() is Code.DEADLINE_EXCEEDED
        await _ended_as_cancelled(rig)
        (line,) = await rig.logged()
        assert line["code"] == "DEADLINE_EXCEEDED"
        assert await rig.invoke(kind, "ok") == [Note(text="ok")]


async def _ended_as_cancelled(rig: Rig) -> None:
    async with asyncio.timeout(20):
        await rig.service.ended.wait()
    assert (rig.service.cancelled, rig.service.open) == (1, 0)


@pytest.mark.parametrize("kind", ["Unary", "ClientStream"])
async def test_a_call_without_deadline_gets_the_default_one(kind: str) -> None:
    async with running(default_deadline=0.2) as rig:
        error = await rig.fails(kind, "hang", timeout=None)
        assert (error.code(), error_info(error).reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        assert rig.service.cancelled == 1


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_without_deadline_has_none(kind: str) -> None:
    async with running(default_deadline=0.05) as rig:
        call = rig.call(kind, "late hang")
        assert (await call.read()).text == "first"
        assert not (await asyncio.wait({asyncio.ensure_future(call.read())}, timeout=0.3))[0]
        call.cancel()
        await _ended_as_cancelled(rig)


async def test_stalled_reader_holds_the_stream_back_and_frees_its_place_when_it_goes() -> None:
    async with running(Limits(streams=1)) as rig:
        call = rig.call("ServerStream", "flood", timeout=60)
        await call.read()
        sent = -1
        while sent != rig.service.sent:  # until flow control holds
            sent = rig.service.sent
            await asyncio.sleep(0.2)
        assert sent < 500
        assert (await rig.fails("ServerStream", "ok")).code() is Code.RESOURCE_EXHAUSTED
        call.cancel()
        await until(lambda: rig.service.open == 0)
        assert await rig.invoke("ServerStream", "ok") == [Note(text="ok")]


# Limits.


async def test_at_the_stream_cap_unary_and_health_still_answer() -> None:
    async with running(Limits(streams=3)) as rig:
        calls = [rig.call(kind, "late hang") for kind in ("ServerStream", "Bidi", "ServerStream")]
        for call in calls:
            await call.read()
        for kind in STREAMED:
            error = await rig.fails(kind, "ok")
            assert (error.code(), error_info(error).reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
            assert _retry_delay(error) > 0
            assert_silent(error)
        assert await rig.invoke("Unary", "ok") == [Note(text="ok")]
        assert await rig.healthy()
        watch = health_pb2_grpc.HealthStub(rig.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        calls[0].cancel()
        await until(lambda: rig.service.open == 2)
        assert await rig.invoke("Bidi", "ok") == [Note(text="ok")]
        for call in calls:
            call.cancel()


async def test_health_watches_take_no_places_of_other_streams() -> None:
    async with running(Limits(streams=2, streams_per_caller=2)) as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(5)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await rig.invoke("ServerStream", "ok") == [Note(text="ok")]
        for watch in watches:
            watch.cancel()


async def test_one_caller_cannot_take_all_streams() -> None:
    async with running(Limits(streams=10, streams_per_caller=2), AUTH) as rig:
        calls = [rig.call("ServerStream", "late hang", metadata=_as(USER)) for _ in range(2)]
        for call in calls:
            await call.read()
        error = await rig.fails("Bidi", "ok", metadata=_as(USER))
        assert (error.code(), error_info(error).reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS_OF_CALLER")
        assert error_info(error).metadata["limit"] == "2"
        assert _retry_delay(error) > 0
        assert await rig.invoke("Bidi", "ok", metadata=_as(OPERATOR)) == [Note(text="ok")]
        assert await rig.invoke("Unary", "ok", metadata=_as(USER)) == [Note(text="ok")]
        for call in calls:
            call.cancel()


async def test_at_the_unary_cap_streams_and_health_still_answer() -> None:
    async with running(Limits(unary_concurrency=2)) as rig:
        calls = [rig.call(kind, "hang") for kind in ("Unary", "ClientStream")]
        await until(lambda: rig.service.open == 2)
        for kind in ("Unary", "ClientStream"):
            error = await rig.fails(kind, "ok")
            assert (error.code(), error_info(error).reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            assert_silent(error)
        assert await rig.invoke("ServerStream", "ok") == [Note(text="ok")]
        assert await rig.healthy()
        for call in calls:
            call.cancel()


def _retry_delay(error: grpc.aio.AioRpcError) -> float:
    status = rpc_status.from_call(error)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert [detail for detail in status.details if detail.Unpack(retry)], status
    return retry.retry_delay.ToTimedelta().total_seconds()


# Credentials that end while a stream is open.


@pytest.mark.parametrize("kind", STREAMED)
async def test_a_stream_ends_with_its_token(kind: str) -> None:
    async with _with_a_short_token(2) as (rig, metadata):
        call = rig.call(kind, "late hang", metadata=metadata, timeout=60)
        assert (await call.read()).text == "first"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert (failed.value.code(), error_info(failed.value).reason) == (Code.UNAUTHENTICATED, "TOKEN_EXPIRED")
        await _ended_as_cancelled(rig)


async def test_a_stream_whose_reader_stalls_ends_with_its_token_too() -> None:
    async with _with_a_short_token(2) as (rig, metadata):
        call = rig.call("ServerStream", "flood", metadata=metadata, timeout=60)
        await asyncio.sleep(2.5)  # the token ends meanwhile, and the server waits for the reader
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            _ = [response async for response in call]
        assert (failed.value.code(), error_info(failed.value).reason) == (Code.UNAUTHENTICATED, "TOKEN_EXPIRED")
        await until(lambda: rig.service.open == 0)


@contextlib.asynccontextmanager
async def _with_a_short_token(seconds: int) -> Any:
    key = rsa_key()
    async with KeyServer().running() as keys:
        keys.keys.append(key)
        async with running(auth=auth_settings(keys.issuer)) as rig:
            token = sign(key, claims_for(keys.issuer, exp=int(time.time()) + seconds))
            yield rig, (("authorization", bearer(token)),)


# Infrastructure.


async def test_health_watch_through_the_whole_chain() -> None:
    async with running() as rig:
        await rig.health.set("jobs", health_pb2.HealthCheckResponse.SERVING)
        watch = health_pb2_grpc.HealthStub(rig.channel).Watch(health_pb2.HealthCheckRequest(service="jobs"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await rig.health.set("jobs", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert await rig.healthy()
        # Probes would drown the log; one that fails is in it.
        assert not [line for line in rig.log_lines() if line["code"] == "OK"]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health_pb2_grpc.HealthStub(rig.channel).Check(health_pb2.HealthCheckRequest(service="no"), timeout=20)
        assert failed.value.code() is Code.NOT_FOUND
        assert_silent(failed.value)
        await until(lambda: any(line["code"] == "NOT_FOUND" for line in rig.log_lines()))
        assert rig.registry.get_sample_value(
            "openfacility_grpc_calls_total", {"method": "/grpc.health.v1.Health/Check", "code": "OK"}
        ) == pytest.approx(1)


async def test_open_streams_are_counted_and_forgotten() -> None:
    def gauge(rig: Rig) -> float | None:
        method = {"method": "/openfacility.test.v1.KindsService/ServerStream"}
        return rig.registry.get_sample_value("openfacility_grpc_open_streams", method)

    async with running() as rig:
        calls = [rig.call("ServerStream", "late hang") for _ in range(5)]
        for call in calls:
            await call.read()
        assert gauge(rig) == 5
        for call in calls:
            call.cancel()
        await until(lambda: gauge(rig) == 0)
