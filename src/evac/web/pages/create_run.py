"""The form that has a run made of a plan, and what became of it. It ends in the route of the API, so that a
click and a command do the same: the leader makes the run, and it waits for its approval before it acts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from evac.model.errors import EvacError, InvalidInput
from evac.model.plan import Plan
from evac.views.words import plural
from evac.web import forms
from evac.web.access.port import Actor, need
from evac.web.api import proposals
from evac.web.api.shapes import Digest
from evac.web.forms import sentence
from evac.web.pages import frame
from evac.web.pages.projection import plan_of
from evac.web.room import WarRoom, room_of

PATH: Final = "/plans"
FIELDS_MOST: Final = 12
WAIT_S: Final = 8
NAMES: Final = ("incident", "reason", "who", "typed", "problem")
router = APIRouter(dependencies=[Depends(need("operator"))])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan that is to be carried out. confirm: names of the sites that it leaves."""

    digest: str
    title: str
    words: str
    confirm: tuple[str, ...]


def leaving(plan: Plan) -> tuple[str, ...]:
    """Names that a person types before the plan is carried out: of the sites that it leaves."""
    leaves = plan.scenario.kind in ("lose", "evacuate")
    return tuple(one for one in plan.scenario.domains if leaves and "/" not in one)


@router.get(PATH + "/{digest}/carry-out")
async def form(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """What it does, under which name, why, and names that must be typed."""
    room = room_of(request)
    return _form(room, actor, await _wanted(room, digest), {}, 200)


@router.post(PATH + "/{digest}/carry-out")
async def carry_out(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Asks the leader, by the code of the API, and goes to the run. What is missing is said in the form."""
    room, fields = room_of(request), forms.fields_of(await request.body(), FIELDS_MOST, strict=True)
    wanted = await _wanted(room, digest)
    try:
        told = await _asked(request, actor, wanted, fields)
    except EvacError as error:
        return _form(room, actor, wanted, {**fields, "problem": sentence(error)}, 422)
    if told["state"] == "made":
        return Response(None, 303, {"location": f"/runs/{told['run']}", "cache-control": "no-store"})
    words = f"Refused: {told['why']}" + (f" ({told['hint']})" if told["hint"] else "") + "."
    if told["state"] != "refused":
        words = f"No leader took it in {plural(WAIT_S, 'second')}. It is withdrawn: no run is made of it."
    return _form(room, actor, wanted, {**fields, "problem": words}, 409)


async def _wanted(room: WarRoom, digest: str) -> Wanted:
    """Raises EvacError for a plan that is not kept."""
    if not await room.office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no plan {digest[:19]} is kept", "/plans lists what lies ready")
    plan = await plan_of(room, digest)
    words = (
        f"The leader makes a run of this plan: {plural(len(plan.steps), 'step')}. It begins when it is "
        "approved, and the page of the run asks for that."
    )
    return Wanted(digest, plan.scenario.title, words, leaving(plan))


async def _asked(request: Request, actor: Actor, wanted: Wanted, fields: Mapping[str, str]) -> dict[str, Any]:
    """Raises EvacError with what is missing or not allowed."""
    typed = forms.confirmed(fields, wanted.confirm)
    try:
        body = proposals.Propose(
            reason=fields["reason"].strip(),
            who=fields.get("who", "").strip(),
            plan=wanted.digest,
            incident=fields.get("incident", "").strip(),
            typed=typed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("incident",):
            raise InvalidInput(
                "incident-name", "that is no name of an incident", "letters, digits and . _ : -, like fire-7"
            ) from error
        raise InvalidInput("request-invalid", f"{first['loc'][0]}: {first['msg']}") from error
    key = fields.get("key", "")
    found = await proposals.propose(request, body, actor, key if key.isalnum() else "", WAIT_S)
    told: dict[str, Any] = orjson.loads(bytes(found.body))
    return told


def _form(room: WarRoom, actor: Actor, wanted: Wanted, fields: Mapping[str, str], status: int) -> Response:
    shown = {name: fields.get(name, "") for name in NAMES} | {"key": secrets.token_hex(16)}
    context: dict[str, Any] = {"wanted": wanted, "fields": shown, "actor": actor}
    body = frame.render("carry_out.html.j2", PATH, room.office.clock.now_ms(), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)
