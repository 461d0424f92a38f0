"""What the package promises about itself: names, fields, twins, import time, no secrets."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import openfacility_client as of
import pytest
from openfacility.jobs.v1 import job_pb2
from openfacility.jobs.v1 import jobs_service_pb2 as pb

ROOT = Path(__file__).parents[2]
MESSAGES = {
    of.Job: job_pb2.Job,
    of.JobSpec: job_pb2.JobSpec,
    of.JobStatus: job_pb2.JobStatus,
    of.JobTransition: job_pb2.JobTransition,
    of.JobUsage: job_pb2.JobUsage,
    of.ArrayCounts: job_pb2.ArrayCounts,
    of.ResourceSpec: job_pb2.ResourceSpec,
    of.JobAttributes: job_pb2.JobAttributes,
    of.Container: job_pb2.Container,
    of.VolumeMount: job_pb2.VolumeMount,
    of.JobArray: job_pb2.JobArray,
    of.JobDependency: job_pb2.JobDependency,
    of.JobFilter: pb.JobFilter,
    of.JobChange: pb.JobChange,
    of.JobPage: pb.ListJobsResponse,
    of.Estimate: pb.EstimateStartResponse,
    of.Reservation: pb.Reservation,
}
ENUMS = {
    of.JobState: job_pb2.JobState.DESCRIPTOR,
    of.JobReason: job_pb2.JobReason.DESCRIPTOR,
    of.Condition: job_pb2.JobDependency.Condition.DESCRIPTOR,
    of.ChangeType: pb.JobChange.Type.DESCRIPTOR,
}


def test_all_names_are_there_and_sorted():
    assert all(hasattr(of, name) for name in of.__all__)
    assert len(set(of.__all__)) == len(of.__all__)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_contract_is_there(kind):
    assert {item.name for item in dataclasses.fields(kind)} == set(MESSAGES[kind].DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_every_value_of_the_contract_is_there(kind):
    prefix = ENUMS[kind].values_by_number[0].name.removesuffix("UNSPECIFIED")
    assert [str(member) for member in kind] == [value.name.removeprefix(prefix) for value in ENUMS[kind].values]


@pytest.mark.parametrize(
    ("one", "other"), [(of.AsyncClient, of.Client), (of.AsyncJobs, of.Jobs), (of.AsyncJobWatch, of.JobWatch)]
)
def test_both_clients_have_the_same_methods(one, other):
    names = {name for name in dir(one) if not name.startswith("_")}
    assert names == {name for name in dir(other) if not name.startswith("_")}
    for name in names:
        if callable(getattr(one, name)):
            ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (one, other))
            assert list(ours) == list(theirs), name


def test_sync_is_made_from_async():
    script = ROOT / "clients/python/generate_sync.py"
    subprocess.run([sys.executable, script, "--check"], check=True, timeout=60)


def test_spec_and_json_are_one():
    spec = of.job_spec("/bin/true", cores=2, duration=60, array=range(3), after_any="j1", labels={"a": "b"})
    wire = of.to_json(spec)
    assert wire["attributes"] == {"duration": "60s"}
    assert wire["dependencies"] == [{"job_id": "j1", "condition": "CONDITION_AFTER_ANY"}]
    assert of.spec_from_json(wire) == spec
    with pytest.raises(ValueError, match="nonsense"):
        of.spec_from_json({"nonsense": 1})


def test_every_public_thing_says_what_it_is():
    for name in of.__all__:
        thing = getattr(of, name)
        if inspect.isclass(thing):
            assert inspect.getdoc(thing), name
            for key, method in vars(thing).items():
                if inspect.isfunction(method) and not key.startswith("_"):
                    assert inspect.getdoc(method), f"{name}.{key}"


def test_errors_survive_a_process_boundary():
    error = of.NotFound("no", reason="R", request_id="r", violations=(of.FieldViolation("f", "d"),))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is of.NotFound
    assert (again.reason, again.request_id, again.violations) == ("R", "r", error.violations)
    late = pickle.loads(pickle.dumps(of.DeadlineExceeded("late", method="GetJob")))
    assert str(late) == "GetJob: late"


def test_no_file_is_long():
    for path in [*ROOT.glob("clients/python/**/*.py"), *ROOT.glob("clients/cli/**/*.py")]:
        assert len(path.read_text().splitlines()) < 500, path
