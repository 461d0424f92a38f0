"""Running a command of Slurm as an account, in whichever way this server may."""

from __future__ import annotations

from collections.abc import Sequence

from openfacility_server.jobs.engines import JobRef
from openfacility_server.jobs.engines.slurm.accounts import Account
from openfacility_server.jobs.engines.slurm.commands import Commands, Result, cannot_act_as_user
from openfacility_server.jobs.engines.slurm.identity import Identity
from openfacility_server.jobs.engines.slurm.tokens import Tokens


class Acting:
    """Runs commands as owners and as the operator.

    As the user of the operating system where that can be, else with a token, which scontrol and scancel take for
    whoever it names; sbatch does not.
    """

    def __init__(self, identity: Identity, commands: Commands, tokens: Tokens | None) -> None:
        """Nothing is run yet."""
        self._identity, self._commands, self._tokens = identity, commands, tokens

    async def run(self, argv: Sequence[str], account: Account | None) -> Result:
        """Runs scontrol or scancel as an account; None: as the server's own. Raises EngineUnavailable, EngineError."""
        if account is None:
            return await self._commands.run(argv)
        if self._commands.can_be(account):
            return await self._commands.run(argv, user=account.name)
        if self._tokens is None:
            raise cannot_act_as_user()
        return await self._commands.run(argv, env={"SLURM_JWT": await self._tokens.token(account.name)})

    async def by_account(self, refs: Sequence[JobRef], by_operator: bool) -> list[tuple[Account | None, list[JobRef]]]:
        """Returns as whom to act on jobs. Raises EngineError for an owner who has no account."""
        if by_operator:
            return [(await self._identity.operator(), list(refs))]
        owners: dict[str, list[JobRef]] = {}
        for ref in refs:
            owners.setdefault(ref.owner, []).append(ref)
        return [(await self._identity.account_of(owner), theirs) for owner, theirs in owners.items()]

    async def cancel(self, owner: str, native_ids: Sequence[str]) -> None:
        """Ends jobs as their owner. Raises EngineUnavailable, EngineError."""
        await self.run(["scancel", *native_ids], await self._identity.account_of(owner))
