"""The situation as it is now: its stream, alerts and updates, whether this process is alive and ready, who
asks, and logins that are open: a person sees and ends their own, an admin those of everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.app.access_log import AccessLog, access_log
from evac.incident.records import Notice
from evac.model.errors import EvacError, NotAllowed
from evac.model.observation import Observation
from evac.office.notices.overview import NoticesSeen, NoticeTold
from evac.office.office import TOPIC_SITUATION, TOPIC_WATCH
from evac.office.values import News, Situation
from evac.web import metrics as figures
from evac.web.access.keeping import Login, LoginRow
from evac.web.access.people import LOG, People
from evac.web.access.port import STATE, Actor, need
from evac.web.api.shapes import LIMIT, AfterNumber, Limit, answers, paged
from evac.web.problems import REQUEST_ID, problem
from evac.web.room import (
    JSON,
    LAST_EVENT,
    STREAM_MEDIA,
    after_of,
    dump,
    event_message,
    room_of,
    stream_answer,
    tag_of,
    tagged,
)

notices_router = APIRouter(prefix="/v1/notices", tags=["notices"], dependencies=[Depends(need("viewer"))])
logins_router = APIRouter(prefix="/v1", tags=["logins"])
Name = Annotated[str, Query(max_length=512, description="A person. Empty: the caller.")]
Id = Annotated[str, Query(max_length=64, pattern=r"^[0-9a-f]*$", description="One login; empty: all.")]


@notices_router.get("/told", responses=answers(paged(NoticeTold), 304, 422, 503))
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


@notices_router.get("/channels", responses=answers(NoticesSeen, 304, 503))
async def channels(request: Request) -> Response:
    """Which site tells people now, over which channels, what waits there, and which concerns are open."""
    body = dump(room_of(request).office.board.seen)
    return tagged(request, body, tag_of(body))


me_router = APIRouter(prefix="/v1", tags=["access"])


@dataclass(frozen=True, slots=True)
class Me:
    """named: whether the name was proven; else a request says one in `who`. grant: what a break-glass
    credential lets its bearer ask besides, in words; empty without one.
    """

    name: str
    role: str
    named: bool
    proof: str
    grant: str


@me_router.get("/me", responses=answers(Me))
async def me(actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Whoever asks, with the role of now."""
    grant = actor.grant
    words = "" if grant is None else f"{grant.verb} of {grant.run or grant.incident}"
    told = Me(actor.name, actor.role, actor.named, actor.proof, words)
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


health_router = APIRouter(tags=["health"])


@dataclass(frozen=True, slots=True)
class Alive:
    """The process answers."""

    alive: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """What is shown can be believed: the store was read a moment ago, the controller beside it leads or
    follows, and the estate was read.
    """

    ready: bool
    looked_at_ms: int


@health_router.get("/healthz", responses=answers(Alive))
async def healthz() -> Response:
    """The process answers; nothing else is asked."""
    return Response(dump(Alive(True)), 200, {"cache-control": "no-store"}, JSON)


@health_router.get("/readyz", responses=answers(Ready, 503))
async def readyz(request: Request) -> Response:
    """Whether what is shown can be believed; else a problem that says why not, to those who may read."""
    office = room_of(request).office
    if office.ready:
        why = office.ready if request.scope.get(STATE) is not None else "sign in to see why"
        return problem(503, "not-ready", why, "wait", str(request.scope.get(REQUEST_ID, "")))
    told = Ready(True, office.looked_ms)
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@health_router.get(
    "/metrics", responses=answers(None, media="text/plain"), dependencies=[Depends(need("viewer"))]
)
async def metrics(request: Request) -> Response:
    """Figures in the text format of Prometheus, all of them `evac_*`."""
    return Response(room_of(request).metrics.text(), 200, {"cache-control": "no-store"}, figures.MEDIA)


router = APIRouter(prefix="/v1", tags=["situation"], dependencies=[Depends(need("viewer"))])


@router.get("/situation", responses=answers(Situation, 304, 503))
async def situation(request: Request) -> Response:
    """Sites with verdicts and votes, leader, quorum, hold, drawer, runs, last notices; as of one moment."""
    room = room_of(request)
    office = room.office
    return room.shelf.answer(
        request, "situation", lambda: office.situation.version, lambda: dump(office.situation)
    )


