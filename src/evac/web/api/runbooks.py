"""Runbooks: a plan for paper, with the same ids of steps, for the day when no screen works."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, Request, Response

from evac.estate.codecs import plan as plan_codec
from evac.incident.runbook import Runbook, book
from evac.model.errors import EvacError
from evac.views import incident_view as views
from evac.web.access.port import need
from evac.web.api.incidents import Form, document, documents, written
from evac.web.api.shapes import Digest
from evac.web.room import WarRoom, room_of

router = APIRouter(prefix="/v1", tags=["plans"], dependencies=[Depends(need("viewer"))])


@router.get("/plans/{digest}/runbook", responses=documents(304, 404, 422, 503))
async def runbook(request: Request, digest: Digest, form: Form = "json") -> Response:
    """A plan as a list for paper: who does what, after what, with room to write down when it was done."""
    made = await book_of(room_of(request), digest)

    def body() -> bytes:
        if form == "json":
            return views.runbook_json(made).encode()
        return written(views.runbook_sheet(made), form)

    return document(request, await asyncio.to_thread(body), form, f"runbook-{digest[7:19]}")


async def book_of(room: WarRoom, digest: str) -> Runbook:
    """Raises EvacError for a plan that is not kept, and InvalidInput for one that no paper holds."""
    office, facts = room.office, room.office.facts
    if not await office.store.list(f"plan/{digest}/", limit=1):
        raise EvacError(
            "plan-unknown", f"no plan {digest[:19]} is kept", "GET /v1/plans lists what lies ready"
        )
    data = await office.plan(digest)
    owners = {one.id: one.owner or "" for one in facts.services} if facts else {}
    people = {one.id: one.people for one in facts.sites if one.people} if facts else {}
    return await asyncio.to_thread(lambda: book(plan_codec.decode(data, digest), digest, owners, people))
