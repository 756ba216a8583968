"""The trusted third party: it knows the master keys, and hands out public and functional keys."""

from __future__ import annotations

from flwr_faa.authority.local import Authority, LocalAuthority
from flwr_faa.authority.registration import BudgetExceeded, Disclosure, Refused, Registration

__all__ = ["Authority", "BudgetExceeded", "Disclosure", "LocalAuthority", "Refused", "Registration"]
