"""Which jobs a list, a watch or a mass cancellation is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from openfacility_server.auth.principal import Principal
from openfacility_server.jobs.model import Job, JobState


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions that must all hold; an empty one always does. Fields as in the contract's ``JobFilter``."""

    job_ids: frozenset[str] = frozenset()
    resource_ids: frozenset[str] = frozenset()
    project_ids: frozenset[str] = frozenset()
    owners: frozenset[str] = frozenset()
    states: frozenset[JobState] = frozenset()
    name: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    created_from: datetime | None = None
    created_to: datetime | None = None
    array_job_id: str = ""

    @property
    def empty(self) -> bool:
        """Whether no condition is set."""
        return self == JobFilter()

    def matches(self, job: Mapping[str, Any], state: JobState) -> bool:
        """Whether a job, given by ``attributes_of``, matches while in ``state``."""
        if self.job_ids:
            if job["id"] not in self.job_ids:
                return False
        elif job["array"] != self.array_job_id:
            return False
        created = job["created"]
        return (
            (not self.resource_ids or job["resource"] in self.resource_ids)
            and (not self.project_ids or job["project"] in self.project_ids)
            and (not self.owners or job["owner"] in self.owners)
            and (not self.states or state in self.states)
            and (not self.name or job["name"] == self.name)
            and all(job["labels"].get(key) == value for key, value in self.labels)
            and (self.created_from is None or created >= self.created_from.timestamp())
            and (self.created_to is None or created < self.created_to.timestamp())
        )


def attributes_of(job: Job, before: Job | None) -> dict[str, Any]:
    """Returns what the filters look at, as it is kept with a change in the event log.

    ``before`` is the job before the change: its state, name and labels are kept too, so that one sees a job leave.
    """
    attributes: dict[str, Any] = {
        "id": job.id,
        "resource": job.resource_id,
        "owner": job.owner,
        "project": job.spec.attributes.account,
        "array": job.array_job_id,
        "created": job.create_time.timestamp(),
        "state": int(job.status.state),
        "name": job.spec.name,
        "labels": job.spec.labels,
    }
    if before is not None:
        attributes["before"] = {
            "state": int(before.status.state),
            "name": before.spec.name,
            "labels": before.spec.labels,
            "project": before.spec.attributes.account,
        }
    return attributes


def change_matches(filter_: JobFilter, attributes: Mapping[str, Any]) -> bool:
    """Whether a job matched after a change or before it."""
    if filter_.matches(attributes, JobState(attributes["state"])):
        return True
    before = attributes.get("before")
    return before is not None and filter_.matches({**attributes, **before}, JobState(before["state"]))


def owner_seen_by(principal: Principal) -> str | None:
    """Returns whose jobs a caller may see and steer: None for everyone's, else the one owner.

    The one decision behind get, list, watch and change.
    """
    return None if principal.staff else principal.username


def may_see(principal: Principal, owner: str) -> bool:
    """Whether a caller may see and steer the jobs of ``owner``."""
    seen = owner_seen_by(principal)
    return seen is None or seen == owner
