"""The release checklist finds what it looks for; what a stranger sees first is in order."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

from apps.release import checklist
from hatch_build import absolute

ROOT = checklist.ROOT
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **files: str) -> None:
    """A copy of what the quick checks read, with other texts in some places."""
    names = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "README.md", "flwr_faa/__init__.py")
    for name in (*names, "docs/results/versions.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(files.get(Path(name).stem, (ROOT / name).read_text()))
    monkeypatch.setattr(checklist, "ROOT", tmp_path)


def test_one_version_here_and_another_one_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checklist.agreed() == ""
    changed(monkeypatch, tmp_path, CHANGELOG="# Changelog\n\n## Unreleased\n")
    assert "CHANGELOG.md says Unreleased" in checklist.agreed()


def test_a_python_that_is_claimed_but_not_tried_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checklist.supported() == ""
    changed(monkeypatch, tmp_path, versions="| 3.11 | 1.42.0 | works | works |\n")
    assert "expected classifiers for ['3.11']" in checklist.supported()


def test_a_link_to_nothing_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checklist.links() == ""
    changed(monkeypatch, tmp_path, README="[a](docs/gone.md) [b](https://flower.ai) [c](#two-commands)")
    assert checklist.links() == "expected files, got none at docs/gone.md"


def test_a_page_of_its_own_has_addresses_for_paths() -> None:
    text = "![p](docs/p.png) [t](docs/t.md) [f](https://flower.ai) [h](#here)"
    raw = "https://raw.githubusercontent.com/a/b/v1/docs/p.png"
    kept = "[f](https://flower.ai) [h](#here)"
    assert absolute(text, "https://github.com/a/b", "v1") == (
        f"![p]({raw}) [t](https://github.com/a/b/blob/v1/docs/t.md) {kept}"
    )
    shown = WheelBuilder(str(ROOT)).metadata.core.readme
    assert not re.search(r"\]\((?![a-z]+:|#)", shown) and "raw.githubusercontent.com" in shown


def test_both_papers_are_cited() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    first = [paper["authors"][0]["family-names"] for paper in told["references"]]
    assert first == ["Shi", "Li"] and {"title", "journal", "year"} <= set.intersection(*map(set, told["references"]))


def test_pre_commit_runs_what_make_lint_runs() -> None:
    recipe = subprocess.run(["make", "-n", "-B", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    in_make = {tool for tool in re.findall(r"^\S+/bin/((?:ruff )?[a-z-]+)", recipe, re.M) if tool not in ("python",)}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["name"] for hook in hooks} == in_make


def test_the_templates_are_forms() -> None:
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        told = yaml.safe_load(file.read_text())
        assert file.stem == "config" or {"name", "description", "body"} <= set(told)


def test_every_name_that_a_page_imports_can_be_had() -> None:
    """Names that pages show are public: whoever moves one leaves it where it was, with a warning."""
    imports = re.compile(r"^[+ ]*from (flwr_(?:faa|lomar)[\w.]*) import ([\w, ]+)", re.M)
    found = {
        (module, name.strip())
        for page in PAGES
        for module, names in imports.findall(page.read_text())
        for name in names.split(",")
    }
    assert len(found) > 10
    assert [pair for pair in sorted(found) if not hasattr(importlib.import_module(pair[0]), pair[1])] == []


def test_every_extra_and_group_that_is_named_exists() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(told["project"]["optional-dependencies"])
    source = [*(ROOT / "flwr_faa").rglob("*.py"), *(ROOT / "flwr_lomar").rglob("*.py"), *PAGES]
    text = "".join(p.read_text() for p in source)
    named = {e for group in re.findall(r"flwr-anomaly\[([a-z,]+)\]", text) for e in group.split(",")}
    raised = set(re.findall(r'MissingExtraError\("[\w-]+", "(\w+)"', text))
    assert named | raised <= extras and {"charm", "live", "server", "torch"} <= raised
