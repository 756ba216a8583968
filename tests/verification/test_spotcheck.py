"""The spot check against one node: honest ones pass with margin, every way to cheat is a contradiction."""

from pathlib import Path

import pytest

from tests.verification.spot import Node, backends


@pytest.mark.parametrize("back_end", backends())
@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn"])
def test_honest_clients_pass_with_margin(name: str, back_end: str, tmp_path: Path) -> None:
    node = Node(tmp_path, name, back_end)
    node.enrol()
    for nonce in range(3):
        finding = node.judge(node.train(nonce))
        assert not finding.convicted, finding
        assert finding.error < 0.05 * finding.threshold, finding
