"""Time limits, kept and changed. The jobs began with the engine's first test: Slurm's limits are whole minutes."""

from __future__ import annotations

import pytest
from openfacility_server.jobs.model import JobReason, JobState

from tests.engines.suite.driven import DEADLINE, Driven


@pytest.mark.slow
@pytest.mark.timeout(2 * DEADLINE)
async def test_time_limits(engine: Driven) -> None:
    names = ("limited", "shortened")
    ends = await engine.ends_of([engine.limited[name] for name in names], deadline=2 * DEADLINE)
    for end in ends:
        assert (end.state, end.reason) == (JobState.FAILED, JobReason.TIME_LIMIT)
        assert end.start_time is not None
        assert end.end_time is not None
        assert end.end_time - end.start_time >= engine.kind.least_limit
    prolonged = engine.limited["prolonged"]
    assert not any(seen.state.final for seen in engine.of(prolonged))
    engine.prolonged_may_end.touch()
    assert (await engine.end_of(prolonged)).exit_code == 5
