"""Who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class Role(IntEnum):
    """How far a caller is trusted; numbers as in the contract, so that a higher role compares greater."""

    ANONYMOUS = 1
    USER = 2
    OPERATOR = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller, as established by the credentials of one call.

    ``username`` is the facility-wide name that owns jobs; ``scopes`` is None when the credentials carry no
    restriction (development tokens, certificates). ``expires`` is when the credentials end, the issuer's ``leeway``
    included, None when they do not. ``method`` is anonymous, dev-token, oidc or certificate. ``issuer`` and
    ``subject`` are the token's ``iss`` and ``sub``, which stay when a person's username changes; else empty.
    """

    username: str
    role: Role
    scopes: frozenset[str] | None = None
    projects: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    expires: datetime | None = None
    method: str = "anonymous"
    issuer: str = ""
    subject: str = ""

    @property
    def staff(self) -> bool:
        """Whether the caller may see and steer everyone's work."""
        return self.role >= Role.OPERATOR


ANONYMOUS = Principal(username="", role=Role.ANONYMOUS)
