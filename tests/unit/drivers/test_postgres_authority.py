"""What a member remembers of whom it obeyed."""

from __future__ import annotations

import pytest

from evac.drivers.postgres.facts import Authority, parse_authority
from evac.model.errors import Permanent


def test_it_is_read_back() -> None:
    seen = Authority(7, 3, 3)
    assert parse_authority(seen.text()) == seen


@pytest.mark.parametrize("text", ["", "7", "7 3", "7 3 x", "7 3 3 3"])
def test_what_cannot_be_read_is_never_taken_for_nothing(text: str) -> None:
    with pytest.raises(Permanent):
        parse_authority(text)
