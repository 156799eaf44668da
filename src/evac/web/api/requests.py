"""What people ask of a run. The room writes it down; the leader takes it, or refuses it with words."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from evac.app import runs as cases
from evac.engine.runs.requests import Request as RunRequest
from evac.model.errors import Unavailable
from evac.model.run_policy import Envelope
from evac.office.requests import Answer, Asked, body_digest
from evac.web.access.granting import check_may, check_reason, spend
from evac.web.access.port import Actor, need_to_ask
from evac.web.answering import JSON, check_match, dump
from evac.web.api.bodies import Ask, Body, plain
from evac.web.api.runs import run_tag
from evac.web.api.shapes import IdempotencyKey, RunName, answers
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1", tags=["requests"])
WAIT_MOST_S = 20


class RequestTold(BaseModel):
    """state: `waiting` for a leader, `taken`, or `refused`, with why."""

    request: str
    run: str
    verb: str
    who: str
    at_ms: int
    state: str
    why: str


Wait = Annotated[int, Query(ge=0, le=WAIT_MOST_S, description="Seconds to wait for the leader's answer.")]


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
    """approve, pause, resume, retry, skip, cancel, undo, attest, limit. Answers at once that it is written
    down; with `wait_s` what became of it. `If-Match` with the tag of the run refuses it when anything
    happened since.
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
    told = dict(given.told)
    state, why = await _outcome(room, name, str(told["request"]), wait_s)
    return answer_of(given, {**told, "state": state, "why": why})


def asked_of(actor: Actor, body: Body, key: str, *about: str) -> Asked:
    """Who asks, by the login where there is one, else as the body says, else the user of this process. Raises
    InvalidInput for a reason that looks like that of a break-glass credential.
    """
    check_reason(body.reason)
    who = actor.name if actor.named or not body.who.strip() else body.who.strip()
    return Asked(who, body.reason, key, body_digest(about, plain(body)))


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


async def _outcome(room: WarRoom, run: str, number: str, wait_s: int) -> tuple[str, str]:
    """What became of a request: still waiting, taken, or refused and why."""
    store = room.office.store
    with contextlib.suppress(Unavailable):
        if not await cases.settled(store, run, number, wait_s):
            return "waiting", ""
        view = await room.office.register.view(run)
        for _, event in reversed(await room.office.register.events(run, max(0, view.events - 200), 400)):
            if event.kind == "request_refused" and event.data.get("request") == number:
                return "refused", str(event.data.get("why", "refused"))
        why = await cases.answered(store, number)
        return ("refused", why) if why else ("taken", "")
    return "waiting", ""
