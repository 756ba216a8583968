"""Requests to an authority, right and wrong, for hypothesis to draw."""

from hypothesis import strategies as st

from tests.authority.parties import WIDTH
from tests.authority.world import KEYS, ROOT

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([ROOT.hex(), 9, WIDTH]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
numbers = st.integers(-(2**300), 2**300) | st.integers(-3, 25) | st.sampled_from([9, WIDTH, 2**64 - 1, 2**64])
vectors = st.lists(numbers, max_size=3) | st.lists(numbers, min_size=WIDTH, max_size=WIDTH)
texts = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64) | st.just(ROOT.hex()) | st.text(max_size=9)
widths = st.integers(-5, 40) | st.integers(2**17, 2**70)  # those between are allowed, and slow to draw
fields = {
    "/v1/about": {},
    "/v1/public-key": {"node_id": numbers, "width": widths},
    "/v1/register": {
        "node_id": numbers,
        "root": texts,
        "samples": numbers,
        "width": widths,
        "top": numbers,
        "verify_key": texts,
        "signature": st.text(alphabet="0123456789abcdef", min_size=128, max_size=128) | texts,
    },
    KEYS: {
        "node_id": numbers,
        "functions": st.lists(vectors, max_size=3),
        "root": texts,
        "rows": st.lists(numbers, max_size=4),
        "units": numbers,
        "whole": st.booleans(),
        "seed": texts | st.none(),
    },
    "/v1/functional-keys": {"node_id": numbers, "functions": st.lists(vectors, max_size=3)},
    "/v1/disclosure": {"node_id": numbers},
}
paths = st.sampled_from(list(fields))
nearly = paths.flatmap(
    lambda path: st.tuples(
        st.just(path),
        st.fixed_dictionaries({k: v | json_values if v is not numbers else v for k, v in fields[path].items()}),
    )
)
latin = st.text(alphabet=st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=40)
