"""What controllers believe of stores: certain roles only, no old primary while the true one burns."""

import asyncio
import re
from dataclasses import asdict, replace

import orjson
import pytest

from evac.app.observed_stores import aged, merged
from evac.app.published import changes_in, decode, encode, facts_from
from evac.app.store_alarms import rivals_in
from evac.derive.stores import observed
from evac.engine.lead.votes import encode as vote_out
from evac.engine.lead.votes import key_of as vote_key
from evac.engine.stores.guards import SITES_KEY
from evac.engine.stores.sightings import CopySeen, Following, Sighting
from evac.model.digest import estate_digest
from evac.model.errors import Corrupt
from evac.model.estate import Estate, ReplicationMode, Site, Store, StoreMember
from evac.model.observation import MemberSeen, Observation, Role
from evac.model.situation import Away, Cause, Effects, LostNow, Moved, Rivals, Silent, Situation, StoreAway
from evac.office.status_summary import status
from evac.store.port import MemoryStore, Put
from evac.views.situation_view import lines_of, next_of, rivals_hint, rivals_words
from evac.views.status_document import PlanLine, StatusDocument, status_text
from evac.watch.verdict import Vote


def seen(**roles: Role) -> Observation:
    return Observation(0, tuple(MemberSeen("db", site, role) for site, role in sorted(roles.items())))


def roles(observation: Observation) -> dict[str, Role]:
    return {member.site: member.role for member in observation.members}


HEALTHY = seen(pangyo="primary", anyang="sync", ansan="async")


def test_the_first_look_is_taken_as_it_is_where_one_primary_is_seen() -> None:
    assert roles(merged(Observation(0), HEALTHY)) == roles(HEALTHY)


@pytest.mark.parametrize(
    "now",
    [
        seen(pangyo="unreachable", anyang="sync", ansan="async"),
        seen(pangyo="primary", anyang="primary", ansan="async"),
        seen(pangyo="unreachable", anyang="unreachable", ansan="unreachable"),
    ],
)
def test_without_one_primary_what_was_certain_stands(now: Observation) -> None:
    assert roles(merged(HEALTHY, now)) == roles(HEALTHY)


def test_a_copy_that_is_silent_keeps_its_role_and_an_old_primary_does_not() -> None:
    silent = merged(HEALTHY, seen(pangyo="primary", anyang="unreachable", ansan="async"))
    assert roles(silent)["anyang"] == "sync"
    moved = merged(HEALTHY, seen(pangyo="unreachable", anyang="primary", ansan="sync"))
    assert roles(moved) == {"pangyo": "unreachable", "anyang": "primary", "ansan": "sync"}


def test_a_silent_copy_that_another_replaced_confirms_nothing_any_more() -> None:
    """With two that confirm by role, the next plan could count on the silent one, which nothing proves."""
    replaced = seen(pangyo="primary", anyang="unreachable", ansan="sync")
    after = merged(HEALTHY, replaced)
    assert roles(after) == {"pangyo": "primary", "anyang": "async", "ansan": "sync"}
    assert roles(merged(after, replaced))["anyang"] == "async", "also later"
    both = seen(pangyo="primary", anyang="sync", ansan="sync")
    ansan, anyang, pangyo = replaced.members
    waits = Observation(0, (ansan, anyang, replace(pangyo, waits_for=("dc-anyang",))))
    assert roles(merged(both, waits))["anyang"] == "sync", "commits wait for it"
    unsure = seen(pangyo="unreachable", anyang="unreachable", ansan="sync")
    assert roles(merged(HEALTHY, unsure)) == roles(HEALTHY), "without a primary nothing is certain"


def test_an_old_primary_that_came_back_is_not_believed_while_the_true_one_burns() -> None:
    before = merged(HEALTHY, seen(pangyo="unreachable", anyang="primary", ansan="sync"))
    back = seen(pangyo="primary", anyang="unreachable", ansan="async")
    assert roles(merged(before, back, {"db": "anyang"})) == roles(before)
    assert roles(merged(before, back))["pangyo"] == "primary", "without an epoch it is all that is known"


