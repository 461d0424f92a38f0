"""Jobs as protobuf messages and back."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from google.protobuf import timestamp_pb2
from openfacility.jobs.v1 import job_pb2, jobs_service_pb2

from openfacility_server.errors import invalid
from openfacility_server.jobs import model
from openfacility_server.jobs.engines import Estimate, Reservation
from openfacility_server.jobs.filters import JobFilter
from openfacility_server.jobs.refusals import path_of
from openfacility_server.wire import duration, framed, moment, span, timestamp

_RESOURCE_FIELDS = (
    "node_count",
    "process_count",
    "processes_per_node",
    "cpu_cores_per_process",
    "gpu_cores_per_process",
    "exclusive_node_use",
    "memory",
)
_PLAIN_SPEC_FIELDS = (
    "name",
    "executable",
    "script",
    "script_path",
    "directory",
    "stdin_path",
    "stdout_path",
    "stderr_path",
    "pre_launch",
    "post_launch",
    "launcher",
    "hold",
)
# What a Timestamp may hold: 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z.
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799


def spec_from_pb(pb: job_pb2.JobSpec) -> model.JobSpec:
    """Returns a specification from its message."""
    return model.JobSpec(
        **{name: getattr(pb, name) for name in _PLAIN_SPEC_FIELDS},
        arguments=tuple(pb.arguments),
        inherit_environment=pb.inherit_environment if pb.HasField("inherit_environment") else True,
        environment=dict(pb.environment),
        resources=resources_from_pb(pb.resources),
        attributes=_attributes_from_pb(pb.attributes),
        container=_container_from_pb(pb.container) if pb.HasField("container") else None,
        array=_array_from_pb(pb.array) if pb.HasField("array") else None,
        dependencies=tuple(
            model.JobDependency(d.job_id, model.DependencyCondition(d.condition)) for d in pb.dependencies
        ),
        labels=dict(pb.labels),
    )


def resources_from_pb(pb: job_pb2.ResourceSpec) -> model.ResourceSpec:
    """Returns what a job asks for; fields that are not set are None."""
    return model.ResourceSpec(**{name: getattr(pb, name) for name in _RESOURCE_FIELDS if pb.HasField(name)})


def _attributes_from_pb(pb: job_pb2.JobAttributes) -> model.JobAttributes:
    return model.JobAttributes(
        duration=span(pb.duration) if pb.HasField("duration") else None,
        queue_name=pb.queue_name,
        account=pb.account,
        reservation_id=pb.reservation_id,
        custom_attributes=dict(pb.custom_attributes),
    )


def _container_from_pb(pb: job_pb2.Container) -> model.Container:
    return model.Container(
        image=pb.image,
        volume_mounts=tuple(
            model.VolumeMount(m.source, m.target, m.read_only if m.HasField("read_only") else True)
            for m in pb.volume_mounts
        ),
    )


def _array_from_pb(pb: job_pb2.JobArray) -> model.JobArray:
    return model.JobArray(pb.first, pb.last, pb.step or 1, pb.max_active)


def spec_to_pb(spec: model.JobSpec) -> job_pb2.JobSpec:
    """Returns a specification's message."""
    pb = job_pb2.JobSpec(
        **{name: getattr(spec, name) for name in _PLAIN_SPEC_FIELDS},
        arguments=spec.arguments,
        environment=spec.environment,
        labels=spec.labels,
        dependencies=[
            job_pb2.JobDependency(job_id=d.job_id, condition=cast("job_pb2.JobDependency.Condition", int(d.condition)))
            for d in spec.dependencies
        ],
    )
    if not spec.inherit_environment:
        pb.inherit_environment = False
    resources = {name: value for name in _RESOURCE_FIELDS if (value := getattr(spec.resources, name)) is not None}
    if resources:
        pb.resources.CopyFrom(job_pb2.ResourceSpec(**resources))
    if spec.attributes != model.JobAttributes():
        pb.attributes.CopyFrom(_attributes_to_pb(spec.attributes))
    if spec.container:
        mounts = [
            job_pb2.VolumeMount(source=m.source, target=m.target, read_only=m.read_only)
            for m in spec.container.volume_mounts
        ]
        pb.container.CopyFrom(job_pb2.Container(image=spec.container.image, volume_mounts=mounts))
    if spec.array:
        array = spec.array
        pb.array.CopyFrom(
            job_pb2.JobArray(first=array.first, last=array.last, step=array.step, max_active=array.max_active)
        )
    return pb


