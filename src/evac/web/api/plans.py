"""Plans that lie ready, and any plan by its digest."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from evac.engine.plans.library import find_plan
from evac.office.values import ReadyPlan
from evac.web.access.port import need
from evac.web.answering import JSON, dump, page, tagged
from evac.web.api.shapes import LIMIT, After, DigestBegun, Limit, answers, paged
from evac.web.room import room_of

router = APIRouter(prefix="/v1", tags=["plans"], dependencies=[Depends(need("viewer"))])


@router.get("/plans", responses=answers(paged(ReadyPlan), 304, 404, 422, 503))
async def plans(request: Request, after: After = "", limit: Limit = LIMIT) -> Response:
    """The drawer: for each scenario the plan that lies ready, its age, or why there is none."""
    room = room_of(request)

    def make() -> bytes:
        rows = room.office.situation.drawer
        return page([dump(row) for row in rows], [row.scenario for row in rows], after, limit, {})

    return room.shelf.answer(request, f"plans?{after}&{limit}", lambda: room.office.situation.version, make)


@router.get("/plans/{digest}", responses=answers(None, 304, 404, 409, 422, 503, media=JSON))
async def plan(request: Request, digest: DigestBegun) -> Response:
    """The canonical bytes of a plan, as `evac plan -o` writes them; they never change. The first twelve
    letters of a digest will do, where only one plan begins so.
    """
    office = room_of(request).office
    digest = await find_plan(office.store, digest)
    found = tagged(request, await office.plan(digest), f'"{digest}"')
    found.headers["cache-control"] = "private, max-age=86400, immutable"
    return found