def test_somebody_else_moved_the_store_and_its_holder_says_so() -> None:
    elsewhere = seen(pangyo="async", anyang="sync", ansan="primary")
    assert roles(merged(HEALTHY, elsewhere, {"db": "pangyo"})) == roles(elsewhere)


BURNT = seen(pangyo="unreachable", anyang="unreachable", ansan="async")


@pytest.mark.parametrize("ansan", ["async", "none", "unreachable"])
@pytest.mark.parametrize("pangyo", ["unreachable", "primary", "async"])
def test_a_new_primary_that_burns_before_anybody_saw_it_is_the_primary(pangyo: Role, ansan: Role) -> None:
    now = seen(pangyo=pangyo, anyang="unreachable", ansan=ansan)
    after = merged(HEALTHY, now, {"db": "anyang"}, {"db": "anyang"})
    assert roles(after) == {"anyang": "primary", "ansan": "async", "pangyo": "none"}


def test_a_synchronous_copy_of_the_old_primary_is_none_of_the_new_one() -> None:
    before = seen(pangyo="primary", anyang="async", ansan="sync")
    now = seen(pangyo="unreachable", anyang="unreachable", ansan="unreachable")
    assert roles(merged(before, now, {"db": "anyang"}, {"db": "anyang"}))["ansan"] == "async"


def test_a_new_primary_is_believed_only_where_nothing_speaks_against_it() -> None:
    known = {"db": "anyang"}
    assert roles(merged(HEALTHY, BURNT, known)) == roles(HEALTHY), "settled before it was last certain"
    denied = seen(pangyo="unreachable", anyang="async", ansan="async")
    assert roles(merged(HEALTHY, denied, known, known)) == roles(HEALTHY)
    elsewhere = seen(pangyo="primary", anyang="sync", ansan="async")
    assert roles(merged(HEALTHY, elsewhere, known, known)) == roles(elsewhere)
    assert roles(merged(HEALTHY, BURNT, {"db": "osan"}, {"db": "osan"})) == roles(HEALTHY)


WAITS = MemberSeen("db", "pangyo", "primary", waits_for=("dc-anyang",))
FLAPS = MemberSeen("db", "anyang", "detached", detail="dc-anyang")


@pytest.mark.parametrize(
    ("pangyo", "anyang", "becomes"),
    [
        (WAITS, FLAPS, "sync"),
        (replace(WAITS, waits_for=()), FLAPS, "detached"),
        (replace(WAITS, waits_for=("dc-ansan",)), FLAPS, "detached"),
        (WAITS, replace(FLAPS, role="none"), "none"),
    ],
)
def test_a_synchronous_copy_that_reconnects_is_one_while_nothing_is_acknowledged_without_it(
    pangyo: MemberSeen, anyang: MemberSeen, becomes: Role
) -> None:
    ansan = MemberSeen("db", "ansan", "detached", detail="dc-ansan")
    after = merged(HEALTHY, Observation(0, (anyang, ansan, pangyo)))
    assert roles(after) == {"pangyo": "primary", "anyang": becomes, "ansan": "detached"}
    assert roles(merged(Observation(0), Observation(0, (FLAPS, ansan, WAITS))))["anyang"] == "detached"


@pytest.mark.parametrize(
    ("behind_ms", "lag_ms"), [(0, 10_000), (10_001, 60_000), (80_000_000, 86_400_000), (90_000_000, None)]
)
def test_what_follows_nobody_is_behind_by_what_was_last_seen_of_it(
    behind_ms: int, lag_ms: int | None
) -> None:
    known, at_ms = Following(), 100_000_000
    copies = (CopySeen("ansan", 7, at_ms, at_ms - behind_ms), CopySeen("anyang", 7, at_ms, 0))
    known.wrote(Sighting("db", "pangyo", "s/1", 9, at_ms, copies))
    look = seen(pangyo="primary", anyang="detached", ansan="detached")
    found = aged(look, {"db": known})
    assert [one.lag_ms for one in found.members] == [lag_ms, None, None], "of anyang nothing is known"
    assert decode(encode(found, "", {})).members == found.members
    assert aged(look, {}) == look


