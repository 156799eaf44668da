"""Plans: the plan library and its journal, any plan by digest, and the way from a plan to a run: upload it,
dry run it, and ask the leader to create the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, replace
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ConfigDict, Field

from evac.app import runs as cases
from evac.app.applying import Rehearser
from evac.engine.plans.journal import STREAM, PlanRecord, plan_records
from evac.engine.plans.library import digest_of, find_plan, lend_plan
from evac.estate.codecs import plan as plan_codec
from evac.model.errors import EvacError, InvalidInput, NotAllowed, Unavailable
from evac.model.records import dataclass
from evac.office.requests import ProposalTold
from evac.office.values import ReadyPlan
from evac.store.journal import head_of
from evac.views.documents import DryRun
from evac.web.access.port import Actor, need
from evac.web.api import shapes
from evac.web.api.incidents import KEY
from evac.web.api.requests import answer_of, asked_of
from evac.web.room import JSON, WarRoom, dump, listing, page, room_of, tagged

proposals_router = APIRouter(prefix="/v1", tags=["plans"])
WAIT_MOST_S: Final = 20
PLAN: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"schema": {"type": "object", "description": "A plan file."}}},
    }
}


class Propose(shapes.Body):
    """`plan`: digest of a stored plan. `typed`: names of the sites that the plan evacuates, typed to confirm.
    `abandoned`: those of them that are treated as lost although they still answer.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    plan: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    incident: Annotated[str, Field(pattern=KEY, max_length=128)]
    typed: Annotated[list[shapes.Name], Field(default_factory=list, max_length=64)]
    abandoned: Annotated[list[shapes.Name], Field(default_factory=list, max_length=64)]


@dataclass(frozen=True, slots=True)
class PlanKept:
    """The plan is stored, for at least a day."""

    plan: str


