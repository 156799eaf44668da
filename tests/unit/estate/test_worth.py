"""What is most worth adding: the facts on which most verdicts depend come first."""

import random
from dataclasses import replace

from evac.estate.coverage import coverage
from evac.estate.worth import Missing, Reach, crossed_pairs, verdicts_of, worth_of
from evac.model.coverage import Coverage, MissingFact
from evac.model.estate import Dependency, Estate, Link, Pool, Service, Site, Store, StoreMember, Traffic
from evac.views.small_texts import check_text, worth_words

AMOUNT = (1_000, 1_024, None, None)


def service(name: str, at: tuple[str, ...], *needs: str, tier: int = 1, **other: object) -> Service:
    """A service of which everything is known that a verdict depends on."""
    known: dict[str, object] = {
        "people": 10,
        "rto_ms": 60_000,
        "replicas": len(at) or None,
        "sites": at,
        "demand": AMOUNT,
        "start_ms": 1_000,
        "sheddable": False,
        "owner": "team",
        "traffic": Traffic("none"),
        "needs": tuple(Dependency(need, "service") for need in needs),
    }
    return Service(name, tier=tier, **(known | other))  # type: ignore[arg-type]


def company(sites: int, *services: Service, **other: object) -> Estate:
    names = [f"s{n:02}" for n in range(sites)]
    pools = tuple(Pool(f"p-{name}", name, AMOUNT) for name in names)
    return Estate("e", sites=tuple(map(Site, names)), pools=pools, services=services, **other)  # type: ignore[arg-type]


def fact(found: Coverage, group: str) -> MissingFact:
    return next(one for one in found.missing if one.path == group)


def test_links_of_many_sites_count_only_where_a_call_crosses_them() -> None:
    """45 sites have 990 pairs; that none of them is stated matters to one service."""
    apart = [service(f"a{n}", ("s00", "s01"), demand=(None, None, None, None)) for n in range(5)]
    caller = service("web", ("s03",), "db")
    estate = company(45, *apart, caller, service("db", ("s07", "s09")))
    found = coverage(estate)
    links = fact(found, "links")
    # with s07 and s09, it is open first how many replicas of db are enough
    assert (links.count, links.names, links.verdicts) == (2, ("s03-s07", "s03-s09"), 1)
    demand = next(one for one in found.missing if one.path == "services/*/demand")
    assert demand.verdicts == 10
    assert found.missing.index(demand) < found.missing.index(links)


def test_a_stated_link_is_not_asked_for_again() -> None:
    estate = company(3, service("web", ("s00",), "db"), service("db", ("s01", "s02")))
    assert crossed_pairs(estate) == (("s00", "s01"), ("s00", "s02"))
    stated = replace(estate, links=(Link(("s01", "s00"), 1_000), Link(("s00", "s02"))))
    assert crossed_pairs(stated) == (("s00", "s02"),)


def test_a_fact_counts_for_all_that_need_what_it_is_about() -> None:
    chain = [service("base", ("s00",), start_ms=None), service("middle", ("s01",), "base")]
    estate = company(3, *chain, service("top", ("s02",), "middle"))
    # the loss that hits base hits all three, and those that hit only others do not wait for its start
    assert fact(coverage(estate), "services/base/start").verdicts == 3
    alone = company(3, *chain, service("top", ("s02",)))
    assert fact(coverage(alone), "services/base/start").verdicts == 2


def test_what_is_in_circles_is_counted_once() -> None:
    estate = company(
        2, service("a", ("s00",), "b", start_ms=None), service("b", ("s01",), "a", start_ms=None)
    )
    assert fact(coverage(estate), "services/*/start").verdicts == 4


def test_how_long_a_start_takes_counts_once_it_is_known_where_a_service_runs() -> None:
    unplaced = service("lost", (), start_ms=None)
    estate = company(2, unplaced, service("web", ("s00",), start_ms=None))
    found = coverage(estate)
    place, start = fact(found, "services/lost/replicas"), fact(found, "services/*/start")
    assert (place.verdicts, start.verdicts) == (2, 1)
    assert found.missing.index(place) < found.missing.index(start)


def test_the_most_important_are_named_first() -> None:
    services = [service(f"low-{n}", ("s00",), tier=3, demand=(None, None, None, None)) for n in range(4)]
    first = service("zeta", ("s00",), tier=0, demand=(None, None, None, None))
    found = fact(coverage(company(2, *services, first)), "services/*/demand")
    assert found.names == ("zeta", "low-0", "low-1")
    words = worth_words(found)
    assert "CPU and memory of one replica, 5 (zeta, low-0, low-1, ...): 5 verdicts depend on it; " in words


