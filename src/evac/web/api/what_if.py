"""What if: the loss of any fault domains at once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from evac.office.what_if import WhatIf
from evac.web.access.port import Actor, need
from evac.web.answering import JSON, dump
from evac.web.api.bodies import WhatIfBody
from evac.web.api.shapes import answers
from evac.web.room import room_of

router = APIRouter(prefix="/v1", tags=["what if"])


@router.post("/what-if", responses=answers(WhatIf, 404, 400, 413, 422, 503))
async def what_if(
    request: Request, body: WhatIfBody, actor: Annotated[Actor, Depends(need("viewer"))]
) -> Response:
    """What is down, degraded or lost for good, when each service is back, and how each comes to be down.
    Changes nothing.
    """
    found = await room_of(request).office.what_if(body.domains)
    return Response(dump(found), 200, {"cache-control": "no-store"}, JSON)
