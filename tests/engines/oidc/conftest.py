"""Makes the OpenID Connect provider known to the tests beside it."""

from tests.engines.oidc import oidc_provider

__all__ = ["oidc_provider"]
