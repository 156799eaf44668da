"""The frame of every page: templates, style, the menu, times as people read them, form fields, and in the
demo the next step of its tour.

A page module declares itself as a `Page` and renders with `render`; `pages.PAGES` lists them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evac import __version__
from evac.app.demo.tour import INCIDENT, TourStep, step_of
from evac.model.access import Role
from evac.model.errors import EvacError, InvalidInput
from evac.model.records import dataclass
from evac.model.wall_clock import WallClock
from evac.office.values import HoldSeen, Silence
from evac.views.words import duration, number, people, plural, spelled, wall_clock_here
from evac.web.access.guarding import path_within
from evac.web.access.port import STATE, Actor, need
from evac.web.problems import HINTS_FOR_PROGRAMS
from evac.web.room import WarRoom, room_of, tag_of, tagged


async def next_step(room: WarRoom) -> TourStep:
    """The next step of a visitor of the demo."""
    waits = {run.run: run.events for run in room.office.situation.open_runs if run.waits}
    try:
        file = await room.office.incidents.file(INCIDENT)
    except EvacError:
        return step_of(None, None, waits)
    return step_of(file.dossier, file.about, waits)


def fields_of(body: bytes, most: int, strict: bool = False) -> dict[str, str]:
    """The fields of a form, at most `most` of them; the last one of a name counts. strict: reject
    anything that is not a field. Raises InvalidInput.
    """
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=most, strict_parsing=strict)
    except ValueError as error:
        raise InvalidInput(
            "request-invalid", "this form does not belong to this page", "go back and fill it in"
        ) from error
    return dict(found)


def confirmed(fields: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """The names that were typed, if all required ones are there and a reason is given. Raises
    InvalidInput.
    """
    typed = fields.get("typed", "").replace(",", " ").split()
    missing = [name for name in names if name not in typed]
    if missing:
        raise InvalidInput("not-confirmed", f"type {' '.join(missing)} to confirm", "nothing was requested")
    if not fields.get("reason", "").strip():
        raise InvalidInput("reason", "give a reason; it is recorded in the journal")
    return [name for name in typed if name in names]


def sentence(error: EvacError) -> str:
    """A problem in the words of a form."""
    hint = f" ({error.hint})" if error.hint else ""
    return f"{error.message[:1].upper()}{error.message[1:]}{hint}."


HTML: Final = "text/html; charset=utf-8"
ROWS_MOST: Final = 64
"""Maximum rows of one chart."""
WORD_MOST: Final = 36
"""Longest word of a command that is never broken; it fits into a line of a phone."""
router = APIRouter()


THEMES: Final = ("light", "dark")
THEME_COOKIE: Final = "evac_theme"
DONE: Final[Mapping[str, str]] = {
    "approved": "Approved. It will start shortly.",
    "taken": "Done. The leader accepted it.",
    "asked": "Recorded. It takes effect once a controller leads.",
    "held": "Everything is on hold.",
    "released": "Hold released. Runs continue.",
    "published": "Published. It is now on the status page.",
    "draft": "Saved as a draft. It is not public.",
    "noted": "Saved to the timeline.",
    "resolved": "Incident resolved. You can reopen it.",
    "reopened": "Incident reopened.",
    "opened": "Incident opened.",
    "cleared": "Mark cleared.",
    "created": "Run created.",
    "claim": "Recorded. The decision applies from the next ledger on.",
    "credits-first": "Approved. One more person must approve these totals.",
    "credits": "Approved by two people. The paying tranche can be released.",
}
"""What a page says after an action, by the word in its URL."""


@dataclass(frozen=True, slots=True)
class Around:
    """What every page shows about its surroundings, for the current request."""

    hold: HoldSeen | None = None
    lost: tuple[str, ...] = ()
    """Sites that are lost or cut off."""
    lost_ms: int = 0
    """Since when, as observed here."""
    waits: int = 0
    """Runs waiting for a person."""
    running: int = 0
    """Runs in progress."""
    theme: str = ""
    """Empty: the system's theme."""
    done: str = ""
    """What was just done, a key of `DONE`."""
    silent: Silence | None = None
    """Set while the store does not answer."""
    tour: TourStep | None = None
    """What the visitor of a demo can do next."""

    @property
    def alarm(self) -> bool:
        return bool(self.lost)