def test_only_what_a_verdict_depends_on_is_named() -> None:
    """Nothing depends on the start of `lost` while its place is unknown, though it matters most; `base` only
    matters to what needs it.
    """
    lost = service("lost", (), tier=0, start_ms=None)
    base = service("base", ("s00",), start_ms=None)
    found = fact(coverage(company(2, lost, base)), "services/*/start")
    assert (found.count, found.verdicts, found.names) == (2, 1, ("base",))
    needed = company(2, service("top", (), "base"), replace(base, needs=()))
    assert fact(coverage(needed), "services/base/start").names == ("base",)


def test_each_name_alone_has_a_verdict_or_is_not_named() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        names = [f"n{n}" for n in range(rng.randint(1, 6))]
        services = []
        for name in names:
            at = tuple(f"s{n:02}" for n in range(3) if rng.random() < 0.4)
            services.append(service(name, at, *(o for o in names if o != name and rng.random() < 0.25)))
        estate = company(3, *services)
        unplaced = {one.id for one in services if rng.random() < 0.4}
        first = Missing("service", unplaced, len(unplaced), step=0)
        reaches: tuple[Reach, ...] = ("service", "users")
        for reach in reaches:
            kinds = {"first": first, "later": Missing(reach, set(names), len(names), step=1)}
            _, found = worth_of(estate, kinds)
            alone = {
                name
                for name in names
                if verdicts_of(estate, {"first": first, "later": Missing(reach, {name}, 1, step=1)})["later"]
            }
            assert found["later"] == alone, seed


def test_what_is_left_out_is_counted() -> None:
    blank = company(2, Service("a"), stores=(Store("d", "d", "postgresql"),))
    found = coverage(blank)
    assert len(found.missing) == 10
    assert found.left_out > 0
    text = check_text("e", "", (), found, 100, False)
    assert f"{found.left_out} more kinds of facts are unknown; they are listed once these are stated" in text
    assert "verdicts" in text
    kinds = [one.verdicts for one in found.missing]
    assert kinds == sorted(kinds, reverse=True)


def test_numbers_are_those_of_trying_every_loss() -> None:
    """An own count of every service and loss, by walking the needs of each."""
    for seed in range(200):
        rng = random.Random(seed)
        sites = rng.randint(1, 4)
        names = [f"n{n}" for n in range(rng.randint(1, 6))]
        services = []
        for name in names:
            at = tuple(f"s{n:02}" for n in range(sites) if rng.random() < 0.5)
            needs = [other for other in names if other != name and rng.random() < 0.3]
            own = service(name, at, *needs)
            data = (Dependency("d", "store"),) if rng.random() < 0.3 else ()
            services.append(replace(own, needs=own.needs + data))
        members = tuple(StoreMember(f"s{n:02}", "async") for n in range(sites) if rng.random() < 0.5)
        estate = company(sites, *services, stores=(Store("d", "d", "postgresql", members=members),))
        lacking = {name for name in names if rng.random() < 0.5}
        found = verdicts_of(
            estate,
            {
                "services": Missing("service", lacking, len(lacking)),
                "own": Missing("users", lacking, len(lacking)),
                "stores": Missing("store", {"d"}, 1),
            },
        )
        assert found == _by_walking(estate, lacking), seed


def _by_walking(estate: Estate, lacking: set[str]) -> dict[str, int]:
    by_name = {one.id: one for one in estate.services}
    everywhere = {site.id for site in estate.sites}
    at_store = {member.at for member in estate.stores[0].members} or everywhere
    found = {"services": 0, "own": 0, "stores": 0}

    def below(name: str) -> set[str]:
        seen, work = set[str](), [name]
        while work:
            one = work.pop()
            if one not in seen:
                seen.add(one)
                work += [need.target for need in by_name[one].needs if need.kind == "service"]
        return seen

    def hit_by(name: str, site: str) -> bool:
        return any(
            site in (set(by_name[one].sites) or everywhere)
            or (any(need.kind == "store" for need in by_name[one].needs) and site in at_store)
            for one in below(name)
        )

    for name in by_name:
        for site in everywhere:
            if hit_by(name, site):
                found["own"] += name in lacking
            found["services"] += any(one in lacking and hit_by(one, site) for one in below(name))
            found["stores"] += any(
                any(need.kind == "store" for need in by_name[one].needs) and hit_by(one, site)
                for one in below(name)
            )
    return found


def test_where_things_are_comes_before_how_long_a_start_takes() -> None:
    """However many verdicts depend on the later kind; kinds on which none depends come last."""
    others = [service(f"web-{n}", ("s00",), start_ms=None) for n in range(4)]
    found = coverage(company(2, service("lost", (), start_ms=None), *others))
    place, start = fact(found, "services/lost/replicas"), fact(found, "services/*/start")
    assert place.verdicts < start.verdicts
    assert found.missing.index(place) < found.missing.index(start)
    counts = [one.verdicts > 0 for one in found.missing]
    assert counts == sorted(counts, reverse=True)
