"""Where a watch of the facility stands: what to ask for next, what of an answer is new. No input or output here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from openfacility.status.v1 import status_service_pb2 as pb

from openfacility_client._convert import from_proto
from openfacility_client._cursors import OnGap
from openfacility_client._exceptions import OutOfRange
from openfacility_client._status_model import Incident, Resource, StatusChange, StatusChangeType

Key = tuple[str, str]
"""Kind and id of a thing."""


class StatusCursor:
    """The position in the changes of a facility.

    It keeps the promises of `WatchCursor` in the same way: it resumes after the last revision of which it has
    everything, knows by its revision what it has passed on before, and looks up what a new snapshot does not show any
    more (`unsure`): incidents that have ended and resources that were taken out meanwhile.
    """

    def __init__(
        self,
        resource_ids: Sequence[str] = (),
        *,
        after_revision: int | None = None,
        snapshot: bool = True,
        on_gap: OnGap = "snapshot",
    ) -> None:
        """Start after a revision, or with a snapshot, or with changes from now on."""
        self.finished = False
        self.caught_up = False
        self.revision = after_revision
        """Resume after this one; None as long as there is none."""
        self.unsure: list[Key] = []
        """Things to look up: they were there, and are not in the new snapshot."""
        self.resets = 0
        self._resource_ids = tuple(resource_ids)
        self._snapshot = snapshot
        self._on_gap = on_gap
        self._delivered_to = 0
        self._seen: dict[Key, int] = {}
        self._present: set[Key] = set()
        self._in_snapshot = False

    def request(self) -> pb.WatchStatusRequest:
        """Return the request that continues from here."""
        request = pb.WatchStatusRequest(resource_ids=self._resource_ids)
        if self.revision is not None:
            request.after_revision = self.revision
        elif not self._snapshot:
            request.skip_snapshot = True
        self._in_snapshot = self.revision is None and self._snapshot
        self._present = set()
        return request

    def accept(self, response: pb.WatchStatusResponse) -> Sequence[StatusChange]:
        """Return the changes of a response that are new."""
        changes = [from_proto(StatusChange, change) for change in response.changes if self._is_new(change)]
        for change in changes:
            self._note(change)
        if response.revision:
            self.revision = max(self.revision or 0, response.revision)
        if response.caught_up:
            self._catch_up()
        return changes

    def ended(self) -> None:
        """Note a clean end, which is that of a server or a proxy, never of the watch."""

    def lost(self, error: OutOfRange) -> bool:
        """Start over with a snapshot, unless the caller would rather be told."""
        if self._on_gap == "raise" or self.revision is None:
            return False
        if error.current_revision is not None and error.current_revision < self.revision:
            # The server's history is another one (restored from a backup): revisions mean nothing any more.
            self._delivered_to = 0
            self._seen = dict.fromkeys(self._seen, 0)
        else:
            self._delivered_to = self.revision
        self.revision = None
        self._snapshot = True
        self.resets += 1
        return True

    def found(self, resources: Iterable[Resource], incidents: Iterable[Incident]) -> Sequence[StatusChange]:
        """Take what the look-up of `unsure` things gave; return what has changed."""
        position = self.revision or 0
        there: dict[Key, Resource | Incident] = {("resource", each.id): each for each in resources}
        there |= {("incident", each.id): each for each in incidents}
        news: list[StatusChange] = []
        for key in self.unsure:
            seen, subject = self._seen.pop(key, 0), there.get(key)
            if subject is None:
                if key[0] == "resource":
                    news.append(StatusChange(StatusChangeType.DELETED, position, resource=Resource(key[1])))
            elif subject.revision > seen:
                change = _updated(subject, min(subject.revision, position))
                news.append(change)
                self._seen[key] = subject.revision
        self.unsure = []
        return news

    def _is_new(self, change: pb.StatusChange) -> bool:
        key, revision = _key_of(change)
        known = self._seen.get(key, 0)
        if change.type == pb.StatusChange.TYPE_SNAPSHOT:
            self._present.add(key)
            new = revision > max(self._delivered_to, known)
            if not new:
                self._seen[key] = max(revision, known)
            return new
        return change.revision > max(self.revision or 0, known)

    def _note(self, change: StatusChange) -> None:
        """Remember what is there, and how new what was passed on of it is."""
        subject = change.subject
        if isinstance(subject, Resource):
            key = ("resource", subject.id)
        elif isinstance(subject, Incident):
            key = ("incident", subject.id)
        else:
            return
        gone = change.type is StatusChangeType.DELETED or (isinstance(subject, Incident) and subject.over)
        if gone:
            self._seen.pop(key, None)
        else:
            self._seen[key] = max(subject.revision, change.revision if not self._in_snapshot else 0)

    def _catch_up(self) -> None:
        self.caught_up = True
        if self._in_snapshot:
            self._in_snapshot = False
            self.unsure = [key for key in self._seen if key not in self._present]
        self._present = set()


def _key_of(change: pb.StatusChange) -> tuple[Key, int]:
    """Return what a change is about, and the revision of that."""
    kind = change.WhichOneof("subject") or ""
    subject = getattr(change, kind) if kind else None
    return (kind, subject.id if subject is not None else ""), getattr(subject, "revision", 0) or change.revision


def _updated(subject: Resource | Incident, revision: int) -> StatusChange:
    if isinstance(subject, Resource):
        return StatusChange(StatusChangeType.UPDATED, revision, resource=subject)
    return StatusChange(StatusChangeType.UPDATED, revision, incident=subject)
