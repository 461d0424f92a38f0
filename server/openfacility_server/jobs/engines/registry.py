"""Which engine each configured compute resource gets: one entry for each kind."""

from __future__ import annotations

import os
from collections.abc import Mapping

from openfacility_server.config import Config, LocalJobs, Resource, SlurmJobs
from openfacility_server.jobs.engines import JobEngine
from openfacility_server.jobs.engines.local import LocalEngine, LocalSettings
from openfacility_server.jobs.engines.slurm import RestSettings, SlurmEngine, SlurmSettings


def build(config: Config) -> Mapping[str, JobEngine]:
    """Returns the engines of all compute resources, by resource id, in the order of the configuration."""
    return {resource.id: _engine(config, resource) for resource in config.jobs.resources}


def _engine(config: Config, resource: Resource) -> JobEngine:
    if isinstance(resource, SlurmJobs):
        return _slurm(resource)
    return _local(config, resource)


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


def _slurm(resource: SlurmJobs) -> SlurmEngine:
    rest = resource.rest
    return SlurmEngine(
        SlurmSettings(
            resource_id=resource.id,
            cluster=resource.cluster,
            conf=resource.conf,
            rest=None if rest is None else RestSettings(rest.jwt_key, rest.unix_socket, rest.url),
            sudo=resource.sudo,
            users=resource.users,
            min_uid=resource.min_uid,
            operator=resource.operator,
            events=resource.events,
            controller_log=resource.controller_log,
            reconcile=resource.reconcile,
            timeout=resource.timeout,
            history=resource.history,
            external_jobs=resource.external_jobs,
            environment=resource.environment,
            launchers=resource.launchers,
            container=resource.container,
            preload=resource.preload,
        )
    )
