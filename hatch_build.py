"""README for the package page: links and pictures get the addresses that they have in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or a picture whose target is neither an address nor a place on the same page.
RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, repository: str, tag: str) -> str:
    """Return the text with links to files of the repository, as of a tag."""
    raw = repository.replace("github.com", "raw.githubusercontent.com")

    def linked(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        where = f"{raw}/{tag}" if picture else f"{repository}/blob/{tag}"
        return f"{picture}[{words}]({where}/{target})"

    return RELATIVE.sub(linked, text)


class ReadmeHook(MetadataHookInterface):
    """Read when the wheel and the source distribution are built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description that a package page shows."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata["urls"]["Repository"], f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
