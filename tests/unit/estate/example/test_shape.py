"""Counts, determinism, files and provenance of the example companies."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from evac.estate import load, write
from evac.estate.examples import describe, pangyo
from evac.model.digest import estate_digest
from evac.model.errors import InvalidInput
from evac.model.estate import Estate
from evac.model.fleet import DARK
from evac.model.step_id import TOOL_ROLES


def test_pangyo_has_the_published_32000_servers_of_90000(flawed: Estate) -> None:
    index = [site.id for site in flawed.sites].index("pangyo")
    assert len(flawed.fleet) == 90_000
    assert int((flawed.fleet.site == index).sum()) == 32_000
    assert sum(site.role == "full" for site in flawed.sites) == 4
    assert [site.id for site in flawed.sites if site.role == "witness"] == ["sejong"]


def test_the_company_has_the_size_that_was_asked_for(flawed: Estate) -> None:
    domains = sum(map(len, (flawed.sites, flawed.halls, flawed.feeds, flawed.racks, flawed.groups)))
    assert 2_400 <= domains <= 2_600
    assert 1_150 <= len(flawed.services) <= 1_250
    assert int(flawed.replicas.count.sum()) == 200_000
    assert {s.family for s in flawed.services} == {
        "advertising",
        "bank",
        "games",
        "identity",
        "mail",
        "maps",
        "messenger",
        "music",
        "pay",
        "platform",
        "ride-hailing",
        "search",
    }
    assert max(s.people or 0 for s in flawed.services) == 47_000_000


def test_every_tool_role_is_filled_by_services_that_exist(flawed: Estate, mended: Estate) -> None:
    for estate in (flawed, mended):
        known = {s.id for s in estate.services}
        assert set(estate.tools) == set(TOOL_ROLES)
        assert all(names and set(names) <= known for names in estate.tools.values())


def test_between_four_and_eight_thousand_dark_servers_stand_outside_pangyo(mended: Estate) -> None:
    index = [site.id for site in mended.sites].index("pangyo")
    dark = (mended.fleet.state == DARK) & (mended.fleet.site != index)
    assert 4_000 <= int(dark.sum()) <= 8_000


def test_service_sizes_are_heavy_tailed(mended: Estate) -> None:
    counts = np.sort(np.array([s.replicas for s in mended.services]))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.45 * counts.sum()
    assert counts[0] > 30 * np.median(counts)


def test_few_services_are_needed_by_very_many(mended: Estate) -> None:
    needed = np.unique(
        [need.target for s in mended.services for need in s.needs if need.kind == "service"],
        return_counts=True,
    )[1]
    assert needed.max() > 300
    assert np.median(needed) <= 5


def test_both_companies_run_the_same_services_of_the_same_size(flawed: Estate, mended: Estate) -> None:
    def sizes(estate: Estate) -> list[tuple[object, ...]]:
        return [(s.id, s.tier, s.people, s.replicas, s.share, s.demand) for s in estate.services]

    assert sizes(flawed) == sizes(mended)
    assert bool((flawed.fleet.name == mended.fleet.name).all())
    assert bool((flawed.fleet.server_class == mended.fleet.server_class).all())


def test_same_arguments_give_the_same_estate_and_other_seeds_another() -> None:
    first, again, other = pangyo(servers=2_000), pangyo(servers=2_000), pangyo(servers=2_000, seed=1)
    assert estate_digest(first) == estate_digest(again)
    assert estate_digest(first) != estate_digest(other)


@pytest.mark.parametrize("servers", [1_000, 4_321, 20_000])
def test_scale_keeps_the_shape(servers: int) -> None:
    estate = pangyo(servers=servers, mended=True)
    index = [site.id for site in estate.sites].index("pangyo")
    assert len(estate.fleet) == servers
    assert int((estate.fleet.site == index).sum()) == round(servers * 32 / 90)
    assert int(estate.replicas.count.sum()) == round(servers * 20 / 9)
    assert bool((estate.fleet.name[:-1] < estate.fleet.name[1:]).all())
    for ids in (estate.racks, estate.feeds, estate.halls, estate.services, estate.stores, estate.groups):
        names = [entry.id for entry in ids]
        assert names == sorted(set(names))


@pytest.mark.parametrize("servers", [999, 1_000_001])
def test_a_size_out_of_range_is_refused_with_the_range(servers: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        pangyo(servers=servers)
    assert refused.value.code == "example-size"
    assert "1,000" in refused.value.hint


def test_dates_follow_the_day_that_is_given() -> None:
    estate = pangyo(servers=1_000, mended=True, as_of=date(2030, 1, 1))
    assert estate.as_of == date(2030, 1, 1)
    assert estate.changed is not None
    assert all(estate.changed < r.done <= date(2030, 1, 1) for r in estate.rehearsals)


@pytest.mark.parametrize("cured", [False, True])
def test_written_files_load_to_the_same_digest(tmp_path: Path, cured: bool) -> None:
    estate = pangyo(servers=1_500, mended=cured)
    write(estate, tmp_path / "estate")
    assert estate_digest(load(tmp_path / "estate")) == estate_digest(estate)


def test_every_fact_says_published_or_assumed(flawed: Estate, mended: Estate) -> None:
    for estate in (flawed, mended):
        paths = [fact.path for fact in estate.facts]
        assert paths == sorted(set(paths))
        assert all(
            f.source is not None and f.source.startswith(("published", "assumed")) for f in estate.facts
        )
        wanted = {f"services/{s.id}" for s in estate.services} | {f"stores/{s.id}" for s in estate.stores}
        wanted |= {f"sites/{s.id}" for s in estate.sites} | {f"classes/{c.id}" for c in estate.classes}
        assert wanted <= set(paths)


def test_the_published_causes_are_marked_so_in_the_flawed_company(flawed: Estate, mended: Estate) -> None:
    def published(estate: Estate) -> set[str]:
        return {f.path for f in estate.facts if (f.source or "").startswith("published")}

    assert {
        "tools/deploy",
        "tools/identity",
        "tools/monitoring",
        "rehearsals/0",
        "sites/pangyo",
    } <= published(flawed)
    assert published(mended) == {"sites/pangyo", "services/messenger-chat-front/people"}


def test_the_description_counts_without_lost_in_it(flawed: Estate, mended: Estate) -> None:
    text = "\n".join(describe(flawed))
    assert "pangyo: 32,000 servers" in text
    assert "200,000 replicas" in text
    assert "\n0 services run at one site only" in "\n".join(describe(mended))
