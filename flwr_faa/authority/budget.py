"""How much may be known of a sample, and how much is. Pure: no state, no I/O.

What a value tells of a sample is counted in dimensions (``information.py``): the number of the sample's own values that
hold as much information. The budget limits the information in all values that become known of a sample over its
lifetime. The authority keeps a bound on it, ::

    known  <=  carried + keys + functions whose values the client stated + gradients,  capped at n

each in dimensions. What costs k dimensions is stored as k digests, so that a repetition counts once.

* A key opens its function of every ciphertext under the same public key, those seen before and those still to come,
  whatever it was asked for. So keys count for all samples of a client, only stated values count sample by sample.
* ``gradients``: an opened step shows its checkpoints, so the gradient of the first layer's weight, delta^T X: for each
  of its ``units``, n floats that say something of all b samples of the batch. They are shared out evenly. So the sum of
  all samples' counts bounds what is known of a whole set; of a single sample whose delta outweighs the others' more may
  be known than its count says.
* ``carried``: a client that registers another set may have registered the same samples in another order or
  encoding. So every new sample starts with the most that was known of any old one.
* Memory: 16 bytes per dimension and sample, so at most ``16 * budget`` per sample: 3 kB at 784 coordinates and a budget
  of a quarter, 1.9 MB for a client of 600 samples when all of it is spent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr_faa.authority.information import of_function
from flwr_faa.authority.registration import BudgetExceeded, Refused

#: Share of a sample's dimensions that may become known over its lifetime. A judgement, not a theorem: what it leaves of
#: images is measured (docs/threat-model.md).
BUDGET = 0.25
#: Bytes of a digest.
DIGEST = 16

Digests = frozenset[bytes]


@dataclass(frozen=True)
class Account:
    """What is known of a client's samples.

    Attributes
    ----------
    width : int
        Coordinates of a sample.
    budget : int
        Most that may be known of one.
    carried : int
        Dimensions known of some sample of earlier sets by stated values.
    peak : int
        The most that is known of one sample of this set by stated values and its share of gradients.
    keyed : frozenset of bytes
        Digests of what keys tell.
    """

    width: int
    budget: int
    carried: int = 0
    peak: int = 0
    keyed: Digests = frozenset()

    @property
    def known(self) -> int:
        """What counts as known of the sample of which most is known."""
        return min(self.width, self.carried + self.peak + len(self.keyed))


def parts(name: bytes, count: int, key: bytes) -> Digests:
    """Return digests that stand for what costs so many dimensions, the same for the same name.

    Parameters
    ----------
    name : bytes
    count : int
    key : bytes
        A secret: without it nobody can look for two names of one digest.
    """
    name = hashlib.blake2b(name, digest_size=32, key=key).digest()
    return frozenset(hashlib.blake2b(name + b"%d" % i, digest_size=DIGEST, key=key).digest() for i in range(count))


def digests(functions: Iterable[Sequence[Any]], width: int, order: int, key: bytes, top: int) -> Digests:
    """Return digests for each different function, as many as dimensions that its value tells; of all at least
    ``width``, if they tell that much: no more is kept of any sample.

    Parameters
    ----------
    functions : iterable of integer vectors
    width, order : int
        Length of the vectors; the group's order, modulo which keys know no difference.
    key : bytes
        As for :func:`parts`.
    top : int
        The largest value in a sample.

    Raises
    ------
    Refused
        A function is not ``width`` integers below half the group's order.
    """
    found: set[bytes] = set()
    for y in functions:
        if len(y) != width:
            raise Refused(f"expected functions of length {width}, got length {len(y)}")
        values = [v if type(v) is int else _integer(v) for v in y]
        if max(values) >= order // 2 or min(values) <= -order // 2:
            raise Refused("expected weights below half the group's order, got a larger one")
        if len(found) < width:
            raw = b"".join([(v % order).to_bytes(32, "big") for v in values])
            found |= parts(raw, min(width, of_function(sum(map(abs, values)), top)), key)
    return frozenset(found)


def gradient(stated: Digests, rows: Sequence[int], count: int, key: bytes) -> Digests:
    """Return digests that stand for a step's gradient in its samples' counts, the same for the same step.

    Parameters
    ----------
    stated : frozenset of bytes
        Functions stated of the step's samples.
    rows : sequence of int
        These samples.
    count : int
        How many; see :func:`information.of_gradient`.
    key : bytes
        As for :func:`parts`.
    """
    return parts(b"".join(sorted(stated)) + b",".join(b"%d" % row for row in sorted(rows)), count, key)


def spend(
    account: Account, keys: Digests, stated: Digests, known: Mapping[int, Digests]
) -> tuple[Account, dict[int, Digests]]:
    """Return the account after keys are issued and values stated, and what has been stated of each row.

    Parameters
    ----------
    account : Account
    keys, stated : frozenset of bytes
        What the keys tell; what the client states of each of the rows, their gradient included.
    known : mapping
        Row to what was stated of it before.

    Raises
    ------
    BudgetExceeded
        More than the budget would be known of some sample, in the request or not.
    """
    keyed = _grown(account.keyed, keys, account.width)
    rows = {row: _grown(before, stated, account.width) for row, before in known.items()}
    after = replace(account, keyed=keyed, peak=max([account.peak, *map(len, rows.values())]))
    # Unless something new becomes known nothing can exceed: a client may always be asked again what it was asked.
    if after.known > account.budget and (after.keyed != account.keyed or rows != known):
        raise BudgetExceeded(
            f"expected at most {account.budget} of {account.width} dimensions of a sample to be known, got "
            f"{after.known} ({account.known} known so far)"
        )
    return after, rows


def allowance(width: int, share: float) -> int:
    """Return the budget of a sample: this share of its dimensions, rounded down."""
    return int(width * share)


def _grown(before: Digests, new: Digests, width: int) -> Digests:
    """Return both together; with as many as there are dimensions all may be known, and no more is kept."""
    return before if len(before) >= width else before | new


def _integer(value: Any) -> int:
    try:
        number = value.__index__()  # numpy's integers too, floats not
    except AttributeError:
        raise Refused(f"expected integers, got {value!r}") from None
    return int(number)
