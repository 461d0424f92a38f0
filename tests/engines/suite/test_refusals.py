"""What is refused, and that it is told which field is at fault."""

from __future__ import annotations

from datetime import timedelta

import pytest
from openfacility_server.jobs.model import Container, JobAttributes, ResourceSpec

from tests.engines.local_harness import shell
from tests.engines.suite.driven import Driven

REFUSED = {
    "no such queue": (JobAttributes(queue_name="no-such"), ResourceSpec(), "BAD_QUEUE", "attributes.queue_name"),
    "too long": (
        JobAttributes(duration=timedelta(days=99)),
        ResourceSpec(),
        "BAD_TIME_LIMIT",
        "attributes.duration",
    ),
    "too many processes": (JobAttributes(), ResourceSpec(process_count=5000), "RESOURCES_IMPOSSIBLE", "resources"),
    "too many cores": (JobAttributes(), ResourceSpec(cpu_cores_per_process=999), "RESOURCES_IMPOSSIBLE", "resources"),
    "no such reservation": (
        JobAttributes(reservation_id="no-such"),
        ResourceSpec(),
        "BAD_RESERVATION",
        "attributes.reservation_id",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusal(engine: Driven, name: str) -> None:
    attributes, resources, reason, field = REFUSED[name]
    spec = shell("true", attributes=attributes, resources=resources)
    refusal = await engine.refusal(spec)
    assert refusal.reason == reason
    assert refusal.field.startswith(field)
    assert refusal.message.endswith(".")
    estimate = await engine.engine.estimate(spec, engine.kind.owner, ())
    assert estimate.refusal is not None
    assert (estimate.refusal.reason, estimate.refusal.field) == (refusal.reason, refusal.field)
    assert estimate.start_time is None


async def test_one_refused_among_others(engine: Driven) -> None:
    """Each job has an answer of its own, at its place."""
    good, bad = shell("true"), shell("true", attributes=JobAttributes(queue_name="no-such"))
    jobs = [engine.job(spec) for spec in (good, bad, good, bad)]
    answers = await engine.engine.submit(jobs)
    assert [isinstance(answer, str) for answer in answers] == [True, False, True, False]
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, str):
            engine.natives[job.id] = answer
    await engine.ends_of([jobs[0].id, jobs[2].id])


async def test_what_can_never_be(engine: Driven) -> None:
    """`check` needs nobody to ask."""

    def fields(**values: object) -> list[str]:
        problems = engine.engine.check(shell("true", **values))
        assert all(problem.description.endswith(".") for problem in problems)
        return [problem.field for problem in problems]

    assert fields(name="fine", directory="/") == []
    assert fields(launcher="no-such-launcher") == ["launcher"]
    assert fields(container=Container("image")) == ["container"]
    for key in ("slurm.no-such-option", "pbs.place"):
        custom = JobAttributes(custom_attributes={key: "1"})
        assert fields(attributes=custom) == [f'attributes.custom_attributes["{key}"]']
