"""A ledger as a federation with hostile clients leaves it."""

from pathlib import Path

from flwr_faa.ledger.store import Ledger
from flwr_faa.report import Outcome, RoundReport, Verdict

#: Node ids are 64 bits wide; none is so short that a clock shows it too.
HONEST, LIAR, SILENT = 2**64 - 3, 7_001_011, 7_001_012
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[2Jcleared \x07"
COMMAND = "=HYPERLINK(1)"


def report(server_round: int) -> RoundReport:
    """The liar is convicted and banned in round 2; the silent one is struck in every third round."""
    nodes = [
        Verdict(HONEST, Outcome.CLEARED, True, True, 1.5, 1e-7, 0.05, "agrees, rank at most 3 of 64"),
        Verdict(SILENT, Outcome.TRUSTED, True, False, 0.5, reason=COMMAND),
    ]
    if server_round % 3 == 0:
        nodes[1] = Verdict(SILENT, Outcome.MISSING, False, True, 2.5, reason="no valid evidence: no answer in time")
    if server_round == 1:
        nodes.append(Verdict(LIAR, Outcome.CONVICTED, True, True, 9.0, 2.0, 0.05, HOSTILE, withheld="removed"))
    if server_round == 2:
        nodes.append(Verdict(LIAR, Outcome.CONVICTED, False, True, 9.0, 2.0, 0.05, HOSTILE, banned=True))
    return RoundReport(server_round, tuple(sorted(nodes, key=lambda v: v.node_id)), "spotcheck", 1.0)


def write(folder: Path, rounds: int) -> Ledger:
    """A ledger after so many rounds, still open."""
    ledger = Ledger(folder)
    for server_round in range(1, rounds + 1):
        ledger.record(report(server_round))
    return ledger


def banning(server_round: int) -> RoundReport:
    """Node 1 is silent in every round; node ``100 + round`` is banned."""
    return RoundReport(
        server_round,
        (
            Verdict(1, Outcome.MISSING, False, True, reason="no answer"),
            Verdict(2, Outcome.TRUSTED, True),
            Verdict(100 + server_round, Outcome.CONVICTED, False, True, reason="differs", banned=True),
        ),
    )
