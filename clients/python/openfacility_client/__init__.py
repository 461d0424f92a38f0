"""Python client of openfacility: jobs on a research computing facility, with or without asyncio.

    from openfacility_client import Client

    with Client("127.0.0.1:50051", token=…) as client:
        job = client.jobs.submit("/bin/echo", "hi", cores=1, duration=60)
        for change in client.jobs.watch(job):
            print(change.job.state)

`Client` and `AsyncClient` are the same, but for `await`. Results are plain frozen dataclasses. Errors are
the exceptions drawn in `openfacility_client._exceptions`, all of them `OpenFacilityError`s.
"""

from __future__ import annotations

from openfacility_client._async.client import AsyncClient
from openfacility_client._async.jobs import AsyncJobPager, AsyncJobs
from openfacility_client._async.streams import AsyncJobOutput, AsyncJobWatch
from openfacility_client._convert import spec_from_json, to_json
from openfacility_client._exceptions import (
    Aborted,
    AlreadyExists,
    Canceled,
    ClientClosed,
    ConfigurationError,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OpenFacilityError,
    OutOfRange,
    PermissionDenied,
    PreconditionViolation,
    ResourceExhausted,
    ResourceReference,
    RPCError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from openfacility_client._model import (
    ArrayCounts,
    ChangeType,
    Condition,
    Container,
    HealthStatus,
    Job,
    JobArray,
    JobAttributes,
    JobChange,
    JobDependency,
    JobFilter,
    JobPage,
    JobReason,
    JobSpec,
    JobState,
    JobStatus,
    JobTransition,
    JobUsage,
    ResourceSpec,
    VolumeMount,
)
from openfacility_client._settings import TLS
from openfacility_client._spec import FilterOptions, SpecOptions, job_filter, job_spec
from openfacility_client._sync.client import Client
from openfacility_client._sync.jobs import JobPager, Jobs
from openfacility_client._sync.streams import JobOutput, JobWatch
from openfacility_client._tokens import AsyncTokenSource, Token, TokenSource

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "ArrayCounts",
    "AsyncClient",
    "AsyncJobOutput",
    "AsyncJobPager",
    "AsyncJobWatch",
    "AsyncJobs",
    "AsyncTokenSource",
    "Canceled",
    "ChangeType",
    "Client",
    "ClientClosed",
    "Condition",
    "ConfigurationError",
    "Conflict",
    "Container",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "FilterOptions",
    "HealthStatus",
    "Internal",
    "InvalidArgument",
    "Job",
    "JobArray",
    "JobAttributes",
    "JobChange",
    "JobDependency",
    "JobFilter",
    "JobOutput",
    "JobPage",
    "JobPager",
    "JobReason",
    "JobSpec",
    "JobState",
    "JobStatus",
    "JobTransition",
    "JobUsage",
    "JobWatch",
    "Jobs",
    "NotFound",
    "OpenFacilityError",
    "OutOfRange",
    "PermissionDenied",
    "PreconditionViolation",
    "RPCError",
    "ResourceExhausted",
    "ResourceReference",
    "ResourceSpec",
    "SpecOptions",
    "Token",
    "TokenSource",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VolumeMount",
    "job_filter",
    "job_spec",
    "spec_from_json",
    "to_json",
]
