"""The journal of plans: what was put into the drawer, and when none could be made."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from evac.engine.plans.journal import STREAM, PlanRecord, plan_records
from evac.store.journal import head_of
from evac.web.access.port import need
from evac.web.answering import dump, tag_of, tagged
from evac.web.api.shapes import LIMIT, AfterNumber, Limit, answers, paged
from evac.web.room import room_of

router = APIRouter(prefix="/v1/drawer", tags=["plans"], dependencies=[Depends(need("viewer"))])


@router.get("/journal", responses=answers(paged(PlanRecord), 304, 422, 503))
async def journal(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """Each plan that was put into the drawer, from the first one on; `next` is the number to go on after."""
    store = room_of(request).office.store
    rows = await plan_records(store, after, limit)
    head = await head_of(store, STREAM)
    total = head.records if head else 0
    following = str(rows[-1].number) if rows and rows[-1].number < total else None
    body = dump({"items": rows, "total": total, "next": following})
    return tagged(request, body, tag_of(body))