_around: ContextVar[Around] = ContextVar("around", default=Around())  # noqa: B039 (frozen)


async def look_around(request: Request) -> None:
    """Whatever a page is about, it shows what is lost, what is on hold and what is waiting."""
    now = room_of(request).office.situation
    theme, done = request.cookies.get(THEME_COOKIE, ""), request.query_params.get("done", "")
    found = Around(
        now.hold,
        tuple(site.id for site in now.lost_sites),
        now.lost_since_ms,
        sum(1 for run in now.open_runs if run.waits),
        len(now.open_runs),
        theme if theme in THEMES else "",
        done if done in DONE else "",
        room_of(request).office.silence(),
        await next_step(room_of(request)) if _environment().globals["announced"] else None,
    )
    _around.set(found)


def answer(request: Request, name: str, stamp: object, make: Callable[[], bytes]) -> Response:
    """A page that many people view, rendered once for each stamp of what it was made from."""
    around = _around.get()
    if around.done:
        return Response(make(), 200, {"cache-control": "no-store"}, HTML)
    shown = f"{name} {around.theme}" if around.theme else name
    return room_of(request).shelf.answer(request, shown, (stamp, around), make, HTML)


def came_from(request: Request, otherwise: str = "/now") -> str:
    """The page of this war room that the person came from, without the message about what was done."""
    came = urlsplit(request.headers.get("referer", ""))
    if came.netloc.lower() != request.headers.get("host", "").lower():
        return otherwise
    query = "&".join(part for part in came.query.split("&") if part and not part.startswith("done="))
    return path_within(came.path + (f"?{query}" if query else ""))


def back_to(path: str, done: str) -> Response:
    """After an action: redirect to the page that the person came from, which says what was done."""
    where, _, anchor = path.partition("#")
    mark = "&" if "?" in where else "?"
    address = f"{where}{mark}done={done}" + (f"#{anchor}" if anchor else "")
    return Response(None, 303, {"location": address, "cache-control": "no-store"})


LINKED: Final = (("s", "/status", "Status page"), ("h", "/hold", "Hold everything"))
"""Menu links without a `Page` of their own: key, path, word."""
Badge = Literal["", "lost", "waits", "running"]


class Page:
    """A page of the menu, declared in the module with its routes."""

    def __init__(
        self,
        path: str,
        word: str,
        role: Role = "viewer",
        *,
        icon: str = "",
        group: str = "",
        badge: Badge = "",
        key: str = "",
    ) -> None:
        self.path = path
        self.word = word
        """In the menu; empty: it is not there."""
        self.icon = icon
        """A symbol of `vendor/lucide.svg`."""
        self.group = group
        """Of the menu, with others of the same word."""
        self.badge = badge
        """What the menu counts next to the word: a number of `Around`."""
        self.key = key
        """The letter that leads to it after `g`."""
        self.router = APIRouter(dependencies=[Depends(need(role)), Depends(look_around)])
        """Of all its routes; anyone without the role is refused."""


def folder(name: str) -> Path:
    return Path(str(resources.files("evac.web"))) / name


@lru_cache(maxsize=1)
def _wall() -> WallClock:
    return wall_clock_here()


@lru_cache(maxsize=1)
def style() -> tuple[bytes, str]:
    """The one style sheet with its tag: the colour scales, then everything else."""
    scales = folder("static").joinpath("vendor", "radix-colors.css").read_bytes()
    sheet = folder("static").joinpath("evac.css").read_bytes()
    order, _, rest = sheet.partition(b"\n@font-face")
    body = b"".join((order, b"\n@layer tokens {\n", scales, b"}\n@font-face", rest, _places().encode()))
    return body, tag_of(body)


SPRITE: Final = "<!--symbols-->"
_USED: Final = re.compile(r'href="#i-([a-z]+)"')


@lru_cache(maxsize=1)
def symbols() -> Mapping[str, str]:
    """Icons by name, each as a `<symbol>`."""
    sprite = folder("static").joinpath("vendor", "lucide.svg").read_text("utf-8")
    return dict(re.findall(r'(?m)^(?=<symbol id="i-([a-z]+)")(.*)$', sprite))


def icon(name: str) -> Markup:
    """One icon. It has no meaning on its own: there is always a word next to it."""
    return Markup('<svg class="i" aria-hidden="true"><use href="#i-{}"/></svg>').format(name)


