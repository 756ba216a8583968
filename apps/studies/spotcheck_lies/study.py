"""``python -m apps.studies.spotcheck_lies``: how often each lie to the spot check is found, beside what docs promise.

Every lie is told at least 200 times to the real verifier by the real client code (``trials.py``), in one process. A
finished line of the table is a line of a file, so the command can be stopped and started again. ``--write`` puts the
table into docs/explanation/spotcheck.md. The exit code is 1 if a figure is not what is stated, by a two-sided exact
binomial test at one in ten thousand.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import product
from math import comb, exp
from pathlib import Path
from typing import Any

from flwr.common.logger import FLOWER_LOGGER

from apps.lab.journal import run_missing
from apps.lab.markdown import untitled, write_region
from apps.lab.scenario import CONF
from apps.studies.spotcheck_lies.trials import Cell, run_cell

DOCS = CONF.parent / "docs" / "explanation" / "spotcheck.md"
#: One attacker; three of them, of which the first does not lie.
ONE, THREE = "attack.share=0.025", "attack.share=0.075"
#: Two, both of which lie.
TWO = "attack.share=0.05"
#: A batch holds all samples of a node, so that one step opens them all.
WHOLE = "model.batch_size=50"
#: Only the last step and the largest: where a lie is in these or in the answer, the others do not matter.
FEW = "verification.steps=0"
#: Of false claims in general: 2^-23 for sigma, 2^-32 for rho.
CLAIMS = 1 - 2.0**-22
#: Tolerance of a step, and of the test whether a figure is as stated.
TAU, ALMOST = 1e-3, 1e-4


def missed(closed: int, bad: int, drawn: int) -> float:
    """Return the chance that none of the bad steps is drawn, of those that are not opened for certain."""
    return comb(closed - bad, drawn) / comb(closed, drawn)


def unseen(value: int, highest: int, width: int) -> float:
    """Return the chance that neither random vector shows a pixel of that value among others of 0 to ``highest``."""
    return min(1.0, width * highest / (4 * value)) ** 2


def lie_of(
    usual: int, name: str, attack: str, stated: str, probability: float = 1.0, share: str = ONE, **more: Any
) -> Cell:
    """Return a line, of so many trials as usual if not told otherwise."""
    more = {"trials": usual, **more}
    return Cell(name, f"attack=spot_{attack} {share}", stated, probability, **more)


def told_to(cells: Iterator[Cell], encrypted: bool) -> list[Cell]:
    """Return the same lines, told to a server that binds data by encryption."""
    chosen = " verification=spotcheck_encrypted"
    # What sets something of the verification comes behind its choice, whatever the order.
    return [replace(cell, overrides=cell.overrides + chosen) if encrypted else cell for cell in cells]


def all_cells(trials: int) -> Iterator[Cell]:
    """Yield every line of the table of lies that the binding has no part in: each is told to both.

    Parameters
    ----------
    trials : int
        Of a line; 200 is what the figures in the docs are made of.
    """
    lie = partial(lie_of, trials)
    yield lie("fresh clean data after the challenge", "fresh_data", "1")
    yield lie("data optimised after the challenge (gradient matching)", "gradient_matching", "1")
    yield lie("claims about optimised data", "gradient_matching attack.client.claims_only=true", "1")
    for bad, times in ((1, 2), (2, 1)):
        # Which steps are always opened depends on the run. The last and the first are, so five are left at most.
        formula = f"at least 1 - C(5-{bad}, 2) / C(5, 2): S = 7, c = 2, b = {bad}"
        least: dict[str, Any] = {"probability": 1 - missed(5, bad, 2), "at_least": True}
        yield lie(
            f"{bad} of the other steps backwards",
            f"tamper_one attack.client.count={bad}",
            formula,
            **least,
            trials=times * trials,
        )
    yield lie("the last step, r = .05", f"tamper_last {FEW}", "1")
    for times, size in ((2, 0.002), (1, 0.01)):
        attack = f"tamper_last attack.client.size={size} attack.client.unit=true {FEW}"
        name, chance = f"the last step in one unit, r = {size:g} = {size / TAU:g} tau", exp(-((TAU / size) ** 2))
        yield lie(name, attack, "exp(-(tau / r)^2)", chance, trials=times * trials)
    yield lie("all steps a little, r = .05", "tamper_all", "1")
    yield from kicks_and_budgets(lie)
    yield lie("an older round's answer", "replay", "1 (convicted or no evidence)", counts="stopped", warm_up=1)
    for dataset, value, clients, highest, width in (("digits", 1000, 40, 16, 64), ("mnist5k", 10**6, 800, 255, 784)):
        attack = f"out_of_range attack.client.value={value} dataset={dataset} clients={clients} {WHOLE}"
        chance, formula = 1 - unseen(value, highest, width), "1 - (n max / 4v)^2"
        yield lie(
            f"one pixel of v = {value:,}, {dataset}",
            attack,
            formula,
            chance,
            f"attack.share={1 / clients}",
            afresh=True,
        )
    banned: dict[str, Any] = {"counts": "banned"}
    yield lie("silent whenever challenged, 3 rounds", "drop_out", "1 (banned)", rounds=3, **banned)
    half = 1 - sum(comb(6, k) for k in range(3)) / 2**6
    silent = "drop_out attack.client.chance=0.5"
    yield lie("silent half of the time, 6 rounds", silent, "P(Bin(6, .5) >= 3) (banned)", half, rounds=6, **banned)
    together: dict[str, Any] = {"share": f"{THREE} {FEW}", "first": False}
    yield lie("clones that share one's answers", "collude", "1", **together)
    yield lie("jittered clones that do", "collude attack.client.jitter=0.1", "1", **together)
    for model, threads, mkldnn in product(("logistic", "mlp", "cnn"), (1, 2), (True, False)):
        kernels = f"{threads} thread{'s' * (threads > 1)}, mkldnn {'on' if mkldnn else 'off'}"
        yield Cell(
            f"honest: {model}, {kernels}", f"model={model} clients=20 {WHOLE}", "cleared: 1", counts="cleared",
            trials=21 * max(1, trials // 50), rounds=21, threads=threads, mkldnn=mkldnn,
        )  # fmt: skip


def binding_cells(trials: int) -> Iterator[Cell]:
    """Yield lies that the binding decides about: told to both bindings, and those that commitments invite."""
    lie = partial(lie_of, trials)
    yield from proofs(lie)
    for encrypted, stated, chance in ((False, "at least 1 - 2^-100", 1.0), (True, "at least 1 - 2^-22", CLAIMS)):
        bound = f", {'encrypted' if encrypted else 'committed'}"
        chosen = " verification=spotcheck_encrypted" if encrypted else ""
        claims: dict[str, Any] = {"probability": chance, "at_least": True}
        yield lie(f"two samples in each other's place{bound}", f"swap{chosen}", "1")
        for part, back_end in product(("z1", "p"), ("charm", "arkworks")):
            name = f"{part.upper()} wrong by one in one entry{bound}, {back_end}"
            yield lie(name, f"lie_{part} {FEW}{chosen}", "1", trials=5 * trials // 4, back_end=back_end)
        for part in ("z1", "p"):
            attack = f"lie_{part} attack.client.everywhere=true attack.client.by=1000 {FEW}{chosen}"
            yield lie(f"{part.upper()} wrong everywhere{bound}", attack, stated, **claims)
        for back_end in ("charm", "arkworks"):
            name = f"one sample's points off the curve, opened{bound}, {back_end}"
            yield lie(name, f"off_curve {WHOLE}{chosen}", "1", afresh=True, back_end=back_end)
        adopt: dict[str, Any] = {"share": f"{THREE} {FEW}", "first": False, **claims}
        yield lie(
            f"clones that register what binds one and use its proofs{bound}",
            f"collude attack.client.adopt=true{chosen}",
            stated,
            **adopt,
        )


def proofs(lie: Callable[..., Cell]) -> Iterator[Cell]:
    """Yield lies that commitments invite."""
    yield lie("proofs for an earlier round's challenge", f"proofs {FEW}", "1", warm_up=1)
    yield lie("proofs for another challenge to the same run", "proofs attack.client.how=seed", "1")
    named = {
        "another_step": "each proof for another step",
        "a_bit": "a bit of a proof",
        "malleated": "a scalar z as z + q",
        "shifted": "a proof's point with x + p for x",
        "cancelling": "two proofs off by G_0 and -G_0",
        "identity": "the identity as a proof's point",
        "off_curve": "a proof's point off the curve",
        "outside": "a proof's point outside the subgroup",
    }
    for how, name in named.items():
        yield lie(name, f"proofs attack.client.how={how}", "1", back_end="arkworks")
    yield lie("two nodes' proofs off by G_0 and -G_0", "proofs attack.client.how=across", "1", share=TWO)
    yield lie("weights of its own choice", f"weights {FEW}", "1")
    yield lie("eight transcripts tried offline", f"grind {FEW}", "1 - 8 * 2^-127")
    for to, name in {
        "half": "commitments to halves modulo the order",
        "negative": "commitments to the order less each value",
        "wrapped": "commitments to each value and 2^64",
        "swapped": "commitments by bases in another order",
        "known": "commitments by bases whose logarithms it knows",
    }.items():
        yield lie(name, f"commit attack.client.to={to} {FEW}", "1")
    for how, name in {"identity": "the identity", "outside": "a point outside the subgroup"}.items():
        attack = f"no_point attack.client.how={how} {WHOLE}"
        yield lie(f"{name} as a commitment, opened", attack, "1", back_end="arkworks")
    for by, name in ((2**53, "Z1 claimed with 2^53 more"), (2**62, "Z1 claimed with 2^62 more")):
        yield lie(name, f"lie_z1 attack.client.by={by} {FEW}", "1 (convicted or no evidence)", counts="stopped")
    for value in (-1, -1000):
        chance, formula = 1 - unseen(-value, 16, 64), "1 - min(1, n max / 4v)^2"
        attack = f"below_zero attack.client.value={value} {WHOLE}"
        yield lie(f"one pixel of the order less {-value:,}, proved", attack, formula, chance, afresh=True)


def kicks_and_budgets(lie: Callable[..., Cell]) -> Iterator[Cell]:
    """Yield lies in one step of the run, and about what may be asked."""
    yield lie("arrays in another order", "reorder", "1 (rejected)", counts="rejected")
    spin = "kick_momentum +model.momentum=0.9"
    yield lie("the momentum kicked in one step, an update of -8 times the honest", spin, "1")
    yield lie("the same spread over three steps", f"{spin} attack.client.steps=3", "1")
    yield lie("the parameters kicked in one step, -8 times", "kick_momentum", "1")
    normed = "kick_buffer model=cnn +model.model.batch_norm=true"
    yield lie("running variances of -7e6 in one step", normed, "1")
    yield lie("running variances of 7e6 in one step", f"{normed} attack.client.value=7e6", "1")
    one = f"{normed} attack.client.value=100 attack.client.channel=3"
    # Another number may have changed by a larger share: then this step is one of those that are drawn.
    least: dict[str, Any] = {"probability": 1 - missed(5, 1, 2), "at_least": True}
    yield lie("a running variance of 100 in one step and channel", one, "at least 1 - C(5-1, 2) / C(5, 2)", **least)
    ahead = f"{normed} attack.client.buffer=num_batches_tracked attack.client.value=-1000"
    yield lie("a counter of -1000 in one step", ahead, "1 (rejected)", counts="rejected")
    # Digits are too small for a budget: one check tells all of them.
    narrow = "dataset=mnist5k model=mlp +model.model.units=2 model.batch_size=35 verification.budget=0.35"
    apart = "1 (not enrolled)"
    yield lie("a last batch of one, which no budget covers", f"unaffordable {narrow}", apart, counts="rejected")
    kept = {"counts": "kept out", "rounds": 4, "afresh": True}
    yield lie("signs flipped once the budget is spent, 4 rounds", f"budget_spent {narrow}", "1 (kept out)", **kept)


def is_as_stated(row: dict[str, Any]) -> bool:
    """Return whether a figure is compatible with what is stated."""
    from scipy.stats import binomtest

    if row["probability"] == 1.0:
        return bool(row["hits"] == row["done"])
    side = "less" if row["at_least"] else "two-sided"
    return bool(binomtest(row["hits"], row["done"], row["probability"], side).pvalue > ALMOST)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m apps.studies.spotcheck_lies", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--trials", type=int, default=200, help="a line")
    parser.add_argument("--bindings", action="store_true", help="the lies about which what binds the data decides")
    parser.add_argument("--encrypted", action="store_true", help="all others, told to a server with an authority")
    parser.add_argument("--only", default="", help="lines with this in their name")
    parser.add_argument("--out", type=Path, default=Path("runs/spot_table.jsonl"), help="one line a finished line")
    parser.add_argument("--write", action="store_true", help="write the table into docs/explanation/spotcheck.md too")
    options = parser.parse_args(arguments)
    name = "bindings" if options.bindings else "spotcheck-encrypted" if options.encrypted else "spotcheck"
    every = binding_cells(options.trials) if options.bindings else told_to(all_cells(options.trials), options.encrypted)
    rows = finished([cell for cell in every if options.only in cell.name], options.out)
    text = table(rows)
    if options.write:
        write_region(DOCS, name, text)
    print(text)
    bad = [row["name"] for row in rows if not is_as_stated(row)]
    for name in bad:
        print(f"not as stated: {name}", file=sys.stderr)
    return 1 if bad else 0


def finished(cells: Sequence[Cell], out: Path) -> list[dict[str, Any]]:
    """Return the results of all cells, in order; those not yet in the file are run and appended to it."""
    for logger in (FLOWER_LOGGER, logging.getLogger("flwr_faa")):
        logger.setLevel(logging.ERROR)  # one line per node and round
    done = run_missing({_key(asdict(cell)): cell for cell in cells}, out, 1, run_cell, _key)
    return [{**done[_key(asdict(cell))], **asdict(cell)} for cell in cells]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a line's figures depend on: not what is said of them."""
    words = ("name", "stated", "probability", "at_least")
    return tuple(row[f.name] for f in fields(Cell) if f.name not in words)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table with one line per lie, and one of the honest clients with their largest error."""
    lies, honest = ([r for r in rows if (r["counts"] == "cleared") is kind] for kind in (False, True))
    head = ["a client with", "trials", "convicted", "no evidence", "left out", "cleared", "as stated", "stated"]
    lines = []
    for row in lies:
        verdicts = row["verdicts"]
        left_out = verdicts.get("rejected", 0) + verdicts.get("exhausted", 0)
        counts = [str(n) for n in (verdicts.get("convicted", 0), verdicts.get("missing", 0), left_out)]
        counts.append(str(verdicts.get("cleared", 0)))
        share = f"{row['hits']} ({row['hits'] / row['done']:.3f})"
        lines.append([row["name"], str(row["done"]), *counts, share, f"{row['stated']} = {row['probability']:.4g}"])
    parts = [f"{untitled(head, lines)}\n"] if lies else []
    if honest:
        head = ["honest clients", "verifications", "convicted", "largest error"]
        lines = []
        for row in honest:
            convicted, name = str(row["done"] - row["hits"]), row["name"].removeprefix("honest: ")
            lines.append([name, str(row["done"]), convicted, f"{row['worst_error']:.1e}"])
        total = sum(r["done"] for r in honest)
        lines.append(["all", str(total), str(total - sum(r["hits"] for r in honest)), ""])
        parts.append(f"{untitled(head, lines)}\n")
    return "\n".join(parts)
