"""What people are told: the messages with how each stands in each channel, and the channels."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from evac.office.notices.overview import NoticesSeen, NoticeTold
from evac.web.access.port import need
from evac.web.answering import dump, tag_of, tagged
from evac.web.api.shapes import LIMIT, AfterNumber, Limit, answers, paged
from evac.web.room import room_of

router = APIRouter(prefix="/v1/notices", tags=["notices"], dependencies=[Depends(need("viewer"))])


@router.get("/told", responses=answers(paged(NoticeTold), 304, 422, 503))
async def told(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """The last messages, in the order in which they were made, with how each stands in each channel: `waits`,
    `delivered`, `given up`. `next` is the number to go on after.
    """
    board = room_of(request).office.board
    rows = board.page(after, limit)
    last = board.told[-1].number if board.told else 0
    following = str(rows[-1].number) if rows and rows[-1].number < last else None
    body = dump({"items": rows, "total": len(board.told), "next": following})
    return tagged(request, body, tag_of(body))


@router.get("/channels", responses=answers(NoticesSeen, 304, 503))
async def channels(request: Request) -> Response:
    """Which site tells people now, over which channels, what waits there, and which concerns are open."""
    body = dump(room_of(request).office.board.seen)
    return tagged(request, body, tag_of(body))
