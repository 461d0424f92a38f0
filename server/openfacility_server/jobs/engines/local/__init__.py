"""The local engine: runs jobs as processes of this machine, with a queue over a fixed number of cores.

Three parts, with the spool directory between them:

- the engine (`engine`): writes and reads the spool; in as many server processes as there are;
- the leader (`leader`, with `queue`, `launch`, `watch`): schedules and reports; runs inside `LocalEngine.follow` of the
  one process that holds the spool's lock;
- a shepherd for each running job (`shepherd`): neither child nor group member of the server. It enforces limits, obeys
  cancellation and records the end, whether or not a server runs.

Under systemd the server's unit needs ``KillMode=process``: the default kills shepherds, and so jobs, with the server.
In a container they end with the container; an init such as tini is no need, but harmless.

All of it works on Linux. Elsewhere (macOS) there are no process trees to read: descendants that leave their process
group escape, memory is neither sampled nor limited, and the end of a shepherd is noticed by polling once a second.
"""

from openfacility_server.jobs.engines.local.engine import LocalEngine
from openfacility_server.jobs.engines.local.settings import LocalSettings

__all__ = ["LocalEngine", "LocalSettings"]