@router.get("/situation/facts", responses=answers(Observation, 304, 404, 503))
async def facts(request: Request) -> Response:
    """What is known beside the files, as the leader published it: roles of stores, what runs moved, what is
    lost. A plan that is made with it is a plan of what the leader sees. 404 where no leader has published
    any.
    """
    known = room_of(request).office.published
    if known is None:
        raise EvacError("no-facts", "no leader has published the situation", "start a controller: evac serve")
    body = dump(known)
    return tagged(request, body, tag_of(body))


@router.get("/notices", responses=answers(paged(Notice), 304, 422, 503))
async def notices(request: Request, after: AfterNumber = 0, limit: Limit = LIMIT) -> Response:
    """The journal of watching, from the first notice on; `next` is the number to go on after."""
    room = room_of(request)
    rows = await room.office.notices(after, limit)
    told = room.office.situation.notice
    following = str(rows[-1].number) if rows and rows[-1].number < told else None
    body = dump({"items": rows, "total": max(told, rows[-1].number if rows else 0), "next": following})
    return tagged(request, body, tag_of(body))


@router.get(
    "/stream",
    responses=answers(None, 422, 503, media=STREAM_MEDIA),
    openapi_extra={"parameters": [LAST_EVENT]},
)
async def stream(request: Request, after: AfterNumber | None = None) -> Response:
    """Server-sent events. `notice`: its id is its number in the journal, and `Last-Event-ID` goes on after
    it. `situation`: the version of the situation changed; read /v1/situation. Begins with what comes next,
    unless `after` or `Last-Event-ID` says where.
    """
    room = room_of(request)
    begin = after_of(request)
    office = room.office

    async def backlog(number: int, limit: int) -> list[tuple[int, str, Any]]:
        return [(one.number, "notice", one) for one in await office.notices(number, limit)]

    def say(news: News) -> bytes | None:
        if news.topic == TOPIC_WATCH:
            return event_message("notice", news.value, news.number)
        return event_message("situation", {"version": news.value})

    start = office.situation.notice if begin is None else begin
    return stream_answer(
        office.hub, (TOPIC_WATCH, TOPIC_SITUATION), backlog, start, say, room.setting.heartbeat_s
    )


@dataclass(frozen=True, slots=True)
class Logins:
    items: list[Login]


@dataclass(frozen=True, slots=True)
class LoginsEnded:
    ended: int


@logins_router.get("/logins", responses=answers(Logins, 503))
async def logins(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """Those of everybody for an admin, else one's own."""
    access = room_of(request).access
    rows = await access.logins() if isinstance(access, People) else []
    told = Logins([_shown(one) for one in rows if actor.has("admin") or one.name == actor.name])
    return Response(dump(told), 200, {"cache-control": "no-store"}, JSON)


@logins_router.delete("/logins", responses=answers(LoginsEnded, 422, 503))
async def end(
    request: Request, actor: Annotated[Actor, Depends(need("viewer"))], name: Name = "", id: Id = ""
) -> Response:
    """Ends all logins of a person, or one of them, in every room, within seconds."""
    whose = name or actor.name
    if whose != actor.name and not actor.has("admin"):
        raise NotAllowed("role", f"{actor.name} is {actor.role}; this needs admin", "ask an admin")
    access = room_of(request).access
    count = 0
    if isinstance(access, People):
        count = await access.end_logins(lambda row: row.name == whose and (not id or row.id == id))
        LOG.warning("%s ended %d logins of %s", actor.name, count, whose)
    return Response(dump(LoginsEnded(count)), 200, {"cache-control": "no-store"}, JSON)


def _shown(one: LoginRow) -> Login:
    return Login(one.id, one.name, one.proof, one.acr, one.made_ms, one.seen_ms, one.until_ms)


Since = Annotated[int, Query(ge=0, le=2**53, description="From this time on, in ms since 1970.")]


@logins_router.get("/access-log", responses=answers(AccessLog, 422, 503))
async def log(
    request: Request, actor: Annotated[Actor, Depends(need("admin"))], since_ms: Since = 0
) -> Response:
    """Who signed in, who was refused, what people asked and how they were proven; oldest first. Damaged parts
    of the journals are listed under problems.
    """
    found = await access_log(room_of(request).office.store, since_ms)
    return Response(dump(found), 200, {"cache-control": "no-store"}, JSON)
