"""Who a user of this service is on the cluster, and the other way round."""

from __future__ import annotations

import os

from openfacility_server.jobs.engines import EngineError, Refusal
from openfacility_server.jobs.engines.slurm.accounts import Account, Accounts
from openfacility_server.jobs.engines.slurm.settings import SlurmSettings


class Identity:
    """Maps owners of jobs to accounts of the operating system, one to one."""

    def __init__(self, settings: SlurmSettings, accounts: Accounts) -> None:
        """Nothing is looked up yet."""
        self._settings, self._accounts = settings, accounts
        self._owners = {account: owner for owner, account in settings.users.items()}

    def account_name(self, owner: str) -> str:
        """Returns the name that an owner's account has if there is one; empty when there cannot be one."""
        mapped = self._settings.users.get(owner)
        if mapped is not None:
            return mapped
        # The account of that name belongs to somebody else.
        return "" if owner in self._owners else owner

    def owner_of(self, account: str) -> str:
        """Returns whose account this is; empty when it is nobody's who can be a user of this service."""
        owner = self._owners.get(account)
        if owner is not None:
            return owner
        return "" if account in self._settings.users else account

    async def account_of(self, owner: str) -> Account:
        """Returns an owner's account. Raises EngineError when there is none that may run jobs."""
        name = self.account_name(owner)
        account = await self._accounts.find(name) if name else None
        # Directories may ignore case: two owners must not become one.
        if account is None or account.name != name or not self._may_act(account):
            raise EngineError(Refusal("You have no account on this cluster: ask its operators.", "NO_POSIX_ACCOUNT"))
        return account

    def _may_act(self, account: Account) -> bool:
        own = os.geteuid()
        return account.uid >= self._settings.min_uid or (own != 0 and account.uid == own)

    async def operator(self) -> Account | None:
        """Returns the account that operators' steering is done as; None: the server's own. Raises EngineError."""
        name = self._settings.operator
        if name is None:
            return None
        account = await self._accounts.find(name)
        if account is None:
            text = "The account that operators act as does not exist on this server."
            raise EngineError(Refusal(text, "CANNOT_ACT_AS_USER"))
        return account
