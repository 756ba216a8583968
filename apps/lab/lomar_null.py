"""``python -m apps.lab.lomar_null``: LoMar's threshold against simulated honest updates.

Under the null hypothesis of `flwr_lomar.threshold.largest_z`: in every view, independent of the others, n draws from
Student's t; the score of each is its largest |z| by median and MAD.
"""

from __future__ import annotations

import re

import numpy as np

from apps.lab.experiment import CONF
from flwr_lomar.threshold import TAILS, largest_z

RATE, DRAWS = 0.01, 100_000
REGION = re.compile(r"(<!-- null -->\n).*?(<!-- /null -->)", re.DOTALL)


def rate_above(n: int, views: int, rng: np.random.Generator, rate: float = RATE, draws: int = DRAWS) -> float:
    """Share of the scores above ``largest_z(n, views, rate)``, of at least `draws`."""
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
    """Print a table, and put it into docs/lomar.md."""
    rng = np.random.default_rng(1)
    lines = ["| n | views | threshold | false alarms, simulated |", "| --- | --- | --- | --- |"]
    for views in (12, 28):
        for n in (6, 10, 20, 50, 100, 300, 1000):
            lines.append(f"| {n} | {views} | {largest_z(n, views):.2f} | {rate_above(n, views, rng):.4f} |")
    text, path = "\n".join(lines), CONF.parent / "docs" / "lomar.md"
    print(text)
    path.write_text(REGION.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", path.read_text()))


if __name__ == "__main__":
    main()
