"""Inventories for intersphinx, made here: a build has no network, and their projects publish them on their sites only.

They name the public classes of the installed packages at the addresses that each project's documentation gives them.
"""

from __future__ import annotations

import importlib
import inspect
import zlib
from pathlib import Path

#: Where documentation is, at which address a class has its page, and the modules whose classes we refer to.
PROJECTS = {
    "flwr": (
        "https://flower.ai/docs/framework/",
        "ref-api/{module}.{name}.html",
        ("flwr.app", "flwr.client", "flwr.server.strategy", "flwr.serverapp.strategy"),
    ),
    "sklearn": ("https://scikit-learn.org/stable/", "modules/generated/{module}.{name}.html", ("sklearn.svm",)),
    "pyod": ("https://pyod.readthedocs.io/en/latest/", "pyod.models.html", ("pyod.models.ocsvm", "pyod.models.base")),
}


def mapping(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory for each project, and return what ``intersphinx_mapping`` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for project, (site, page, modules) in PROJECTS.items():
        lines = []
        for module in modules:
            classes = inspect.getmembers(importlib.import_module(module), inspect.isclass)
            for name in (name for name, _ in classes if not name.startswith("_")):
                address = page.format(module=module, name=name)
                lines.append(f"{module}.{name} py:class 1 {address}#{module}.{name} -")
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        path = folder / f"{project}.inv"
        path.write_bytes(head.encode() + zlib.compress("".join(f"{line}\n" for line in sorted(lines)).encode()))
        found[project] = (site, str(path))
    return found
