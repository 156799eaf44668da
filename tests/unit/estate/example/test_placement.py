"""Where replicas stand: feasible at every size and seed, and enough room after a loss once mended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evac.estate.examples import pangyo
from evac.model.estate import Estate
from tests.unit.estate.example.checks import (
    base_counts,
    base_left_out,
    lost_servers,
    placement_faults,
    surviving,
)

SITES = ("anyang", "bundang", "gasan", "pangyo")


def test_replicas_of_the_full_company_stand_where_they_may(flawed: Estate, mended: Estate) -> None:
    assert placement_faults(flawed) == []
    assert placement_faults(mended) == []


@settings(max_examples=12, deadline=None)
@given(servers=st.integers(1_000, 4_000), seed=st.integers(0, 2**32), cured=st.booleans())
def test_replicas_stand_where_they_may_at_any_size_and_seed(servers: int, seed: int, cured: bool) -> None:
    assert placement_faults(pangyo(servers=servers, seed=seed, mended=cured)) == []


def test_tier_0_keeps_its_smallest_share_whatever_site_is_lost(mended: Estate) -> None:
    base = base_counts(mended)
    top_tier = np.array([s.tier == 0 for s in mended.services])
    for site in SITES:
        left = surviving(mended, lost_servers(mended, site))
        short = [mended.services[i].id for i in np.flatnonzero(top_tier & (left < base))]
        assert short == [], site


def test_about_three_in_ten_lost_replicas_must_start_again_after_pangyo(mended: Estate) -> None:
    lost = lost_servers(mended, "pangyo")
    left = surviving(mended, lost)
    gone = int(mended.replicas.count.sum()) - int(left.sum())
    starts = int(np.maximum(0, base_counts(mended) - left).sum())
    assert 60_000 <= gone <= 80_000
    assert 0.25 <= starts / gone <= 0.35


@pytest.mark.parametrize("site", SITES)
def test_after_the_loss_of_any_site_the_mended_company_serves_everything(mended: Estate, site: str) -> None:
    lost = lost_servers(mended, site)
    assert base_left_out(mended, lost, shed=True) == []


def test_without_shedding_the_loss_of_pangyo_leaves_only_low_tiers_out(mended: Estate) -> None:
    left_out = base_left_out(mended, lost_servers(mended, "pangyo"), shed=False)
    tiers = {s.id: s.tier for s in mended.services}
    assert left_out
    assert {tiers[name] for name in left_out} <= {2, 3}


@pytest.mark.parametrize("servers", [1_000, 3_000, 9_000])
def test_small_mended_companies_serve_everything_too(servers: int) -> None:
    estate = pangyo(servers=servers, mended=True)
    for site in SITES:
        assert base_left_out(estate, lost_servers(estate, site), shed=True) == [], site


def test_halls_racks_and_shared_fates_take_no_shedding_once_mended() -> None:
    estate = pangyo(servers=6_000, mended=True)
    domains = (
        [h.id for h in estate.halls] + [g.id for g in estate.groups] + [r.id for r in estate.racks[::40]]
    )
    for domain in domains:
        assert base_left_out(estate, lost_servers(estate, domain), shed=False) == [], domain


def test_the_flawed_company_has_too_little_room_for_what_pangyo_runs(flawed: Estate) -> None:
    left_out = base_left_out(flawed, lost_servers(flawed, "pangyo"), shed=True)
    assert len(left_out) > 20
