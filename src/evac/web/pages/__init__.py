"""Pages, rendered here and complete without a script. `ROUTERS` is their register; `frame.NAVIGATION` is
the menu.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from evac.web.pages import frame, incident, notices, now_view, plan_view, run, what_if_view

ROUTERS: Sequence[APIRouter] = (
    now_view.router,
    what_if_view.router,
    incident.router,
    notices.router,
    plan_view.router,
    plan_view.create_run_router,
    run.router,
    frame.router,
)


def mount_static(app: FastAPI) -> None:
    """Scripts of others, as files."""
    from starlette.staticfiles import StaticFiles

    app.mount("/static/vendor", StaticFiles(directory=frame.folder("static") / "vendor"), name="vendor")