def test_a_copy_that_follows_nobody_is_a_copy_of_unknown_age_in_the_estate() -> None:
    members = (StoreMember("anyang", "sync"), StoreMember("pangyo", "primary"))
    estate = Estate("two", sites=(Site("anyang"), Site("pangyo")), stores=(Store("db", "db", "pg", members),))
    (store,) = observed(estate, seen(pangyo="primary", anyang="detached")).stores
    assert store.members[0] == StoreMember("anyang", "async", None, detached=True)
    again = observed(estate, seen(pangyo="primary", anyang="sync"))
    assert estate_digest(again) == estate_digest(estate), "digests of what follows are as they were"


def test_what_the_last_look_knew_of_epochs() -> None:
    assert changes_in(encode(HEALTHY, "", {"db": 2})) == {"db": 2}
    assert changes_in(b'{"at_ms": 1, "members": []}') is None, "of a version that did not write it"
    for value in (b"", b"[]", b'{"changes": [1]}', b'{"changes": {"db": "x"}}'):
        with pytest.raises(Corrupt):
            changes_in(value)


def test_through_the_store() -> None:
    assert roles(decode(encode(HEALTHY, "sha256:0", {"db": 2}))) == roles(HEALTHY)
    for value in (b"", b"{}", b'{"at_ms": 1, "members": [1]}'):
        with pytest.raises(Corrupt):
            decode(value)


def test_what_the_leader_published_comes_back_with_what_runs_moved() -> None:
    one = Moved("fire-1", "lose", ("east",), 1, 2, "succeeded", {"shop": (("west-pool", 2),)})
    seen = Observation(
        7,
        (MemberSeen("orders", "west", "primary"),),
        rivals=(Rivals("orders", ("east", "west"), 5),),
        effects=Effects((LostNow("east", "lost", 1, "fire-1"),), (one,)),
        silent=(Silent("orders", "west", "west/hall-1", 5, 2, 30, True),),
    )
    assert decode(encode(seen, "sha256:0", {}), {"fire-1": one}) == seen
    assert facts_from(orjson.loads(orjson.dumps(asdict(seen)))) == seen
    newer = orjson.loads(orjson.dumps(asdict(seen)))
    for member in newer["members"]:
        member["of_a_newer_version"] = {"some": 1}
    assert facts_from(newer) == seen


def test_two_writable_members_are_rivals_and_one_is_none() -> None:
    members = [MemberSeen("orders", site, "primary") for site in ("east", "west")]
    (found,) = rivals_in(Observation(3, tuple(members)))
    assert (found.store, found.sites, found.since_ms) == ("orders", ("east", "west"), 3)
    assert not rivals_in(Observation(3, (members[0], MemberSeen("orders", "west", "sync"))))


def test_every_reader_prices_restores_alike() -> None:
    now = replace(HEALTHY, restores=(("db", "copies", 41_000),))
    assert now.facts != HEALTHY.facts, "a plan that was made before is looked at again"
    assert decode(encode(now, "sha256:0", {})).restores == now.restores
    assert facts_from(orjson.loads(orjson.dumps(asdict(now)))).restores == now.restores
    older = {key: one for key, one in orjson.loads(encode(now, "", {})).items() if key != "restores"}
    assert decode(orjson.dumps(older)).restores == ()
    with pytest.raises(Corrupt):
        decode(orjson.dumps({**older, "restores": [["db"]]}))


