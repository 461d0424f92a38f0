"""Spans: one per sampled call, with the status that the caller got, on each of the four kinds of RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from openfacility_server.config import Limits
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.kinds_service import KINDS, STREAMED, running, until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
Code = grpc.StatusCode
each_kind = pytest.mark.parametrize("kind", KINDS)


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.processor = SimpleSpanProcessor(self.exporter)

    async def one(self) -> ReadableSpan:
        """Returns the only span, once it has ended, which is after the caller has its answer."""
        await until(lambda: bool(self.exporter.get_finished_spans()))
        (span,) = self.exporter.get_finished_spans()
        return span

    @property
    def count(self) -> int:
        return len(self.exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.exporter.shutdown()


@pytest.mark.parametrize("text", ["ok", "late ok"])
@each_kind
async def test_ok(kind: str, text: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        await rig.invoke(kind, text if kind in STREAMED else "ok", metadata=(*SAMPLED, ("x-request-id", "mine")))
        span = await spans.one()
        _check(span, Code.OK, StatusCode.UNSET)
        assert span.attributes is not None
        assert span.name == f"openfacility.test.v1.KindsService/{kind}"
        assert span.kind is SpanKind.SERVER
        assert span.attributes["rpc.system"] == "grpc"
        assert span.attributes["rpc.service"] == "openfacility.test.v1.KindsService"
        assert span.attributes["rpc.method"] == kind
        assert span.attributes["openfacility.request_id"] == "mine"


@pytest.mark.parametrize("text", ["refused", "late refused"])
@each_kind
async def test_abort_that_is_the_callers_fault(kind: str, text: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        await rig.fails(kind, text if kind in STREAMED else "refused", metadata=SAMPLED)
        _check(await spans.one(), Code.FAILED_PRECONDITION, StatusCode.UNSET)


@pytest.mark.parametrize("text", ["uncaught", "late uncaught", "inner cancellation"])
@each_kind
async def test_failure_of_the_server(kind: str, text: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        await rig.fails(kind, text if kind in STREAMED else text.removeprefix("late "), metadata=SAMPLED)
        span = await spans.one()
        _check(span, Code.INTERNAL, StatusCode.ERROR)
        # What went wrong is in the log; a collector may be anybody's.
        assert "secret" not in span.to_json()


@each_kind
async def test_denial(kind: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        await rig.fails(f"Guarded{kind}", "ok", metadata=SAMPLED)
        _check(await spans.one(), Code.UNAUTHENTICATED, StatusCode.UNSET)


@each_kind
async def test_cancel(kind: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        call = rig.call(kind, "hang", metadata=SAMPLED, timeout=60)
        await rig.service.begun.wait()
        call.cancel()
        _check(await spans.one(), Code.CANCELLED, StatusCode.UNSET)


@each_kind
async def test_deadline(kind: str, spans: Spans) -> None:
    async with running(processor=spans.processor) as rig:
        await rig.fails(kind, "hang", metadata=SAMPLED, timeout=0.2)
        _check(await spans.one(), Code.DEADLINE_EXCEEDED, StatusCode.ERROR)


async def test_default_deadline(spans: Spans) -> None:
    async with running(processor=spans.processor, default_deadline=0.1) as rig:
        await rig.fails("Unary", "hang", metadata=SAMPLED, timeout=None)
        _check(await spans.one(), Code.DEADLINE_EXCEEDED, StatusCode.ERROR)


async def test_refusal_by_a_limit(spans: Spans) -> None:
    async with running(Limits(streams=1), processor=spans.processor) as rig:
        call = rig.call("Bidi", "late hang")
        await call.read()
        await rig.fails("ServerStream", "ok", metadata=SAMPLED)
        _check(await spans.one(), Code.RESOURCE_EXHAUSTED, StatusCode.UNSET)
        call.cancel()


def _check(span: ReadableSpan, code: grpc.StatusCode, status: StatusCode) -> None:
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == code.value[0]
    assert span.status.status_code is status
    assert span.context is not None
    assert format(span.context.trace_id, "032x") == TRACE
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == PARENT
    assert span.end_time is not None
    assert not span.events


# Sampling.


async def test_the_caller_decides_whatever_the_ratio(spans: Spans) -> None:
    async with running(ratio=1.0, processor=spans.processor) as rig:
        await rig.invoke("Unary", "ok", metadata=NOT_SAMPLED)
        await rig.invoke("ServerStream", "ok", metadata=NOT_SAMPLED)
        await rig.invoke("Unary", "ok", metadata=SAMPLED)
        await spans.one()
        assert [line.get("trace_id") for line in await rig.logged(3)] == [TRACE] * 3


async def test_without_a_decision_the_ratio_decides(spans: Spans) -> None:
    async with running(ratio=0.0, processor=spans.processor) as rig:
        await rig.invoke("Unary", "ok")
        assert "trace_id" not in (await rig.logged())[0]
        assert spans.count == 0
    async with running(ratio=1.0, processor=Spans().processor) as rig:
        await rig.invoke("Unary", "ok")
        (line,) = await rig.logged()
        assert len(line["trace_id"]) == 32


async def test_trace_id_of_the_span_is_in_the_access_log(spans: Spans) -> None:
    async with running(ratio=1.0, processor=spans.processor) as rig:
        await rig.invoke("ServerStream", "ok")
        (line,) = await rig.logged()
        span = await spans.one()
        assert span.context is not None
        assert line["trace_id"] == format(span.context.trace_id, "032x")
        assert span.parent is None


@pytest.mark.parametrize(
    "given",
    [
        "x" * 54 + "1",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        "",
    ],
)
async def test_what_is_no_traceparent_is_as_none(given: str, spans: Spans) -> None:
    async with running(ratio=0.0, processor=spans.processor) as rig:
        await rig.invoke("Unary", "ok", metadata=(("traceparent", given),))
        assert "trace_id" not in (await rig.logged())[0]
        assert spans.count == 0


async def test_without_an_exporter_nothing_is_made() -> None:
    async with running(ratio=1.0) as rig:
        await rig.invoke("Unary", "ok", metadata=SAMPLED)
        # The caller's trace is still named in the log.
        assert (await rig.logged())[0]["trace_id"] == TRACE


async def test_probes_are_not_traced(spans: Spans) -> None:
    async with running(ratio=1.0, processor=spans.processor) as rig:
        assert await rig.healthy()
        assert spans.count == 0


async def test_concurrent_calls_keep_their_own_traces(spans: Spans) -> None:
    traces = [f"{number:032x}" for number in range(1, 41)]
    async with running(processor=spans.processor) as rig:
        await asyncio.gather(
            *(
                rig.invoke(KINDS[index % 4], "ok", metadata=(("traceparent", f"00-{trace}-{PARENT}-01"),))
                for index, trace in enumerate(traces)
            )
        )
        await until(lambda: spans.count == len(traces))
        found = [span.context.trace_id for span in spans.exporter.get_finished_spans() if span.context]
        assert sorted(found) == list(range(1, 41))
        assert {line["trace_id"] for line in await rig.logged(len(traces))} == set(traces)
