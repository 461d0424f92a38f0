# Made from _async/status_streams.py by clients/python/generate_sync.py; change that one.
"""The facility's status as streams: pages of a list, and a watch that survives reconnects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Generic, TypeVar

from openfacility_client._convert import from_proto
from openfacility_client._status_cursor import StatusCursor
from openfacility_client._status_model import StatusChange, StatusChangeType
from openfacility_client._sync.streams import OnDisconnect, ResumingStream
from openfacility_client._sync.transport import Transport

Item = TypeVar("Item")


class StatusPager(Iterator[Item], Generic[Item]):
    """The things of a list, page after page; each page is fetched when its first thing is wanted."""

    def __init__(
        self,
        transport: Transport,
        method: str,
        request: Any,
        kind: type[Item],
        field: str,
        timeout: timedelta | float | None,
    ) -> None:
        """Fetch nothing yet."""
        self.revision: int | None = None
        """Revision that the list was read at, once the first page is there: a watch with `after_revision` continues
        from here without a gap. 0 if the list has none."""
        self._transport = transport
        self._method = method
        self._request = request
        self._kind = kind
        self._field = field
        self._timeout = timeout
        self._items: list[Item] = []
        self._done = False

    def __iter__(self) -> StatusPager[Item]:
        """Return this very list."""
        return self

    def __next__(self) -> Item:
        """Return the next one."""
        while not self._items:
            page = self._fetch()
            if page is None:
                raise StopIteration
            self._items = list(reversed(page))
        return self._items.pop()

    def pages(self) -> Iterator[list[Item]]:
        """Go through the list page by page instead of one by one."""
        while (page := self._fetch()) is not None:
            yield page

    def _fetch(self) -> list[Item] | None:
        if self._done:
            return None
        response = self._transport.call(self._method, self._request, timeout=self._timeout)
        self._request.page_token = response.next_page_token
        self._done = not response.next_page_token
        if self.revision is None:
            self.revision = getattr(response, "revision", 0)
        return [from_proto(self._kind, each) for each in getattr(response, self._field)]


class StatusWatch(ResumingStream[StatusChange]):
    """Changes of a facility, in order, each once, none left out, as long as one listens."""

    method = "WatchStatus"

    def __init__(
        self,
        transport: Transport,
        cursor: StatusCursor,
        *,
        timeout: timedelta | float | None,
        give_up_after: timedelta | float | None,
        on_disconnect: OnDisconnect | None,
        look_up: Callable[[list[tuple[str, str]]], Any],
    ) -> None:
        """Begin nothing yet."""
        super().__init__(transport, cursor, timeout=timeout, give_up_after=give_up_after, on_disconnect=on_disconnect)
        self._watch_cursor = cursor
        self._look_up = look_up

    @property
    def revision(self) -> int | None:
        """Everything up to here was handed out: a later watch with `after_revision` continues without a gap.

        None while a snapshot is being handed out.
        """
        revision = self._watch_cursor.revision
        if revision is None or self._watch_cursor.unsure:
            return None
        if not self._ready:
            return revision
        following = self._ready[0]
        return None if following.type is StatusChangeType.SNAPSHOT else min(revision, following.revision - 1)

    @property
    def caught_up(self) -> bool:
        """Whether the snapshot, or the past changes, have been handed out, so that what follows is live."""
        return self._watch_cursor.caught_up and not self._ready

    @property
    def resets(self) -> int:
        """How often the position was lost and a new snapshot taken instead."""
        return self._watch_cursor.resets

    def _advance(self) -> None:
        if self._watch_cursor.unsure:
            resources, incidents = self._look_up(self._watch_cursor.unsure)
            self._ready.extend(self._watch_cursor.found(resources, incidents))
        else:
            super()._advance()
