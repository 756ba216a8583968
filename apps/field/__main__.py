"""``python -m apps.field``: a federation of real processes on this machine, with two malicious SuperNodes out of five.

It makes a certificate authority and keys, and starts a SuperLink with TLS, which lets in registered nodes only, and
five SuperNodes, each with a slice of its own. Then the lab's app runs once in either API of Flower. Data are bound by
commitments; with ``--encrypted`` they are bound by encryption, and ``faa-authority`` runs too. One SuperNode flips the
sign of its weights; another trains honestly and lies when it is asked for evidence. The command ends with a table of
verdicts. The exit code is 1 if an honest node was convicted or banned, or if a malicious one was not convicted for what
it did.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apps.field.federation import Federation
from apps.field.verdicts import Node, nodes_of, rounds_of, table
from apps.lab.running.processes import end_on_sigterm
from apps.lab.running.superlink import RunError
from flwr_faa import private

#: What is to be found about whom.
SIGN, LIE = (
    "the committed run does not end at the update that was sent",
    "a claim about the first layer is not true of the enrolled data",
)
NODES = {"honest-a": "", "honest-b": "", "honest-c": "", "poisoner": "sign_flip", "liar": "spot_lie_z1"}
LAB = "dataset=digits partition=iid model=logistic"
#: Eight pixels by eight: one check of a sample tells a fifth of it, so here everything may become known.
BUDGET = 1.0
EXPECTED = {"poisoner": SIGN, "liar": LIE}
ROUNDS = 2
MARK = ".field"  # what may be deleted at the next start


def main(
    folder: Annotated[Path, typer.Option(help="State and logs; replaced if it is an earlier one's.")] = Path(
        "runs/field"
    ),
    samples: Annotated[int, typer.Option(help="Samples in each slice.")] = 100,
    rounds: Annotated[int, typer.Option()] = ROUNDS,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Bind data by encryption, with an authority.")] = False,
) -> None:
    """Run the federation; the exit code says whether the right nodes are out for the right reasons."""
    end_on_sigterm()
    console, began = Console(), time.monotonic()
    fresh(folder)
    failures = []
    try:
        with Federation(folder, NODES, LAB, samples, BUDGET, encrypted) as field:
            authority = f"authority {field.url}" if encrypted else "no authority"
            console.print(f"{authority}, SuperLink {field.address}, five SuperNodes; logs in {field.folder}")
            field.start_nodes()
            console.print(f"all connected after {time.monotonic() - began:.0f} s", highlight=False)
            for api in ("message", "legacy"):
                start = time.monotonic()
                # Without the liar's evidence nobody can know; so many audits that everybody is asked in some round.
                told = f"api={api} rounds={rounds} +detector.audits=5 timeout=600"
                path = field.run(api, told, 3600)
                nodes = {field.names[i]: node for i, node in nodes_of(path).items()}
                took = time.monotonic() - start
                console.print(f"\n{api} API, {len(rounds_of(path))} rounds, {took:.0f} s", highlight=False)
                console.print(table(dict(sorted(nodes.items()))))
                failures += [f"{api}: {wrong}" for wrong in wrongs(nodes)]
    except RunError as error:
        failures.append(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for failure in failures:
        console.print(failure, style="bold red", soft_wrap=True)
    console.print(f"{time.monotonic() - began:.0f} s in all", highlight=False)
    raise typer.Exit(1 if failures else 0)


def wrongs(nodes: Mapping[str, Node]) -> list[str]:
    """Return what went wrong: all should take part, the honest be kept, the others be convicted for what they did."""
    found = []
    for name in NODES:
        node = nodes.get(name)
        if node is None:
            found.append(f"{name}: expected to take part, did not")
        elif name in EXPECTED:
            if not node.banned or not node.convicted or EXPECTED[name] not in node.reason:
                found.append(f"{name}: expected a conviction for '{EXPECTED[name]}', got: {node.reason}")
        elif node.convicted or node.banned or not node.rounds:
            found.append(f"{name}: expected to be kept, got: {node.reason}")
    return found


def fresh(folder: Path) -> None:
    """Remove an earlier state, and nothing else."""
    if folder.exists():
        if not (folder / MARK).exists():
            raise typer.BadParameter(f"expected a new folder or an earlier state, got {folder}")
        shutil.rmtree(folder)
    private.folder(folder)
    (folder / MARK).touch()


if __name__ == "__main__":
    typer.run(main)
