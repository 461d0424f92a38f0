"""Which engine each configured compute resource gets: one entry for each kind."""

from __future__ import annotations

import os
from collections.abc import Mapping

from openfacility_server.config import Config, LocalJobs
from openfacility_server.jobs.engines import JobEngine
from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings


def build(config: Config) -> Mapping[str, JobEngine]:
    """Returns the engines of all compute resources, by resource id, in the order of the configuration."""
    return {resource.id: _local(config, resource) for resource in config.jobs.resources}


def _local(config: Config, resource: LocalJobs) -> LocalEngine:
    return LocalEngine(
        LocalSettings(
            resource_id=resource.id,
            spool=resource.spool or config.state.directory / "jobs" / resource.id,
            cores=resource.cores or len(os.sched_getaffinity(0)),
            memory=resource.memory,
            default_duration=resource.default_duration,
            max_duration=resource.max_duration,
            kill_grace=resource.kill_grace,
            retention=resource.keep_ended,
        )
    )
