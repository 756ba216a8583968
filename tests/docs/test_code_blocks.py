"""Every Python block of README and docs runs as it stands, or says why it cannot and imports only what exists."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from flwr_faa.report import Outcome, RoundReport, Verdict
from tests.helpers.pages import ROOT, blocks

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Its files are written and its command run by test_extend.py.
ELSEWHERE = {ROOT / "docs" / "how-to" / "extend.md"}
#: What a strategy reports after a round.
ROUND = RoundReport(1, (Verdict(7, Outcome.REMOVED, False, suspect=True, score=9.0, reason="far from the others"),))


def have_a_round(names: dict[str, object]) -> None:
    """Give the strategies of a page a report, so that a block that reads reports reads one."""
    for made in names.values():
        if getattr(made, "reports", None) == []:
            made.reports.append(ROUND)


WITH_CODE = [page for page in PAGES if page not in ELSEWHERE and blocks(page)]


def imports(text: str) -> list[tuple[str, str]]:
    """Return the (module, name) pairs that a block imports of us, of Flower and of torch."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = ("flwr", "torch")
    return [(n.module, a.name) for n in nodes if n.module and n.module.startswith(ours) for a in n.names]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_runs_as_it_stands(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The blocks of a page run one after the other, as somebody would who copies them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for part, text in blocks(page):
        for module, name in imports(text):
            assert hasattr(importlib.import_module(module), name), f"{page.name} imports {module}.{name}"
        have_a_round(names)
        if not part:
            exec(compile(text, page.name, "exec"), names)


def test_a_page_that_could_not_run_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom flwr_faa import Gone\n```\n\n<!-- part of a project -->\n```python\nStrategy()\n```\n"
    )
    (whole, first), (part, second) = blocks(page)
    assert (whole, part) == (False, True)
    assert imports(first) == [("flwr_faa", "Gone")]
    assert second == "Strategy()\n"


def test_a_block_that_reads_reports_reads_one() -> None:
    names: dict[str, object] = {}
    exec("from flwr_faa import FAADL\nstrategy = FAADL()", names)
    have_a_round(names)
    with pytest.raises(AttributeError, match="no attribute 'verdicts'"):
        exec("for report in strategy.reports:\n    report.verdicts", names)
