"""Merkle trees: every leaf can be shown, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_faa.verification.spotcheck.merkle import Tree, depth, leaf, verify_path


@given(st.integers(1, 40), st.data())
def test_every_leaf_opens_at_its_place_and_only_there(count: int, data: st.DataObject) -> None:
    leaves = [leaf(bytes([i])) for i in range(count)]
    tree = Tree(leaves)
    index, other = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    path = tree.paths([index])[0]
    assert len(path) == depth(count)
    assert verify_path(tree.root, count, index, leaves[index], path)
    assert verify_path(tree.root, count, other, leaves[index], path) == (other == index)
    assert not verify_path(tree.root, count + 1, index, leaves[index], path)
    assert not verify_path(tree.root, count, index, leaf(b"another"), path)
    if len(path):
        bad = path.copy()
        bad[data.draw(st.integers(0, len(path) - 1)), 3] ^= 1
        assert not verify_path(tree.root, count, index, leaves[index], bad)


def test_a_root_is_bound_to_the_number_of_leaves_and_a_node_is_no_leaf() -> None:
    leaves = [leaf(bytes([i])) for i in range(4)]
    tree = Tree(leaves)
    assert Tree([*leaves[:3]]).root != Tree([*leaves[:3], bytes(32)]).root
    inner = tree.paths([2])[0][1].tobytes()  # the node over leaves 0 and 1
    assert not verify_path(tree.root, 2, 0, inner, np.empty((1, 32), np.uint8))
    assert not verify_path(tree.root, 4, 4, leaves[0], tree.paths([0])[0])
    with pytest.raises(ValueError, match="at least one leaf"):
        Tree([])
