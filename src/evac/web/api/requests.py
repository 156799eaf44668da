"""Requests to runs, and the hold on all runs. The war room records a request; the leader executes it, or
refuses it and says why.

A break-glass credential works only for its stated purpose, only as often as it allows, and never silently.
A use is recorded before the request, in its own transaction, so that two war rooms on one store never count
differently; it is spent even if the request then fails. A request that is sent again with its idempotency
key, even before the first one was answered, is the same use. The reason in the journal of the run starts with
`BREAK-GLASS`, the leader sends an alert, and the incident gets a note.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from evac.app import incidents, runs
from evac.app import runs as cases
from evac.engine.runs.proving import BY_PEOPLE
from evac.engine.runs.requests import TEXT_MOST
from evac.engine.runs.requests import Request as RunRequest
from evac.incident.records import Note
from evac.model.access import BREAK_GLASS, GRAVE, Grant, role_for
from evac.model.errors import Conflict, EvacError, InvalidInput, NotAllowed, Unavailable
from evac.model.run_policy import Envelope
from evac.office.requests import Answer, Asked, Released, RequestTold, SiteCleared, body_digest
from evac.office.values import HoldSeen
from evac.store.port import Compare, Put
from evac.views.status_document import HoldLine
from evac.web.access import glass
from evac.web.access.people import LOG, address_of, record_in
from evac.web.access.port import Actor, KeepsLogins, need, need_to_ask
from evac.web.api.runs import run_tag
from evac.web.api.shapes import Ask, Body, Hold, IdempotencyKey, RunName, answers, plain
from evac.web.room import JSON, WarRoom, check_match, dump, room_of, tagged


def may_ask(actor: Actor, verb: str) -> bool:
    """Whether this actor may make such a request at all; `check_may` decides for which run."""
    if actor.program and verb in BY_PEOPLE:
        return False
    return actor.has(role_for(verb)) or (actor.grant is not None and actor.grant.verb == verb)


def refuse_program(actor: Actor, act: str) -> None:
    """Raises NotAllowed for a program's token that does not act for a person."""
    if actor.program:
        raise NotAllowed(
            "program",
            f"{actor.name} is a program; only a person may {act}",
            "use a token made with --of PERSON, or sign in",
        )


def check_may(actor: Actor, verb: str, run: str, incident: str) -> Grant | None:
    """The grant that permits the request; None if the role permits it. Raises NotAllowed."""
    if verb in BY_PEOPLE:
        refuse_program(actor, verb)
    needed, grant = role_for(verb), actor.grant
    if actor.has(needed):
        if actor.stale and verb in GRAVE:
            raise NotAllowed(
                "step-up",
                f"{verb} needs a login from the last few minutes; {actor.name} signed in earlier",
                "sign in again: /sign-in?again=1",
            )
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
            "sign one for this request: evac access break-glass",
        )
    return grant


def check_reason(reason: str) -> None:
    """Raises InvalidInput for a reason that looks as if a break-glass credential had been used."""
    if reason.strip().upper().startswith(BREAK_GLASS):
        raise InvalidInput(
            "reason-reserved", f"a reason may not start with {BREAK_GLASS}", "start it differently"
        )


async def spend(
    request: Request, room: WarRoom, grant: Grant, asked: Asked, run: str, incident: str
) -> Asked:
    """Records one use of a break-glass credential everywhere; returns the request with that use, for
    journals.

    Raises NotAllowed if the credential is used up, and Unavailable.
    """
    store, now_ms = room.office.store, room.office.clock.now_ms()
    number, is_new = await _count(room, grant, asked, run, now_ms)
    use = grant.use(number)
    if not is_new:
        return replace(asked, glass=use)
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
    asking = f"{grant.who} asked for {grant.verb} of {run} without the identity provider: {asked.reason}"
    text = f"{use.words}: {asking}"
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_MOST])
    note = Note(runs.new_id(now_ms), incident, "note", grant.who, now_ms, plain)
    try:
        await incidents.add_note(store, note, new=True)
    except EvacError as error:  # the journal of the run tells it all the same
        LOG.error("the note on break-glass %s was not written: %s [%s]", grant.id, error.message, error.code)
    return replace(asked, glass=use)


