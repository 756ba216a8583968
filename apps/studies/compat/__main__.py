"""``python -m apps.studies.compat [CHECKOUT] [--write]``: what works with what, as tables.

It tries Flower's strategies and, given the path of a checkout of Flower's repository, its example projects. What an
example needs must be installed: the row of one that cannot run says so.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from apps.lab.markdown import write_region
from apps.lab.scenario import CONF
from apps.studies.compat import examples, strategies

DOCS = CONF.parent / "docs" / "results" / "compatibility.md"


def main() -> None:
    """Measure, print, and with ``--write`` put the tables into docs/results/compatibility.md."""
    parser = argparse.ArgumentParser(prog="python -m apps.studies.compat", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="a checkout of Flower's repository, for its examples")
    parser.add_argument("--write", action="store_true", help="into docs/results/compatibility.md")
    chosen = parser.parse_args()
    if chosen.checkout and not (chosen.checkout / "examples").is_dir():
        parser.error(f"expected a checkout of Flower's repository, got {chosen.checkout}, which has no folder examples")
    logging.getLogger("flwr").disabled = True
    tables = {"strategies": strategies.measure()}
    if chosen.checkout:
        tables["examples"] = examples.measure(chosen.checkout.resolve())
    print("\n\n".join(tables.values()))
    for name, text in tables.items() if chosen.write else ():
        write_region(DOCS, name, text)


if __name__ == "__main__":
    main()
