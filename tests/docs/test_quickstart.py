"""The quickstarts: what changes in somebody's project, that the page shows just that, and that it works."""

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from apps.lab.running.local_grid import LocalGrid, run_server_app

ROOT = Path(__file__).resolve().parents[2]
APIS, VARIANTS = ("message", "legacy"), ("faa", "lomar", "verified")
CONFIG = {
    "num-server-rounds": 1,  # check.py runs more, by `flwr run`
    "fraction-train": 1.0,
    "fraction-fit": 1.0,
    "local-epochs": 2,
    "batch-size": 16,
    "lr": 0.1,
}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_check", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = load(ROOT / "apps/quickstart-check/check.py")


def changes(api: str, variant: str) -> dict[str, list[str]]:
    """Unified diffs of a variant against the plain project, by file."""
    found = {}
    for changed in sorted((ROOT / f"apps/quickstart-{api}/{variant}/quickstart").glob("*.py")):
        plain = ROOT / f"apps/quickstart-{api}/plain/quickstart" / changed.name
        sides = [p.read_text().splitlines() for p in (plain, changed)]
        name = f"quickstart/{changed.name}"
        found[changed.name] = list(difflib.unified_diff(*sides, f"plain/{name}", f"{variant}/{name}", lineterm="", n=1))
    return found


def page() -> str:
    """The diffs as docs/start/quickstart.md shows them. ``python -m tests.docs.test_quickstart`` writes them there."""
    titles = {"faa": "FAA-DL, detection only", "lomar": "LoMar", "verified": "FAA-DL with verification"}
    parts = []
    for api in APIS:
        parts.append(f"## {'Message API' if api == 'message' else 'Legacy API (NumPyClient)'}")
        for variant in VARIANTS:
            lines = [line for diff in changes(api, variant).values() for line in diff]
            parts.append(f"### {titles[variant]}\n\n```diff\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_how_much_of_a_project_changes(api: str, variant: str) -> None:
    found = changes(api, variant)
    added = {
        f: [x for x in d if x.startswith("+") and not x.startswith("+++") and x[1:].strip()] for f, d in found.items()
    }
    if variant != "verified":  # one import and one line
        assert found.keys() == {"server_app.py"} and len(added["server_app.py"]) == 2
    else:
        assert len(added["client_app.py"]) <= 10


def test_the_page_shows_the_diffs_as_they_are() -> None:
    assert page() in (ROOT / "docs/start/quickstart.md").read_text()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_attackers_are_removed(
    api: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = CHECK.project(api, variant, tmp_path / "project")
    (tmp_path / "attackers").mkdir()
    monkeypatch.setenv("ATTACKERS", str(tmp_path / "attackers"))
    monkeypatch.syspath_prepend(where)
    caplog.set_level("INFO", "flwr")

    def app(name: str) -> Any:
        return importlib.import_module(f"quickstart.{name}").app

    try:
        run_server_app(app("server_app"), LocalGrid(app("attacker"), CHECK.NODES, CONFIG))
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "quickstart"]:
            del sys.modules[name]
    attackers = {p.name for p in (tmp_path / "attackers").iterdir()}
    assert CHECK.judge(variant, caplog.text, attackers) == ""


def test_a_run_that_went_wrong_is_noticed() -> None:
    right = "faa round=1 node=1 verdict=convicted accepted=False\nfaa round=1 node=2 verdict=convicted accepted=False\n"
    assert CHECK.judge("verified", right, {"1", "2"}) == ""
    assert CHECK.removed(right, {"1", "3"}) == "round 1: 1 attackers and 1 others out"
    assert "got 1" in CHECK.judge("faa", right, {"1", "3"})
    assert "honest" in CHECK.judge("verified", right + "faa round=2 node=5 verdict=missing accepted=False", {"1", "2"})
    assert "got 2 and 0 lines" in CHECK.judge("faa", "", {"1", "2"})


if __name__ == "__main__":
    path = ROOT / "docs/start/quickstart.md"
    text = path.read_text()
    start = text.index("## Message API")
    path.write_text(text[:start] + page() + "\n" + text[text.index("\n<!-- end of the diffs -->") :])
