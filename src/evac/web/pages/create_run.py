"""The form that creates a run of a plan. It ends in the route of the API, so that a click and a command
do the same: the leader creates the run, which waits for approval before it acts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from evac.engine.runs.proposals import ANSWERS
from evac.model.errors import EvacError, InvalidInput
from evac.model.plan import Plan
from evac.model.records import dataclass
from evac.office.reckoning import verdict_of
from evac.views.words import listed, plural
from evac.web.access.port import Actor, need
from evac.web.api import plans as api
from evac.web.api.runs import plan_of
from evac.web.api.shapes import Digest
from evac.web.pages import frame
from evac.web.pages.frame import sentence
from evac.web.pages.now_view import LEFT, words_of
from evac.web.room import WarRoom, room_of

FIELDS_MOST: Final = 12
WAIT_S: Final = 8
NAMES: Final = ("incident", "reason", "who", "typed", "abandoned", "answers", "problem")
PATH: Final = "/plans"
router = APIRouter(dependencies=[Depends(need("operator")), Depends(frame.look_around)])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan to be executed."""

    digest: str
    title: str
    words: str
    confirm: tuple[str, ...]
    """Names of the sites that it evacuates."""
    verdict: str
    """What it restores, and what it does not."""
    states: str
    """The current state of the sites that it treats as lost; empty if there are none."""
    against: str
    """The reason not to run it; empty if there is none."""


def leaving(plan: Plan) -> tuple[str, ...]:
    """The names to type before the plan is executed: those of the sites that it evacuates."""
    leaves = plan.scenario.kind in ("lose", "evacuate")
    return tuple(one for one in plan.scenario.domains if leaves and "/" not in one)


@router.get(PATH + "/{digest}/carry-out")
async def form(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """The form: what the plan does, the incident, the reason, and the names to type."""
    room = room_of(request)
    return _form(room, actor, await _wanted(room, digest), {}, 200)


@router.post(PATH + "/{digest}/carry-out")
async def carry_out(
    request: Request, digest: Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Ask the leader through the API's code, then redirect to the run. The form shows what is missing."""
    room, fields = room_of(request), frame.fields_of(await request.body(), FIELDS_MOST, strict=True)
    wanted = await _wanted(room, digest)
    try:
        told = await _asked(request, actor, wanted, fields)
    except EvacError as error:
        return _form(room, actor, wanted, {**fields, "problem": sentence(error)}, 422)
    if told["state"] == "made":
        return frame.back_to(f"/runs/{told['run']}", "created")
    words = f"Refused: {told['why']}" + (f" ({told['hint']})" if told["hint"] else "") + "."
    if told["state"] != "refused":
        words = f"No leader accepted it in {plural(WAIT_S, 'second')}. It was withdrawn: no run was created."
    answers = "yes" if told["code"] == ANSWERS else fields.get("answers", "")
    return _form(room, actor, wanted, {**fields, "problem": words, "answers": answers}, 409)


async def _wanted(room: WarRoom, digest: str) -> Wanted:
    """The plan and its context. Raises EvacError for a plan that is not stored."""
    if not await room.office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no such plan: {digest[:19]}", "see /plans for the ready plans")
    plan = await plan_of(room, digest)
    words = (
        f"The leader creates a run of this plan: {plural(len(plan.steps), 'step')}. It "
        "starts once approved, on the run's page."
    )
    return Wanted(digest, plan.scenario.title, words, leaving(plan), *_at_stake(room, digest, plan))


def _at_stake(room: WarRoom, digest: str, plan: Plan) -> tuple[str, str, str]:
    """Return (result of the plan, state of the sites that it evacuates, reason not to run it)."""
    verdict = verdict_of(digest, plan).words
    if plan.scenario.kind != "lose":
        return verdict, "", ""
    seen = {site.id: site for site in room.office.situation.sites}
    left = [seen[name] for name in leaving(plan) if name in seen]
    states = "; ".join(f"{site.id} is {words_of(site.state)} according to the witnesses" for site in left)
    healthy = [site.id for site in left if site.state == "healthy" and site.mark not in LEFT]
    others = [
        site.id
        for site in room.office.situation.sites
        if site.role == "full" and site not in left and site.mark not in LEFT and site.state != "lost"
    ]
    against = []
    if healthy:
        against.append(f"{listed(healthy)} answers: this plan treats a working site as lost")
    if left and not others:
        against.append("no other full site is left to serve")
    return verdict, states, "; ".join(against)


async def _asked(request: Request, actor: Actor, wanted: Wanted, fields: Mapping[str, str]) -> dict[str, Any]:
    """Send the proposal. Raises EvacError with what is missing or not allowed."""
    typed = frame.confirmed(fields, wanted.confirm)
    try:
        # Sites treated as lost although they answer: all of them, once a person has typed that.
        given = fields.get("abandoned", "").replace(",", " ").split()
        abandoned = list(wanted.confirm) if given == ["abandon", *wanted.confirm] else []
        body = api.Propose(
            reason=fields["reason"].strip(),
            who=fields.get("who", "").strip(),
            plan=wanted.digest,
            incident=fields.get("incident", "").strip(),
            typed=typed,
            abandoned=abandoned,
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("incident",):
            raise InvalidInput(
                "incident-name",
                "that is not a valid incident name",
                "letters, digits and . _ : -, like fire-7",
            ) from error
        raise InvalidInput("request-invalid", f"{first['loc'][0]}: {first['msg']}") from error
    key = fields.get("key", "")
    found = await api.propose(request, body, actor, key if key.isalnum() else "", WAIT_S)
    told: dict[str, Any] = orjson.loads(bytes(found.body))
    return told


def _form(room: WarRoom, actor: Actor, wanted: Wanted, fields: Mapping[str, str], status: int) -> Response:
    shown = {name: fields.get(name, "") for name in NAMES} | {"key": secrets.token_hex(16)}
    context: dict[str, Any] = {"wanted": wanted, "fields": shown, "actor": actor}
    body = frame.render("carry_out.html.j2", PATH, room.office.clock.now_ms(), **context)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)
