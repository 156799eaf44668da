"""Who holds a lease, as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.store.port import Owner, owner_in


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.integers(0, 2**22), st.text("0123456789abcdef")
)
def test_an_owner_is_read_as_it_was_written(site: str, process: int, nonce: str) -> None:
    owner = Owner(site, process, nonce)
    assert owner_in(str(owner)) == owner


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("", Owner("", 0)),
        ("north", Owner("north", 0)),
        ("north/host-7/17/ab", Owner("north", 0, "17/ab")),
        ("north/17", Owner("north", 17)),
        ("north/" + "9" * 5_000, Owner("north", 0)),
        ("north/²/ab", Owner("north", 0, "ab")),
    ],
)
def test_of_an_owner_with_another_name_only_the_site_counts(text: str, owner: Owner) -> None:
    assert owner_in(text) == owner
