"""Seconds and bytes of one poll of the live page, by the size of the ledger: ``python -m benchmarks.live 100 5000``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from starlette.testclient import TestClient

from flwr_faa.ledger import live
from flwr_faa.ledger.store import Ledger
from flwr_faa.report import Outcome, RoundReport, Verdict

TOKEN = "t" * 43


def report(server_round: int, nodes: int) -> RoundReport:
    """One round of so many nodes, one of which is convicted."""
    rows = [Verdict(2**63 + n, Outcome.TRUSTED, True, score=1.0, reason="as usual") for n in range(nodes)]
    rows[server_round % nodes] = Verdict(
        2**63 + server_round % nodes, Outcome.CONVICTED, False, True, 9.0, 2.0, 0.05, "differs from its replay"
    )
    return RoundReport(server_round, tuple(rows), "spotcheck", 2.0)


def main(nodes: int, rounds: int) -> None:
    """Print the first poll, one with nothing new, and one after another round."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        assert ledger._db is not None
        ledger._db.execute("PRAGMA synchronous=OFF")
        for server_round in range(rounds):
            ledger.record(report(server_round, nodes))
        page = TestClient(live.application(Path(folder), TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})
        print(f"{nodes} nodes, {rounds} rounds")
        query, tag = "", ""
        for name in ("first", "nothing new", "a round more"):
            if name == "a round more":
                ledger.record(report(rounds, nodes))
            start = time.perf_counter()
            reply = page.get(f"/api/state{query}", headers={"If-None-Match": tag})
            took = time.perf_counter() - start
            print(f"{name:>14}: {reply.status_code}, {took:.3f} s, {len(reply.content):,} bytes")
            if reply.status_code == 200:
                query, tag = f"?since={reply.json()['rounds'][-1]['id']}", reply.headers.get("etag", "")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
