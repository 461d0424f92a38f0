"""What holds for every RPC of the contract, read from its descriptors; and the list of error reasons."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import grpc
import openfacility_server
import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pool, empty_pb2, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from openfacility.auth.v1 import access_pb2
from openfacility.jobs.v1 import job_pb2 as pb
from openfacility.jobs.v1 import jobs_service_pb2 as rpc
from openfacility_server.app import SERVICES

from tests.support.calls import DEADLINE, Caller, refused

ROOT = Path(__file__).parents[2]
METHODS = [method for service in SERVICES for method in service.methods]
STATUS = "StatusService"
READS = {
    method.name
    for method in METHODS
    if method.name.startswith(("Get", "List", "Watch", "Read", "Check", "Find", "Export", "Estimate"))
}
# What these ask about is too much for a path.
ASKED_WITH_A_BODY = {"EstimateStart"}
# Descriptions and reservations have no history here: they are read as they are.
WITHOUT_REVISION = {"ListSites", "ListFacilities", "ListReservations"}

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def test_the_services_are_whole() -> None:
    names = {method.name for method in METHODS}
    assert names >= {"GetJob", "ListJobs", "WatchJobs", "ReadJobOutput"}
    assert names >= {"SubmitJob", "BatchSubmitJobs", "UpdateJob", "HoldJob", "ReleaseJob", "CancelJob", "CancelJobs"}
    assert names >= {"SignalJob", "RequeueJob", "EstimateStart", "ListReservations"}
    assert names >= {"GetFacility", "GetResource", "ListIncidents", "ListEvents", "WatchStatus", "FindOutages"}
    assert names >= {"CreateIncident", "UpdateIncident", "ResolveIncident", "AddIncidentNote", "SetResourceStatus"}
    assert len(names) == len(METHODS)


@every_method
def test_says_who_may_call(method: MethodDescriptor) -> None:
    access = method.GetOptions().Extensions[access_pb2.access]
    assert access.role != access_pb2.ROLE_UNSPECIFIED
    domain = method.full_name.split(".")[1]
    if access.role != access_pb2.ROLE_ANONYMOUS:
        assert access.scope == f"{domain}.{'read' if method.name in READS else 'write'}"
    # Anyone may read the facility's status, and only its operators change it.
    if method.containing_service.name == STATUS:
        assert access.role == (access_pb2.ROLE_ANONYMOUS if method.name in READS else access_pb2.ROLE_OPERATOR)


@every_method
def test_has_http_bindings_whose_fields_exist(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        path = getattr(binding, verb)
        assert path.startswith("/v1/")
        assert (verb == "get") == (method.name in READS - ASKED_WITH_A_BODY)
        for field in re.findall(r"\{([^}=]+)", path):
            message: Descriptor | None = method.input_type
            for part in field.split("."):
                assert message is not None
                assert part in message.fields_by_name, f"{path}: {field}"
                message = message.fields_by_name[part].message_type
        if binding.body not in {"", "*"}:
            assert binding.body in method.input_type.fields_by_name


def test_http_bindings_are_unique() -> None:
    found = []
    for method in METHODS:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            found.append((verb, re.sub(r"\{[^}]*\}", "{}", getattr(binding, verb))))
    assert len(set(found)) == len(found)


@every_method
def test_every_change_may_be_repeated(method: MethodDescriptor) -> None:
    assert ("request_id" in method.input_type.fields_by_name) == (method.name not in READS)


@every_method
def test_a_stream_can_say_its_error_over_json(method: MethodDescriptor) -> None:
    field = method.output_type.fields_by_name.get("error")
    if method.server_streaming:
        assert field is not None
        assert field.number == 15
        assert field.message_type.full_name == "google.rpc.Status"
    else:
        assert field is None
    assert not method.client_streaming


@every_method
def test_a_list_has_pages_and_a_revision(method: MethodDescriptor) -> None:
    if not method.name.startswith("List"):
        assert "page_token" not in method.input_type.fields_by_name
        return
    if method.name == "ListFacilities":
        return
    assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
    assert "next_page_token" in method.output_type.fields_by_name
    assert ("revision" in method.output_type.fields_by_name) == (method.name not in WITHOUT_REVISION)


@every_method
def test_says_what_it_does_and_which_errors_mean_what(method: MethodDescriptor) -> None:
    text = (ROOT / "protos" / method.containing_service.file.name).read_text(encoding="utf-8")
    before, _, _ = text.partition(f"  rpc {method.name}(")
    comment = re.search(r"((?:  //.*\n)+)\Z", before)
    assert comment is not None
    # What holds for the whole service is said there.
    whole = re.search(rf"((?://.*\n)+)service {method.containing_service.name} ", text)
    assert whole is not None
    words = comment[1] + whole[1]
    assert re.search(r"\b(INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION|Errors (are )?as in)\b", words), words
    if method.name not in READS:
        assert re.search(r"\b(Idempotent|a replay within\W+24 h answers as the first time did)\b", words), words


# Reasons.

# Upper-case words in the server that are no reasons of errors.
_OTHER = {
    "ACTION",
    "COMMAND",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "BLOB",
    "BYTEA",
    "DELETE",
    "GET",
    "PATCH",
    "POST",
    "PUT",
    "JWT",
    "NFC",
    "OKP",
    "RSA",
    "UAEX",
    "UTC",
    "UTF8",
    "ES256",
    "ES384",
    "ES512",
    "PS256",
    "PS384",
    "PS512",
    "RS256",
    "RS384",
    "RS512",
    "OVERWRITE_IF_EXISTS_OR_ADD",
    "TYPE_CREATED",
    "TYPE_UPDATED",
    "TYPE_DELETED",
    "GRPC_ENABLE_FORK_SUPPORT",
    "DOWN",
    "OUT_OF_SERVICE",
    "UNKNOWN",
}
# What is upper-case in these are the words of iCalendar; their errors are INVALID_FIELD.
_ICALENDAR = {"calendar.py", "ics.py", "recurrence.py"}


def _reasons_in_code() -> set[str]:
    package = Path(openfacility_server.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        # Engines have reasons of jobs, not of errors.
        if "engines" in path.relative_to(package).parts or path.name in _ICALENDAR:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.findall(r"\A[A-Z][A-Z0-9]+(?:[A-Z0-9]|_[A-Z0-9]+)+\Z", node.value))
    return found - _OTHER


def _documented_reasons() -> set[str]:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", text, re.MULTILINE))


def test_every_reason_is_documented() -> None:
    assert _reasons_in_code() - _documented_reasons() == set()


def test_every_documented_reason_exists() -> None:
    assert _documented_reasons() - _reasons_in_code() == set()


def test_every_row_of_the_reasons_has_a_code_that_exists() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `[A-Z0-9_]+` \| `([A-Z_]+)` \|", text, re.MULTILINE)
    assert len(rows) > 40
    assert set(rows) <= {code.name for code in grpc.StatusCode}


# The same for every RPC, called.


def _example(method: MethodDescriptor, job_id: str) -> Any:
    """Returns a request that names a job in every way that the method has."""
    request = message_factory.GetMessageClass(method.input_type)()
    fields = method.input_type.fields_by_name
    if "job_id" in fields:
        request.job_id = job_id
    if "signal" in fields:
        request.signal = "USR1"
    if "job" in fields and "update_mask" in fields:
        request.job.id = job_id
        request.job.spec.name = "stolen"
    return request


async def _answer(caller: Caller, method: MethodDescriptor, request: Any, metadata: Any = None) -> object:
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = caller.channel.unary_stream if method.server_streaming else caller.channel.unary_unary
    answer = message_factory.GetMessageClass(method.output_type)
    call = make(path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)(
        request, metadata=caller.metadata if metadata is None else metadata, timeout=DEADLINE
    )
    return [response async for response in call] if method.server_streaming else await call


def _anonymous(method: MethodDescriptor) -> bool:
    return method.GetOptions().Extensions[access_pb2.access].role == access_pb2.ROLE_ANONYMOUS


needs_a_token = pytest.mark.parametrize(
    "method", [method for method in METHODS if not _anonymous(method)], ids=lambda method: method.name
)


@needs_a_token
async def test_needs_a_token(anonymous: Caller, method: MethodDescriptor) -> None:
    with refused("UNAUTHENTICATED", "SIGN_IN_REQUIRED"):
        await _answer(anonymous, method, _example(method, "nosuchjob"))


WRONG_TOKENS = {
    "unknown": ("Bearer not-a-token-of-this-server", "TOKEN_"),
    "empty": ("Bearer ", "TOKEN_EMPTY"),
    "nothing": ("", "TOKEN_EMPTY"),
    "another scheme": ("Basic YWxpY2U6c2VjcmV0", "TOKEN_SCHEME"),
    "no scheme": ("alice-token-for-tests", "TOKEN_SCHEME"),
    "several words": ("Bearer a b", "TOKEN_"),
    "a JWT without a signature": ("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.", "TOKEN_"),
    "characters of no token": ("Bearer <script>;'x'", "TOKEN_"),
    "too large": ("Bearer " + "x" * 7000, "TOKEN_"),
}


@every_method
@pytest.mark.parametrize("case", ["unknown", "another scheme"])
async def test_takes_no_wrong_token(anonymous: Caller, method: MethodDescriptor, case: str) -> None:
    value, _ = WRONG_TOKENS[case]
    with refused("UNAUTHENTICATED"):
        await _answer(anonymous, method, _example(method, "nosuchjob"), (("authorization", value),))


@pytest.mark.parametrize("case", WRONG_TOKENS)
async def test_a_wrong_token_is_refused_without_repeating_it(anonymous: Caller, case: str) -> None:
    value, reason = WRONG_TOKENS[case]
    with refused("UNAUTHENTICATED") as error:
        await anonymous.call("ListJobs", rpc.ListJobsRequest(), metadata=(("authorization", value),))
    assert error.reason.startswith(reason)
    secret = value.removeprefix("Bearer ").strip()
    assert not secret or len(secret) < 4 or secret not in error.message


async def test_two_tokens_are_refused(alice: Caller, bob: Caller) -> None:
    with refused("UNAUTHENTICATED"):
        await alice.call("ListJobs", rpc.ListJobsRequest(), metadata=(*alice.metadata, *bob.metadata))


@every_method
async def test_anothers_job_is_not_found(alice: Caller, bob: Caller, method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    if "job_id" not in fields and "job" not in fields:
        names = {"SubmitJob", "BatchSubmitJobs", "ListJobs", "CancelJobs", "EstimateStart", "ListReservations"}
        assert method.name in names or method.containing_service.name == STATUS
        return
    job = await alice.submit("/bin/true", hold=True, name="mine")
    before = await alice.wait(job.id, pb.JOB_STATE_HELD)
    with refused("NOT_FOUND", "NOT_FOUND") as his:
        await _answer(bob, method, _example(method, job.id))
    assert await alice.get(job.id) == before
    # Not a word differs from that on a job which never was.
    with refused("NOT_FOUND", "NOT_FOUND") as none:
        await _answer(bob, method, _example(method, "nosuchjob"))
    assert his.message.replace(job.id, "X") == none.message.replace("nosuchjob", "X")


async def test_lists_show_only_ones_own(alice: Caller, bob: Caller, olga: Caller) -> None:
    job = await alice.submit("/bin/true", hold=True, labels={"shared": alice.label})
    for filter_ in (
        rpc.JobFilter(job_ids=[job.id]),
        rpc.JobFilter(owners=[job.owner]),
        rpc.JobFilter(labels=[f"shared={alice.label}"]),
    ):
        assert list((await bob.list(filter_)).jobs) == []
        assert job.id in [found.id for found in (await olga.list(filter_)).jobs]
    assert (await olga.get(job.id)).owner == job.owner


async def test_an_admin_may_do_what_an_operator_may(alice: Caller, sign_in) -> None:
    job = await alice.submit("/bin/true", hold=True)
    ada = sign_in("ada")
    assert (await ada.get(job.id)).id == job.id
    assert (await ada.cancel(job.id)).cancel_requested


# Request ids.


async def _trailing(caller: Caller, request_id: str | None) -> str:
    metadata = caller.metadata + ((("x-request-id", request_id),) if request_id is not None else ())
    call = caller.call("ListJobs", rpc.ListJobsRequest(page_size=1), metadata=metadata)
    await call
    return dict(await call.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize("request_id", ["a", "4c7f.AZ_09:-x", "x" * 64])
async def test_the_callers_request_id_comes_back(alice: Caller, request_id: str) -> None:
    assert await _trailing(alice, request_id) == request_id
    metadata = (*alice.metadata, ("x-request-id", request_id))
    with refused("NOT_FOUND") as error:
        await alice.call("GetJob", rpc.GetJobRequest(job_id="nosuchjob"), metadata=metadata)
    assert error.request_id == request_id
    with refused("NOT_FOUND") as error:
        async with alice.watch(job_id="nosuchjob", metadata=metadata) as watch:
            await watch.next()
    assert error.request_id == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", 'a"b', "{}", "<x>", "a;b", "%0a", "a/../b"])
async def test_a_hostile_request_id_is_replaced(alice: Caller, request_id: str) -> None:
    got = await _trailing(alice, request_id)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", got)
    assert got != request_id
    with refused("NOT_FOUND") as error:
        metadata = (*alice.metadata, ("x-request-id", request_id))
        await alice.call("GetJob", rpc.GetJobRequest(job_id="nosuchjob"), metadata=metadata)
    assert error.request_id != request_id


async def test_without_a_request_id_each_call_gets_one_of_its_own(alice: Caller) -> None:
    assert await _trailing(alice, None) != await _trailing(alice, None)


# What is no call of ours.


async def test_an_unknown_method(alice: Caller, facility) -> None:
    for path in ("/openfacility.jobs.v1.JobsService/DropJobs", "/openfacility.jobs.v2.JobsService/GetJob", "/x/y"):
        call = facility.channel.unary_unary(
            path, request_serializer=empty_pb2.Empty.SerializeToString, response_deserializer=empty_pb2.Empty.FromString
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(empty_pb2.Empty(), metadata=alice.metadata, timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


@every_method
async def test_bytes_that_are_no_request(sign_in, facility, method: MethodDescriptor) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = facility.channel.unary_stream if method.server_streaming else facility.channel.unary_unary
    role = method.GetOptions().Extensions[access_pb2.access].role
    caller = sign_in("olga" if role == access_pb2.ROLE_OPERATOR else "alice")
    # The last one is proper, if unknown, where there are no fields.
    for data in (b"\xff" * 20, b"\x0a\xff", *([b"\x0a\x02\xff\xfe"] if method.input_type.fields else [])):
        call = make(path)(data, metadata=caller.metadata, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            _ = [response async for response in call] if method.server_streaming else await call
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, raised.value.details()


def test_nothing_of_the_contract_is_left_out_of_the_server() -> None:
    pool = descriptor_pool.Default()
    served = {service.full_name for service in SERVICES}
    for path in (ROOT / "protos/openfacility").rglob("*.proto"):
        file = pool.FindFileByName(str(path.relative_to(ROOT / "protos")))
        assert {service.full_name for service in file.services_by_name.values()} <= served
