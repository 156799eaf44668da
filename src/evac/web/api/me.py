"""Who asks, as the room knows it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel

from evac.web.access.port import Actor, need
from evac.web.answering import JSON, dump
from evac.web.api.shapes import answers

router = APIRouter(prefix="/v1", tags=["access"])


class Me(BaseModel):
    """named: whether the name was proven; else a request says one in `who`. grant: what a break-glass
    credential lets its bearer ask besides, in words; empty without one.
    """

    name: str
    role: str
    named: bool
    proof: str
    grant: str


@router.get("/me", responses=answers(Me))
async def me(actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Whoever asks, with the role of now."""
    grant = actor.grant
    words = "" if grant is None else f"{grant.verb} of {grant.run or grant.incident}"
    told = {
        "name": actor.name,
        "role": actor.role,
        "named": actor.named,
        "proof": actor.proof,
        "grant": words,
    }
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)
