"""The page What if: fault domains are ticked, and the answer says what is down, what comes back, and when."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.model.errors import EvacError, Unavailable
from evac.office.reckoning import DOMAINS_MOST
from evac.office.what_if import WhatIf
from evac.web.access.port import need
from evac.web.pages import frame, what_if_view
from evac.web.room import room_of

PATH: Final = "/what-if"
router = APIRouter(dependencies=[Depends(need("viewer"))])
Name = Annotated[str, Query(max_length=512)]


@router.get(PATH)
async def what_if(
    request: Request,
    lose: Annotated[list[Annotated[str, Query(max_length=512)]], Query(max_length=DOMAINS_MOST)] = [],  # noqa: B006 - never changed
    find: Annotated[str, Query(max_length=200)] = "",
    begin: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    of: Name = "",
) -> Response:
    """lose: domains that are lost at once. find: words that names of more domains to tick contain. begin:
    from which service on they are listed. of: the service of which the graph shows all that it needs.
    """
    room = room_of(request)
    facts = room.facts
    wanted = tuple(sorted({name.strip() for name in lose if name.strip()}))
    answer: WhatIf | None = None
    problem = ""
    if wanted:
        try:
            answer = await room.office.what_if(wanted)
        except Unavailable:
            raise
        except EvacError as error:
            problem = f"{error.message[:1].upper()}{error.message[1:]}."
    context = what_if_view.context(facts, wanted, find.strip(), answer, begin, of)
    now_ms = room.office.situation.at_ms
    body = frame.render("what_if.html.j2", PATH, now_ms, problem=problem, **context)
    return Response(body, 422 if problem else 200, {"cache-control": "no-cache"}, frame.HTML)
