"""A server that records round after round, says each one that is on record, and is killed at some moment."""

import sys
from pathlib import Path

from flwr_faa.ledger.store import Ledger
from tests.ledger.ledgers import report

if __name__ == "__main__":
    ledger = Ledger(Path(sys.argv[1]))
    for server_round in range(int(sys.argv[2]), 2**31):
        ledger.record(report(server_round))
        print(server_round, flush=True)
