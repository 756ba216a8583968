"""What an authority raises is no node's fault, unless it refuses what the node has sent."""

import pytest

from flwr_faa.authority import AuthorityUnavailable, BudgetExceeded, Refused
from flwr_faa.verification.base import Exhausted
from flwr_faa.verification.refusals import translated
from flwr_faa.verification.wire import WireError


@pytest.mark.parametrize(
    ("raised", "becomes", "told"),
    [
        (BudgetExceeded("3 of 2"), Exhausted, "disclosure budget spent: 3 of 2"),
        (AuthorityUnavailable("no route"), Exhausted, "no authority to ask: no route"),
        (Refused("not registered"), WireError, "refused by the authority: not registered"),
    ],
)
def test_each_error_is_translated_and_keeps_its_words(raised: Exception, becomes: type[Exception], told: str) -> None:
    with pytest.raises(becomes) as found, translated():
        raise raised
    assert str(found.value) == told and found.value.__cause__ is raised


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("n")
