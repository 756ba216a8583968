"""``python -m apps.studies.lomar_threshold``: LoMar's threshold against simulated honest updates.

The null hypothesis is that of `flwr_faa.detection.threshold.largest_z`: in every view, independent of the others, the n
values are drawn from Student's t. The score of each update is its largest |z| by median and MAD.
"""

from __future__ import annotations

import numpy as np

from apps.lab.markdown import untitled, write_region
from apps.lab.scenario import CONF
from flwr_faa.detection.threshold import TAILS, largest_z

RATE, DRAWS = 0.01, 100_000
HEAD = ("n", "views", "threshold", "false alarms, simulated")


def rate_above(n: int, views: int, rng: np.random.Generator, rate: float = RATE, draws: int = DRAWS) -> float:
    """Return the share of the scores above ``largest_z(n, views, rate)``, of at least `draws`."""
    above = rounds = 0
    threshold = largest_z(n, views, rate)
    while rounds * n < draws:
        x = rng.standard_t(TAILS, (views, n))
        away = np.abs(x - np.median(x, axis=1, keepdims=True))
        score = (away / (1.4826 * np.median(away, axis=1, keepdims=True))).max(axis=0)
        above += int((score > threshold).sum())
        rounds += 1
    return above / (rounds * n)


def main() -> None:
    """Print a table, and put it into docs/explanation/lomar.md."""
    rng = np.random.default_rng(1)
    lines = [
        [str(n), str(views), f"{largest_z(n, views):.2f}", f"{rate_above(n, views, rng):.4f}"]
        for views in (11, 27)
        for n in (6, 10, 20, 50, 100, 300, 1000)
    ]
    text = untitled(HEAD, lines)
    print(text)
    write_region(CONF.parent / "docs" / "explanation" / "lomar.md", "lomar-null", text)


if __name__ == "__main__":
    main()
