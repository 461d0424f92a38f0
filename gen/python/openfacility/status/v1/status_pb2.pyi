import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResourceStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOURCE_STATUS_UNSPECIFIED: _ClassVar[ResourceStatus]
    RESOURCE_STATUS_UP: _ClassVar[ResourceStatus]
    RESOURCE_STATUS_DEGRADED: _ClassVar[ResourceStatus]
    RESOURCE_STATUS_DOWN: _ClassVar[ResourceStatus]
    RESOURCE_STATUS_UNKNOWN: _ClassVar[ResourceStatus]

class StatusSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_SOURCE_UNSPECIFIED: _ClassVar[StatusSource]
    STATUS_SOURCE_PROBE: _ClassVar[StatusSource]
    STATUS_SOURCE_OPERATOR: _ClassVar[StatusSource]
    STATUS_SOURCE_INCIDENT: _ClassVar[StatusSource]
    STATUS_SOURCE_DEPENDENCY: _ClassVar[StatusSource]

class IncidentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INCIDENT_TYPE_UNSPECIFIED: _ClassVar[IncidentType]
    INCIDENT_TYPE_PLANNED: _ClassVar[IncidentType]
    INCIDENT_TYPE_UNPLANNED: _ClassVar[IncidentType]
    INCIDENT_TYPE_RESERVATION: _ClassVar[IncidentType]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_MINOR: _ClassVar[Severity]
    SEVERITY_MAJOR: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]

class Resolution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOLUTION_UNSPECIFIED: _ClassVar[Resolution]
    RESOLUTION_UNRESOLVED: _ClassVar[Resolution]
    RESOLUTION_PENDING: _ClassVar[Resolution]
    RESOLUTION_EXTENDED: _ClassVar[Resolution]
    RESOLUTION_COMPLETED: _ClassVar[Resolution]
    RESOLUTION_CANCELLED: _ClassVar[Resolution]

class QueueState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_STATE_UNSPECIFIED: _ClassVar[QueueState]
    QUEUE_STATE_OPEN: _ClassVar[QueueState]
    QUEUE_STATE_STOPPED: _ClassVar[QueueState]
    QUEUE_STATE_DRAINING: _ClassVar[QueueState]
    QUEUE_STATE_CLOSED: _ClassVar[QueueState]
RESOURCE_STATUS_UNSPECIFIED: ResourceStatus
RESOURCE_STATUS_UP: ResourceStatus
RESOURCE_STATUS_DEGRADED: ResourceStatus
RESOURCE_STATUS_DOWN: ResourceStatus
RESOURCE_STATUS_UNKNOWN: ResourceStatus
STATUS_SOURCE_UNSPECIFIED: StatusSource
STATUS_SOURCE_PROBE: StatusSource
STATUS_SOURCE_OPERATOR: StatusSource
STATUS_SOURCE_INCIDENT: StatusSource
STATUS_SOURCE_DEPENDENCY: StatusSource
INCIDENT_TYPE_UNSPECIFIED: IncidentType
INCIDENT_TYPE_PLANNED: IncidentType
INCIDENT_TYPE_UNPLANNED: IncidentType
INCIDENT_TYPE_RESERVATION: IncidentType
SEVERITY_UNSPECIFIED: Severity
SEVERITY_MINOR: Severity
SEVERITY_MAJOR: Severity
SEVERITY_CRITICAL: Severity
RESOLUTION_UNSPECIFIED: Resolution
RESOLUTION_UNRESOLVED: Resolution
RESOLUTION_PENDING: Resolution
RESOLUTION_EXTENDED: Resolution
RESOLUTION_COMPLETED: Resolution
RESOLUTION_CANCELLED: Resolution
QUEUE_STATE_UNSPECIFIED: QueueState
QUEUE_STATE_OPEN: QueueState
QUEUE_STATE_STOPPED: QueueState
QUEUE_STATE_DRAINING: QueueState
QUEUE_STATE_CLOSED: QueueState

class Contact(_message.Message):
    __slots__ = ("name", "role", "email", "phone", "uri")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    PHONE_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    email: str
    phone: str
    uri: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., email: _Optional[str] = ..., phone: _Optional[str] = ..., uri: _Optional[str] = ...) -> None: ...