def _attributes_to_pb(attributes: model.JobAttributes) -> job_pb2.JobAttributes:
    pb = job_pb2.JobAttributes(
        queue_name=attributes.queue_name,
        account=attributes.account,
        reservation_id=attributes.reservation_id,
        custom_attributes=attributes.custom_attributes,
    )
    if attributes.duration is not None:
        pb.duration.CopyFrom(duration(attributes.duration))
    return pb


def job_to_pb(job: model.Job) -> job_pb2.Job:
    """Returns a job's message."""
    pb = job_pb2.Job(
        id=job.id,
        resource_id=job.resource_id,
        owner=job.owner,
        spec=spec_to_pb(job.spec),
        status=_status_to_pb(job.status),
        transitions=[
            job_pb2.JobTransition(
                state=cast("job_pb2.JobState", int(t.state)),
                reason=cast("job_pb2.JobReason", int(t.reason)),
                time=timestamp(t.time),
                message=t.message,
            )
            for t in job.transitions
        ],
        native_id=job.native_id,
        create_time=timestamp(job.create_time),
        update_time=timestamp(job.update_time),
        array_job_id=job.array_job_id,
        array_index=job.array_index,
        cancel_requested=job.cancel_requested,
        etag=job.etag,
        revision=job.revision,
        external=job.external,
        nodes=job.nodes,
    )
    if job.usage:
        pb.usage.CopyFrom(
            job_pb2.JobUsage(
                elapsed=duration(job.usage.elapsed),
                cpu_time=duration(job.usage.cpu_time),
                peak_memory=job.usage.peak_memory,
            )
        )
    if job.start_time:
        pb.start_time.CopyFrom(timestamp(job.start_time))
    if job.end_time:
        pb.end_time.CopyFrom(timestamp(job.end_time))
    if job.array_counts:
        counts = job.array_counts
        pb.array_counts.CopyFrom(
            job_pb2.ArrayCounts(
                total=counts.total,
                waiting=counts.waiting,
                active=counts.active,
                completed=counts.completed,
                failed=counts.failed,
                canceled=counts.canceled,
            )
        )
    return pb


def _status_to_pb(status: model.JobStatus) -> job_pb2.JobStatus:
    pb = job_pb2.JobStatus(
        state=cast("job_pb2.JobState", int(status.state)),
        reason=cast("job_pb2.JobReason", int(status.reason)),
        message=status.message,
        exit_code=status.exit_code,
        signal=status.signal,
        engine_reason=status.engine_reason,
        engine_message=status.engine_message,
    )
    if status.expected_start:
        pb.expected_start_time.CopyFrom(timestamp(status.expected_start))
    return pb


def _status_from_pb(pb: job_pb2.JobStatus) -> model.JobStatus:
    return model.JobStatus(
        state=model.JobState(pb.state),
        reason=model.JobReason(pb.reason),
        message=pb.message,
        exit_code=pb.exit_code if pb.HasField("exit_code") else None,
        signal=pb.signal if pb.HasField("signal") else None,
        engine_reason=pb.engine_reason,
        expected_start=moment(pb.expected_start_time) if pb.HasField("expected_start_time") else None,
        engine_message=pb.engine_message,
    )


def job_from_pb(pb: job_pb2.Job) -> model.Job:
    """Returns a stored job from its message."""
    return model.Job(
        id=pb.id,
        resource_id=pb.resource_id,
        owner=pb.owner,
        spec=spec_from_pb(pb.spec),
        status=_status_from_pb(pb.status),
        transitions=tuple(
            model.JobTransition(model.JobState(t.state), moment(t.time), model.JobReason(t.reason), t.message)
            for t in pb.transitions
        ),
        usage=model.JobUsage(span(pb.usage.elapsed), span(pb.usage.cpu_time), pb.usage.peak_memory)
        if pb.HasField("usage")
        else None,
        native_id=pb.native_id,
        create_time=moment(pb.create_time),
        update_time=moment(pb.update_time),
        start_time=moment(pb.start_time) if pb.HasField("start_time") else None,
        end_time=moment(pb.end_time) if pb.HasField("end_time") else None,
        array_job_id=pb.array_job_id,
        array_index=pb.array_index if pb.HasField("array_index") else None,
        array_counts=_counts_from_pb(pb.array_counts) if pb.HasField("array_counts") else None,
        cancel_requested=pb.cancel_requested,
        external=pb.external,
        nodes=pb.nodes,
        revision=pb.revision,
    )


