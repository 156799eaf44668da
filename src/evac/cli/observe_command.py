"""evac observe: dated facts from the real systems."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evac.cli import console
from evac.cli.console import emit, say, screen
from evac.cli.options import estate_argument, now_ms, output_option
from evac.cli.target import Where, where_options
from evac.model.errors import EvacError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evac.app.observing import PowerFacts
    from evac.model.observation import MemberSeen, Observation
    from evac.model.situation import Situation
    from evac.views.sheet import Page


@click.command()
@estate_argument
@click.option("--power", is_flag=True, help="Also ask every BMC which servers are on.")
@output_option("text", "json")
@where_options
def observe(estate: Path, where: Where, power: bool, output: str) -> int:
    """Ask every member of every store for its current state: primary, synchronous, how far behind.

    A member that does not answer is unreachable; one that answers but receives nothing at the moment is
    detached. If no replica confirms a store's commits although one should, or commits wait for one, the
    reason follows. Exit 17: a store has two writable primaries; the store of runs shows which one is the
    old one. Exit 16: a member refused evac or has no connection for it, its entry in the estate cannot be
    used, or every member of a store answers and none accepts writes. With --power, exit 16: the power
    state of some servers is unknown; exit 1: no BMC reported any. A refused password is tried only a few
    times in total, across all BMCs.
    """
    from evac.app.observing import waited_for_in
    from evac.app.store_alarms import rivals_in
    from evac.views.sheet import Page
    from evac.views.words import moment

    seen, none, facts, unproven = asyncio.run(_look(estate, power))
    waited_for = waited_for_in(seen)
    if output == "json":
        rows = [
            {"store": m.store, "site": m.site, "role": m.role, "lag_ms": m.lag_ms, "error": _error(m)}
            for m in seen.members
        ]
        document: dict[str, Any] = {
            "schema_version": 1,
            "observed_at": moment(seen.at_ms),
            "members": rows,
            "two_primaries": [{"store": one.store, "sites": list(one.sites)} for one in rivals_in(seen)],
            "no_primary": list(none),
            "unconfirmed": {name: list(why) for name, why in unproven.items() if name not in waited_for},
            "waiting": {
                name: {"for": list(copies), "why": list(unproven.get(name, ()))}
                for name, copies in waited_for.items()
            },
        }
        if facts is not None:
            document["power"] = {"observed_at": moment(facts.at_ms), "sites": _power_rows(facts)}
        emit(json.dumps(document, indent=2) + "\n", None)
        return max(_asked(estate, where, seen, none), _known(facts))
    shown = screen()
    page = Page(shown.width, shown.colour)
    if seen.members:
        rows_text = [
            (
                m.store,
                m.site,
                m.role if m.error is None else "busy" if m.busy else "refused",
                "-" if m.lag_ms is None else f"{m.lag_ms} ms",
            )
            for m in seen.members
        ]
        page.table(("store", "site", "role", "lag"), rows_text)
    elif facts is None:
        page.line("the estate has no store endpoints; add some under endpoints:")
    if facts is not None:
        _power_page(page, facts)
    for name, why in unproven.items():
        copies = ", ".join(waited_for.get(name, ()))
        what = f"commits wait for {copies}" if copies else "no replica confirms its commits"
        page.line(f"{name}: {what}{': ' if why else ''}{'; '.join(why)}")
    emit(page.text(), None)
    return max(_asked(estate, where, seen, none), _known(facts))


def _error(member: MemberSeen) -> dict[str, str] | None:
    if member.error is None:
        return None
    code, message, hint = member.error
    return {"code": code, "message": message, "hint": hint}


def _asked(estate: Path, where: Where, seen: Observation, none: tuple[str, ...]) -> int:
    """Print which stores have two writable members or none, and which copies could not be queried though they
    may be alive; return the exit code.
    """
    from evac.app.store_alarms import rivals_in
    from evac.views.situation_view import NO_PRIMARY_HINT, rivals_hint, rivals_words

    rivals = rivals_in(seen)
    left = _left_by_runs(estate, where) if rivals else None
    for one in rivals:
        say(f"error: {rivals_words(one)} [two-primaries]")
        hint = rivals_hint(one) if left is None else rivals_hint(one, left.lost, left.stores)
        say(f"next: {hint.replace('ESTATE', str(estate))}")
    for name in none:
        say(f"error: {name}: every member answers, and none accepts writes [no-primary]")
        say(f"next: {NO_PRIMARY_HINT}")
    told = [(member, *member.error) for member in seen.members if member.error is not None]
    for member, code, message, hint in told:
        say(f"error: {member.store} at {member.site}: {message} [{code}]")
        if hint:
            say(f"next: {hint}")
    return console.TWO_PRIMARIES if rivals else console.UNKNOWN if told or none else console.DONE


def _left_by_runs(path: Path, where: Where) -> Situation | None:
    """The situation after all runs, which tells the old primary from the current one; None if unknown."""
    from evac import estate as estates
    from evac.derive import situation

    if not where.exists:
        return None
    try:
        return situation.of(estates.load(path), where.do(lambda control: control.facts(path, False)))
    except EvacError as error:
        say(f"it is unknown which one is the old primary: {error.message}")
        return None


def _known(facts: PowerFacts | None) -> int:
    """Print the number of servers whose power state is unknown, why, and what to do; return the exit code."""
    from evac.drivers.credentials import CODE as REFUSED
    from evac.drivers.credentials import NOT_ASKED
    from evac.model.boot_codes import BOOT_CODES
    from evac.views.words import plural

    unknown = {} if facts is None else facts.unknown()
    if facts is None or not unknown:
        return console.DONE
    told = "; ".join(f"{_why(code)} ({count:,})" for code, count in unknown.items())
    many, of = sum(unknown.values()), plural(facts.asked, "server")
    say(f"error: the power of {many:,} of {of} is unknown: {told} [power-unknown]")
    if REFUSED in unknown:
        say(f"next: {BOOT_CODES[REFUSED].remedy}; nothing more was sent, so that no account gets locked")
    else:
        first = next((code for code in unknown if code in BOOT_CODES), "")
        remedy = BOOT_CODES[first].remedy if first else "to see each answer: --output json"
        say(f"next: {remedy}; then ask again" if unknown.keys() != {NOT_ASKED} else "next: ask again")
    return console.FAILED if many == facts.asked else console.UNKNOWN


def _why(code: str) -> str:
    from evac.drivers.credentials import NOT_ASKED
    from evac.model.boot_codes import BOOT_CODES

    if code == NOT_ASKED:
        return "it was not queried after that"
    return BOOT_CODES[code].words if code in BOOT_CODES else code


async def _look(
    estate: Path, power: bool
) -> tuple[Observation, tuple[str, ...], PowerFacts | None, Mapping[str, tuple[str, ...]]]:
    """Observations, stores that no one can write to, the power state if requested, and stores whose commits
    wait for a copy, or that no copy confirms although one should, with what their primaries show.
    """
    from evac import estate as estates
    from evac.app.observing import observe as look
    from evac.app.observing import observe_power, unconfirmed_in, waited_for_in, why_unproven
    from evac.app.store_alarms import without_primary
    from evac.derive.stores import observed
    from evac.drivers.registry import Drivers

    drivers, loaded = Drivers(), estates.load(estate)
    try:
        seen = await look(loaded, drivers, now_ms())
        none = without_primary(loaded, seen)
        now = observed(loaded, seen)
        asked = {*unconfirmed_in(loaded, seen), *waited_for_in(seen)}
        unproven = await why_unproven(now, asked, drivers)
        facts = await observe_power(loaded, drivers, now_ms()) if power else None
        return seen, none, facts, unproven
    finally:
        await drivers.close()


def _power_rows(facts: PowerFacts) -> list[dict[str, Any]]:
    return [
        {
            "site": site.site,
            "asked": site.asked,
            "cannot_be_asked": site.beside,
            "counts": site.counts(),
            "servers": [asdict(one) for one in site.seen],
        }
        for site in facts.sites
    ]


def _power_page(page: Page, facts: PowerFacts) -> None:
    """Number of servers of each site that are on, off, or unknown, and why."""
    rows = []
    for site in facts.sites:
        powers = {one.power for one in site.seen if one.power}
        for key, count in site.counts().items():
            known = key in powers
            rows.append((site.site, key if known else "unknown", f"{count:,}", "" if known else _why(key)))
        if site.beside:
            rows.append((site.site, "unknown", f"{site.beside:,}", "no endpoint, or unknown address"))
    if rows:
        page.table(("site", "power", "servers", "why"), rows)
    else:
        page.line("the estate has no servers of its own")
