"""Pages of plans: the drawer, and one plan with its order, its objectives and its proof."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.model.errors import EvacError
from evac.web.access.port import need
from evac.web.api.shapes import Digest
from evac.web.pages import frame, plan_view
from evac.web.pages.projection import plan_of
from evac.web.room import room_of

PATH: Final = "/plans"
AGE_MS: Final = 10_000
ROWS: Final = 100
router = APIRouter(dependencies=[Depends(need("viewer"))])
Begin = Annotated[int, Query(ge=0, le=10_000_000)]
Kind = Annotated[str, Query(pattern="^(|site|pair|group|hall|feed)$")]


@router.get(PATH)
async def plans(request: Request, begin: Begin = 0, kind: Kind = "") -> Response:
    """The drawer: for each scenario the plan that lies ready, or why there is none. kind: of these alone."""
    room = room_of(request)
    now, now_ms = room.office.situation, room.office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        context = plan_view.drawer_context(now, kind, begin, ROWS)
        return frame.render("plans.html.j2", PATH, max(now_ms, now.at_ms), **context)

    name = f"page plans {kind} {begin // ROWS}"
    return room.shelf.answer(request, name, (now.version, now_ms), make, frame.HTML)


@router.get(PATH + "/{digest}")
async def plan(request: Request, digest: Digest, services: Begin = 0, steps: Begin = 0) -> Response:
    """One plan. services, steps: from which row on these tables are shown."""
    room = room_of(request)
    office = room.office
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError("plan-unknown", f"no plan {digest[:19]} is kept", "/plans lists what lies ready")
    found, now = await plan_of(room, digest), office.situation
    now_ms = office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        context = plan_view.plan_context(found, digest, now, services, steps)
        return frame.render("plan.html.j2", PATH, max(now_ms, now.at_ms), **context)

    name = f"page plan {digest} {services} {steps}"
    return room.shelf.answer(request, name, (now.version, now_ms), make, frame.HTML)
