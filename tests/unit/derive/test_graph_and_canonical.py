"""Components, reachability and the canonical form."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evac.derive.affected import components, reachable
from evac.model.digest import canonical_json, digest, written
from evac.model.errors import InvalidInput

graphs = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, n - 1), max_size=4), min_size=n, max_size=n)
)


@given(graphs)
def test_components_are_mutual_reachability(edges: list[list[int]]) -> None:
    found = components(edges)
    reach = [reachable(edges, [node]) for node in range(len(edges))]
    for a in range(len(edges)):
        for b in range(len(edges)):
            assert (found[a] == found[b]) == (reach[a][b] and reach[b][a])


@given(graphs)
def test_what_is_needed_has_the_lower_number(edges: list[list[int]]) -> None:
    found = components(edges)
    assert all(found[b] <= found[a] for a, row in enumerate(edges) for b in row)


def test_a_long_chain_needs_no_recursion() -> None:
    edges = [[node + 1] for node in range(50_000)] + [[]]
    assert components(edges)[0] == 50_000


def test_canonical_json_sorts_keys_by_utf16_and_keeps_integers() -> None:
    assert canonical_json({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'.encode()
    assert canonical_json({"\U0001f600": 1, "\ufb33": 2}).decode().startswith('{"\U0001f600"')


@pytest.mark.parametrize("value", [1.5, {1: 2}, 2**60, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        canonical_json(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
        max_leaves=20,
    )
)
@example({'\x7f\u2028\x00\x1f\b\f\n\r\t"\\/': ["\U0001f600", 2**64, -(2**63), True, None, [], {}]})
@example([2**64 - 1, -(2**63), "\ud7ff\ue000"])
def test_the_canonical_form_is_that_of_the_json_library_of_python(value: object) -> None:
    ordered = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert json.loads(canonical_json(value, exact=True)) == value
    assert written(json.loads(ordered)) == ordered.encode()


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}])
def test_half_a_letter_has_no_bytes(value: object) -> None:
    with pytest.raises(UnicodeEncodeError):
        written(value)


def test_a_digest_names_its_kind() -> None:
    assert digest({}).startswith("sha256:44136fa3")
