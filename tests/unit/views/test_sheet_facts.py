"""Facts in a terminal: names aligned, and what people copy in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.views.sheet import Page

WORDS = st.text(alphabet="abc:.-", min_size=1, max_size=90)


@pytest.mark.parametrize("width", [40, 80, 83, 84, 120])
def test_a_digest_is_never_broken(width: int) -> None:
    digest = f"sha256:{'5a' * 32}"
    page = Page(width, colour=False)
    page.facts(
        [("objectives", "1 of 2 miss their RTO", ""), ("plan", digest, ""), ("note", "made today", "")]
    )
    lines = page.text().splitlines()
    assert sum(digest in line for line in lines) == 1
    assert lines[0] == "  objectives  1 of 2 miss their RTO"
    assert lines[-1] == "  note        made today", "names stay aligned after it"


@given(st.lists(st.tuples(st.text(alphabet="abc", min_size=1, max_size=12), WORDS), max_size=6))
def test_every_value_without_a_space_is_in_one_line(rows: list[tuple[str, str]]) -> None:
    page = Page(60, colour=False)
    page.facts([(name, value, "") for name, value in rows])
    lines = page.text().splitlines()
    for _, value in rows:
        assert any(value in line for line in lines)
