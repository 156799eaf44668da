"""For whoever watches this process: is it alive, is it ready, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from evac.web import metrics as figures
from evac.web.access.port import STATE, need
from evac.web.answering import JSON, dump
from evac.web.api.shapes import answers
from evac.web.problems import REQUEST_ID, problem
from evac.web.room import room_of

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    alive: bool


class Ready(BaseModel):
    """What is shown can be believed: the store was read a moment ago, the controller beside it leads or
    follows, and the estate was read.
    """

    ready: bool
    looked_at_ms: int


@router.get("/healthz", responses=answers(Alive))
async def healthz() -> Response:
    """The process answers; nothing else is asked."""
    return Response(dump({"alive": True}), 200, {"cache-control": "no-store"}, JSON)


@router.get("/readyz", responses=answers(Ready, 503))
async def readyz(request: Request) -> Response:
    """Whether what is shown can be believed; else a problem that says why not, to those who may read."""
    office = room_of(request).office
    if office.ready:
        why = office.ready if request.scope.get(STATE) is not None else "sign in to see why"
        return problem(503, "not-ready", why, "wait", str(request.scope.get(REQUEST_ID, "")))
    told = {"ready": True, "looked_at_ms": office.looked_ms}
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@router.get("/metrics", responses=answers(None, media="text/plain"), dependencies=[Depends(need("viewer"))])
async def metrics(request: Request) -> Response:
    """Figures in the text format of Prometheus, all of them `evac_*`."""
    return Response(room_of(request).metrics.text(), 200, {"cache-control": "no-store"}, figures.MEDIA)
