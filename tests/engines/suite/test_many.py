"""Many jobs at once, each ending in its own way, and each end told."""

from __future__ import annotations

import pytest
from openfacility_server.jobs.model import JobArray, JobAttributes

from tests.engines.local_harness import shell
from tests.engines.suite.driven import Driven


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_singles(engine: Driven) -> None:
    count = engine.kind.many_singles
    attributes, there = JobAttributes(queue_name=engine.kind.everywhere), str(engine.directory())
    jobs = [
        engine.job(shell(f"exit {number % 7}", attributes=attributes, directory=there, stdout_path="/dev/null"))
        for number in range(count)
    ]
    for first in range(0, count, 200):
        await engine.hand_over(jobs[first : first + 200])
    ends = await engine.ends_of([job.id for job in jobs], deadline=240)
    assert [end.exit_code for end in ends] == [number % 7 for number in range(count)]
    assert len({end.native_id for end in ends}) == count


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_many_elements(engine: Driven) -> None:
    count = engine.kind.many_elements
    ids = await engine.submit_array(
        shell(
            "exit $((OPENFACILITY_ARRAY_INDEX % 5))",
            array=JobArray(0, count - 1, 1, max_active=40),
            attributes=JobAttributes(queue_name=engine.kind.everywhere),
            stdout_path="/dev/null",
        )
    )
    ends = await engine.ends_of(ids, deadline=240)
    assert [end.exit_code for end in ends] == [number % 5 for number in range(count)]
    assert len({end.native_id for end in ends}) == count
