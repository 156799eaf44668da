"""The page Keys: the shortcuts of every page. They follow links that the pages have; nothing needs them."""

from __future__ import annotations

from typing import Final

from fastapi import Request, Response

from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/keys", "")
SHORTCUTS: Final[tuple[tuple[str, str], ...]] = (
    ("?", "Show this page"),
    ("a", "Review the first decision on the page"),
    ("u", "Write a status update (on an incident page)"),
    ("m", "Open the menu with more actions"),
    ("Esc", "Close a menu"),
    ("Tab", "The first stop is a link that skips the menu"),
)
"""(key, what it does), of every page. The letters of pages are in the register of pages."""


@PAGE.router.get(PAGE.path)
async def keys(request: Request) -> Response:
    """Every shortcut, and the pages they lead to as links."""
    from evac.web.pages import PAGES

    menu = ((page.key, page.path, page.word) for page in PAGES if page.key)
    pages = [(f"g {key}", path, word) for key, path, word in (*menu, *frame.LINKED)]

    def make() -> bytes:
        now_ms = room_of(request).office.situation.at_ms
        return frame.render("keys.html.j2", PAGE.path, now_ms, pages=pages, shortcuts=SHORTCUTS)

    return frame.answer(request, "page keys", "", make)
