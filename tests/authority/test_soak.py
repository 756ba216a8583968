"""The soak, once through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.authority.soak import GROWTH, growth, soak


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    found = soak(0.0, tmp_path / "authority")
    assert found.statuses.total() > 100 and found.statuses[200] and found.parsed.total() > 300
    assert growth(found.megabytes) < GROWTH
