import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from openfacility.auth.v1 import access_pb2 as _access_pb2
from openfacility.status.v1 import status_pb2 as _status_pb2_1
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetFacilityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFacilityOverviewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FacilityOverview(_message.Message):
    __slots__ = ("facility", "sites", "counts", "open_incidents", "coming_incidents", "revision")
    FACILITY_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    COMING_INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    facility: _status_pb2_1.Facility
    sites: _containers.RepeatedCompositeFieldContainer[SiteOverview]
    counts: StatusCounts
    open_incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    coming_incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    revision: int
    def __init__(self, facility: _Optional[_Union[_status_pb2_1.Facility, _Mapping]] = ..., sites: _Optional[_Iterable[_Union[SiteOverview, _Mapping]]] = ..., counts: _Optional[_Union[StatusCounts, _Mapping]] = ..., open_incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ..., coming_incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class SiteOverview(_message.Message):
    __slots__ = ("site", "counts")
    SITE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    site: _status_pb2_1.Site
    counts: StatusCounts
    def __init__(self, site: _Optional[_Union[_status_pb2_1.Site, _Mapping]] = ..., counts: _Optional[_Union[StatusCounts, _Mapping]] = ...) -> None: ...

class StatusCounts(_message.Message):
    __slots__ = ("up", "degraded", "down", "unknown")
    UP_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    up: int
    degraded: int
    down: int
    unknown: int
    def __init__(self, up: _Optional[int] = ..., degraded: _Optional[int] = ..., down: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...

class ListFacilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFacilitiesResponse(_message.Message):
    __slots__ = ("facilities",)
    FACILITIES_FIELD_NUMBER: _ClassVar[int]
    facilities: _containers.RepeatedCompositeFieldContainer[PeerFacility]
    def __init__(self, facilities: _Optional[_Iterable[_Union[PeerFacility, _Mapping]]] = ...) -> None: ...

class PeerFacility(_message.Message):
    __slots__ = ("name", "address", "overview", "reachable", "heard_time", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OVERVIEW_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    HEARD_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    overview: FacilityOverview
    reachable: bool
    heard_time: _timestamp_pb2.Timestamp
    error: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., overview: _Optional[_Union[FacilityOverview, _Mapping]] = ..., reachable: bool = ..., heard_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class GetSiteRequest(_message.Message):
    __slots__ = ("site_id",)
    SITE_ID_FIELD_NUMBER: _ClassVar[int]
    site_id: str
    def __init__(self, site_id: _Optional[str] = ...) -> None: ...

class ListSitesRequest(_message.Message):
    __slots__ = ("name", "short_name", "modified_since", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHORT_NAME_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    short_name: str
    modified_since: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., short_name: _Optional[str] = ..., modified_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSitesResponse(_message.Message):
    __slots__ = ("sites", "next_page_token")
    SITES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Site]
    next_page_token: str
    def __init__(self, sites: _Optional[_Iterable[_Union[_status_pb2_1.Site, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetResourceRequest(_message.Message):
    __slots__ = ("resource_id",)
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    resource_id: str
    def __init__(self, resource_id: _Optional[str] = ...) -> None: ...

class ResourceFilter(_message.Message):
    __slots__ = ("resource_ids", "name", "description", "group", "resource_type", "site_ids", "statuses", "capability_ids", "modified_since")
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    SITE_IDS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_IDS_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    name: str
    description: str
    group: str
    resource_type: str
    site_ids: _containers.RepeatedScalarFieldContainer[str]
    statuses: _containers.RepeatedScalarFieldContainer[_status_pb2_1.ResourceStatus]
    capability_ids: _containers.RepeatedScalarFieldContainer[str]
    modified_since: _timestamp_pb2.Timestamp
    def __init__(self, resource_ids: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., group: _Optional[str] = ..., resource_type: _Optional[str] = ..., site_ids: _Optional[_Iterable[str]] = ..., statuses: _Optional[_Iterable[_Union[_status_pb2_1.ResourceStatus, str]]] = ..., capability_ids: _Optional[_Iterable[str]] = ..., modified_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListResourcesRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: ResourceFilter
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[ResourceFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResourcesResponse(_message.Message):
    __slots__ = ("resources", "next_page_token", "revision")
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Resource]
    next_page_token: str
    revision: int
    def __init__(self, resources: _Optional[_Iterable[_Union[_status_pb2_1.Resource, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class GetIncidentRequest(_message.Message):
    __slots__ = ("incident_id",)
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    def __init__(self, incident_id: _Optional[str] = ...) -> None: ...

class IncidentFilter(_message.Message):
    __slots__ = ("incident_ids", "text", "resource_ids", "types", "statuses", "resolutions", "at", "to", "modified_since", "series_id")
    INCIDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    RESOLUTIONS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    incident_ids: _containers.RepeatedScalarFieldContainer[str]
    text: str
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[_status_pb2_1.IncidentType]
    statuses: _containers.RepeatedScalarFieldContainer[_status_pb2_1.ResourceStatus]
    resolutions: _containers.RepeatedScalarFieldContainer[_status_pb2_1.Resolution]
    at: _timestamp_pb2.Timestamp
    to: _timestamp_pb2.Timestamp
    modified_since: _timestamp_pb2.Timestamp
    series_id: str
    def __init__(self, incident_ids: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ..., resource_ids: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[_Union[_status_pb2_1.IncidentType, str]]] = ..., statuses: _Optional[_Iterable[_Union[_status_pb2_1.ResourceStatus, str]]] = ..., resolutions: _Optional[_Iterable[_Union[_status_pb2_1.Resolution, str]]] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., modified_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., series_id: _Optional[str] = ..., **kwargs) -> None: ...

class ListIncidentsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: IncidentFilter
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[_Union[IncidentFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIncidentsResponse(_message.Message):
    __slots__ = ("incidents", "next_page_token", "revision")
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    next_page_token: str
    revision: int
    def __init__(self, incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class GetEventRequest(_message.Message):
    __slots__ = ("event_id",)
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    def __init__(self, event_id: _Optional[str] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("resource_ids", "incident_id", "statuses", "to", "page_size", "page_token")
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    incident_id: str
    statuses: _containers.RepeatedScalarFieldContainer[_status_pb2_1.ResourceStatus]
    to: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, resource_ids: _Optional[_Iterable[str]] = ..., incident_id: _Optional[str] = ..., statuses: _Optional[_Iterable[_Union[_status_pb2_1.ResourceStatus, str]]] = ..., to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., **kwargs) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token", "revision")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Event]
    next_page_token: str
    revision: int
    def __init__(self, events: _Optional[_Iterable[_Union[_status_pb2_1.Event, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchStatusRequest(_message.Message):
    __slots__ = ("resource_ids", "after_revision", "skip_snapshot")
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    SKIP_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    after_revision: int
    skip_snapshot: bool
    def __init__(self, resource_ids: _Optional[_Iterable[str]] = ..., after_revision: _Optional[int] = ..., skip_snapshot: bool = ...) -> None: ...

class StatusChange(_message.Message):
    __slots__ = ("type", "revision", "resource", "incident", "event", "facility", "site")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNSPECIFIED: _ClassVar[StatusChange.Type]
        TYPE_SNAPSHOT: _ClassVar[StatusChange.Type]
        TYPE_CREATED: _ClassVar[StatusChange.Type]
        TYPE_UPDATED: _ClassVar[StatusChange.Type]
        TYPE_DELETED: _ClassVar[StatusChange.Type]
    TYPE_UNSPECIFIED: StatusChange.Type
    TYPE_SNAPSHOT: StatusChange.Type
    TYPE_CREATED: StatusChange.Type
    TYPE_UPDATED: StatusChange.Type
    TYPE_DELETED: StatusChange.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    FACILITY_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    type: StatusChange.Type
    revision: int
    resource: _status_pb2_1.Resource
    incident: _status_pb2_1.Incident
    event: _status_pb2_1.Event
    facility: _status_pb2_1.Facility
    site: _status_pb2_1.Site
    def __init__(self, type: _Optional[_Union[StatusChange.Type, str]] = ..., revision: _Optional[int] = ..., resource: _Optional[_Union[_status_pb2_1.Resource, _Mapping]] = ..., incident: _Optional[_Union[_status_pb2_1.Incident, _Mapping]] = ..., event: _Optional[_Union[_status_pb2_1.Event, _Mapping]] = ..., facility: _Optional[_Union[_status_pb2_1.Facility, _Mapping]] = ..., site: _Optional[_Union[_status_pb2_1.Site, _Mapping]] = ...) -> None: ...

class WatchStatusResponse(_message.Message):
    __slots__ = ("changes", "revision", "caught_up", "error")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[StatusChange]
    revision: int
    caught_up: bool
    error: _status_pb2.Status
    def __init__(self, changes: _Optional[_Iterable[_Union[StatusChange, _Mapping]]] = ..., revision: _Optional[int] = ..., caught_up: bool = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class CheckAvailabilityRequest(_message.Message):
    __slots__ = ("resource_id", "start_time", "end_time")
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    resource_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, resource_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CheckAvailabilityResponse(_message.Message):
    __slots__ = ("availability", "reason", "span", "incidents", "next_free")
    class Availability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        AVAILABILITY_UNSPECIFIED: _ClassVar[CheckAvailabilityResponse.Availability]
        AVAILABILITY_AVAILABLE: _ClassVar[CheckAvailabilityResponse.Availability]
        AVAILABILITY_AT_RISK: _ClassVar[CheckAvailabilityResponse.Availability]
        AVAILABILITY_UNAVAILABLE: _ClassVar[CheckAvailabilityResponse.Availability]
    AVAILABILITY_UNSPECIFIED: CheckAvailabilityResponse.Availability
    AVAILABILITY_AVAILABLE: CheckAvailabilityResponse.Availability
    AVAILABILITY_AT_RISK: CheckAvailabilityResponse.Availability
    AVAILABILITY_UNAVAILABLE: CheckAvailabilityResponse.Availability
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FREE_FIELD_NUMBER: _ClassVar[int]
    availability: CheckAvailabilityResponse.Availability
    reason: str
    span: _status_pb2_1.Span
    incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    next_free: _status_pb2_1.Span
    def __init__(self, availability: _Optional[_Union[CheckAvailabilityResponse.Availability, str]] = ..., reason: _Optional[str] = ..., span: _Optional[_Union[_status_pb2_1.Span, _Mapping]] = ..., incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ..., next_free: _Optional[_Union[_status_pb2_1.Span, _Mapping]] = ...) -> None: ...

class FindOutagesRequest(_message.Message):
    __slots__ = ("resource_id", "job_id", "start_time", "end_time")
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    resource_id: str
    job_id: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, resource_id: _Optional[str] = ..., job_id: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FindOutagesResponse(_message.Message):
    __slots__ = ("outages", "span", "down", "summary")
    OUTAGES_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    outages: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Outage]
    span: _status_pb2_1.Span
    down: _duration_pb2.Duration
    summary: str
    def __init__(self, outages: _Optional[_Iterable[_Union[_status_pb2_1.Outage, _Mapping]]] = ..., span: _Optional[_Union[_status_pb2_1.Span, _Mapping]] = ..., down: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., summary: _Optional[str] = ...) -> None: ...

class CreateIncidentRequest(_message.Message):
    __slots__ = ("incident", "recurrence", "note", "request_id")
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    RECURRENCE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    incident: _status_pb2_1.Incident
    recurrence: _status_pb2_1.Recurrence
    note: str
    request_id: str
    def __init__(self, incident: _Optional[_Union[_status_pb2_1.Incident, _Mapping]] = ..., recurrence: _Optional[_Union[_status_pb2_1.Recurrence, _Mapping]] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateIncidentResponse(_message.Message):
    __slots__ = ("incidents",)
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    def __init__(self, incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ...) -> None: ...

class UpdateIncidentRequest(_message.Message):
    __slots__ = ("incident", "update_mask", "etag", "request_id")
    INCIDENT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    incident: _status_pb2_1.Incident
    update_mask: _field_mask_pb2.FieldMask
    etag: str
    request_id: str
    def __init__(self, incident: _Optional[_Union[_status_pb2_1.Incident, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ResolveIncidentRequest(_message.Message):
    __slots__ = ("incident_id", "end_time", "cancel", "note", "etag", "request_id")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    end_time: _timestamp_pb2.Timestamp
    cancel: bool
    note: str
    etag: str
    request_id: str
    def __init__(self, incident_id: _Optional[str] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cancel: bool = ..., note: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AddIncidentNoteRequest(_message.Message):
    __slots__ = ("incident_id", "text", "request_id")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    text: str
    request_id: str
    def __init__(self, incident_id: _Optional[str] = ..., text: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetResourceStatusRequest(_message.Message):
    __slots__ = ("resource_id", "status", "reason", "expire_time", "incident_id", "request_id")
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    resource_id: str
    status: _status_pb2_1.ResourceStatus
    reason: str
    expire_time: _timestamp_pb2.Timestamp
    incident_id: str
    request_id: str
    def __init__(self, resource_id: _Optional[str] = ..., status: _Optional[_Union[_status_pb2_1.ResourceStatus, str]] = ..., reason: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., incident_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportCalendarRequest(_message.Message):
    __slots__ = ("calendar", "resource_ids", "request_id")
    CALENDAR_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    calendar: str
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    def __init__(self, calendar: _Optional[str] = ..., resource_ids: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportCalendarResponse(_message.Message):
    __slots__ = ("incidents",)
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[_status_pb2_1.Incident]
    def __init__(self, incidents: _Optional[_Iterable[_Union[_status_pb2_1.Incident, _Mapping]]] = ...) -> None: ...

class ExportCalendarRequest(_message.Message):
    __slots__ = ("resource_ids",)
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, resource_ids: _Optional[_Iterable[str]] = ..., **kwargs) -> None: ...
