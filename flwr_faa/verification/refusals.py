"""Translate what an authority raises into what it means for the node that is being verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr_faa.authority import AuthorityUnavailable, BudgetExceeded, Refused
from flwr_faa.verification.base import Exhausted
from flwr_faa.verification.wire import WireError


@contextmanager
def translated() -> Iterator[None]:
    """Translate: a spent budget or an absent authority is no node's fault, any other refusal means no evidence."""
    try:
        yield
    except BudgetExceeded as error:
        raise Exhausted(f"disclosure budget spent: {error}") from error
    except AuthorityUnavailable as error:
        raise Exhausted(f"no authority to ask: {error}") from error
    except Refused as error:
        raise WireError(f"refused by the authority: {error}") from error
