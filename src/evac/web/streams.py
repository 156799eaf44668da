"""Server-sent events: the id of a message is its number in the journal, so that a viewer that was cut off
goes on where it was.

First what the journal has after `Last-Event-ID`, then each new message as the one follower of this process
hears of it. A comment each `heartbeat_s` shows that the line is alive. A viewer that is too slow is let go,
and comes back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import StreamingResponse

from evac.model.errors import InvalidInput
from evac.office.hub import Hub, News
from evac.web.answering import dump

MEDIA: Final = "text/event-stream"
RETRY_MS: Final = 2_000
BACKLOG: Final = 500
"""Messages read from the journal at a time."""
NUMBER_MOST: Final = 2**53
LAST_EVENT: Final[dict[str, Any]] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Number of the last message that was read; goes before `after`.",
    "schema": {"type": "string", "pattern": "^[0-9]{0,15}$"},
}

Backlog = Callable[[int, int], Awaitable[Sequence[tuple[int, str, Any]]]]
"""(number, limit) -> (number, name, data) of messages after that number."""


def message(name: str, data: object, number: int = 0) -> bytes:
    """One message; without a number it has no id, and a viewer that comes back does not ask for it."""
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {name}\ndata: ".encode() + dump(data) + b"\n\n"


def after_of(request: Request) -> int | None:
    """Where to go on: `Last-Event-ID`, else `after`; None for from now on. Raises InvalidInput."""
    given = request.headers.get("last-event-id") or request.query_params.get("after")
    if given is None or given == "":
        return None
    if not (given.isascii() and given.isdigit()) or int(given[:20]) > NUMBER_MOST:
        raise InvalidInput("cursor", f"'{given[:40]}' is no number of a message", "leave it out")
    return int(given)


def stream(
    hub: Hub,
    topics: Sequence[str],
    backlog: Backlog,
    after: int,
    say: Callable[[News], bytes | None],
    heartbeat_s: float,
    ends: Callable[[], bool] = lambda: False,
) -> StreamingResponse:
    """An answer that goes on. Raises TooManyViewers before it begins.

    say: the bytes of one piece of news, None for what is not for this stream. ends: whether nothing more can
    come.
    """
    hub.check_room()
    body = _body(hub, topics, backlog, after, say, heartbeat_s, ends)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(body, 200, headers, MEDIA)


async def _body(
    hub: Hub,
    topics: Sequence[str],
    backlog: Backlog,
    after: int,
    say: Callable[[News], bytes | None],
    heartbeat_s: float,
    ends: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """The viewer listens before the journal is read, so that nothing falls between the two."""
    last = after
    with hub.viewer(*topics) as viewer:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while rows := await backlog(last, BACKLOG):
            for number, name, data in rows:
                yield message(name, data, number)
            last = rows[-1][0]
        over = ends()
        async for news in viewer.news(heartbeat_s if not over else 0.0):
            if news is None:
                if over:
                    break
                yield b": alive\n\n"
            elif not news.number or news.number > last:
                last = max(last, news.number)
                told = say(news)
                if told is not None:
                    yield told
            if ends() and not viewer.waiting:
                break
        else:
            return  # too slow, or the room closes: whoever comes back goes on after `last`
        for number, name, data in await backlog(last, BACKLOG):
            yield message(name, data, number)
        yield message("end", {"run": "over"})