async def _count(room: WarRoom, grant: Grant, asked: Asked, run: str, now_ms: int) -> tuple[int, bool]:
    """The number of this use, from 1, and whether it is a new one. A use that the run's journal has, or that
    this process saw, counts even if someone deleted its record in the store.
    """
    store, memory = room.office.store, room.access
    assert isinstance(memory, KeepsLogins)  # nothing else reads credentials
    marks = (await room.office.register.view(run)).marks
    told = {"who": grant.who, "verb": grant.verb, "run": run, "at_ms": now_ms, "reason": asked.reason}
    if asked.key:
        told["asked"] = body_digest(asked.key, asked.body)
    for number in range(1, grant.uses + 1):
        key = glass.key_of(grant, number)
        if grant.is_used(number, marks):
            continue
        entry = await glass.recorded(store, grant, number)
        if entry is None and key not in memory.used:
            try:
                await store.transact((Compare(key, 0),), (Put(key, orjson.dumps(told)),))
            except Conflict:  # another request came first, perhaps this one, sent twice
                entry = await glass.recorded(store, grant, number)
            else:
                memory.note_use(key, now_ms)
                return number, True
        elif entry is None:  # deleted, or recorded by another request while this one was reading
            entry = await glass.recorded(store, grant, number)
        memory.note_use(key, now_ms)
        if entry is not None and asked.key and glass.read(entry).get("asked") == told["asked"]:
            return number, False
    LOG.warning("break-glass %s of %s refused: used up", grant.id, grant.who)
    raise NotAllowed("glass-spent", f"credential {grant.id[:8]} has been used up", "sign a new one")


router = APIRouter(prefix="/v1", tags=["requests"])
WAIT_MOST_S = 20


Wait = Annotated[int, Query(ge=0, le=WAIT_MOST_S, description="Seconds to wait for the leader's response.")]


@router.post(
    "/runs/{run}/requests",
    status_code=202,
    responses=answers(RequestTold, 404, 409, 412, 400, 413, 422, 503, status=202),
)
async def ask(
    request: Request,
    run: RunName,
    body: Ask,
    actor: Annotated[Actor, Depends(need_to_ask())],
    key: IdempotencyKey = "",
    wait_s: Wait = 0,
) -> Response:
    """Send a request to a run: approve, pause, resume, retry, skip, cancel, undo, attest or limit. Returns as
    soon as the request is recorded; with `wait_s`, its outcome as well. With the run's tag in `If-Match`, it
    is refused if anything has happened since.
    """
    room = room_of(request)
    name = room.office.register.resolve(run)
    incident = (await room.office.register.view(name)).spec.incident
    grant = check_may(actor, body.verb, name, incident)
    asked = asked_of(actor, body, key, name)
    if await room.counter.known(asked) is None:  # whoever asks again saw the state before the first asking
        check_match(request, await run_tag(room, name), name)
        if grant is not None:
            asked = await spend(request, room, grant, asked, name, incident)
    given = await room.counter.ask(name, asked, _request(body))
    record(request, actor, "break-glass" if grant is not None else "asked", f"{body.verb} {body.step}", name)
    told = dict(given.told)
    state, why, hint = await _outcome(room, name, str(told["request"]), wait_s)
    return answer_of(given, asdict(RequestTold(**{**told, "state": state, "why": why, "hint": hint})))


def asked_of(actor: Actor, body: Body, key: str, *about: str) -> Asked:
    """The request with its author: the login if there is one, else `who` in the body, else the user of this
    process. Raises InvalidInput for a reason that looks like that of a break-glass credential.
    """
    check_reason(body.reason)
    who = actor.name if actor.named or not body.who.strip() else body.who.strip()
    return Asked(who, body.reason, key, body_digest(about, plain(body)), proof=actor.proven)


def record(request: Request, actor: Actor, kind: str, what: str, run: str = "") -> None:
    """Adds an entry to the access journal, if people have logins here."""
    access = room_of(request).access
    if isinstance(access, KeepsLogins):
        record_in(access, request, actor, kind, what, run)


def answer_of(given: Answer, told: dict[str, Any]) -> Response:
    headers = {"cache-control": "no-store"}
    if given.again:
        headers["idempotency-replayed"] = "true"
    return Response(dump(told), given.status, headers, JSON)


def _request(body: Ask) -> RunRequest:
    envelope = None
    if body.envelope is not None:
        told = body.envelope
        envelope = Envelope(tuple(told.sites), tuple(told.stores), told.most_lost_ms, told.most_shed)
    return RunRequest(
        "",
        body.verb,
        "",
        body.reason,
        body.step,
        0,
        body.for_ms,
        body.then,
        body.ticket,
        envelope,
        body.signature,
        body.evidence,
        tuple(body.typed),
        body.limit,
        body.value,
    )


