"""The trusted third party: it knows the master keys, and hands out public and functional keys."""

from __future__ import annotations

from flwr_faa.authority.local import Authority, LocalAuthority

__all__ = ["Authority", "LocalAuthority"]
