"""The frame of every page: templates, style, the menu, times as people read them, and what forms send.

A page module declares itself as a `Page` and renders with `render`; `pages.PAGES` lists them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evac import __version__
from evac.model.access import Role
from evac.model.errors import EvacError, InvalidInput
from evac.office.values import HoldSeen
from evac.views.words import duration, number, people, plural, spelled
from evac.web.access.port import need
from evac.web.problems import HINTS_FOR_PROGRAMS
from evac.web.room import room_of, tag_of, tagged


def fields_of(body: bytes, most: int, strict: bool = False) -> dict[str, str]:
    """The fields of a form, `most` of them; the last one of a name counts. strict: nothing but fields may
    stand there. Raises InvalidInput.
    """
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=most, strict_parsing=strict)
    except ValueError as error:
        raise InvalidInput(
            "request-invalid", "this is no form of this page", "go back, and fill it in"
        ) from error
    return dict(found)


def confirmed(fields: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """What was typed of the names that must be, where nothing is missing and a reason is given. Raises
    InvalidInput.
    """
    typed = fields.get("typed", "").replace(",", " ").split()
    missing = [name for name in names if name not in typed]
    if missing:
        raise InvalidInput("not-confirmed", f"type {' '.join(missing)} to confirm", "nothing was asked")
    if not fields.get("reason", "").strip():
        raise InvalidInput("reason", "say why: it stands in the journal")
    return [name for name in typed if name in names]


def sentence(error: EvacError) -> str:
    """A problem in the words of a form."""
    hint = f" ({error.hint})" if error.hint else ""
    return f"{error.message[:1].upper()}{error.message[1:]}{hint}."


HTML: Final = "text/html; charset=utf-8"
ROWS_MOST: Final = 64
"""Rows of one chart."""
router = APIRouter()


_hold: ContextVar[HoldSeen | None] = ContextVar("hold", default=None)
"""Of the request under way: every page shows it."""


async def read_hold(request: Request) -> None:
    """Whatever a page is about, it shows whether everything is on hold."""
    _hold.set(room_of(request).office.situation.hold)


def answer(request: Request, name: str, stamp: object, make: Callable[[], bytes]) -> Response:
    """A page that many look at, rendered once for each stamp of what it was made of."""
    return room_of(request).shelf.answer(request, name, (stamp, _hold.get()), make, HTML)


class Page:
    """A page of the menu, declared in the module that has its routes."""

    def __init__(self, path: str, word: str, role: Role = "viewer") -> None:
        self.path = path
        self.word = word
        """In the menu; empty: it is not there."""
        self.router = APIRouter(dependencies=[Depends(need(role)), Depends(read_hold)])
        """Of all its routes; anyone without the role is refused."""


def folder(name: str) -> Path:
    return Path(str(resources.files("evac.web"))) / name


@lru_cache(maxsize=1)
def style() -> tuple[bytes, str]:
    """The one style sheet with its tag: that of the reports, so that both look alike, then what pages add."""
    report = resources.files("evac.views").joinpath("templates", "report.css").read_bytes()
    body = report + folder("static").joinpath("room.css").read_bytes() + _places().encode()
    return body, tag_of(body)


def _places() -> str:
    """Rules for the rows of charts. A report says them in attributes of style, which the policy of the room
    forbids; `chart` says them in attributes of data.
    """
    rules = [f'[data-rows="{n}"]{{--rows:{n}}}[data-n="{n}"]{{--n:{n}}}' for n in range(ROWS_MOST + 1)]
    return "".join(rules) + "\n"


def chart(svg: str) -> Markup:
    """A chart of `report.svg` as pages may show it."""
    return Markup(re.sub(r' style="--(n|rows):(\d+)"', r' data-\1="\2"', svg))


@lru_cache(maxsize=1)
def _version() -> str:
    """Of everything static, for addresses that may be kept."""
    state = hashlib.sha256(style()[0])
    for path in sorted(folder("static").joinpath("vendor").glob("*.js")):
        state.update(path.read_bytes())
    return state.hexdigest()[:12]


@router.get("/static/evac.css")
async def css(request: Request) -> Response:
    body, tag = style()
    found = tagged(request, body, tag, "text/css; charset=utf-8")
    found.headers["cache-control"] = "public, max-age=86400"
    return found


def render(name: str, path: str, now_ms: int, /, **context: Any) -> bytes:
    """A page of the template `name`; path: of its `Page`; now_ms: for times that are shown as ages."""
    page = _environment().get_template(name)
    ages = Ages(now_ms)
    text = page.render(here=path, version=_version(), evac=__version__, ages=ages, **context)
    return text.encode()


def problem(told: Mapping[str, Any]) -> bytes:
    """A problem as a page. What its hint says of routes is for programs."""
    wrong = [str(one["at"]).partition(".") for one in told.get("fields", ())]
    detail = str(told["detail"]).rstrip(".")
    if told["code"] == "not-found" or any(where == "path" for where, _, _ in wrong):
        detail = "there is no such page"
    elif any(where == "query" for where, _, _ in wrong):
        names = ", ".join(sorted({name for where, _, name in wrong if where == "query"}))
        detail = f"no page knows what its address says of {names}"
    hint = "" if told["code"] in HINTS_FOR_PROGRAMS else str(told["hint"])
    said = detail[:1].upper() + detail[1:]
    return render("problem.html.j2", "", 0, told=told, detail=said, hint=hint)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(folder("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(number=number, people=people, duration=duration, chart=chart, spelled=spelled)
    from evac.web.pages import PAGES

    made.globals.update(plural=plural, announced="", menu=PAGES, on_hold=_hold.get)
    return made


def announce(words: str) -> None:
    """Says something on top of every page of this process."""
    _environment().globals["announced"] = words


class Ages:
    """Moments and days in words, as of one moment."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.today = datetime.fromtimestamp(now_ms / 1_000, UTC).date()

    def moment(self, at_ms: int) -> Markup:
        """`14:17:03 UTC, 3 min ago`; with the day where it is another one. 0 is never."""
        if at_ms <= 0:
            return Markup("never")
        at = datetime.fromtimestamp(at_ms / 1_000, UTC)
        shown = at.strftime("%H:%M:%S UTC" if at.date() == self.today else "%Y-%m-%d %H:%M UTC")
        told = '<time datetime="{}">{}</time>, {}'
        return Markup(told).format(at.isoformat(timespec="seconds"), shown, self.ago(at_ms))

    def clock(self, at_ms: int, zone: str = " UTC") -> Markup:
        """`14:17 UTC`; with the day where it is another one. 0 is a dash."""
        if at_ms <= 0:
            return Markup("-")
        at = datetime.fromtimestamp(at_ms / 1_000, UTC)
        shown = at.strftime("%H:%M" if at.date() == self.today else "%Y-%m-%d %H:%M") + zone
        return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), shown)

    def ago(self, at_ms: int) -> str:
        """`just now`, `40 s ago`, `3 min ago`: in one unit, because it is read at a glance."""
        seconds = (self.now_ms - at_ms) // 1_000
        if seconds < 2:
            return "just now"
        for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
            if seconds >= 2 * size:
                return f"{number(seconds // size)} {word} ago"
        return f"{seconds} s ago"

    def day(self, day: date | None) -> str:
        """`2026-10-18, 39 days ago`; `never` for what nobody says was done."""
        if day is None:
            return "never"
        days = (self.today - day).days
        if days < 0:
            return f"{day.isoformat()}, not yet"
        return f"{day.isoformat()}, {'today' if days == 0 else plural(days, 'day') + ' ago'}"


@router.get("/")
async def root(request: Request) -> Response:
    """The first page is Now."""
    return Response(None, 303, {"location": "/now"})
