"""The site of a place in a plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evac.model.plan import SITE_PREFIX, site_in

IDS = st.from_regex(r"[a-r][a-z0-9.:@-]{0,12}", fullmatch=True)


@given(st.sets(IDS, min_size=1, max_size=4), st.data(), IDS)
def test_every_place_of_a_site_names_it(sites: set[str], data: st.DataObject, rest: str) -> None:
    """Unless the id of another site begins with it, and goes on as the place does."""
    site = data.draw(st.sampled_from(sorted(sites)))
    for place in (site, SITE_PREFIX + site, f"{site}/{rest}", f"{site}:{rest}", f"{site}:"):
        found = site_in(place, sites)
        longer = {
            one for one in sites if one.startswith(site) and place.removeprefix(SITE_PREFIX).startswith(one)
        }
        assert found in {site, *longer}


@pytest.mark.parametrize(
    ("place", "site"),
    [
        ("eu:2:std", "eu:2"),
        ("eu:2:std:large", "eu:2"),
        ("eu:std", "eu"),
        ("site:eu:2", "eu:2"),
        ("eu:2/hall", "eu:2"),
        ("elsewhere", ""),
        ("site:", ""),
        ("", ""),
    ],
)
def test_ids_with_colons_are_read_as_a_whole(place: str, site: str) -> None:
    assert site_in(place, {"eu", "eu:2"}) == site
