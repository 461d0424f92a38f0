"""Running a server until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence

from opentelemetry.sdk.trace import SpanProcessor

from openfacility_server.app import App
from openfacility_server.config import Config
from openfacility_server.jobs.engines import EngineUnavailable
from openfacility_server.storage import StorageError

_log = logging.getLogger(__name__)


async def serve(
    config: Config,
    signals: Sequence[signal.Signals],
    started: Callable[[App], Awaitable[None]] | None = None,
    stopping: Callable[[], Awaitable[None]] | None = None,
    stopped: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Serves until one of ``signals`` comes; a second one ends the process at once. Returns the exit code.

    ``started`` is called when the server serves, ``stopping`` before it stops, ``stopped`` after that.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if told.is_set():
            os._exit(1)
        told.set()

    for number in signals:
        loop.add_signal_handler(number, stop)
    app = App(config, _span_processor(config))
    reloads: set[asyncio.Task[None]] = set()
    ready = asyncio.Event()

    async def reload_when_ready() -> None:
        await ready.wait()
        await app.reload()

    def reload() -> None:
        task = asyncio.ensure_future(reload_when_ready())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    # From the start: unhandled, the signal ends the process.
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await app.start()
        ready.set()
    except (StorageError, EngineUnavailable, OSError, RuntimeError, ValueError) as error:
        _log.error("cannot start: %s", error)
        return 1
    try:
        if started:
            await started(app)
        await told.wait()
        _log.info("stopping")
        if stopping:
            await stopping()
    finally:
        for task in reloads:
            task.cancel()
        await app.stop()
        _log.info("stopped")
        if stopped:
            await stopped()
    return 0


def _span_processor(config: Config) -> SpanProcessor | None:
    if not config.telemetry.otlp_endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- heavy
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=config.telemetry.otlp_endpoint, insecure=True))
