"""What the page Now says, as plain values for its templates. Pure: a situation and facts in, words out.

Of thousands of losses and services the page shows the sites, and then only what is not well; the rest is
counted and one link away. Also here: the page Now, and its two full lists: services of one product
family, and losses of one kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Query, Request, Response

from evac.model.errors import EvacError
from evac.model.records import dataclass
from evac.office.facts import EstateFacts, ServiceAt, ServiceFacts, StoreFacts
from evac.office.values import RunShort, SiteSeen, Situation
from evac.run.values import CORRUPT
from evac.views.situation_view import (
    lost_words,
    rivals_hint,
    rivals_words,
    routed_words,
    service_words,
    silent_hint,
    silent_words,
    store_words,
)
from evac.views.words import listed, number, plural
from evac.watch.verdict import silent_sites
from evac.web.api.shapes import LIMIT_MOST
from evac.web.pages import frame
from evac.web.pages.capacity_view import rooms, share, unclear_words
from evac.web.pages.fire import fire_context, fire_of
from evac.web.pages.losses_view import can_lose, gravest, kinds, losses_context, site_losses, tally
from evac.web.room import room_of

UNWELL_MOST: Final = 30
STORES_MOST: Final = 10
NOTICES_MOST: Final = 8
NO_FAMILY: Final = "-"
STATE_CLASS: Final[Mapping[str, str]] = {
    "healthy": "ok",
    "suspect": "warning",
    "lost": "error",
    "isolated": "error",
    "unknown": "unknown",
    "unwatched": "unknown",
}
STATE_WORDS: Final[Mapping[str, str]] = {"isolated": "cut off", "unwatched": "not watched"}
UNWELL: Final = frozenset({"suspect", "lost", "isolated"})
LEFT: Final = frozenset({"lost", "evacuated", "evacuating"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One service, or family, at one site. words: what runs there; state: its CSS class."""

    words: str
    state: str = ""


def now_context(now: Situation, facts: EstateFacts | None, at_ms: int) -> dict[str, Any]:
    """Everything that the page shows. facts None: the estate has not been read yet; the situation is
    shown anyway.
    """
    seen = {site.id: site for site in now.sites}
    shared = {
        "now": now,
        "at_ms": at_ms,
        "answer": _answer(now, facts),
        "warnings": _warnings(now, facts),
        "cards": list(_cards(now, facts)),
        "runs": [_run(run) for run in now.open_runs],
        "ended": now.ended_runs[:5],
        "notices": now.notices[::-1][:NOTICES_MOST],
        "facts": facts,
        "marked": _marked(now, at_ms),
        "lose": None,
        "links": [],
        "health": _health(now),
    }
    if facts is None:
        return shared
    unwell = _unwell(facts, seen)
    return shared | {
        "lose": can_lose(now, facts),
        "links": _links(now),
        "tally": tally(facts),
        "health": _health(now),
        "sites": [_site(site, facts, now) for site in now.sites],
        "site_ids": [site.id for site in now.sites],
        "site_losses": list(site_losses(now, facts)),
        "kinds": list(kinds(facts)),
        "gravest": gravest(facts),
        "families": list(_families(facts, seen)),
        "unwell": unwell[:UNWELL_MOST],
        "unwell_count": len(unwell),
        "unwell_rest": number(max(0, len(unwell) - UNWELL_MOST)),
        "unwell_more": len(unwell) > UNWELL_MOST,
        "rooms": list(rooms(facts)),
        "unclear": [f"{words} at {site.id}" for site in facts.sites if (words := unclear_words(site))],
        "away": _away(facts, at_ms),
        "findings": _findings(facts),
    }


