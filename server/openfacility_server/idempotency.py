"""Mutations that may be repeated: the first answer is kept in the transaction that had the effect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from openfacility_server.storage import Storage, Tx


@dataclass(frozen=True, slots=True)
class Mutation:
    """Who asks for what, and under which ``request_id`` (empty: not repeatable)."""

    username: str
    method: str
    request_id: str
    digest: bytes


def mutation(username: str, method: str, request: Message) -> Mutation:
    """Describes a mutation by its request message, which has a ``request_id``."""
    content = request.SerializeToString(deterministic=True)
    return Mutation(username, method, request.request_id, hashlib.sha256(content).digest())  # type: ignore[attr-defined]


def once(tx: Tx, wanted: Mutation, effect: Callable[[], bytes]) -> bytes:
    """Has an effect, unless the same mutation had it before; returns the response of the first time.

    Raises storage.RequestIdReused when the request id came with another content.
    """
    if not wanted.request_id:
        return effect()
    key = (wanted.username, wanted.method, wanted.request_id, wanted.digest)
    answer = tx.replay(*key)
    if answer is None:
        answer = effect()
        tx.remember(*key, answer)
    return answer


async def mutate(storage: Storage, wanted: Mutation, effect: Callable[[Tx], bytes]) -> bytes:
    """Runs ``effect`` once in a transaction of its own; returns its response or the first one."""
    return await storage.write(lambda tx: once(tx, wanted, lambda: effect(tx)))


async def answered(storage: Storage, wanted: Mutation) -> bytes | None:
    """Returns the response that a mutation had before, or None; for mutations that talk to an engine first."""
    if not wanted.request_id:
        return None
    return await storage.write(lambda tx: tx.replay(wanted.username, wanted.method, wanted.request_id, wanted.digest))
