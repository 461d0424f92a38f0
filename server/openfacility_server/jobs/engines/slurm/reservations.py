"""The reservations of a Slurm cluster, from scontrol."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence

from openfacility_server.jobs.engines import EngineUnavailable, Reservation
from openfacility_server.jobs.engines.nodenames import expand
from openfacility_server.jobs.engines.slurm.cluster import Runner, number, point_in_time

_MOST = 10_000
_FIELD = re.compile(r"(?:^| )([A-Z][A-Za-z]*)=(\S*)")
_NONE = frozenset({"", "(null)", "N/A"})
# Such a one is always the same time ahead, and never comes.
_FLOATING = "TIME_FLOAT"


class Reservations:
    """The reservations of one cluster; ``owner_of`` maps an account to a user of this service, "" if it is nobody's."""

    def __init__(self, commands: Runner, owner_of: Callable[[str], str]) -> None:
        self._commands = commands
        self._owner_of = owner_of

    async def list(self) -> Sequence[Reservation]:
        """Returns those that go on or are to come, soonest first, at most 10,000. Raises EngineUnavailable."""
        result = await self._commands.run(["scontrol", "-o", "show", "reservation"])
        if result.code != 0:
            raise EngineUnavailable("The batch system does not say what is reserved.")
        return await asyncio.to_thread(read_reservations, result.out, self._owner_of)


def read_reservations(text: str, owner_of: Callable[[str], str]) -> Sequence[Reservation]:
    """Returns what scontrol wrote: a line for each reservation."""
    found = sorted(_reservations(text, owner_of), key=lambda one: (one.start_time, one.id))
    return found[:_MOST]


def _reservations(text: str, owner_of: Callable[[str], str]) -> Iterator[Reservation]:
    for line in text.splitlines():
        values: dict[str, str] = {}
        for name, value in _FIELD.findall(line):
            # The first one counts: what partly reserved nodes are made of follows, with names of its own.
            values.setdefault(name, "" if value in _NONE else value)
        start, end = point_in_time(values.get("StartTime", "")), point_in_time(values.get("EndTime", ""))
        flags = _listed(values.get("Flags", ""))
        if not values.get("ReservationName") or start is None or end is None:
            continue
        yield Reservation(
            id=values["ReservationName"],
            start_time=start,
            end_time=end,
            active=values.get("State") == "ACTIVE",
            nodes=values.get("Nodes", ""),
            node_names=_names(values.get("Nodes", "")),
            node_count=number(values.get("NodeCnt", "")),
            core_count=number(values.get("CoreCnt", "")),
            queue_name=values.get("PartitionName", ""),
            owners=tuple(filter(None, map(owner_of, _who(values.get("Users", ""))))),
            accounts=_who(values.get("Accounts", "")),
            flags=flags,
            maintenance="MAINT" in flags and _FLOATING not in flags,
        )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _who(text: str) -> tuple[str, ...]:
    """Returns who may use it; `-name` is who may not."""
    return tuple(name for name in _listed(text) if not name.startswith("-"))


def _names(nodes: str) -> tuple[str, ...]:
    try:
        return expand(nodes)
    except ValueError:
        return ()