async def _outcome(room: WarRoom, run: str, number: str, wait_s: int) -> tuple[str, str, str]:
    """The outcome of a request: still waiting, taken, or refused, with the reason and what to do instead."""
    store = room.office.store
    with contextlib.suppress(Unavailable):
        if not await cases.settled(store, run, number, wait_s):
            return "waiting", "", ""
        view = await room.office.register.view(run)
        for _, event in reversed(await room.office.register.events(run, max(0, view.events - 200), 400)):
            if event.kind == "request_refused" and event.data.get("request") == number:
                return "refused", str(event.data.get("why", "refused")), str(event.data.get("hint", ""))
        why, hint = await cases.answered(store, number)
        return ("refused", why, hint) if why else ("taken", "", "")
    return "waiting", "", ""


hold_router = APIRouter(prefix="/v1", tags=["hold"])


def _tag(hold: HoldSeen) -> str:
    return f'"hold-{hold.revision}"'


@hold_router.get("/hold", responses=answers(HoldSeen, 304, 404, 503), dependencies=[Depends(need("viewer"))])
async def hold(request: Request) -> Response:
    """Show who placed the hold, and why. 404 if there is none."""
    found = await _standing(room_of(request))
    return tagged(request, dump(found), _tag(found))


@hold_router.post("/hold", status_code=201, responses=answers(HoldLine, 409, 400, 413, 422, 503, status=201))
async def begin(
    request: Request, body: Hold, actor: Annotated[Actor, Depends(need("operator"))], key: IdempotencyKey = ""
) -> Response:
    """Place a hold: stop every run before its next effect. 409 if one is already in place."""
    room = room_of(request)
    try:
        given = await room.counter.hold(asked_of(actor, body, key, "hold"))
    except Conflict as error:
        raise Conflict(error.key, "a hold is already in place") from error
    record(request, actor, "asked", "hold everything")
    await _look(room)
    return answer_of(given, dict(given.told))


@hold_router.delete("/hold", responses=answers(Released, 403, 404, 409, 412, 422, 503))
async def end(
    request: Request,
    actor: Annotated[Actor, Depends(need("operator"))],
    reason: Annotated[str, Query(min_length=1, max_length=2_000, pattern=r"\S")],
    who: Annotated[str, Query(max_length=512)] = "",
    key: IdempotencyKey = "",
) -> Response:
    """Release the hold. Only a person can do this. `If-Match` releases only the hold that was read."""
    refuse_program(actor, "release a hold")
    room = room_of(request)
    asked = asked_of(actor, Body(reason=reason, who=who), key, "release")
    known = await room.counter.known(asked)
    if known is None:
        standing = await _standing(room)
        check_match(request, _tag(standing), "the hold")
        known = await room.counter.release(asked, standing.revision)
    record(request, actor, "asked", "release the hold")
    await _look(room)
    return answer_of(known, dict(known.told))


async def _standing(room: WarRoom) -> HoldSeen:
    """The current hold in the store. Raises EvacError if there is none."""
    found = await room.office.standing_hold()
    if found is None:
        raise EvacError("no-hold", "no hold is in place", "nothing to do")
    return found


async def _look(room: WarRoom) -> None:
    """Refreshes, so that the change is visible at once."""
    with contextlib.suppress(Unavailable):
        await room.office.look()
        room.office.refresh()


sites_router = APIRouter(prefix="/v1/sites", tags=["sites"])


class ClearSite(Body):
    """The site or domain whose mark is cleared, and why."""

    domain: str = Field(min_length=1, max_length=256)


@sites_router.post(
    "/clear", status_code=201, responses=answers(SiteCleared, 400, 403, 409, 413, 422, 503, status=201)
)
async def clear(
    request: Request,
    body: ClearSite,
    actor: Annotated[Actor, Depends(need("operator"))],
    key: IdempotencyKey = "",
) -> Response:
    """Clear the lost or evacuated mark of a site, or of a domain in one. Refused while a run that evacuates
    it is open.
    """
    refuse_program(actor, "clear the mark of a site")
    room = room_of(request)
    given = await room.counter.clear_site(asked_of(actor, body, key, "clear"), body.domain)
    record(request, actor, "asked", f"clear the mark of {body.domain}")
    await _look(room)
    return answer_of(given, dict(given.told))
