"""Pages, rendered here and complete without a script. `PAGES` is their register and the menu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI

from evac.web.pages import (
    backups,
    create_run,
    credits,
    doctor,
    frame,
    hold,
    incident,
    keys,
    notices,
    now_view,
    plan_view,
    run,
    site_clear,
    waiting,
    what_if_view,
)

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
    site_clear.PAGE,
    keys.PAGE,
)
"""In the order of the menu; one without a word is linked from elsewhere."""
ROUTERS: Final[Sequence[APIRouter]] = (
    *(page.router for page in PAGES),
    create_run.router,
    frame.router,
)


def mount_static(app: FastAPI) -> None:
    """Scripts, fonts and icons, as files."""
    from starlette.staticfiles import StaticFiles

    app.mount("/static", StaticFiles(directory=frame.folder("static")), name="static")