def test_every_reader_knows_the_repositories_that_were_listed() -> None:
    now = replace(HEALTHY, repositories=(("db", "copies", "orders-far"),))
    assert now.facts != HEALTHY.facts, "a run that was bound to another repository is looked at again"
    assert decode(encode(now, "sha256:0", {})).repositories == now.repositories
    assert facts_from(orjson.loads(orjson.dumps(asdict(now)))).repositories == now.repositories
    older = {key: one for key, one in orjson.loads(encode(now, "", {})).items() if key != "repositories"}
    assert decode(orjson.dumps(older)).repositories == ()


def test_a_drill_that_moved_nothing_leaves_a_mark_that_a_person_may_clear() -> None:
    shop = Away("shop", (("east", 2),), (), ("east",), Cause())
    lost = (LostNow("east", "lost", 1, "drill-1"),)
    still = Situation(Estate(""), Estate(""), 2, lost, services=(shop,))
    assert next(words for words in lines_of(still, 2) if "shop" in words).startswith("shop runs nowhere")
    assert (
        next_of(still, "E")
        == "evac plan E --restore east, or if it is healthy: evac site clear east --reason WHY"
    )
    moved = replace(still, services=(replace(shop, now=(("west", 2),)),))
    assert next_of(moved, "E") == "evac plan E --restore east"
    both = Away("shop", (("east", 1), ("west", 1)), (("west", 1),), (), Cause(), (("east", 1),))
    assert "site clear" in next_of(replace(still, services=(both,)), "E"), "what runs at home was not moved"
    more = replace(still, services=(replace(both, now=(("west", 2),)),))
    assert "site clear" not in next_of(more, "E")


def test_the_way_home_names_a_site_that_lacks_something() -> None:
    """A service that is declared at both sites and runs at one of them has nothing to go home to there."""
    cause = Cause("run", "fire-1")
    home, now = (("east", 1), ("west", 1)), (("east", 2),)
    still = Situation(Estate(""), Estate(""), 2, (), services=(Away("shop", home, now, ("east",), cause),))
    assert next_of(still, "E") == "evac plan E --failback west"
    users = Away("shop", home, home, ("north",), cause)
    assert next_of(replace(still, services=(users,)), "E") == "evac plan E --failback east"


@pytest.mark.parametrize(
    ("mode", "detached", "question"),
    [
        ("sync", False, "failback"),
        ("async", False, "failback"),
        ("async", True, "restore"),
        ("none", False, "restore"),
    ],
)
def test_the_way_home_begins_with_a_restore_where_the_copy_there_does_not_follow(
    mode: ReplicationMode, detached: bool, question: str
) -> None:
    """Someone may have cleared the mark of the site after a drill that moved its stores."""
    members = (StoreMember("west", "primary"), StoreMember("east", mode, detached=detached))
    estate = Estate("", stores=(Store("orders", "orders", "postgresql", members, home="east"),))
    moved = (StoreAway("orders", "east", "west", Cause("run", "drill-1")),)
    assert next_of(Situation(estate, estate, 2, stores=moved), "E") == f"evac plan E --{question} east"


def test_what_to_do_about_rivals_names_the_site_that_a_run_left() -> None:
    found = Rivals("orders", ("east", "west"), 5)
    moved = (StoreAway("orders", "east", "west", Cause("run", "fire-1")),)
    seen = (StoreAway("orders", "east", "west", Cause("observed")),)
    gone = (LostNow("east", "lost"),)
    for hint in (rivals_hint(found, gone), rivals_hint(found, (), moved), rivals_hint(found, gone, seen)):
        assert "the one in east now" in hint
        assert hint.endswith("evac plan ESTATE --restore east")
    under_way = Situation(Estate(""), Estate(""), 2, gone, (), moved, (found,))
    assert next_of(under_way, "E", "back-1").endswith("evac run show back-1"), (
        "one next step, and one that is taken"
    )
    assert next_of(under_way, "E").endswith("evac plan E --restore east")
    both = (*gone, LostNow("west", "lost"))
    for hint in (rivals_hint(found), rivals_hint(found, (), seen), rivals_hint(found, both)):
        assert "the old one now" in hint
        assert "SITE" not in hint
        assert all(f"--restore {site}" in hint for site in found.sites), "either may be the old one"
    document = StatusDocument(1, "sqlite", "", None, 0, 0, {}, (), (), (), "")
    told = {
        "words": [rivals_words(found)],
        "rivals": [{}],
        "silent": [],
        "compared": True,
        "next": rivals_hint(found, gone),
        "observed_at": "2026-12-01T07:00:40.000Z",
    }
    text = status_text(document, 200, False, told)
    assert "As last observed at 2026-12-01T07:00:40; now: evac observe ESTATE" in text
    assert "As last observed" not in status_text(replace(document, leader="east/1/a"), 200, False, told)
    assert "--restore east" in text.splitlines()[-1], "nothing calmer comes after it"