@proposals_router.put(
    "/plans/{digest}",
    status_code=201,
    responses=shapes.answers(PlanKept, 400, 409, 413, 422, 503, status=201),
    openapi_extra=PLAN,
)
async def hand_over(
    request: Request, digest: shapes.Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Upload a plan. It is kept for a day under its digest, or permanently once a run uses it. Uploading it
    twice has no further effect. 409 if the bytes do not match the digest.
    """
    data = await request.body()
    await asyncio.to_thread(_check_plan, data, digest)
    office = room_of(request).office
    await lend_plan(office.store, data, office.clock.now_ms())
    return Response(dump(PlanKept(digest)), 201, {"cache-control": "no-store"}, JSON)


def _check_plan(data: bytes, digest: str) -> None:
    """Raises InvalidInput if it is not a plan, EvacError if the digest does not match."""
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("plan-invalid", "this is not JSON", "send a plan file unchanged") from error
    if not isinstance(whole, dict):
        raise InvalidInput("plan-invalid", "this is not a plan", "send a plan file unchanged")
    if digest_of(data) != digest:
        raise EvacError(
            "plan-mismatch", "these bytes have a different digest", "send the plan file unchanged"
        )
    try:
        plan_codec.decode(data, digest)
    except EvacError as error:
        raise InvalidInput(error.code, error.message, error.hint) from error


@proposals_router.post("/plans/{digest}/dry-run", responses=shapes.answers(DryRun, 404, 409, 422, 503))
async def rehearse(
    request: Request, digest: shapes.Digest, actor: Annotated[Actor, Depends(need("operator"))]
) -> Response:
    """Dry-run a plan: ask every system involved whether its steps would work now. Changes nothing; takes as
    long as the systems take to answer. 409 if the plan does not match the current estate and roles; 422
    (`plan-wrong`) if the checker rejects it.
    """
    room = room_of(request)
    data = await _kept(room, digest)
    found = await _rehearser(room).rehearse(data, digest, room.office.clock.now_ms())
    return Response(dump(found), 200, {"cache-control": "no-store"}, JSON)


def _rehearser(room: WarRoom) -> Rehearser:
    if room.office.rehearser is None:
        raise Unavailable("this war room cannot reach any systems")
    return room.office.rehearser


async def _kept(room: WarRoom, digest: str) -> bytes:
    """Raises EvacError if the plan is not stored."""
    if not await room.office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no such plan: {digest[:19]}", "GET /v1/plans lists standby plans")
    return await room.office.plan(digest)


Wait = Annotated[int, Query(ge=0, le=WAIT_MOST_S, description="Seconds to wait for the leader's response.")]


@proposals_router.post(
    "/runs", status_code=202, responses=shapes.answers(ProposalTold, 404, 409, 400, 413, 422, 503, status=202)
)
async def propose(
    request: Request,
    body: Propose,
    actor: Annotated[Actor, Depends(need("operator"))],
    key: shapes.IdempotencyKey = "",
    wait_s: Wait = WAIT_MOST_S,
) -> Response:
    """Ask the leader to create a run from a stored plan. The run first waits for its approval. 409 if the
    plan does not match the current estate and roles, or if `typed` does not name every site that it
    evacuates; 422 (`plan-wrong`) if the checker rejects it. The leader refuses (`site-answers`) to treat a
    site as lost that still answers, unless `abandoned` names it.
    """
    room = room_of(request)
    data = await _kept(room, body.plan)
    asked = asked_of(actor, body, key, "run")
    if await room.counter.known(asked) is None:
        proposal = await asyncio.to_thread(
            cases.proposal_of, data, body.incident, body.reason, tuple(body.typed), asked.who
        )
        if missing := proposal.unnamed():
            raise NotAllowed("not-confirmed", f"not confirmed: {', '.join(missing)}", "list it in typed")
        await _rehearser(room).check_fit(data, body.plan, room.office.clock.now_ms())
        proposal = replace(proposal, abandoned=tuple(body.abandoned))
        given = await room.counter.propose(asked, proposal, body.plan)
    else:
        given = await room.counter.propose(asked, cases.Proposal(body.incident, data, body.reason), body.plan)
    answer = await cases.answer_to(room.office.store, str(given.told["proposal"]), wait_s)
    told = {**given.told, "state": "untaken" if wait_s else "waiting", "run": ""}
    told |= {"code": "", "why": "", "kind": "", "hint": ""}
    if answer is not None and "run" in answer:
        told |= {"state": "made", "run": str(answer["run"])}
        with contextlib.suppress(Unavailable):
            await room.office.look()
            room.office.refresh()
    elif answer is not None:
        no = cases.Refusal.of(answer)
        told |= {"state": "refused", "code": no.code, "why": no.why, "kind": no.kind, "hint": no.hint}
    return answer_of(given, asdict(ProposalTold(**told)))


journal_router = APIRouter(prefix="/v1/drawer", tags=["plans"], dependencies=[Depends(need("viewer"))])


@journal_router.get("/journal", responses=shapes.answers(shapes.paged(PlanRecord), 304, 422, 503))
async def journal(
    request: Request, after: shapes.AfterNumber = 0, limit: shapes.Limit = shapes.LIMIT
) -> Response:
    """List the plans added to the plan library, oldest first. `next` is the value of `after` for the next
    page.
    """
    store = room_of(request).office.store
    rows = await plan_records(store, after, limit)
    head = await head_of(store, STREAM)
    total = head.records if head else 0
    following = str(rows[-1].number) if rows and rows[-1].number < total else None
    return listing(request, rows, total, following)


router = APIRouter(prefix="/v1", tags=["plans"], dependencies=[Depends(need("viewer"))])


@router.get("/plans", responses=shapes.answers(shapes.paged(ReadyPlan), 304, 404, 422, 503))
async def plans(request: Request, after: shapes.After = "", limit: shapes.Limit = shapes.LIMIT) -> Response:
    """List the plan library: for each scenario its standby plan and age, or why there is none."""
    room = room_of(request)

    def make() -> bytes:
        rows = room.office.situation.drawer
        return page([dump(row) for row in rows], [row.scenario for row in rows], after, limit, {})

    return room.shelf.answer(request, f"plans?{after}&{limit}", lambda: room.office.situation.version, make)


@router.get("/plans/{digest}", responses=shapes.answers(None, 304, 404, 409, 422, 503, media=JSON))
async def plan(request: Request, digest: shapes.DigestBegun) -> Response:
    """Get a plan in its canonical bytes. They are those that `evac plan -o` writes, and never change. The
    first twelve hex digits of the digest are enough if they are unique.
    """
    office = room_of(request).office
    digest = await find_plan(office.store, digest)
    found = tagged(request, await office.plan(digest), f'"{digest}"')
    found.headers["cache-control"] = "private, max-age=86400, immutable"
    return found
