"""The authority itself, over its store. The process (``service.py``) and the simulation (``local.py``) share it.

FAA-DL, Algorithm 1, lines 1-3: the trusted third party runs ``Setup`` and ``KeyDer``. What the paper leaves open is
settled here: keys only for data that a client has signed for, only for combinations that are drawn here, and only as
many as the budget allows.
"""

from __future__ import annotations

import hashlib
import operator
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flwr_faa import expected
from flwr_faa.authority.base import MAX_NODE, CheckKey, SignedPublicKey, Stated, combine, weights
from flwr_faa.authority.budget import BUDGET, Account, Digests, allowance, digests, gradient, parts, spend
from flwr_faa.authority.information import RHO_BITS, carried, of_gradient, of_key
from flwr_faa.authority.registration import Disclosure, Refused, Registration
from flwr_faa.authority.store import SampleSet, Store
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group
from flwr_faa.errors import ArgumentValueError

_SCALAR = 32  # bytes of a scalar, in both groups


class KeyAuthority:
    """Issues keys for registered data, within the budget; each issue is on disk before the key leaves.

    A client is the Ed25519 key that signs its registrations. The first key to register for a node keeps the node; one
    client has one current set, on one node, and the older ones are closed. Neither another set nor another node gives
    it a fresh budget (see ``budget.py``): Flower's node ids change, and a server could see to it that they do. So
    clients on one machine need a key each.

    Parameters
    ----------
    store : Store
        As ``create`` has left it.
    unregistered : bool
        Also issue keys, without limit, for nodes that have never registered a set: what the paper's mode wants, which
        hides nothing.
    simulation : bool
        Nodes that share a key are clients of their own all the same.
    """

    def __init__(self, store: Store, *, unregistered: bool = False, simulation: bool = False) -> None:
        self.store, self.unregistered, self.simulation = store, unregistered, simulation
        settings = {name: store.meta(name) for name in ("group", "budget", "digest key", "signing key")}
        found = [value for value in settings.values() if value is not None]
        if len(found) < len(settings):
            raise ArgumentValueError(
                "expected an authority's file with its keys, got an empty one; see 'faa-authority init'"
            )
        group, budget, self._digest_key, seed = found
        self.group: Group = open_group(group.decode())
        self.budget = float(budget)
        self._signing_key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public: dict[tuple[int, int], ipfe.PublicKey] = {}  # parsed; they never change

    @staticmethod
    def create(store: Store, back_end: str = "auto", budget: float = BUDGET) -> None:
        """Draw the authority's own keys. Raises ValueError if the store has some."""
        expected.number("budget", budget, above=0, most=1)
        with store.transaction():
            if store.meta("signing key") is not None:
                raise ArgumentValueError("expected an empty store, got one with an authority's keys")
            store.set_meta("group", open_group(back_end).name.encode())
            store.set_meta("budget", repr(budget).encode())
            store.set_meta("digest key", secrets.token_bytes(32))
            store.set_meta("signing key", Ed25519PrivateKey.generate().private_bytes_raw())
            store.log("created", None, group=open_group(back_end).name, budget=budget)

    @property
    def verify_key(self) -> bytes:
        """Its Ed25519 key, for clients to pin."""
        return self._signing_key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return its signature, for replies. What is signed here says first what it is."""
        return self._signing_key.sign(message)

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        """Return the key under which a node encrypts vectors of this width."""
        if (node_id, width) not in self._public:
            raw = self.signed_public_key(node_id, width).public
            self._public[node_id, width] = ipfe.PublicKey.from_bytes(self.group, raw)
        return self._public[node_id, width]

    def signed_public_key(self, node_id: int, width: int) -> SignedPublicKey:
        """Return the same, to be relayed to a client that trusts only the authority."""
        with self._logged("public key", node_id):
            return SignedPublicKey.sign(self._signing_key, node_id, self._pair(node_id, width)[0])

    def register(self, node_id: int, registration: Registration) -> bytes:
        """Take a client's signed data set; the same again changes nothing. Returns the signed receipt."""
        owner = registration.verify_key + (_nobody(node_id) if self.simulation else b"")
        with self._logged("register", node_id), self.store.transaction():
            registration.check_form()
            pair = self.store.key_pair(node_id, registration.width)
            if pair is None:
                raise Refused(f"expected data under a key of this authority, got none of width {registration.width}")
            registration.check(node_id, pair[0])
            receipt = self.sign(registration.receipt(hashlib.sha256(pair[0]).digest()))
            if self.store.owner(node_id) not in (None, owner):
                raise Refused(f"expected the client that registered node {node_id} first, got another")
            if self.store.counts(_nobody(node_id))[1]:
                raise Refused(f"expected a node without keys for unregistered data, got {node_id}")
            old = self.store.current(owner)
            if old is not None and (old.node, old.root) == (str(node_id), registration.root):
                shape = (registration.samples, registration.width, registration.top)
                if (old.samples, old.width, old.top) != shape:
                    raise Refused("expected the shape that this root was registered with, got another")
                return receipt
            carried = 0 if old is None else self._carried(old, registration.top)
            self.store.pin(node_id, owner)
            shape = (registration.samples, registration.width, registration.top)
            self.store.add_set(owner, node_id, registration.root, *shape, carried=carried)
            detail = {"root": registration.root.hex(), **dict(zip(("samples", "width", "top"), shape, strict=True))}
            again = {} if old is None else {"replaces": old.root.hex(), "of_node": old.node, "carried": carried}
            self.store.log("re-registered" if old else "registered", node_id, owner=owner.hex(), **detail, **again)
        return receipt  # the transaction is on disk

    def functional_keys(self, node_id: int, functions: Sequence[Sequence[int]]) -> list[ipfe.FunctionalKey]:
        """Return keys for the paper's mode; see ``Authority``."""
        with self._logged("functional keys", node_id):
            with self.store.transaction():
                width = self._issue_unregistered(node_id, functions)
                # derived here so that whatever derivation objects to is not counted
                master = self._master(node_id, width)
                keys = [ipfe.derive_key(master, list(y)) for y in functions]
            return keys  # the transaction is on disk

    def check_key(self, node_id: int, stated: Stated, seed: bytes) -> CheckKey:
        """Return the key for a combination drawn here; see ``Authority``."""
        with self._logged("check key", node_id):
            with self.store.transaction():
                width, name = self._count(node_id, stated, seed)
                drawn = hashlib.blake2b(name, digest_size=32, key=self._digest_key, person=b"faa/rho").digest()
                y = combine(weights(drawn, len(stated.functions)), stated.functions)
                key = ipfe.derive_key(self._master(node_id, width), y)
            return CheckKey(drawn, key)  # the transaction is on disk

    def count(self, node_id: int, stated: Stated) -> None:
        """Count what was stated, without a key; see ``Authority``."""
        with self._logged("count", node_id), self.store.transaction():
            self._count(node_id, stated, None)

    def disclosure(self, node_id: int) -> Disclosure:
        """Return what is known of the node's data so far. Raises Refused for a node never seen."""
        with self._logged("disclosure", node_id), self.store.transaction():
            owner = self.store.owner(node_id)
            found = None if owner is None else self.store.current(owner)
            if owner is None or found is None:
                return self._disclosure_unregistered(node_id)
            account, sets = self._account(found), self.store.counts(owner)
            # a budget of everything is never exceeded: see Account.rank
            left = max(0, account.budget - account.known) if account.budget < account.width else account.width
            opened = self.store.opened(found.id)
            return Disclosure(found.width, found.samples, opened, account.known, account.budget, left, sets[0], sets[1])

    def _disclosure_unregistered(self, node_id: int) -> Disclosure:
        """Return what the paper's mode has opened, of samples that nobody has counted."""
        width = max(self.store.widths(node_id), default=0)
        if not width:
            raise Refused(f"expected a node with keys, got none for {node_id}")
        known, issued = self.store.keyed(_nobody(node_id)), self.store.counts(_nobody(node_id))[1]
        return Disclosure(width, 0, 0, min(width, len(known)), allowance(width, self.budget), 0, 0, issued)

    def _count(self, node_id: int, stated: Stated, seed: bytes | None) -> tuple[int, bytes]:
        """Count, or refuse before anything has changed; returns the set's width and a name of the request."""
        owner = self.store.owner(node_id)
        found = None if owner is None else self.store.current(owner)
        if found is not None and found.node != str(node_id):
            raise Refused(
                f"expected the node that the client registered for last, {found.node}, got {node_id}: "
                "clients on one machine need a key each"
            )
        if found is None or found.root != stated.root:
            got = stated.root.hex()[:16] or "none"
            raise Refused(f"expected the set that is registered for node {node_id}, got {got}")
        rows = [operator.index(row) for row in stated.rows]  # numpy's integers too
        if bad := [row for row in rows if not 0 <= row < found.samples]:
            raise Refused(f"expected rows from 0 to {found.samples - 1}, got {bad[0]}")
        if len(set(rows)) < len(rows) or not rows:
            raise Refused("expected every row concerned, once, got none or one twice")
        if not len(stated.functions) or not 0 <= stated.units <= len(stated.functions):
            raise Refused(f"expected functions, and at most these {len(stated.functions)} to be units, got others")
        secret, width = self._digest_key, found.width
        told = digests(stated.functions, width, self.group.order, secret, found.top)
        sizes = [sum(abs(int(v)) for v in y) for y in stated.functions]
        if sum(sizes) << RHO_BITS >= self.group.order // 2:
            raise Refused("expected functions whose combinations stay below half the group's order, got larger ones")
        # All that the combination depends on, in its order: another order of the functions would be another one.
        listed = [stated.root, node_id.to_bytes(8, "big"), *(_text(numbers) for numbers in (rows, *stated.functions))]
        name = hashlib.sha256(b";".join(listed)).digest()
        if stated.units:
            share = min(width, of_gradient(stated.units, width, len(rows), found.top))
            told |= gradient(told, rows, share, secret)
        if stated.whole:
            told |= parts(b"whole", width, secret)
        keys: Digests = frozenset()
        if seed is not None:
            name += seed
            keys = parts(name, min(width, of_key(sizes, found.top)), secret)
        before = self._account(found)
        after, known = spend(before, keys, told, self.store.stated(found.id, rows))
        self.store.issue(found.owner, after.keyed - before.keyed, int(seed is not None))
        self.store.state(found.id, known, after.peak)
        counts = {"keys": int(seed is not None), "rows": len(rows), "stated": len(sizes), "units": stated.units}
        self.store.log("issued", node_id, **counts, known=after.known, budget=after.budget)
        return width, name

    def _issue_unregistered(self, node_id: int, functions: Sequence[Sequence[int]]) -> int:
        widths = {len(y) for y in functions}
        if not self.unregistered or self.store.owner(node_id) is not None:
            raise Refused(f"expected a node that never registered data, and the paper's mode, got node {node_id}")
        if len(widths) != 1:
            raise Refused("expected functions of one width, got others")
        (width,) = widths
        self._pair(node_id, width)
        # Of what size such samples are nobody has said: a value of any size counts as one of theirs.
        keys = digests(functions, width, self.group.order, self._digest_key, self.group.order * width)
        self.store.issue(_nobody(node_id), keys, len(functions))
        self.store.log("issued", node_id, keys=len(functions), registered=False)
        return width

    def _account(self, found: SampleSet) -> Account:
        budget, keyed = allowance(found.width, self.budget), self.store.keyed(found.owner)
        return Account(found.width, budget, found.carried, found.peak, keyed)

    def _carried(self, old: SampleSet, top: int) -> int:
        """Return what was known of a set by stated values, for one that replaces it with values up to ``top``."""
        keyed = len(self.store.keyed(old.owner))
        return carried(old.carried + old.peak + keyed, old.top, top) - keyed

    def _pair(self, node_id: int, width: int) -> tuple[bytes, bytes]:
        if not 0 <= node_id <= MAX_NODE:
            raise Refused(f"expected a node id of 64 bits, got {node_id}")
        if not 1 <= width <= ipfe.MAX_WIDTH:
            raise Refused(f"expected vectors of length 1 to {ipfe.MAX_WIDTH}, got {width}")
        with self.store.transaction():
            pair = self.store.key_pair(node_id, width)
            if pair is None:
                public, master = ipfe.setup(self.group, width)
                pair = public.to_bytes(), b"".join([s.to_bytes(_SCALAR, "big") for s in master.scalars])
                self.store.add_key_pair(node_id, width, *pair)
                self.store.log("keys drawn", node_id, width=width)
        return pair

    def _master(self, node_id: int, width: int) -> ipfe.MasterKey:
        raw = self._pair(node_id, width)[1]
        scalars = [int.from_bytes(raw[i : i + _SCALAR], "big") for i in range(0, len(raw), _SCALAR)]
        return ipfe.MasterKey(self.group, tuple(scalars))

    @contextmanager
    def _logged(self, what: str, node_id: int) -> Iterator[None]:
        """Write a refusal into the log, and change nothing else."""
        try:
            yield
        except Refused as reason:
            with self.store.transaction():
                self.store.log("refused", node_id, what=what, reason=str(reason))
            raise


def _text(numbers: Sequence[int]) -> bytes:
    return b",".join([b"%d" % v for v in numbers])


def _nobody(node_id: int) -> bytes:
    """Return the account of a node that no client has registered; 32-byte keys cannot collide with it."""
    return b"node %d" % node_id
