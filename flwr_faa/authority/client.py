"""The authority at a distance: what the aggregation server holds, behind the interface of ``Authority``."""

from __future__ import annotations

import functools
import json
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from flwr_faa.authority.base import AuthorityUnavailable, CheckKey, SignedPublicKey, Stated, combine, weights
from flwr_faa.authority.credential import SIGNATURE, Credential, loopback, reply_message
from flwr_faa.authority.registration import BudgetExceeded, Disclosure, Refused, Registration, verify_signature
from flwr_faa.crypto import ipfe
from flwr_faa.crypto.backends import open_group
from flwr_faa.crypto.group import Group
from flwr_faa.errors import ArgumentValueError

#: Seconds to be connected. The machine is there or it is not.
_CONNECT = 5.0

logger = logging.getLogger(__name__)


class RemoteAuthority:
    """An authority that runs elsewhere; see :func:`flwr_faa.authority.connect`.

    Nothing is sent before something is asked. A request that gets no answer is made once more: keys asked for twice are
    counted once. After that nothing is sent for as long as it took to find out, so that an authority that hangs delays
    a round once, and not once for each suspect.

    Parameters
    ----------
    url : str
        ``https://...``, or ``http://...`` on loopback.
    credential : Credential
    timeout : float
        Seconds for an answer.
    transport : httpx.BaseTransport, optional
        For tests.

    Raises
    ------
    ValueError
        Clear text off loopback.
    """

    def __init__(
        self, url: str, credential: Credential, timeout: float = 60.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        address = httpx.URL(url)
        if address.scheme != "https" and not (address.scheme == "http" and loopback(address.host)):
            raise ArgumentValueError(f"expected https://, or http:// on loopback, got {url}")
        self.url, self._credential = url, credential
        self._public: dict[tuple[int, int], ipfe.PublicKey] = {}
        self._away_until = 0.0
        context = ssl.create_default_context(cadata=credential.certificate)  # trusts this certificate and no other
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Proxies from the environment are not asked: they could not read the traffic, but they could stop it.
        patience = httpx.Timeout(timeout, connect=min(timeout, _CONNECT))
        self._http = httpx.Client(base_url=url, verify=context, timeout=patience, trust_env=False, transport=transport)

    def __repr__(self) -> str:
        return f"RemoteAuthority({self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @functools.cached_property
    def group(self) -> Group:
        """Where all its keys live. Raises ImportError if its back end is not installed here."""
        return open_group(str(self._about["group"]))

    @property
    def budget(self) -> float:
        """Share of a sample's dimensions that may become known over its lifetime."""
        return float(self._about["budget"])

    @functools.cached_property
    def _about(self) -> dict[str, Any]:
        return self._ask("about", {})

    @property
    def verify_key(self) -> bytes:
        """Its Ed25519 key, for clients to pin."""
        return self._credential.authority

    def public_key(self, node_id: int, width: int) -> ipfe.PublicKey:
        """Return the key under which a node encrypts vectors of this width. Kept: it never changes."""
        if (node_id, width) not in self._public:
            found = self.signed_public_key(node_id, width)
            self._public[node_id, width] = found.verify(self.verify_key, node_id, self.group, width)
        return self._public[node_id, width]

    def signed_public_key(self, node_id: int, width: int) -> SignedPublicKey:
        """Return the same, to be relayed to a client."""
        raw = self._ask("public-key", {"node_id": node_id, "width": width})["key"]
        return SignedPublicKey.from_bytes(bytes.fromhex(raw))

    def register(self, node_id: int, registration: Registration) -> bytes:
        """Hand over a client's signed data set; the receipt for it."""
        fields = {
            "root": registration.root.hex(),
            "samples": registration.samples,
            "width": registration.width,
            "top": registration.top,
            "verify_key": registration.verify_key.hex(),
            "signature": registration.signature.hex(),
        }
        return bytes.fromhex(self._ask("register", {"node_id": node_id, **fields})["receipt"])

    def functional_keys(self, node_id: int, functions: Sequence[Sequence[int]]) -> list[ipfe.FunctionalKey]:
        """Return keys for the paper's mode; see ``Authority``."""
        wanted = [tuple(map(int, y)) for y in functions]
        found = self._ask("functional-keys", {"node_id": node_id, "functions": wanted})["secrets"]
        return [ipfe.FunctionalKey(y, secret) for y, secret in zip(wanted, found, strict=True)]

    def check_key(self, node_id: int, stated: Stated, seed: bytes) -> CheckKey:
        """Return a key that tests what a client has stated; see ``Authority``."""
        found = self._check(node_id, stated, seed)
        drawn = bytes.fromhex(found["seed"])
        y = combine(weights(drawn, len(stated.functions)), stated.functions)
        return CheckKey(drawn, ipfe.FunctionalKey(tuple(y), found["secret"]))

    def count(self, node_id: int, stated: Stated) -> None:
        """Count what a client has stated; see ``Authority``."""
        self._check(node_id, stated, None)

    def _check(self, node_id: int, stated: Stated, seed: bytes | None) -> dict[str, Any]:
        fields = {
            "root": stated.root.hex(),
            "rows": list(map(int, stated.rows)),
            "functions": [list(map(int, y)) for y in stated.functions],
            "units": stated.units,
            "whole": stated.whole,
            "seed": None if seed is None else seed.hex(),
        }
        return self._ask("check", {"node_id": node_id, **fields})

    def disclosure(self, node_id: int) -> Disclosure:
        """Return what is known of the node's data so far."""
        return Disclosure(**self._ask("disclosure", {"node_id": node_id}))

    def _ask(self, operation: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        path, body = f"/v1/{operation}", json.dumps(fields, separators=(",", ":")).encode()
        if (start := time.monotonic()) < self._away_until:
            raise AuthorityUnavailable(f"no answer from the authority at {self.url} a moment ago")
        for last in (False, True):
            headers = self._credential.sign(path, body)
            try:
                response = self._http.post(path, content=body, headers=headers)
                break
            except httpx.HTTPError as error:
                if last:
                    self._away_until = 2 * time.monotonic() - start
                    raise AuthorityUnavailable(f"no answer from the authority at {self.url}: {error!r}") from error
                logger.info("no answer from the authority, asking once more: %r", error)
        status, raw = response.status_code, response.content
        # Whoever answers without the authority's key cannot have us believe anything, not even in a refusal.
        message = reply_message(headers[SIGNATURE], status, raw)
        if not verify_signature(self._credential.authority, _unhex(response.headers.get(SIGNATURE, "")), message):
            raise AuthorityUnavailable(
                f"expected the authority's signature from {self.url}, got {status} {raw[:200]!r}"
            )
        result: dict[str, Any] = json.loads(raw)
        if status == httpx.codes.OK:
            return result
        reason = f"{result['reason']} (node {fields['node_id']})" if "node_id" in fields else result["reason"]
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or result["error"] in ("stale", "slow"):
            raise AuthorityUnavailable(reason)
        raise BudgetExceeded(reason) if result["error"] == "budget" else Refused(reason)


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