class Facility(_message.Message):
    __slots__ = ("id", "name", "short_name", "description", "organization_name", "support_uri", "contacts", "site_ids", "update_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHORT_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_NAME_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_URI_FIELD_NUMBER: _ClassVar[int]
    CONTACTS_FIELD_NUMBER: _ClassVar[int]
    SITE_IDS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    short_name: str
    description: str
    organization_name: str
    support_uri: str
    contacts: _containers.RepeatedCompositeFieldContainer[Contact]
    site_ids: _containers.RepeatedScalarFieldContainer[str]
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., short_name: _Optional[str] = ..., description: _Optional[str] = ..., organization_name: _Optional[str] = ..., support_uri: _Optional[str] = ..., contacts: _Optional[_Iterable[_Union[Contact, _Mapping]]] = ..., site_ids: _Optional[_Iterable[str]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Site(_message.Message):
    __slots__ = ("id", "name", "short_name", "description", "operating_organization", "country_name", "locality_name", "state_or_province_name", "street_address", "unlocode", "latitude", "longitude", "altitude", "contacts", "resource_ids", "update_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHORT_NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    OPERATING_ORGANIZATION_FIELD_NUMBER: _ClassVar[int]
    COUNTRY_NAME_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_OR_PROVINCE_NAME_FIELD_NUMBER: _ClassVar[int]
    STREET_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UNLOCODE_FIELD_NUMBER: _ClassVar[int]
    LATITUDE_FIELD_NUMBER: _ClassVar[int]
    LONGITUDE_FIELD_NUMBER: _ClassVar[int]
    ALTITUDE_FIELD_NUMBER: _ClassVar[int]
    CONTACTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    short_name: str
    description: str
    operating_organization: str
    country_name: str
    locality_name: str
    state_or_province_name: str
    street_address: str
    unlocode: str
    latitude: float
    longitude: float
    altitude: float
    contacts: _containers.RepeatedCompositeFieldContainer[Contact]
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., short_name: _Optional[str] = ..., description: _Optional[str] = ..., operating_organization: _Optional[str] = ..., country_name: _Optional[str] = ..., locality_name: _Optional[str] = ..., state_or_province_name: _Optional[str] = ..., street_address: _Optional[str] = ..., unlocode: _Optional[str] = ..., latitude: _Optional[float] = ..., longitude: _Optional[float] = ..., altitude: _Optional[float] = ..., contacts: _Optional[_Iterable[_Union[Contact, _Mapping]]] = ..., resource_ids: _Optional[_Iterable[str]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Resource(_message.Message):
    __slots__ = ("id", "name", "description", "resource_type", "type_word", "group", "site_id", "capability_ids", "depends_on", "services", "labels", "current", "update_time", "revision")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_WORD_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SITE_ID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_IDS_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    description: str
    resource_type: str
    type_word: str
    group: str
    site_id: str
    capability_ids: _containers.RepeatedScalarFieldContainer[str]
    depends_on: _containers.RepeatedScalarFieldContainer[str]
    services: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    current: CurrentStatus
    update_time: _timestamp_pb2.Timestamp
    revision: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., resource_type: _Optional[str] = ..., type_word: _Optional[str] = ..., group: _Optional[str] = ..., site_id: _Optional[str] = ..., capability_ids: _Optional[_Iterable[str]] = ..., depends_on: _Optional[_Iterable[str]] = ..., services: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., current: _Optional[_Union[CurrentStatus, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class CurrentStatus(_message.Message):
    __slots__ = ("status", "since", "reason", "source", "incident_id", "because_of_resource_id", "capacity")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    BECAUSE_OF_RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    status: ResourceStatus
    since: _timestamp_pb2.Timestamp
    reason: str
    source: StatusSource
    incident_id: str
    because_of_resource_id: str
    capacity: Capacity
    def __init__(self, status: _Optional[_Union[ResourceStatus, str]] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., source: _Optional[_Union[StatusSource, str]] = ..., incident_id: _Optional[str] = ..., because_of_resource_id: _Optional[str] = ..., capacity: _Optional[_Union[Capacity, _Mapping]] = ...) -> None: ...

class Capacity(_message.Message):
    __slots__ = ("nodes", "queues", "time")
    NODES_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    nodes: NodeCounts
    queues: _containers.RepeatedCompositeFieldContainer[QueueCapacity]
    time: _timestamp_pb2.Timestamp
    def __init__(self, nodes: _Optional[_Union[NodeCounts, _Mapping]] = ..., queues: _Optional[_Iterable[_Union[QueueCapacity, _Mapping]]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class NodeCounts(_message.Message):
    __slots__ = ("total", "idle", "mixed", "allocated", "drained", "down", "maintenance", "unknown")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    MIXED_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    DOWN_FIELD_NUMBER: _ClassVar[int]
    MAINTENANCE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    total: int
    idle: int
    mixed: int
    allocated: int
    drained: int
    down: int
    maintenance: int
    unknown: int
    def __init__(self, total: _Optional[int] = ..., idle: _Optional[int] = ..., mixed: _Optional[int] = ..., allocated: _Optional[int] = ..., drained: _Optional[int] = ..., down: _Optional[int] = ..., maintenance: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...

class QueueCapacity(_message.Message):
    __slots__ = ("name", "state", "nodes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: QueueState
    nodes: NodeCounts
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[QueueState, str]] = ..., nodes: _Optional[_Union[NodeCounts, _Mapping]] = ...) -> None: ...

class Incident(_message.Message):
    __slots__ = ("id", "type", "name", "description", "status", "severity", "start_time", "end_time", "resolution", "resource_ids", "impacted_resource_ids", "notes", "declared_by", "series_id", "calendar_uid", "create_time", "update_time", "etag", "revision")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    IMPACTED_RESOURCE_IDS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    DECLARED_BY_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_UID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: IncidentType
    name: str
    description: str
    status: ResourceStatus
    severity: Severity
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    resolution: Resolution
    resource_ids: _containers.RepeatedScalarFieldContainer[str]
    impacted_resource_ids: _containers.RepeatedScalarFieldContainer[str]
    notes: _containers.RepeatedCompositeFieldContainer[IncidentNote]
    declared_by: str
    series_id: str
    calendar_uid: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    revision: int
    def __init__(self, id: _Optional[str] = ..., type: _Optional[_Union[IncidentType, str]] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., status: _Optional[_Union[ResourceStatus, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., resolution: _Optional[_Union[Resolution, str]] = ..., resource_ids: _Optional[_Iterable[str]] = ..., impacted_resource_ids: _Optional[_Iterable[str]] = ..., notes: _Optional[_Iterable[_Union[IncidentNote, _Mapping]]] = ..., declared_by: _Optional[str] = ..., series_id: _Optional[str] = ..., calendar_uid: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class IncidentNote(_message.Message):
    __slots__ = ("time", "author", "text")
    TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    author: str
    text: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "resource_id", "incident_id", "status", "previous_status", "occur_time", "create_time", "reason", "source", "revision")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATUS_FIELD_NUMBER: _ClassVar[int]
    OCCUR_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    id: str
    resource_id: str
    incident_id: str
    status: ResourceStatus
    previous_status: ResourceStatus
    occur_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    reason: str
    source: StatusSource
    revision: int
    def __init__(self, id: _Optional[str] = ..., resource_id: _Optional[str] = ..., incident_id: _Optional[str] = ..., status: _Optional[_Union[ResourceStatus, str]] = ..., previous_status: _Optional[_Union[ResourceStatus, str]] = ..., occur_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., source: _Optional[_Union[StatusSource, str]] = ..., revision: _Optional[int] = ...) -> None: ...

class Recurrence(_message.Message):
    __slots__ = ("rule", "time_zone")
    RULE_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    time_zone: str
    def __init__(self, rule: _Optional[str] = ..., time_zone: _Optional[str] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start_time", "end_time")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Outage(_message.Message):
    __slots__ = ("incident_id", "resource_id", "status", "overlap", "duration", "likelihood", "explanation", "events")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    LIKELIHOOD_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    resource_id: str
    status: ResourceStatus
    overlap: Span
    duration: _duration_pb2.Duration
    likelihood: float
    explanation: str
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, incident_id: _Optional[str] = ..., resource_id: _Optional[str] = ..., status: _Optional[_Union[ResourceStatus, str]] = ..., overlap: _Optional[_Union[Span, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., likelihood: _Optional[float] = ..., explanation: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...
