"""Jobs on a Slurm cluster: handed over and steered as their owners, followed by events, compared with the queue.

`engine` is the interface over two halves. One acts: `description`, `script` and `options` say what a job is, `rest` or
`commands` hand it over, `submitting` sees to it that this happens once, `steering`, `output` and `estimating` do the
rest, `errors` turns what Slurm says into reasons, `identity` knows who is who. The other sees: `seeing` with what it is
made of, `cluster` and `reservations`.
"""

from __future__ import annotations

from openfacility_server.jobs.engines.slurm.engine import SlurmEngine
from openfacility_server.jobs.engines.slurm.settings import RestSettings, SlurmSettings

__all__ = ["RestSettings", "SlurmEngine", "SlurmSettings"]
