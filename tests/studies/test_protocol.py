"""The picture of a verified round is the one that the command draws."""

import re

from apps.lab.papers.plots import svg
from apps.studies.protocol import FILE, STEPS, picture


def words(drawn: str) -> list[str]:
    return re.findall(r">([^<>\n]+)</t(?:ext|span)>", drawn)


def test_the_picture_has_every_step_and_is_of_today() -> None:
    drawn = words(svg(picture()))
    assert {line for *_, what in STEPS for line in what.split("\n")} <= set(drawn)
    assert words(FILE.read_text()) == drawn
