"""Other facilities as this one sees them: each watched live, and remembered when it does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import grpc
from openfacility.status.v1 import status_service_pb2, status_service_pb2_grpc

from openfacility_server.config import Peer
from openfacility_server.wire import timestamp

_log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
# A peer that changes all the time is asked for its overview this often at most.
_REST_SECONDS = 1.0


class Federation:
    """The peers of a facility."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers
        self._known = {
            peer.name: status_service_pb2.PeerFacility(name=peer.name, address=peer.address, error="not heard of yet")
            for peer in peers
        }

    def facilities(self) -> Sequence[status_service_pb2.PeerFacility]:
        """Returns how the peers stand, by name."""
        return [self._known[name] for name in sorted(self._known)]

    async def run(self) -> None:
        """Watches all peers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers:
                group.create_task(self._follow(peer))

    async def _follow(self, peer: Peer) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with _channel(peer) as channel:
                    stub = status_service_pb2_grpc.StatusServiceStub(channel)
                    await self._hear(peer, stub)
                    pause = _FIRST_PAUSE_SECONDS
                    await self._watch(peer, stub)
            except grpc.aio.AioRpcError as error:
                self._lose(peer, f"{error.code().name.lower()}: {(error.details() or '')[:200]}")
            except OSError as error:
                self._lose(peer, error.strerror or "cannot be reached")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _watch(self, peer: Peer, stub: status_service_pb2_grpc.StatusServiceAsyncStub) -> None:
        """Asks anew after each change. Bookmarks say that the peer is still there."""
        async for response in stub.WatchStatus(status_service_pb2.WatchStatusRequest(skip_snapshot=True)):
            if response.changes:
                await asyncio.sleep(_REST_SECONDS)
                await self._hear(peer, stub)
            else:
                self._known[peer.name].heard_time.CopyFrom(timestamp(datetime.now(UTC)))

    async def _hear(self, peer: Peer, stub: status_service_pb2_grpc.StatusServiceAsyncStub) -> None:
        overview = await stub.GetFacilityOverview(
            status_service_pb2.GetFacilityOverviewRequest(), timeout=_CALL_SECONDS
        )
        self._known[peer.name] = status_service_pb2.PeerFacility(
            name=peer.name,
            address=peer.address,
            overview=overview,
            reachable=True,
            heard_time=timestamp(datetime.now(UTC)),
        )

    def _lose(self, peer: Peer, error: str) -> None:
        known = self._known[peer.name]
        if known.reachable:
            _log.warning("a peer does not answer: %s", error, extra={"peer": peer.name})
        known.reachable = False
        known.error = error


def _channel(peer: Peer) -> grpc.aio.Channel:
    options = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
    if not peer.tls:
        return grpc.aio.insecure_channel(peer.address, options=options)
    roots = peer.ca.read_bytes() if peer.ca else None
    return grpc.aio.secure_channel(peer.address, grpc.ssl_channel_credentials(roots), options=options)