@pytest.mark.parametrize("mark", ["lost", "evacuated"])
def test_a_plan_for_what_is_lost_already_does_not_stand_by(mark: str) -> None:
    plans = tuple(
        PlanLine("+".join(lost), lost, f"sha256:{number}", "e", 1, 1, "")
        for number, lost in enumerate((("east",), ("west",), ("east", "west")))
    )
    document = StatusDocument(
        1, "sqlite", "", None, 0, 0, {"east": mark, "west": "active"}, (), plans, (), ""
    )
    text = status_text(document, 200, False)
    assert "sha256:0" not in text
    assert "1 plan for domains that are already lost: evac drawer list" in text
    assert "sha256:1" in text
    assert "sha256:2" in text, "the second loss is still to come"
    calm = status_text(replace(document, sites={"east": "active", "west": "active"}), 200, False)
    assert "sha256:0" in calm
    assert "already lost" not in calm


@pytest.mark.parametrize(
    ("observed", "unobserved", "words"),
    [
        (2, [], "Everything is where the files declare it."),
        (1, ["orders"], "Everything that was observed is where the files declare it. Not observed: orders."),
        (0, ["mail", "orders"], "no store was observed: evac observe ESTATE"),
        (0, [], "nothing was observed: this is what the files declare."),
    ],
)
def test_what_nobody_observed_is_not_called_at_home(observed: int, unobserved: list[str], words: str) -> None:
    document = StatusDocument(1, "sqlite", "", None, 0, 0, {}, (), (), (), "")
    told = {
        "words": [],
        "rivals": [],
        "silent": [],
        "compared": True,
        "next": "",
        "observed": observed,
        "observed_at": None,
        "unobserved": unobserved,
    }
    text = status_text(document, 200, False, told)
    assert words in text
    assert ("Everything is where" in text) == (observed > 0 and not unobserved)
    silent = replace(document, sites={"east": "active", "west": "active"}, silent=("west",))
    text = status_text(silent, 200, False, told)
    assert "Everything is where" not in text
    assert ("Unknown: what happens at west, which does not answer" in text) == (observed > 0)


def test_a_site_that_does_not_answer_is_not_called_active_though_too_few_vote_to_decide() -> None:
    """Two sites and one controller: no verdict is possible, and yet what it sees is known."""

    async def shown(*votes: tuple[str, str, str]) -> str:
        store = MemoryStore()
        marks = Put(SITES_KEY, orjson.dumps({"east": "active", "west": "active", "north": "lost"}))
        found = [Vote(witness, target, says, (), 0, 0, 1) for witness, target, says in votes]  # type: ignore[arg-type]
        await store.transact((), (marks, *(Put(vote_key(one), vote_out(one)) for one in found)))
        return status_text(await status(store), 120, False)

    silent = asyncio.run(shown(("west", "east", "down"), ("west", "north", "down")))
    assert re.search(r"east +does not answer; still marked as active", silent)
    assert re.search(r"west +active", silent)
    assert re.search(r"north +lost", silent)
    for votes in ((), (("west", "east", "unknown"),), (("west", "east", "down"), ("north", "east", "up"))):
        assert re.search(r"east +active", asyncio.run(shown(*votes)))