def _links(now: Situation) -> list[dict[str, Any]]:
    """Links between neighbours of two or three sites, according to the witnesses' votes; the last one
    closes the triangle. Empty for other numbers of sites, which are shown without links.
    """
    ids = [site.id for site in now.sites]
    if len(ids) not in (2, 3):
        return []
    says = {(vote.witness, site.id): vote.opinion for site in now.sites for vote in site.votes if vote.fresh}
    pairs = [(ids[n], ids[n + 1]) for n in range(len(ids) - 1)]
    found = []
    for one, other in (*pairs, *(((ids[0], ids[-1]),) if len(ids) == 3 else ())):
        heard = [says[pair] for pair in ((one, other), (other, one)) if pair in says]
        down = any(opinion != "up" for opinion in heard)
        words = "does not answer" if down else "see each other" if len(heard) == 2 else "not watched"
        if not down and len(heard) == 1:
            words = "watched one way"
        style = "down" if down else "" if len(heard) == 2 else "blank"
        found.append({"words": words, "style": style, "ends": f"{one} and {other}"})
    return found


def _health(now: Situation) -> str:
    """The health of evac itself: who leads, who votes, where its state is kept."""
    leads = f"leader {now.leader.site}, {_term(now)}" if now.leader.owner else "no leader"
    votes = f"{len(now.quorum.voting)} of {len(now.sites)} sites vote, {now.quorum.needed} needed"
    kept = (
        "survives the loss of any one site"
        if now.quorum.survives
        else "does not survive the loss of its site"
    )
    return f"{leads}; {votes}; store {now.quorum.store} {kept}"


def words_of(state: str) -> str:
    return STATE_WORDS.get(state, state)


def _answer(now: Situation, facts: EstateFacts | None) -> tuple[str, str]:
    """Return (sentence, state): the situation in one line, the most severe fact first."""
    if now.rivals:
        first, hint = now.rivals[0], rivals_hint(now.rivals[0], now.lost)
        return f"{rivals_words(first)}. {_begun(hint)}.", "error"
    bad = now.lost_sites
    doubtful = [site.id for site in now.sites if site.state == "suspect"]
    if now.newer is not None:
        told = f"reported by {now.newer.by}" if now.newer.by else "reported by a person"
        opened = f"Generation {now.newer.generation} was opened elsewhere ({told})"
        return f"{opened}, so evac takes no action from here.", "error"
    if not now.quorum.answers or now.quorum.problem:
        how = "cannot be read" if now.quorum.answers else "does not answer"
        why = f" ({now.quorum.problem})" if now.quorum.problem else ""
        known = "showing the last known state"
        if not now.quorum.answers:
            known += ". Nothing new starts until it answers; then open runs continue automatically"
        return f"The store {how}{why}: {known}.", "error"
    if bad:
        told = "; ".join(f"{site.id} is {words_of(site.state)}" for site in bad)
        return f"{told}. {_acting(now)}", "error"
    if now.lost_halls:
        return f"{next(_lost_halls(now, facts))} {_acting(now)}", "error"
    if now.silent:
        told = f"{_begun(silent_words(now.silent[0]))}. {_acting(now)}"
        return told if now.open_runs else f"{told} {_begun(silent_hint(now.silent[0]))}.", "error"
    if not now.leader.owner:
        return _nobody(now), "error"
    if doubtful:
        return f"{listed(doubtful)} may be lost: witnesses do not agree yet. {_acting(now)}", "warning"
    votes = ((site.id, one.opinion) for site in now.sites for one in site.votes if one.fresh)
    silent = silent_sites(votes)
    for site in now.sites:
        if site.state == "unknown" and site.id in silent:
            why = f"is marked {site.mark}" if site.mark in LEFT else f"cannot be judged: {site.reason}"
            return f"{site.id} does not answer and {why}. {_acting(now)}", "warning"
    waits = now.hold is not None or any(run.waits for run in now.open_runs)
    if facts is None and not waits:
        return f"{_begun(now.problem)}.", "unknown"
    watched = [site for site in now.sites if site.state == "healthy"]
    if len(watched) == len(now.sites) and watched:
        acting = f" {_acting(now)}" if waits or now.open_runs else ""
        return f"All {plural(len(watched), 'site')} answer.{acting}", "warning" if waits else "ok"
    told = (
        f"It is unknown whether {len(now.sites) - len(watched)} of {plural(len(now.sites), 'site')} answer."
    )
    if all(site.state == "unwatched" for site in now.sites):
        told = "No site is watched."
    return f"{told} {_acting(now)}", "warning" if waits else "unknown"


