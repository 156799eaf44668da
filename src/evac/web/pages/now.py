"""The page Now, and its two lists in full: services of one product family, and losses of one kind."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.model.errors import EvacError
from evac.web.access.port import need
from evac.web.api.shapes import LIMIT_MOST
from evac.web.pages import frame, now_view
from evac.web.room import room_of

PATH: Final = "/now"
AGE_MS: Final = 10_000
"""Ages on a page are told anew so often, if nothing else changed."""
ROWS: Final = 200
router = APIRouter(dependencies=[Depends(need("viewer"))])


@router.get(PATH)
async def now(request: Request) -> Response:
    """Sites as they stand, what each loss would do, services by site, room, runs and notices."""
    room = room_of(request)
    situation, facts = room.office.situation, room.office.facts
    now_ms = room.office.clock.now_ms() // AGE_MS * AGE_MS

    def make() -> bytes:
        at_ms = max(now_ms, situation.at_ms)
        context = now_view.context(situation, facts, at_ms)
        return frame.render("now.html.j2", PATH, at_ms, **context)

    stamp = (situation.version, situation.estate, now_ms)
    return room.shelf.answer(request, "page now", stamp, make, frame.HTML)


@router.get("/now/services/{family}")
async def services(request: Request, family: str) -> Response:
    """The services of one family, site by site."""
    room = room_of(request)
    situation, facts = room.office.situation, room.facts
    name = "" if family == now_view.NO_FAMILY else family
    if not any(service.family == name for service in facts.services):
        raise EvacError("not-found", f"the estate has no product family {family[:80]}", "go back to /now")

    def make() -> bytes:
        context = now_view.family_context(situation, facts, name)
        return frame.render("now_services.html.j2", PATH, situation.at_ms, **context)

    return room.shelf.answer(
        request, f"page family {name}", (situation.version, facts.digest), make, frame.HTML
    )


@router.get("/now/losses")
async def losses(
    request: Request,
    kind: Annotated[str, Query(pattern="^(site|group|hall|feed|rack)$")] = "site",
    begin: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Losses of one kind, the gravest first."""
    room = room_of(request)
    facts = room.facts
    begin = begin // ROWS * ROWS

    def make() -> bytes:
        context = now_view.losses_context(facts, kind, begin, min(ROWS, LIMIT_MOST))
        return frame.render("now_losses.html.j2", PATH, room.office.situation.at_ms, **context)

    return room.shelf.answer(request, f"page losses {kind} {begin}", facts.digest, make, frame.HTML)
