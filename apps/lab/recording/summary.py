"""Summarise a run in one dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from flwr_faa.report import DataDisclosure, Outcome, describe

Rows = Sequence[Mapping[str, Any]]


def summarise(rounds: Rows, attackers: int) -> dict[str, Any]:
    """Summarise the reports of a run in figures.

    Parameters
    ----------
    rounds : sequence of mapping
        As in ``rounds.jsonl``, every node annotated with ``partition`` and ``malicious``.
    attackers : int
        How many malicious clients there are.

    Returns
    -------
    dict
        ``recall``: share of the attackers that sent a valid reply at some time which were convicted, banned, dropped
        or, without verifier, removed at some time (None where there were none). ``honest_convicted``,
        ``honest_dropped``: honest clients convicted, and whose valid update was left out for whatever reason, at some
        time.
        ``attackers_accepted``: malicious updates that became part of a global model, over all rounds.
        ``verified_per_round``: mean number of clients asked for evidence. ``rounds_to_ban_all``: the round in which the
        last attacker was banned, or None. ``seconds``: by phase. ``disclosure``: what is known of the clients' data in
        the end, one ``line``, and ``nodes`` as in the ledger; None where the verifier does not count.
    """
    nodes = [(r["round"], node) for r in rounds for node in r["nodes"]]
    came = [(number, n) for number, n in nodes if n["verdict"] != Outcome.REJECTED]
    malicious = [(number, n) for number, n in came if n["malicious"]]
    honest = [n for _, n in came if n["malicious"] is False]
    seen = {n["partition"] for _, n in malicious}
    caught = {n["partition"] for _, n in malicious if _caught(n)}
    banned = {n["partition"]: number for number, n in malicious if n["banned"]}
    asked_for = (Outcome.CLEARED, Outcome.DROPPED, Outcome.CONVICTED, Outcome.MISSING)
    asked = [n for _, n in nodes if n["verdict"] in asked_for]
    return {
        "recall": len(caught) / len(seen) if seen else None,
        "honest_convicted": len({n["partition"] for n in honest if n["verdict"] == Outcome.CONVICTED}),
        "honest_dropped": len({n["partition"] for n in honest if not n["accepted"]}),
        "attackers_accepted": sum(n["accepted"] for _, n in malicious),
        "verified_per_round": len(asked) / len(rounds) if rounds else 0.0,
        "rounds_to_ban_all": max(banned.values()) if attackers and len(banned) == attackers else None,
        "seconds": _total(r["seconds"] for r in rounds),
        "disclosure": _disclosure(rounds),
    }


def outcome(summary: Mapping[str, Any]) -> list[str]:
    """Describe a finished run in a few lines, for a console."""
    recall = "-" if summary["recall"] is None else f"{summary['recall']:.2f}"
    lines = [
        f"{summary['name']}: accuracy {summary['final_accuracy']:.3f}, recall {recall}, "
        f"honest convicted {summary['honest_convicted']}, malicious updates accepted {summary['attackers_accepted']}, "
        f"verified {summary['verified_per_round']:.1f} a round, {summary['seconds']['total']:.1f} s",
        *(f"{name}: accuracy {curve[-1]:.3f}" for name, curve in summary["yardsticks"].items()),
    ]
    if summary["disclosure"]:
        lines.append(f"disclosed: {summary['disclosure']['line']}")
    return lines


def _disclosure(rounds: Rows) -> dict[str, Any] | None:
    last = {row["node_id"]: row for r in rounds for row in r.get("disclosures", ())}
    if not last:
        return None
    names = [f.name for f in fields(DataDisclosure)]
    known = [DataDisclosure(**{name: row[name] for name in names}) for row in last.values()]
    return {"line": describe(known), "nodes": list(last.values())}


def _caught(node: Mapping[str, Any]) -> bool:
    return bool(node["banned"]) or node["verdict"] in (Outcome.CONVICTED, Outcome.REMOVED, Outcome.DROPPED)


def _total(parts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for seconds in parts:
        for phase, value in seconds.items():
            total[phase] = round(total.get(phase, 0.0) + value, 3)
    return total
