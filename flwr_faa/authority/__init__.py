"""The trusted third party: it knows the master keys, and hands out public and functional keys."""

from __future__ import annotations

from flwr_faa.authority.base import (
    Authority,
    AuthorityUnavailable,
    BudgetExceeded,
    Disclosure,
    Refused,
    Registration,
    SignedPublicKey,
)
from flwr_faa.authority.local import LocalAuthority

__all__ = [
    "Authority",
    "AuthorityUnavailable",
    "BudgetExceeded",
    "Disclosure",
    "LocalAuthority",
    "Refused",
    "Registration",
    "SignedPublicKey",
]
