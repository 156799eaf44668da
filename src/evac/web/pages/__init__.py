"""Pages, rendered on the server and complete without a script. `PAGES` is their register and the menu.

The page Keys shows the shortcuts of every page. Shortcuts follow links that the pages have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response

from evac.web.pages import (
    backups,
    create_run,
    credits,
    doctor,
    frame,
    hold,
    incident,
    notices,
    now_view,
    plan_view,
    run,
    waiting,
    what_if_view,
)
from evac.web.room import room_of

KEYS_PAGE: Final = frame.Page("/keys", "")
SHORTCUTS: Final[tuple[tuple[str, str], ...]] = (
    ("?", "Show this page"),
    ("a", "Review the first decision on the page"),
    ("u", "Write a status update (on an incident page)"),
    ("m", "Open the menu with more actions"),
    ("Esc", "Close a menu"),
    ("Tab", "The first link skips the menu"),
)
"""(key, what it does), for every page. The register of pages has the letters of the pages."""

PAGES: Final[Sequence[frame.Page]] = (
    now_view.PAGE,
    what_if_view.PAGE,
    plan_view.PAGE,
    backups.PAGE,
    doctor.PAGE,
    incident.PAGE,
    waiting.PAGE,
    run.PAGE,
    notices.PAGE,
    hold.PAGE,
    credits.PAGE,
    hold.SITE_PAGE,
    KEYS_PAGE,
)
"""In the order of the menu; one without a word is linked from elsewhere."""
ROUTERS: Final[Sequence[APIRouter]] = (
    *(page.router for page in PAGES),
    create_run.router,
    frame.router,
)


@KEYS_PAGE.router.get(KEYS_PAGE.path)
async def keys(request: Request) -> Response:
    """Show every shortcut, with links to the pages that they open."""
    menu = ((page.key, page.path, page.word) for page in PAGES if page.key)
    pages = [(f"g {key}", path, word) for key, path, word in (*menu, *frame.LINKED)]

    def make() -> bytes:
        now_ms = room_of(request).office.situation.at_ms
        return frame.render("keys.html.j2", KEYS_PAGE.path, now_ms, pages=pages, shortcuts=SHORTCUTS)

    return frame.answer(request, "page keys", "", make)


def mount_static(app: FastAPI) -> None:
    """Serve scripts, fonts and icons as files."""
    from starlette.staticfiles import StaticFiles

    app.mount("/static", StaticFiles(directory=frame.folder("static")), name="static")