def _lost_halls(now: Situation, facts: EstateFacts | None) -> Iterator[str]:
    """Each hall that is lost at a site that works: who is affected, and what comes next."""
    marked, known = (
        {one.domain for one in now.lost},
        {one.domain: one for one in facts.losses} if facts else {},
    )
    for hall in now.lost_halls:
        words, loss = f"{hall} is lost, although its site answers", known.get(hall)
        if hall in marked:
            yield f"{words}. Once it is back: evac plan ESTATE --restore {hall}."
            continue
        words += f": {loss.what.rstrip('.')}." if loss is not None and loss.what else "."
        idle = loss is not None and not (loss.down or loss.degraded or loss.stores_lost or loss.stores_gone)
        yield (
            words
            if idle or now.open_runs
            else f"{words} Move away: evac plan ESTATE --observe --lose {hall}."
        )


def _begun(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


def _nobody(now: Situation) -> str:
    """A sentence that no one leads, and why, as far as the controller here knows."""
    why = _neither(now)
    if why:
        return f"No controller leads, so nothing happens; the one here cannot lead: {why}."
    return "No controller leads: nothing happens until one does."


def _neither(now: Situation) -> str:
    seen = now.controller
    return seen.why if seen is not None and seen.state == "neither" else ""


def _acting(now: Situation) -> str:
    if not now.leader.owner:
        return _nobody(now)
    waits = sum(1 for run in now.open_runs if run.waits)
    if now.hold is not None:
        return f"{now.hold.who or 'Someone'} put everything on hold."
    if waits:
        return f"{plural(waits, 'run')} {'waits' if waits == 1 else 'wait'} for a person."
    if now.open_runs:
        return f"{plural(len(now.open_runs), 'run')} in progress."
    return "Nothing is in progress."


def _warnings(now: Situation, facts: EstateFacts | None) -> list[str]:
    found = [f"{rivals_words(one)}. {rivals_hint(one, now.lost)}." for one in now.rivals[1:]]
    worse = bool(now.rivals or now.lost_sites)
    found += list(_lost_halls(now, facts))[0 if worse else 1 :]
    others = now.silent if worse or now.lost_halls else now.silent[1:]
    found += [f"{_begun(silent_words(one))}. {_begun(silent_hint(one))}." for one in others]
    if not now.quorum.survives:
        found.append("The store of evac itself runs in one place only: evac stops if that site is lost.")
    if now.quorum.answers and now.leader.owner and (why := _neither(now)):
        found.append(f"The controller here can neither lead nor follow: {why}. Another one leads.")
    if now.problem:
        found.append(f"The estate: {now.problem}.")
    if now.on_disk is not None and now.on_disk.words:
        found.append(f"{_begun(now.on_disk.words)}.")
    return found


def _cards(now: Situation, facts: EstateFacts | None) -> Iterator[dict[str, str]]:
    """Readiness: plans, backups, drills, findings, runs."""
    waits = sum(1 for run in now.open_runs if run.waits)
    current = sum(1 for one in now.drawer if one.plan and one.current)
    oldest = min((one.at_ms for one in now.drawer if one.plan), default=0)
    age = f"Oldest {frame.Ages(now.at_ms).ago(oldest)}" if oldest else "The leading controller makes them"
    yield _card(
        "Plans ready",
        f"{number(current)} of {number(len(now.drawer))}",
        age,
        "" if current == len(now.drawer) and current else "warning",
    )
    if facts is not None:
        yield _backups(_restores(facts.stores))
        yield _drills(facts)
        counts = Counter(finding.severity for finding in facts.findings)
        told = f"{plural(counts['error'], 'error')}, {plural(counts['warning'], 'warning')}"
        state = "error" if counts["error"] else ""
        yield _card("Findings open", number(len(facts.findings)), told, state)
    more = (
        f"{number(waits)} {'waits' if waits == 1 else 'wait'} for a person"
        if waits
        else "None waiting for a person"
    )
    yield _card("Runs in progress", str(len(now.open_runs)), more, "warning" if waits else "")


def _backups(found: Mapping[str, Any]) -> dict[str, str]:
    """How many stores have a backup that was restored and checked."""
    never = f"Never: {found['never_names']}" if found["never"] else ""
    bare = f"{plural(found['bare'], 'store')} without a known backup" if found["bare"] else ""
    more = "; ".join(part for part in (never, bare) if part) or "All of them"
    state = "warning" if found["never"] or found["bare"] else ""
    return _card("Backups restored and checked", f"{found['done']} of {found['count']}", more, state)


def _drills(facts: EstateFacts) -> dict[str, str]:
    """How many sites with services were rehearsed."""
    sites = [site for site in facts.sites if site.services]
    never = [site.id for site in sites if site.drilled is None]
    more = f"Never: {listed(never)}" if never else "Every site with services"
    state = "warning" if never else ""
    return _card("Sites drilled", f"{len(sites) - len(never)} of {len(sites)}", more, state)


def _term(now: Situation) -> str:
    of = f" of generation {now.generation}" if now.generation else ""
    return f"term {now.leader.count}{of}"


def _card(name: str, value: str, more: str, state: str) -> dict[str, str]:
    return {"name": name, "value": value, "more": more, "state": state}


def _site(site: SiteSeen, facts: EstateFacts, now: Situation) -> dict[str, Any]:
    known = next((one for one in facts.sites if one.id == site.id), None)
    unclear = unclear_words(known) if known else ""
    room = map(share, known.headroom[:2], known.unclear[:2]) if known else ()
    return {
        "seen": site,
        "state": STATE_CLASS[site.state],
        "words": words_of(site.state),
        "facts": known,
        "leads": now.leader.site == site.id,
        "primaries": listed([store.id for store in facts.stores if store.primary.split("/")[0] == site.id]),
        "replicas": sum(at.replicas for one in facts.services for at in one.sites if at.site == site.id),
        "room": [one for one in room if one],
        "unclear": unclear,
        "kinds": ", ".join(site.kinds),
        "left": site.mark in LEFT,
        "clear": quote(site.id, safe=""),
        "votes": [
            f"{vote.witness} reports {vote.opinion}{'' if vote.fresh else ' (old)'}"
            + (f": {vote.reason}" if vote.reason else "")
            for vote in site.votes
        ],
    }


def _run(run: RunShort) -> dict[str, Any]:
    done = sum(run.counts.get(phase, 0) for phase in ("succeeded", "skipped"))
    state = "error" if run.state == CORRUPT else "warning" if run.waits else "note"
    return {
        "run": run,
        "words": run.state.replace("_", " "),
        "done": number(done),
        "steps": plural(run.steps, "step"),
        "state": state,
        "failed": run.counts.get("failed", 0),
        "unknown": run.counts.get("unknown", 0),
    }


def _marked(now: Situation, at_ms: int) -> list[dict[str, str]]:
    """What is marked as lost or evacuated, and where to clear it; this never waits for an audit."""
    known = {one.domain: lost_words(one, at_ms) for one in now.lost}
    for site in now.sites:
        if site.mark in LEFT:
            known.setdefault(site.id, f"{site.id} is {site.mark}")
    return [{"domain": name, "words": words} for name, words in sorted(known.items())]


def _away(facts: EstateFacts, at_ms: int) -> dict[str, Any]:
    """What is not where the files declare it, and why; stores first."""
    words = [store_words(one, at_ms) for one in facts.stores_away]
    words += [service_words(one, at_ms) for one in facts.services_away]
    rest = max(0, len(words) - UNWELL_MOST)
    routed = [routed_words(one, at_ms) for one in facts.services_routed]
    return {
        "words": words[:UNWELL_MOST],
        "rest": rest,
        "next": facts.way_home if words else "",
        "routed": routed[:UNWELL_MOST],
        "routed_rest": max(0, len(routed) - UNWELL_MOST),
    }


def _families(facts: EstateFacts, seen: Mapping[str, SiteSeen]) -> Iterator[dict[str, Any]]:
    """Product families by site: how many services run there, and how many of them have their primary data
    there.
    """
    groups: dict[str, list[ServiceFacts]] = {}
    for service in facts.services:
        groups.setdefault(service.family, []).append(service)
    for family in sorted(groups):
        cells = []
        for site in seen.values():
            here = [place for s in groups[family] for place in s.sites if place.site == site.id]
            running = sum(1 for place in here if place.replicas)
            primaries = sum(1 for place in here if place.role == "primary")
            words = number(running) if running else "-"
            if primaries:
                words += f", {number(primaries)} primary"
            cells.append(Cell(words, _trouble(site) if running or primaries else ""))
        yield {
            "name": family or "no family",
            "path": quote(family or NO_FAMILY, safe=""),
            "count": plural(len(groups[family]), "service"),
            "cells": cells,
        }


def _trouble(site: SiteSeen) -> str:
    """The problem of a site in words; empty if there is none."""
    if site.state in UNWELL:
        return f"site {words_of(site.state)}"
    return f"site {site.mark}" if site.mark in LEFT else ""


def _unwell(facts: EstateFacts, seen: Mapping[str, SiteSeen]) -> list[dict[str, Any]]:
    """Services that run, even partly, at a site with a problem, or whose data is away from home."""
    away = {store.family for store in facts.stores if store.home and store.primary != store.home}
    bad = {site.id for site in seen.values() if _trouble(site)}
    rows = []
    for service in facts.services:
        touched = any(place.site in bad and (place.replicas or place.role) for place in service.sites)
        moved = away.intersection(service.stores)
        if touched or moved:
            rows.append(service_row(service, seen) | {"why": _why(service, seen, bad, bool(moved))})
    return sorted(rows, key=lambda row: (row["tier_key"], -row["people_key"], row["id"]))


def _why(service: ServiceFacts, seen: Mapping[str, SiteSeen], bad: set[str], moved: bool) -> str:
    """The reason in words, the most severe first. bad: sites with a problem; moved: some of its data is
    away from home.
    """
    held = [place.site for place in service.sites if place.role == "primary" and place.site in bad]
    here = [place.site for place in service.sites if place.replicas]
    if held:
        return f"its data is at {held[0]}: {_trouble(seen[held[0]])}"
    if here and bad.issuperset(here):
        return "it does not run anywhere else"
    if moved:
        return "its primary is away from home"
    return "part of it runs there" if bad.intersection(here) else "a copy of its data is stored there"


def service_row(service: ServiceFacts, seen: Mapping[str, SiteSeen]) -> dict[str, Any]:
    """One service, site by site."""
    places = {place.site: place for place in service.sites}
    return {
        "id": service.id,
        "tier": "-" if service.tier is None else str(service.tier),
        "tier_key": 9 if service.tier is None else service.tier,
        "people_key": service.people or 0,
        "people": service.people,
        "cells": [_cell(places.get(site.id), site) for site in seen.values()],
    }


def _cell(place: ServiceAt | None, site: SiteSeen) -> Cell:
    if place is None or not (place.replicas or place.role):
        return Cell("-")
    words = number(place.replicas) if place.replicas else ""
    if place.role:
        words += f"{', ' if words else ''}{place.role}"
    return Cell(words, _trouble(site))


def _restores(stores: Sequence[StoreFacts]) -> dict[str, Any]:
    """When backups were last restored and verified: the oldest first, and those that never were."""
    kept = [store for store in stores if store.backups]
    done = sorted(
        ((s.restored, s.id) for s in kept if s.restored is not None), key=lambda one: (one[0], one[1])
    )
    never = sorted(store.id for store in kept if store.restored is None)
    newest: date | None = done[-1][0] if done else None
    return {
        "count": len(stores),
        "kept": len(kept),
        "bare": len(stores) - len(kept),
        "done": len(done),
        "never": len(never),
        "never_names": listed(never, STORES_MOST),
        "oldest": done[:STORES_MOST],
        "newest": newest,
    }


def _findings(facts: EstateFacts) -> dict[str, Any]:
    counts = Counter(finding.severity for finding in facts.findings)
    return {
        "counts": [(plural(counts[s], s), s) for s in ("error", "warning", "note")],
        "first": facts.fixes,
    }


def family_context(now: Situation, facts: EstateFacts, family: str) -> dict[str, Any]:
    """All services of one family."""
    seen = {site.id: site for site in now.sites}
    rows = [service_row(s, seen) for s in facts.services if s.family == family]
    return {
        "family": family or "no family",
        "site_ids": list(seen),
        "rows": sorted(rows, key=lambda row: (row["tier_key"], -row["people_key"], row["id"])),
    }


PAGE: Final = frame.Page("/now", "Now", icon="now", badge="lost", key="n")
AGE_MS: Final = 10_000
"""How often the ages on a page are updated if nothing else changes."""
ROWS: Final = 200


@PAGE.router.get(PAGE.path)
async def now(request: Request) -> Response:
    """The current state of sites, what each loss would do, services by site, capacity, runs and alerts."""
    room = room_of(request)
    situation, facts = room.office.situation, room.office.facts
    now_ms = room.office.clock.now_ms() // AGE_MS * AGE_MS

    fire = await fire_of(room, room.office.clock.now_ms())

    def make() -> bytes:
        at_ms = max(now_ms, situation.at_ms)
        if fire is not None and fire.shown is not None:
            at_ms = max(at_ms, fire.shown.said.at_ms)
        context = now_context(situation, facts, at_ms)
        services = len(facts.services) if facts is not None else 0
        context["fire"] = None if fire is None else fire_context(fire, situation, services, at_ms)
        return frame.render("now.html.j2", PAGE.path, at_ms, **context)

    stamp = (situation.version, facts and facts.stamp, now_ms, fire and fire.stamp)
    return frame.answer(request, "page now", stamp, make)


@PAGE.router.get("/now/services/{family}")
async def services(request: Request, family: str) -> Response:
    """The services of one family, site by site."""
    room = room_of(request)
    situation, facts = room.office.situation, room.facts
    name = "" if family == NO_FAMILY else family
    if not any(service.family == name for service in facts.services):
        raise EvacError("not-found", f"the estate has no product family {family[:80]}", "go back to /now")

    def make() -> bytes:
        context = family_context(situation, facts, name)
        return frame.render("now_services.html.j2", PAGE.path, situation.at_ms, **context)

    return frame.answer(request, f"page family {name}", (situation.version, facts.stamp), make)


@PAGE.router.get("/now/losses")
async def losses(
    request: Request,
    kind: Annotated[str, Query(pattern="^(site|group|hall|feed|rack)$")] = "site",
    begin: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Losses of one kind, the most severe first."""
    room = room_of(request)
    facts = room.facts
    begin = begin // ROWS * ROWS

    def make() -> bytes:
        context = losses_context(facts, kind, begin, min(ROWS, LIMIT_MOST))
        return frame.render("now_losses.html.j2", PAGE.path, room.office.situation.at_ms, **context)

    return frame.answer(request, f"page losses {kind} {begin}", facts.stamp, make)
