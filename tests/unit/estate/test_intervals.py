"""Facts written as `[low, high]`: the worse end is planned with, the better one bounds, and both are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evac.derive.intervals import good_ends, interval_paths
from evac.estate import check, load, schema, write
from evac.estate.format.kinds import Field, Listed, Mapped, Record, Records, Scalar
from evac.estate.format.spec import HEAD, SECTIONS
from evac.model.digest import estate_digest
from evac.model.estate import Estate, Rate

TEXT = """\
evac: 1
detection: [30 s, 2 min]
sites: {east: {ingress: [1 Gbit/s, 2 Gbit/s], power_budget: [1 MW, 2 MW]}, west: {}}
feeds: {west/hall-1/a: {boots_at_once: [2, 5], inrush_budget: [5 kW, 6 kW]}}
classes: {web: {cpu: [32 cores, 48 cores], memory: 64 GiB, watts: [300 W, 400 W], boot: [2 min, 5 min],
          boot_odds: [90 %, 98 %]}}
pools:
  k8s: {site: west, cpu: [40 cores, 64 cores], quota: [80 %, 90 %], starts: [2 per minute, 4 per minute]}
links: [{ends: [west, east], bandwidth: [1 Gbit/s, 10 Gbit/s]}]
limits: {promotions_at_once: [1, 3], manual: {start: [5 min, 10 min]}}
services:
  login:
    people: [500 K, 1 M]
    replicas: {east: 2}
    needs: [{store: users}]
    start: {value: [60 s, 150 s], source: a guess}
    demand: {cpu: [1 core, 2 cores], accelerators: [0, 1]}
    traffic: {kind: dns, ttl: [60 s, 5 min]}
stores:
  users:
    members: [{at: east, mode: primary}, {at: west, mode: async, lag: [1 s, 5 s]}]
    promote: [20 s, 60 s]
    backups: [{at: west, size: [100 GiB, 200 GiB], restore: [1 Gbit/s, 2 Gbit/s]}]
