"""What a ledger tells, read-only: for the terminal (``faa-ledger``) and for the live page."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flwr_faa.verdict import Outcome

_VERDICTS = """
SELECT v.rowid AS id, r.id AS round_id, r.at, r.round, r.verifier, v.node_id, v.verdict, v.accepted, v.suspect, v.score,
    r.score_threshold, v.error, v.threshold, v.banned, v.reason, v.notes
FROM verdicts v JOIN rounds r ON r.id = v.round_id"""
_SELECTED = f"""{_VERDICTS}
WHERE (:node IS NULL OR v.node_id = :node) AND (:last IS NULL OR r.id > (SELECT max(id) FROM rounds) - :last)
ORDER BY v.rowid"""  # noqa: S608 - constants, values are bound
_LATEST = f"{_VERDICTS} WHERE v.rowid IN (SELECT max(rowid) FROM verdicts GROUP BY node_id)"  # noqa: S608
_KNOWN = "SELECT * FROM disclosures WHERE rowid IN (SELECT max(rowid) FROM disclosures GROUP BY node_id)"
#: Longest text shown of what may come from a client.
_LONGEST = 500


@dataclass(frozen=True)
class NodeHistory:
    """One node over all rounds.

    Attributes
    ----------
    node_id : int
    rounds, suspected, convicted, missing : int
        Rounds that it took part in, was named by the detector, contradicted by its evidence, gave none.
    strikes : int
        Those that count towards a ban.
    ban : str
        Why it is banned; empty if it is not.
    banned_at : str
        Time (UTC) of the report that banned it; empty if it is not.
    last : mapping
        Its last verdict, as ``History.verdicts`` has it.
    disclosure : mapping or None
        What is known of its data as of the last round that counted (see ``flwr_faa.verdict``); None if nothing is.
    """

    node_id: int
    rounds: int
    suspected: int
    convicted: int
    missing: int
    strikes: int
    ban: str
    banned_at: str
    last: Mapping[str, Any]
    disclosure: Mapping[str, Any] | None

    @property
    def state(self) -> str:
        """``banned``, ``watched`` (it was suspected or is struck), or ``good``."""
        return "banned" if self.ban else "watched" if self.strikes or self.suspected else "good"


@dataclass(frozen=True)
class History:
    """A ledger's folder, opened for every question anew and never written to.

    Parameters
    ----------
    folder : path
        Where ``Ledger(folder)`` writes, maybe right now.

    Raises
    ------
    FileNotFoundError
        From every method, if there is no ledger.
    """

    folder: Path

    def rounds(self, last: int) -> list[dict[str, Any]]:
        """The last rounds, oldest first, each with its number of nodes by outcome."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM rounds ORDER BY id DESC LIMIT ?", [last]).fetchall()
            counts = db.execute(
                "SELECT round_id, verdict, count(*), sum(accepted) FROM verdicts GROUP BY 1, 2"
            ).fetchall()
        found = {row["id"]: {**dict(row), "outcomes": {}, "accepted": 0, "nodes": 0} for row in reversed(rows)}
        for round_id, verdict, count, accepted in counts:
            if round_id in found:
                found[round_id]["outcomes"][printable(verdict)] = count
                found[round_id]["accepted"] += accepted
                found[round_id]["nodes"] += count
        return list(found.values())

    def verdicts(self, node_id: int | None = None, last: int | None = None) -> list[dict[str, Any]]:
        """All verdicts, or one node's, or those of the last rounds, oldest first."""
        wanted = {"node": None if node_id is None else str(node_id), "last": last}
        with self._open() as db:
            return [_plain(row) for row in db.execute(_SELECTED, wanted)]

    def nodes(self) -> list[NodeHistory]:
        """Every node that was ever reported on: the banned first, then the watched, then by node id."""
        with self._open() as db:
            bans = dict(db.execute("SELECT node_id, reason FROM bans").fetchall())
            strikes = dict(db.execute("SELECT node_id, count FROM strikes").fetchall())
            last = {r["node_id"]: r for r in db.execute(_LATEST)}
            when = dict(
                db.execute(
                    "SELECT node_id, max(at) FROM verdicts JOIN rounds ON rounds.id = round_id WHERE banned GROUP BY 1"
                ).fetchall()
            )
            sums = db.execute(
                "SELECT node_id, count(*), sum(suspect), sum(verdict = ?), sum(verdict = ?) FROM verdicts GROUP BY 1",
                [Outcome.CONVICTED, Outcome.MISSING],
            ).fetchall()
            known = _disclosures(db)
        found = [
            NodeHistory(
                int(node), rounds, suspected, convicted, missing, strikes.get(node, 0),
                printable(bans[node] or "banned") if node in bans else "", when.get(node, "") if node in bans else "",
                _plain(last[node]), known.get(node),
            )
            for node, rounds, suspected, convicted, missing in sums
        ]  # fmt: skip
        return sorted(found, key=lambda n: (("banned", "watched", "good").index(n.state), n.node_id))

    def lifts(self) -> list[dict[str, Any]]:
        """Bans that were lifted, and when."""
        with self._open() as db:
            known = "SELECT 1 FROM sqlite_master WHERE name = 'lifts'"
            return [dict(r) for r in db.execute("SELECT * FROM lifts")] if db.execute(known).fetchone() else []

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / "ledger.sqlite"
        if not path.is_file():
            raise FileNotFoundError(f"expected a ledger's folder, got {self.folder} without ledger.sqlite")
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            yield db


def printable(text: object) -> str:
    """Text that may come from a client, without what a terminal would obey, and not too long."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    found = dict(row)
    notes = json.loads(found.pop("notes") or "{}")
    text = {k: printable(found[k]) for k in ("node_id", "verdict", "reason", "verifier")}
    more = {printable(k): printable(v) for k, v in notes.items() if k != "withheld"}
    return {**found, **text, "withheld": printable(notes.get("withheld", "")), "notes": more}


def _disclosures(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """The last count of every node; ledgers from before it was kept have none."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'disclosures'").fetchone():
        return {}
    rows = db.execute(_KNOWN)
    return {row["node_id"]: dict(row) for row in rows}
