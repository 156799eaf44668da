"""Every test is handed out once, whatever there is of each kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.spreading import spread

FOLDERS = ("browser", "contract", "docs", "e2e", "lab", "sim", "unit", "web")


@given(st.lists(st.sampled_from(FOLDERS), max_size=60), st.integers(1, 7))
def test_nothing_is_lost_or_doubled(folders: list[str], workers: int) -> None:
    items = list(enumerate(folders))
    found = spread(items, workers, lambda item: item[1])
    assert sorted(found) == items
    assert found == spread(items, workers, lambda item: item[1])


def test_each_stretch_begins_with_its_own_servers_and_ends_with_what_others_may_take() -> None:
    items = list(enumerate(["contract"] * 4 + ["lab"] * 3 + ["unit"] * 20 + ["web"] * 3))
    found = [folder for _, folder in spread(items, 3, lambda item: item[1])]
    assert [found[i : i + 10] for i in (0, 10, 20)] == [
        ["lab"] * 3 + ["unit"] * 7,
        ["contract"] * 4 + ["unit"] * 6,
        ["web"] * 3 + ["unit"] * 7,
    ]