def _with_symbols(text: str) -> str:
    """The page, with each icon that it uses defined once."""
    known = symbols()
    used = "".join(known[name] for name in sorted(set(_USED.findall(text))))
    sprite = f'<svg id="symbols" width="0" height="0" aria-hidden="true" class="unseen">{used}</svg>'
    return text.replace(SPRITE, sprite, 1)


def _places() -> str:
    """CSS rules for the rows of charts. A report states them in style attributes, which the room's
    content policy forbids, so `chart` states them in data attributes.
    """
    rules = [f'[data-rows="{n}"]{{--rows:{n}}}[data-n="{n}"]{{--n:{n}}}' for n in range(ROWS_MOST + 1)]
    return "".join(rules) + "\n"


def typed(command: str) -> Markup:
    """A command whose words a narrow screen does not break: a browser would end a line within `--reason`."""
    kept = Markup('<span class="nowrap">{}</span>')
    return Markup(" ").join(
        kept.format(word) if len(word) <= WORD_MOST else word for word in command.split(" ")
    )


def chart(svg: str) -> Markup:
    """A chart of `report.svg`, as pages may show it."""
    return Markup(re.sub(r' style="--(n|rows):(\d+)"', r' data-\1="\2"', svg))


@lru_cache(maxsize=1)
def _version() -> str:
    """The version of all static files, for URLs that may be cached."""
    state = hashlib.sha256(style()[0])
    for path in sorted(folder("static").rglob("*.js")):
        state.update(path.read_bytes())
    return state.hexdigest()[:12]


@router.get("/static/evac.css")
async def css(request: Request) -> Response:
    body, tag = style()
    found = tagged(request, body, tag, "text/css; charset=utf-8")
    found.headers["cache-control"] = "public, max-age=86400"
    return found


def render(name: str, path: str, now_ms: int, /, **context: Any) -> bytes:
    """Render the template `name`. path: of its `Page`; now_ms: for times that are shown as ages."""
    page = _environment().get_template(name)
    ages = Ages(now_ms)
    text = page.render(here=path, version=_version(), evac=__version__, ages=ages, **context)
    return _with_symbols(text).encode()


async def problem(request: Request, told: Mapping[str, Any]) -> bytes:
    """An error as a page. Routes in its hint are left out: they are for programs. Its surroundings are shown
    only to people who may see them elsewhere.
    """
    now_ms = room_of(request).office.clock.now_ms()
    actor: Actor | None = request.scope.get(STATE)
    if actor is not None and actor.has("viewer"):
        with suppress(*[Exception] * (told["code"] == "internal")):  # this may be what failed
            await look_around(request)
    wrong = [str(one["at"]).partition(".") for one in told.get("fields", ())]
    detail, heading = str(told["detail"]).rstrip("."), "This request failed"
    missing = told["code"] == "not-found" or any(where == "path" for where, _, _ in wrong)
    if missing:
        heading, detail = "Page not found", "There is no page at this address"
    elif told["status"] in (403, 404):
        heading = "Not allowed" if told["status"] == 403 else "Not found"
    elif told["status"] == 503:
        heading = "Not available now"
    elif told["status"] >= 500:
        heading = "Something went wrong"
    hint = "" if told["code"] in HINTS_FOR_PROGRAMS else str(told["hint"]).rstrip(".")
    if told["code"] == "internal":
        detail = "An internal error stopped this page"
        hint = f"try again, or look for request {told['request']} in the log of the war room"
    if not missing and any(where == "query" for where, _, _ in wrong):
        names = ", ".join(sorted({name for where, _, name in wrong if where == "query"}))
        detail = f"The URL has an invalid value for {names}"
    said = detail[:1].upper() + detail[1:]
    context = {"heading": heading, "missing": missing, "detail": said, "hint": hint}
    return render("problem.html.j2", "", now_ms, told=told, **context)


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
    made.filters.update(
        number=number, people=people, duration=duration, chart=chart, spelled=spelled, typed=typed
    )
    from evac.web.pages import PAGES

    made.globals.update(
        plural=plural,
        announced="",
        sign_in_as="",
        menu=PAGES,
        keys=" ".join(
            f"{key}:{path}"
            for key, path, _ in (*((page.key, page.path, "") for page in PAGES if page.key), *LINKED)
        ),
        on_hold=lambda: _around.get().hold,
        around=_around.get,
        done=DONE,
        icon=icon,
        symbols_here=Markup(SPRITE),
    )
    return made


