"""Merkle trees: every leaf can be shown, and nothing else."""

import hashlib

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


def by_rfc(leaves: list[bytes]) -> bytes:
    """The root by its definition, one level after another: 0x00, 0x01 and 0x02 as in the module's docstring."""
    level = [hashlib.sha256(b"\0" + content).digest() for content in leaves]
    while len(level) & (len(level) - 1):
        level.append(bytes(32))
    while len(level) > 1:
        level = [hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return hashlib.sha256(b"\2" + len(leaves).to_bytes(8, "big") + level[0]).digest()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9])
def test_a_root_is_what_the_definition_says(count: int) -> None:
    contents = [b"leaf %d" % i for i in range(count)]
    tree = Tree([leaf(content[:3], memoryview(content[3:])) for content in contents])
    assert tree.root == by_rfc(contents)
    assert tree.leaves == [leaf(content) for content in contents]
    assert tree.paths([]).shape == (0, depth(count), 32)


@pytest.mark.parametrize(("count", "length"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (2**20, 20)])
def test_a_path_has_one_sibling_a_level(count: int, length: int) -> None:
    assert depth(count) == length


def test_a_path_that_is_too_long_or_short_or_an_index_outside_shows_nothing() -> None:
    leaves = [leaf(bytes([i])) for i in range(3)]
    tree = Tree(leaves)
    path = tree.paths([0])[0]
    assert verify_path(tree.root, 3, 0, leaves[0], path)
    for wrong in (path[:1], np.concatenate([path, path[:1]]), path[:, :31], path.ravel()):
        assert not verify_path(tree.root, 3, 0, leaves[0], wrong)
    # Indices that end in the same bits, and the place of the zeros behind the last leaf.
    for index in (-4, 4, 8):
        assert not verify_path(tree.root, 3, index, leaves[0], path)
    assert not verify_path(tree.root, 3, 3, bytes(32), tree.paths([3])[0])
    assert verify_path(tree.root, 3, 2, leaves[2], tree.paths([2])[0])
