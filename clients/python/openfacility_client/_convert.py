"""From protobuf to this package's dataclasses and back, by the names of their fields.

A dataclass and its message have the same field names; what a field becomes follows from the message's descriptor:
Timestamp is an aware UTC `datetime`, Duration a `timedelta`, an enum a `StrEnum` without the prefix, repeated a tuple,
a map a dict, an unset optional field the dataclass's default. The plan for each class is made once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2
from openfacility.status.v1 import status_pb2, status_service_pb2

from openfacility_client import _status_model as status
from openfacility_client._model import Estimate, Job, JobChange, JobFilter, JobPage, JobSpec, Reservation

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_MESSAGES: dict[type[Any], type[Message]] = {
    Estimate: jobs_service_pb2.EstimateStartResponse,
    Job: job_pb2.Job,
    JobChange: jobs_service_pb2.JobChange,
    JobPage: jobs_service_pb2.ListJobsResponse,
    JobSpec: job_pb2.JobSpec,
    Reservation: jobs_service_pb2.Reservation,
    status.AvailabilityReport: status_service_pb2.CheckAvailabilityResponse,
    status.Event: status_pb2.Event,
    status.Facility: status_pb2.Facility,
    status.FacilityOverview: status_service_pb2.FacilityOverview,
    status.Incident: status_pb2.Incident,
    status.OutageReport: status_service_pb2.FindOutagesResponse,
    status.PeerFacility: status_service_pb2.PeerFacility,
    status.Resource: status_pb2.Resource,
    status.Site: status_pb2.Site,
    status.StatusChange: status_service_pb2.StatusChange,
}


def from_proto(kind: type[T], message: Message) -> T:
    """Return a message as a dataclass."""
    plan = _plan(cast("Any", kind), message.DESCRIPTOR)
    return kind(
        **{
            name: read(getattr(message, name))
            for name, optional, read in plan
            if not optional or message.HasField(name)
        }
    )


def to_proto(value: Any, message: M) -> M:
    """Write a dataclass into an empty message, and return that."""
    for item in dataclasses.fields(value):
        content = getattr(value, item.name)
        if content is not None:
            _write(message, message.DESCRIPTOR.fields_by_name[item.name], content)
            if item.default is None and dataclasses.is_dataclass(content):
                getattr(message, item.name).SetInParent()
    return message


def filter_to_proto(jobs: JobFilter) -> jobs_service_pb2.JobFilter:
    """Return a filter as its message, in which labels are `key=value`."""
    message = to_proto(dataclasses.replace(jobs, labels={}), jobs_service_pb2.JobFilter())
    message.labels.extend(f"{key}={value}" for key, value in jobs.labels.items())
    return message


def to_json(value: Any) -> dict[str, Any]:
    """Return a result as the object that the JSON API gives for it, with the field names of the contract.

    As everywhere in JSON made from protobuf, 64-bit integers are strings, times RFC 3339 and durations such as `"90s"`.
    """
    message = to_proto(value, _MESSAGES[type(value)]())
    return dict(MessageToDict(message, preserving_proto_field_name=True))


def spec_from_json(content: dict[str, Any]) -> JobSpec:
    """Return a job's spec from an object with the field names of the contract, as the JSON API takes it.

    Raises:
        ValueError: a field is unknown or has a value of the wrong kind.
    """
    try:
        return from_proto(JobSpec, ParseDict(content, job_pb2.JobSpec()))
    except ParseError as error:
        raise ValueError(str(error)) from error


def enum_number(descriptor: EnumDescriptor, value: str) -> int:
    """Return the number of an enum value that is named with or without its prefix.

    Raises:
        ValueError: there is no such value.
    """
    name = value.upper()
    full_name = name if name.startswith(_prefix(descriptor)) else _prefix(descriptor) + name
    found = descriptor.values_by_name.get(full_name)
    if found is None:
        raise ValueError(f"{value!r} is no {descriptor.name}; there are {', '.join(_names(descriptor).values())}")
    return int(found.number)


@cache
def _plan(kind: Any, descriptor: Any) -> tuple[tuple[str, bool, Callable[[Any], Any]], ...]:
    """For each field: its name, whether it can be unset, and what reads it."""
    hints = typing.get_type_hints(kind)
    fields = [descriptor.fields_by_name[item.name] for item in dataclasses.fields(kind)]
    return tuple((field.name, field.has_presence, _reader(field, hints[field.name])) for field in fields)


def _reader(field: Any, hint: Any) -> Callable[[Any], Any]:
    if _is_map(field):
        read_value = _element_reader(field.message_type.fields_by_name["value"], typing.get_args(hint)[1])
        return lambda values: {key: read_value(value) for key, value in values.items()}
    read = _element_reader(field, _element_type(hint))
    if field.is_repeated:
        return lambda values: tuple([read(value) for value in values])
    return read


def _element_reader(field: Any, kind: Any) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        members = {number: kind(name) for number, name in _names(field.enum_type).items() if name in set(kind)}
        return lambda number: members.get(number, kind.UNSPECIFIED)
    if kind is datetime:
        return _read_time
    if kind is timedelta:
        return _read_duration
    if field.message_type is not None:
        return lambda message: from_proto(kind, message)
    return _unchanged


def _element_type(hint: Any) -> Any:
    """Strip `… | None` and `tuple[…, ...]` from a type."""
    if isinstance(hint, types.UnionType):
        return _element_type(next(kind for kind in typing.get_args(hint) if kind is not type(None)))
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint


def _unchanged(value: Any) -> Any:
    return value


def _read_time(message: Any) -> datetime:
    time: datetime = message.ToDatetime(tzinfo=UTC)
    return time


def _read_duration(message: Any) -> timedelta:
    duration: timedelta = message.ToTimedelta()
    return duration


def _write(message: Any, field: Any, value: Any) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        for key, element in value.items():
            if isinstance(element, datetime):
                target[key].FromDatetime(element)
            else:
                target[key] = element
    elif field.is_repeated:
        for element in value:
            if field.message_type is not None:
                to_proto(element, target.add())
            else:
                target.append(_scalar(field, element))
    elif isinstance(value, datetime):
        target.FromDatetime(value)
    elif isinstance(value, timedelta):
        target.FromTimedelta(value)
    elif field.message_type is not None:
        to_proto(value, target)
    else:
        setattr(message, field.name, _scalar(field, value))


def _scalar(field: Any, value: Any) -> Any:
    return enum_number(field.enum_type, value) if isinstance(value, StrEnum) and field.enum_type else value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _prefix(descriptor: EnumDescriptor) -> str:
    return str(descriptor.values_by_number[0].name).removesuffix("UNSPECIFIED")


def _names(descriptor: EnumDescriptor) -> dict[int, str]:
    """Names of an enum's values without their prefix, by number."""
    prefix = _prefix(descriptor)
    return {value.number: value.name.removeprefix(prefix) for value in descriptor.values}
