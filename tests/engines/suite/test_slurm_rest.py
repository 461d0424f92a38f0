"""slurmrestd by another of its listeners; all else that it does is in the suite."""

from __future__ import annotations

import pytest
from openfacility_server.jobs.engines.slurm import RestSettings

from tests.engines.local_harness import shell
from tests.engines.slurm import SlurmCluster
from tests.engines.suite.conftest import slurm_kind
from tests.engines.suite.driven import Driven


@pytest.mark.slurm
async def test_rest_by_tcp(wide_slurm: SlurmCluster) -> None:
    by_tcp = RestSettings(jwt_key=wide_slurm.jwt_key, url=wide_slurm.rest_url)
    driven = await Driven(slurm_kind("slurm-rest", wide_slurm, rest=by_tcp)).start()
    assert (await driven.run(shell("exit 6"))).exit_code == 6
    await driven.stop()