"""


def read(text: str, folder: Path) -> Estate:
    path = folder / "estate.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_the_estate_holds_the_worse_end(tmp_path: Path) -> None:
    estate = read(TEXT, tmp_path)
    login, users, pool, web = estate.services[0], estate.stores[0], estate.pools[0], estate.classes[0]
    assert (login.start_ms, login.people, login.demand) == (150_000, 1_000_000, (2_000, None, None, 1))
    assert (users.promote_ms, users.members[1].lag_ms) == (60_000, 5_000)
    assert (pool.capacity[0], pool.quota_permille, pool.starts) == (40_000, 800, Rate(2, 60_000))
    assert (web.capacity[0], web.watts, web.boot_ms, web.boot_odds_permille) == (32_000, 400, 300_000, 900)
    assert (estate.detection_ms, dict(estate.limits.manual_ms)) == (120_000, {"start": 600_000})
    assert next(f for f in estate.facts if f.path == "services/login/start").source == "a guess"


def test_the_good_ends_are_all_better_and_nothing_else_changes(tmp_path: Path) -> None:
    estate = read(TEXT, tmp_path)
    good = good_ends(estate)
    login, users, pool, web = good.services[0], good.stores[0], good.pools[0], good.classes[0]
    assert (login.start_ms, login.people, login.demand) == (60_000, 500_000, (1_000, None, None, 0))
    assert (users.promote_ms, users.members[1].lag_ms) == (20_000, 1_000)
    assert (users.backups[0].size_gib, users.backups[0].restore_mbps) == (100, 2_000)
    assert (pool.capacity[0], pool.quota_permille, pool.starts) == (64_000, 900, Rate(4, 60_000))
    assert (web.capacity[0], web.watts, web.boot_ms, web.boot_odds_permille) == (48_000, 300, 120_000, 980)
    assert (good.links[0].bandwidth_mbps, good.sites[0].ingress_mbps) == (10_000, 2_000)
    assert (good.feeds[0].boots_at_once, good.limits.promotions_at_once) == (5, 3)
    assert dict(good.limits.manual_ms) == {"start": 300_000}
    assert good.detection_ms == estate.detection_ms == 120_000, "a plan and its bound begin at one moment"
    assert (web.capacity[1], login.id, good.intervals) == (65_536, "login", ())


def test_what_is_written_is_read_back_with_both_ends(tmp_path: Path) -> None:
    estate = read(TEXT, tmp_path)
    write(estate, tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.intervals == estate.intervals
    assert estate_digest(again) == estate_digest(estate)
    jsonschema.validate(_parsed(TEXT), schema())


def test_the_digest_tells_an_interval_from_its_worse_end(tmp_path: Path) -> None:
    estate = read(TEXT, tmp_path)
    exact = replace(estate, intervals=())
    assert estate_digest(exact) != estate_digest(estate) != estate_digest(good_ends(estate))


def test_equal_ends_are_one_exact_value(tmp_path: Path) -> None:
    assert read(TEXT.replace("[20 s, 60 s]", "[1 min, 60 s]"), tmp_path).stores[0].promote_ms == 60_000
    assert "stores/users/promote" not in interval_paths(load(tmp_path / "estate.yaml"))


def test_a_fact_that_was_replaced_since_is_exact(tmp_path: Path) -> None:
    estate = read(TEXT, tmp_path)
    seen = replace(estate, services=(replace(estate.services[0], start_ms=70_000),))
    assert good_ends(seen).services[0].start_ms == 70_000


def test_servers_follow_the_interval_of_their_class(tmp_path: Path) -> None:
    (tmp_path / "servers.csv").write_text(
        "server,site,class,cpu_millicores,watts\na,west,web,,\nb,west,web,16000,\nc,west,web,,500\n"
    )
    estate = read_folder(TEXT, tmp_path)
    good = good_ends(estate)
    assert estate.fleet.capacity[:, 0].tolist() == [32_000, 16_000, 32_000]
    assert good.fleet.capacity[:, 0].tolist() == [48_000, 16_000, 48_000]
    assert good.fleet.watts.tolist() == [300, 300, 500]
    assert estate.fleet.watts.tolist() == [400, 400, 500]


def test_an_overlay_narrows_an_interval_or_makes_it_exact(tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text(
        "evac: 1\nservices: {login: {start: [90 s, 100 s]}}\nstores: {users: {promote: 30 s}}\n"
    )
    estate = read_folder(TEXT, tmp_path)
    assert estate.services[0].start_ms == 100_000
    assert good_ends(estate).services[0].start_ms == 90_000
    assert (estate.stores[0].promote_ms, good_ends(estate).stores[0].promote_ms) == (30_000, 30_000)


def test_an_interval_past_its_shelf_life_is_unknown(tmp_path: Path) -> None:
    aged = "{value: [60 s, 150 s], observed: 2020-01-01, good_for: 30 d}"
    text = TEXT.replace("evac: 1", "evac: 1\nas_of: 2026-01-01")
    estate = read(text.replace("{value: [60 s, 150 s], source: a guess}", aged), tmp_path)
    assert estate.services[0].start_ms is None
    assert "services/login/start" not in interval_paths(estate)


def test_all_problems_of_an_interval_are_named_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("[20 s, 60 s]", "[-20 s, 60]").replace("[500 K, 1 M]", "[1 M, 500 K]")
    (tmp_path / "estate.yaml").write_text(text)
    found = check(tmp_path / "estate.yaml").diagnostics
    assert {d.code for d in found} >= {"negative", "unit-missing", "interval-reversed"}


def _leaves(fields: tuple[Field, ...]) -> list[Field]:
    found: list[Field] = []
    for spec in fields:
        kind: Any = spec.kind
        if isinstance(kind, Record | Records):
            found += _leaves((kind.item if isinstance(kind, Records) else kind).fields)
        else:
            found.append(spec)
    return found


DECIDED = frozenset(
    {"rto", "rpo", "horizon", "tolerance", "image_offset", "keep", "proof_age"}
    | {"structure", "read", "restored", "compared", "served"}
)


@pytest.mark.parametrize("section", ["", *(s.key for s in SECTIONS)])
def test_every_measured_amount_takes_an_interval(section: str) -> None:
    """A new key with a unit has to say which of its ends is worse, or be named here as decided."""
    fields = next((s.fields for s in SECTIONS if s.key == section), HEAD)
    for spec in _leaves(fields):
        kind: Any = spec.kind.value if isinstance(spec.kind, Mapped) else spec.kind
        if isinstance(kind, Listed) or not isinstance(kind, Scalar):
            continue
        measured = any(word in kind.words for word in ("such as `90 s`", "cores`", "GiB`", "bit/s`", "W`"))
        assert not measured or bool(kind.worse) != (spec.key in DECIDED), f"{section}/{spec.key}"


def read_folder(text: str, folder: Path) -> Estate:
    (folder / "estate.yaml").write_text(text, encoding="utf-8")
    return load(folder)


def _parsed(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)
