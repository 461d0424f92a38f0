"""What a job takes from the resource while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from openfacility_server.jobs.model import ResourceSpec


@dataclass(frozen=True, slots=True)
class Needs:
    """Cores and memory that are a job's own while it runs; ``memory`` is 0 when it asked for none."""

    processes: int = 1
    cores: int = 1
    memory: int = 0


def needs_of(resources: ResourceSpec, all_cores: int) -> Needs:
    """Returns what a specification takes. Exclusive use takes all cores."""
    processes = resources.process_count or resources.processes_per_node or 1
    cores = processes * (resources.cpu_cores_per_process or 1)
    if resources.exclusive_node_use:
        cores = max(cores, all_cores)
    return Needs(processes=processes, cores=cores, memory=resources.memory or 0)
