"""The use of break-glass credentials: for what they say and no more often, and loudly.

    glass/<id>/<number>    one use: who asked what of which run, and when; made once and never changed

A use is written before the request, in a transaction of its own, so that two rooms on one store never count
to different ends; one whose request fails is spent all the same. The reason in the journal of the run begins
with `BREAK-GLASS`, the leader makes a notice of it, and the incident gets a note.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import orjson
from starlette.requests import Request

from evac.app import incidents, runs
from evac.engine.runs.requests import TEXT_MOST
from evac.incident.notes import Note
from evac.model.access import BREAK_GLASS, GlassUse, Grant, role_for
from evac.model.errors import Conflict, EvacError, InvalidInput, NotAllowed
from evac.office.requests import Asked
from evac.store.port import Compare, Put, Store
from evac.web.access.people import LOG, address_of
from evac.web.access.port import Actor
from evac.web.room import WarRoom

USED: Final = "glass/"
SIGNED_FOR_MOST: Final = 400
"""Letters of the reason of a credential that journals repeat: the reason of the asking follows it."""


def may_ask(actor: Actor, verb: str) -> bool:
    """Whether somebody may ask such a thing at all; of which run, is for `check_may`."""
    return actor.has(role_for(verb)) or (actor.grant is not None and actor.grant.verb == verb)


def check_may(actor: Actor, verb: str, run: str, incident: str) -> Grant | None:
    """The grant that lets somebody ask, None where the role does. Raises NotAllowed."""
    needed, grant = role_for(verb), actor.grant
    if actor.has(needed):
        return None
    if grant is None:
        raise NotAllowed("role", f"{actor.name} is {actor.role}; {verb} needs {needed}", f"ask an {needed}")
    if grant.verb != verb or (grant.run or run) != run or (grant.incident or incident) != incident:
        LOG.warning(
            "break-glass %s of %s refused: it is for %s of %s, not for %s of %s",
            grant.id,
            actor.name,
            grant.verb,
            grant.run or grant.incident,
            verb,
            run,
        )
        raise NotAllowed(
            "glass-purpose",
            f"the credential is for {grant.verb} of {grant.run or grant.incident}, not for {verb} of {run}",
            "sign one for what is needed: evac access break-glass",
        )
    return grant


def check_reason(reason: str) -> None:
    """Raises InvalidInput for a reason that looks as if such a credential had been used."""
    if reason.strip().upper().startswith(BREAK_GLASS):
        raise InvalidInput("reason-reserved", f"no reason begins with {BREAK_GLASS}", "begin it otherwise")


async def spend(
    request: Request, room: WarRoom, grant: Grant, asked: Asked, run: str, incident: str
) -> Asked:
    """Counts one use, and says so everywhere; what is asked, with the use that journals tell.

    Raises NotAllowed where it was used up, Unavailable.
    """
    store, now_ms = room.office.store, room.office.clock.now_ms()
    number = await _count(store, grant, asked, run, now_ms)
    LOG.warning(
        "break-glass %s of %s: use %d of %d, %s of %s, from %s",
        grant.id,
        grant.who,
        number,
        grant.uses,
        grant.verb,
        run,
        address_of(request),
    )
    use = GlassUse(grant.id[:8], number, grant.uses, grant.reason[:SIGNED_FOR_MOST])
    asking = f"{grant.who} asked for {grant.verb} of {run} without the identity provider: {asked.reason}"
    text = f"{use.words}: {asking}"
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_MOST])
    note = Note(runs.new_id(now_ms), incident, "note", grant.who, now_ms, plain)
    try:
        await incidents.add_note(store, note, new=True)
    except EvacError as error:  # the journal of the run tells it all the same
        LOG.error("the note on break-glass %s is not written: %s [%s]", grant.id, error.message, error.code)
    return replace(asked, glass=use)


async def _count(store: Store, grant: Grant, asked: Asked, run: str, now_ms: int) -> int:
    """The number of this use, from 1."""
    told = orjson.dumps(
        {"who": grant.who, "verb": grant.verb, "run": run, "at_ms": now_ms, "reason": asked.reason}
    )
    for number in range(1, grant.uses + 1):
        key = f"{USED}{grant.id}/{number:03d}"
        if await store.get(key) is not None:
            continue
        try:
            await store.transact((Compare(key, 0),), (Put(key, told),))
        except Conflict:
            continue
        return number
    LOG.warning("break-glass %s of %s refused: used up", grant.id, grant.who)
    raise NotAllowed("glass-spent", f"the credential {grant.id[:8]} is used up", "sign a new one")
