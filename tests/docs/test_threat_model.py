"""The threat model's promises: each names tests, and those tests exist."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_promise_names_a_test_that_exists() -> None:
    promises = TEXT.partition("## What is promised")[2].partition("## What is not promised")[0]
    bullets = re.split(r"^\* ", promises, flags=re.MULTILINE)[1:]
    assert len(bullets) > 20
    for bullet in bullets:
        named = NAMED.findall(bullet)
        assert named, f"expected a test, got none: {bullet}"
        for path, name in named:
            source = (ROOT / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{path} has no {name}"


def test_commands_that_are_named_exist() -> None:
    for module in set(re.findall(r"`python -m ([\w.]+)", TEXT)):
        assert importlib.util.find_spec(module) is not None, module