def _counts_from_pb(pb: job_pb2.ArrayCounts) -> model.ArrayCounts:
    return model.ArrayCounts(pb.total, pb.waiting, pb.active, pb.completed, pb.failed, pb.canceled)


def filter_from_pb(pb: jobs_service_pb2.JobFilter) -> JobFilter:
    """Returns a filter from its message."""
    return JobFilter(
        job_ids=frozenset(pb.job_ids),
        resource_ids=frozenset(pb.resource_ids),
        project_ids=frozenset(pb.project_ids),
        owners=frozenset(pb.owners),
        states=frozenset(model.JobState(state) for state in pb.states),
        name=pb.name,
        labels=tuple(sorted(_label(text) for text in pb.labels)),
        created_from=_bound(pb, "created_from"),
        created_to=_bound(pb, "created_to"),
        array_job_id=pb.array_job_id,
    )


def _bound(pb: jobs_service_pb2.JobFilter, field: str) -> datetime | None:
    if not pb.HasField(field):
        return None
    stamp: timestamp_pb2.Timestamp = getattr(pb, field)
    if not (_EARLIEST <= stamp.seconds <= _LATEST and 0 <= stamp.nanos < 1_000_000_000):
        raise invalid(f"filter.{field}", "must be a time from the year 1 to the year 9999")
    return moment(stamp)


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def estimate_to_pb(estimate: Estimate, elements: int) -> jobs_service_pb2.EstimateStartResponse:
    """Returns the answer of ``EstimateStart``; ``elements`` is how many jobs the specification stands for."""
    refusal = estimate.refusal
    if refusal is not None:
        return jobs_service_pb2.EstimateStartResponse(
            reason=refusal.reason,
            message=refusal.message,
            field=path_of(refusal, "spec"),
            engine_message=refusal.engine_message,
        )
    hours = estimate.duration.total_seconds() / 3600 * elements if estimate.duration else 0.0
    pb = jobs_service_pb2.EstimateStartResponse(
        acceptable=True,
        node_count=estimate.node_count,
        core_count=estimate.core_count,
        core_hours=estimate.core_count * hours,
        node_hours=estimate.node_count * hours,
        account=estimate.account,
    )
    if estimate.start_time:
        pb.expected_start_time.CopyFrom(timestamp(estimate.start_time))
    return pb


def reservation_to_pb(resource_id: str, reservation: Reservation) -> jobs_service_pb2.Reservation:
    """Returns a reservation's message."""
    return jobs_service_pb2.Reservation(
        id=reservation.id,
        resource_id=resource_id,
        start_time=timestamp(reservation.start_time),
        end_time=timestamp(reservation.end_time),
        active=reservation.active,
        nodes=reservation.nodes,
        node_count=reservation.node_count,
        core_count=reservation.core_count,
        queue_name=reservation.queue_name,
        users=reservation.owners,
        accounts=reservation.accounts,
        flags=reservation.flags,
        maintenance=reservation.maintenance,
    )


def observed_at(time: datetime | None) -> bytes:
    """Returns what to append to a serialized job so that it says when it was last compared with the engine."""
    return job_pb2.Job(observe_time=timestamp(time)).SerializeToString() if time else b""


class JobCodec:
    """How the store keeps jobs: as the serialized message that callers get."""

    def encode(self, job: model.Job) -> bytes:
        """Serializes a job."""
        return job_to_pb(job).SerializeToString()

    def decode(self, data: bytes) -> model.Job:
        """Reads a serialized job."""
        return job_from_pb(job_pb2.Job.FromString(data))

    def with_script(self, data: bytes, script: str) -> bytes:
        """Adds a script to a serialized job."""
        job = job_pb2.Job.FromString(data)
        # Appending a second `spec` would do for protobuf, which merges the two, but not for Envoy's transcoder.
        job.spec.script = script
        return job.SerializeToString()

    def change(self, job: bytes, revision: int, created: bool) -> bytes:
        """Serializes a change of a job that is serialized already."""
        kind = jobs_service_pb2.JobChange.TYPE_CREATED if created else jobs_service_pb2.JobChange.TYPE_UPDATED
        head = jobs_service_pb2.JobChange(type=kind, revision=revision).SerializeToString()
        return head + framed(3, job)
