"""Puts the war room together: office, access control and setting in, an ASGI application out.

Where the parts hook in: API subjects in `api.ROUTERS`, pages in `pages.ROUTERS`, logins through the `Access`
port. Everything is wrapped in the `Gate`.
"""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI

from evac import __version__
from evac.office.office import Office
from evac.office.requests import Counter
from evac.web import api, pages
from evac.web.access import sign_in
from evac.web.access.port import Access, Declared, KeepsLogins
from evac.web.api.shapes import Problem
from evac.web.certificates import Certificates
from evac.web.gate import Gate
from evac.web.metrics import Metrics
from evac.web.pages import frame
from evac.web.problems import add_handlers
from evac.web.room import WarRoom
from evac.web.setting import WebSetting

DESCRIPTION = """What a company sees and says before, during and after the loss of a site.

Reads carry an `ETag`; lists are paged by `after` and `limit`; what changes something says who and why, takes
an `Idempotency-Key`, and where state may have moved an `If-Match`. Errors are problems (RFC 9457) with a
stable `code` and a `hint`. Streams are server-sent events whose ids are journal numbers.
"""


def application(office: Office, access: Access, setting: WebSetting) -> FastAPI:
    """The application without a server. The office is followed and closed by whoever opened it."""
    app = FastAPI(
        title="evac",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
        dependencies=[Depends(Declared())],
    )
    if isinstance(access, KeepsLogins):
        access.keep_in(office.store)
    metrics = Metrics(office)
    metrics.registry.register(Certificates(dict(setting.certificates)))
    room = app.state.room = WarRoom(office, access, setting, Counter(office.store, office.clock), metrics)
    for router in (*api.ROUTERS, *access.routers(), sign_in.router):
        app.include_router(router)
    for router in pages.ROUTERS:
        app.include_router(router, include_in_schema=False)
    pages.mount_static(app)
    add_handlers(app, frame.problem)
    _describe(app)
    app.add_middleware(Gate, access=access, setting=setting, metrics=metrics, shelf=room.shelf)
    return app


def _describe(app: FastAPI) -> None:
    """The OpenAPI document with the shape of problems, which routes name by reference."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        shapes = found.setdefault("components", {}).setdefault("schemas", {})
        shapes.setdefault("Problem", Problem.model_json_schema())
        return found

    app.openapi = openapi  # type: ignore[method-assign]
