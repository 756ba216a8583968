"""The trusted third party: it knows the master keys, and hands out public and functional keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flwr_faa.authority.base import Authority, AuthorityUnavailable, CheckKey, SignedPublicKey, Stated
from flwr_faa.authority.budget import BUDGET
from flwr_faa.authority.local import LocalAuthority
from flwr_faa.authority.registration import BudgetExceeded, Disclosure, Refused, Registration

if TYPE_CHECKING:
    from flwr_faa.authority.client import RemoteAuthority

__all__ = [
    "BUDGET",
    "Authority",
    "AuthorityUnavailable",
    "BudgetExceeded",
    "CheckKey",
    "Disclosure",
    "LocalAuthority",
    "Refused",
    "Registration",
    "SignedPublicKey",
    "Stated",
    "connect",
]


def connect(url: str, key: str | Path) -> RemoteAuthority:
    """Return the authority at that address.

    Parameters
    ----------
    url : str
        ``https://...``; clear text only on loopback.
    key : path
        The file that ``faa-authority init`` wrote for the aggregation server.
    """
    from flwr_faa.authority.client import RemoteAuthority  # here: devices never need httpx
    from flwr_faa.authority.credential import Credential

    return RemoteAuthority(url, Credential.read(Path(key)))
