"""Whatever a request holds: a proper answer or a proper refusal, and a server that lives on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc

from tests.support.calls import Caller, Refused

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
PROPER = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
}

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "a", "abc", "/", "/tmp", "../x", "a=b", "a\0b", "ü✓", "\u202e", "x" * 300, "%s%n", "'; --", "0"]
    ),
)
int32s = st.one_of(st.integers(-3, 5), st.sampled_from([-(2**31), 2**31 - 1, 9_999, 10_000]))
int64s = st.one_of(st.integers(-3, 5), st.sampled_from([-(2**63), 2**63 - 1, 10**18]))
bools = st.booleans()
maps = st.dictionaries(texts, texts, max_size=3)
stamps = st.builds(Timestamp, seconds=int64s, nanos=int32s)
spans = st.builds(Duration, seconds=int64s, nanos=int32s)
enums = st.integers(-1, 9)


def message(kind: type[Message], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Makes messages with any subset of these fields."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: kind(**chosen))


specs = message(
    pb.JobSpec,
    name=texts,
    executable=st.one_of(texts, st.just("/bin/true")),
    arguments=st.lists(texts, max_size=3),
    script=st.one_of(st.just(""), texts),
    script_path=st.one_of(st.just(""), texts),
    directory=texts,
    inherit_environment=bools,
    environment=maps,
    stdin_path=texts,
    stdout_path=texts,
    stderr_path=texts,
    resources=message(
        pb.ResourceSpec,
        node_count=int32s,
        process_count=int32s,
        processes_per_node=int32s,
        cpu_cores_per_process=int32s,
        gpu_cores_per_process=int32s,
        exclusive_node_use=bools,
        memory=int64s,
    ),
    attributes=message(
        pb.JobAttributes,
        duration=spans,
        queue_name=texts,
        account=texts,
        reservation_id=texts,
        custom_attributes=maps,
    ),
    pre_launch=texts,
    post_launch=texts,
    launcher=texts,
    container=message(
        pb.Container,
        image=texts,
        volume_mounts=st.lists(message(pb.VolumeMount, source=texts, target=texts), max_size=2),
    ),
    array=message(pb.JobArray, first=int32s, last=st.integers(-2, 6), step=int32s, max_active=int32s),
    dependencies=st.lists(message(pb.JobDependency, job_id=texts, condition=enums), max_size=2),
    labels=maps,
)
filters = message(
    rpc.JobFilter,
    job_ids=st.lists(texts, max_size=2),
    resource_ids=st.lists(texts, max_size=2),
    project_ids=st.lists(texts, max_size=2),
    owners=st.lists(texts, max_size=2),
    states=st.lists(enums, max_size=3),
    name=texts,
    labels=st.lists(texts, max_size=2),
    created_from=stamps,
    created_to=stamps,
    array_job_id=texts,
)


async def answered(call: Any, stream: bool) -> Any:
    """Returns the (first) answer, or None when it was refused properly."""
    try:
        return await call.read() if stream else await call
    except grpc.aio.AioRpcError as error:
        refused = Refused(error)
        assert refused.code in PROPER, (refused.code, refused.message)
        return None
    finally:
        call.cancel()


async def call_all(caller: Caller, method: str, requests: st.SearchStrategy[Any], stream: bool = False) -> list[Any]:
    """Calls a method with 150 generated requests; returns the answers of those that were taken."""
    made: list[Any] = []

    @FUZZ
    @given(requests)
    def collect(request: Any) -> None:
        made.append(request)

    collect()
    assert len(made) >= 100
    found = []
    for start in range(0, len(made), 25):
        answers = await asyncio.gather(
            *(answered(caller.call(method, request), stream) for request in made[start : start + 25])
        )
        found += [answer for answer in answers if answer is not None]
    return found


async def test_submit(alice: Caller) -> None:
    good = st.builds(
        lambda spec: rpc.SubmitJobRequest(spec=spec),
        message(
            pb.JobSpec,
            name=st.text(st.characters(min_codepoint=32), max_size=20),
            arguments=st.lists(
                st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=20), max_size=3
            ),
            environment=st.dictionaries(st.sampled_from(["A", "_b1"]), st.sampled_from(["", "x", "ü", "\n"])),
            labels=st.dictionaries(st.sampled_from(["a", "a/b"]), st.sampled_from(["", "x", "ü", "="])),
        ).map(_held),
    )
    any_ = message(rpc.SubmitJobRequest, resource_id=texts, spec=specs.map(_only_hold), request_id=texts)
    taken = await call_all(alice, "SubmitJob", st.one_of(any_, good))
    alice.submitted += [job.id for job in taken]
    assert len(taken) > 10
    assert (await alice.run("/bin/true")).status.state == pb.JOB_STATE_COMPLETED


def _held(spec: pb.JobSpec) -> pb.JobSpec:
    spec.executable = "/bin/true"
    return _only_hold(spec)


def _only_hold(spec: pb.JobSpec) -> pb.JobSpec:
    """What is taken must not run: it is not known what it is."""
    spec.hold = True
    return spec


async def test_list(alice: Caller) -> None:
    requests = message(rpc.ListJobsRequest, filter=filters, page_size=int32s, page_token=st.one_of(st.just(""), texts))
    assert await call_all(alice, "ListJobs", requests)
    assert (await alice.list()).revision > 0


@pytest.mark.parametrize("single", [False, True], ids=["filter", "any"])
async def test_watch(alice: Caller, single: bool) -> None:
    fields: dict[str, Any] = {"filter": filters, "after_revision": int64s, "skip_snapshot": bools}
    if single:
        fields["job_id"] = texts
    began = time.monotonic()
    assert await call_all(alice, "WatchJobs", message(rpc.WatchJobsRequest, **fields), stream=True)
    assert time.monotonic() - began < 60
    async with alice.watch(filter=alice.mine()) as watch:
        assert await watch.caught_up() == []


async def test_update(alice: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True)
    await alice.wait(job.id, pb.JOB_STATE_HELD)
    paths = st.lists(
        st.one_of(texts, st.sampled_from(["spec.name", "spec.labels", "spec.resources", "owner"])), max_size=3
    )

    def build(spec: pb.JobSpec, mask: list[str]) -> rpc.UpdateJobRequest:
        request = rpc.UpdateJobRequest(job=pb.Job(id=job.id, spec=spec))
        request.update_mask.paths.extend(mask)
        return request

    await call_all(alice, "UpdateJob", st.builds(build, specs.map(_only_hold), paths))
    assert (await alice.get(job.id)).status.state == pb.JOB_STATE_HELD


async def test_output(alice: Caller) -> None:
    job = await alice.run("echo", "x")
    ids = st.one_of(texts, st.just(job.id))
    requests = message(rpc.ReadJobOutputRequest, job_id=ids, stream=enums, offset=int64s, follow=bools)
    assert await call_all(alice, "ReadJobOutput", requests, stream=True)
