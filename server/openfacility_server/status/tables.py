"""The tables of the Status domain. Times are microseconds since 1970; an end that nobody knows is ``store.FOREVER``."""

from __future__ import annotations

from collections.abc import Sequence

import peewee as pw


class ResourceRow(pw.Model):
    """One resource as described and as it is."""

    id = pw.TextField(primary_key=True)
    name = pw.TextField()
    description = pw.TextField()
    group_name = pw.TextField()
    resource_type = pw.TextField()
    type_word = pw.TextField()
    site_id = pw.TextField()
    status = pw.SmallIntegerField()
    since = pw.BigIntegerField()
    gist = pw.TextField()
    update_time = pw.BigIntegerField()
    revision = pw.BigIntegerField()
    message = pw.BlobField()

    class Meta:
        table_name = "status_resource"


class CapabilityRow(pw.Model):
    """One capability of one resource."""

    capability_id = pw.TextField()
    resource_id = pw.TextField()

    class Meta:
        table_name = "status_capability"
        primary_key = pw.CompositeKey("capability_id", "resource_id")


class WordRow(pw.Model):
    """What a probe or an operator last said of a resource."""

    resource_id = pw.TextField()
    source = pw.SmallIntegerField()
    status = pw.SmallIntegerField()
    since = pw.BigIntegerField()
    until = pw.BigIntegerField()
    reason = pw.TextField()
    incident_id = pw.TextField()

    class Meta:
        table_name = "status_word"
        primary_key = pw.CompositeKey("resource_id", "source")


class IncidentRow(pw.Model):
    """One incident."""

    id = pw.TextField(primary_key=True)
    type = pw.SmallIntegerField()
    status = pw.SmallIntegerField()
    resolution = pw.SmallIntegerField()
    start_time = pw.BigIntegerField()
    end_time = pw.BigIntegerField()
    update_time = pw.BigIntegerField()
    series_id = pw.TextField()
    calendar_uid = pw.TextField()
    text = pw.TextField()
    revision = pw.BigIntegerField()
    message = pw.BlobField()

    class Meta:
        table_name = "status_incident"


class ImpactRow(pw.Model):
    """One resource that one incident impacts."""

    resource_id = pw.TextField()
    incident_id = pw.TextField()

    class Meta:
        table_name = "status_impact"
        primary_key = pw.CompositeKey("resource_id", "incident_id")


class EventRow(pw.Model):
    """One change of status of one resource."""

    id = pw.TextField(primary_key=True)
    resource_id = pw.TextField()
    incident_id = pw.TextField()
    status = pw.SmallIntegerField()
    occur_time = pw.BigIntegerField()
    message = pw.BlobField()

    class Meta:
        table_name = "status_event"


class DescriptionRow(pw.Model):
    """The facility's and its sites' descriptions; the facility's kind is `facility`."""

    kind = pw.TextField()
    id = pw.TextField()
    name = pw.TextField()
    short_name = pw.TextField()
    update_time = pw.BigIntegerField()
    message = pw.BlobField()

    class Meta:
        table_name = "status_description"
        primary_key = pw.CompositeKey("kind", "id")


class UnsettledRow(pw.Model):
    """The moment whose changes did not fit into one transaction, while some are left to record."""

    id = pw.SmallIntegerField(primary_key=True)
    moment = pw.BigIntegerField()

    class Meta:
        table_name = "status_unsettled"


class AuditRow(pw.Model):
    """Who changed what."""

    id = pw.TextField(primary_key=True)
    time = pw.BigIntegerField()
    username = pw.TextField()
    method = pw.TextField()
    subject = pw.TextField()
    request_id = pw.TextField()
    text = pw.TextField()

    class Meta:
        table_name = "audit"


TABLES: Sequence[type[pw.Model]] = (
    ResourceRow,
    CapabilityRow,
    WordRow,
    IncidentRow,
    ImpactRow,
    EventRow,
    DescriptionRow,
    UnsettledRow,
    AuditRow,
)
INDEXES = (
    "CREATE INDEX status_resource_site ON status_resource (site_id, id)",
    "CREATE INDEX status_resource_status ON status_resource (status, id)",
    "CREATE INDEX status_word_until ON status_word (until)",
    "CREATE INDEX status_incident_start ON status_incident (start_time, id)",
    "CREATE INDEX status_incident_open ON status_incident (start_time, end_time) WHERE resolution < 4",
    "CREATE INDEX status_incident_uid ON status_incident (calendar_uid) WHERE calendar_uid <> ''",
    "CREATE INDEX status_incident_series ON status_incident (series_id) WHERE series_id <> ''",
    "CREATE INDEX status_impact_incident ON status_impact (incident_id)",
    "CREATE INDEX status_event_time ON status_event (occur_time, id)",
    "CREATE INDEX status_event_resource ON status_event (resource_id, occur_time, id)",
    "CREATE INDEX status_event_status ON status_event (status, occur_time, id)",
    "CREATE INDEX status_event_incident ON status_event (incident_id, occur_time, id) WHERE incident_id <> ''",
    "CREATE INDEX audit_time ON audit (time)",
)