def announce(words: str, sign_in_as: str = "") -> None:
    """Show a line at the top of every page of this process. sign_in_as: only on pages before sign-in."""
    _environment().globals.update(announced=words, sign_in_as=sign_in_as)


class Ages:
    """Times and dates in words, relative to one moment: local time with UTC next to it."""

    def __init__(self, now_ms: int, wall: WallClock | None = None) -> None:
        self.now_ms = now_ms
        self.wall = wall or _wall()
        self.today = self.wall.at(now_ms).date()

    def moment(self, at_ms: int) -> Markup:
        """`14:17:03 KST (05:17:03 UTC), 3 min ago`; with the date if it is another day. 0 is never."""
        if at_ms <= 0:
            return Markup("never")
        seconds = self.wall.at(at_ms).date() == self.today
        return self._shown(at_ms, self.wall.both(at_ms, self.now_ms, seconds)) + f", {self.ago(at_ms)}"

    def clock(self, at_ms: int) -> Markup:
        """`14:17 KST`, with UTC on hover; with the date if it is another day. 0 is a dash."""
        if at_ms <= 0:
            return Markup("-")
        return self._shown(at_ms, self.wall.local(at_ms, self.now_ms))

    def bare(self, at_ms: int) -> Markup:
        """`14:17`, where the zone is stated once for many; with the date if it is another day."""
        if at_ms <= 0:
            return Markup("-")
        at = self.wall.at(at_ms)
        return self._shown(at_ms, at.strftime("%H:%M" if at.date() == self.today else "%Y-%m-%d %H:%M"))

    def both(self, at_ms: int) -> Markup:
        """`14:17 KST (05:17 UTC)`; with the date if it is another day."""
        return self._shown(at_ms, self.wall.both(at_ms, self.now_ms))

    def exact(self, at_ms: int) -> Markup:
        """`14:17:03 KST`, with UTC on hover; with the date if it is another day."""
        seconds = self.wall.at(at_ms).date() == self.today
        return self._shown(at_ms, self.wall.local(at_ms, self.now_ms, seconds))

    def _shown(self, at_ms: int, words: str) -> Markup:
        told = Markup('<time datetime="{}"{}>{}</time>')
        utc = "" if self.wall.is_utc else Markup(' title="{}"').format(self.wall.utc(at_ms, True))
        return told.format(self.iso(at_ms), utc, words)

    @property
    def zone(self) -> str:
        """`UTC`, or `KST (UTC+9)`."""
        name = self.wall.label(self.now_ms)
        return name if self.wall.is_utc else f"{name} ({self.wall.offset(self.now_ms)})"

    def iso(self, at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds")

    def short(self, at_ms: int) -> str:
        """`14:17`, or the date if it is another day: for a narrow column."""
        at = self.wall.at(at_ms)
        return at.strftime("%H:%M" if at.date() == self.today else "%d %b")

    def lasts(self, since_ms: int) -> str:
        """`1 min 38 s`, up to now."""
        return duration(max(0, self.now_ms - since_ms) // 1_000 * 1_000)

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
        """`2026-10-18, 39 days ago`; `never` if no date is stated."""
        if day is None:
            return "never"
        days = (self.today - day).days
        if days < 0:
            return f"{day.isoformat()}, not yet"
        return f"{day.isoformat()}, {'today' if days == 0 else plural(days, 'day') + ' ago'}"


@router.get("/theme", dependencies=[Depends(need("viewer"))])
async def theme(request: Request, to: str = "") -> Response:
    """Set the theme (light, dark or the system's), then redirect back."""
    found = Response(None, 303, {"location": came_from(request), "cache-control": "no-store"})
    if to in THEMES:
        found.set_cookie(THEME_COOKIE, to, max_age=31_536_000, httponly=True, samesite="lax")
    else:
        found.delete_cookie(THEME_COOKIE)
    return found


@router.get("/")
async def root(request: Request) -> Response:
    """Redirect the first page to Now."""
    return Response(None, 303, {"location": "/now"})
