"""The Python blocks of a page."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"( *<!-- part of a project -->\n+)?^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[bool, str]]:
    """Return the blocks of a page: whether each is only a part of somebody's project, and its text."""
    found = []
    for part, indent, text in BLOCK.findall(page.read_text()):
        found.append((bool(part), "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))))
    return found
