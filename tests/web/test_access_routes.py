"""Every route names a role, by the table below; one that names none is refused to everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from evac.model.access import ROLES
from evac.office.office import Office
from evac.web.access.port import OPEN_PATHS, Access, Actor, Loopback, Need, declared
from tests.web.logins import people
from tests.web.rooms import office_of, play, room_of

CHANGES = {"POST", "PUT", "PATCH", "DELETE"}
READS = {"/v1/what-if", "/v1/runs/{run}/proof", "/v1/journals/{stream}/proof"}
"""Asked by POST, and changes nothing."""

OWN = ("/who/end", "/v1/logins")
"""Changes that concern whoever asks, unless an admin asks."""


class Named:
    """Access where a header names the role; as a login would."""

    authenticates = True

    async def who(self, connection: HTTPConnection) -> Actor | None:
        role = connection.headers.get("x-role")
        return None if role is None else Actor("ann", role)  # type: ignore[arg-type]

    def routers(self) -> Sequence[APIRouter]:
        return ()


def routes(access: Access | None = None) -> Iterator[Any]:
    """Every route that the application answers, as FastAPI has it."""
    app = room_of(office_of(), access)
    waiting: list[Any] = list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None and not isinstance(route, Mount):
            waiting += inner.routes
        elif hasattr(route, "dependant"):
            yield route


def role_of(route: Any) -> str:
    """The role that a route needs; empty where it names none."""
    roles, waiting = [], [route.dependant]
    while waiting:
        found = waiting.pop()
        if isinstance(found.call, Need):
            roles.append(found.call.role)
        waiting += found.dependencies
    return max(roles, key=ROLES.index, default="")


def test_every_route_says_who_may_ask() -> None:
    found = {(method, route.path): route for route in routes() for method in route.methods}
    assert len(found) > 30
    for (method, path), route in found.items():
        assert declared(route), f"{method} {path} names no role"
        if method in CHANGES and path not in (*READS, *OWN, *OPEN_PATHS):
            assert role_of(route) in ("operator", "approver", "admin"), f"{method} {path}"


def test_the_routes_of_a_login_are_open_or_name_a_role(tmp_path: Path) -> None:
    access = people(tmp_path)
    found = {(method, route.path): route for route in routes(access) for method in route.methods}
    more = found.keys() - {(m, r.path) for r in routes() for m in r.methods}
    assert {path for _, path in more} == {
        "/sign-in",
        "/sign-in/break-glass",
        "/sign-in/certificate",
        "/sign-in/oidc",
        "/sign-in/oidc/back",
        "/sign-in/oidc/logout",
        "/sign-out",
    }
    assert all(declared(route) for route in found.values())
    assert role_of(found["POST", "/sign-out"]) == "viewer"


def test_nobody_and_a_viewer_are_refused_where_they_must_be() -> None:
    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        for route in routes():
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            for method in route.methods - {"HEAD"}:
                nobody = await client.request(method, path)
                if route.path in OPEN_PATHS:
                    assert nobody.status_code in (200, 303, 503), path
                    continue
                assert nobody.status_code in (401, 422), f"{method} {path} answered {nobody.status_code}"
                if method in CHANGES and route.path not in (*READS, *OWN):
                    seen = await client.request(method, path, headers={"x-role": "viewer"})
                    assert seen.status_code in (403, 422), f"{method} {path} answered {seen.status_code}"

    play(story, access=Named())


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_a_route_that_names_no_role_is_refused_to_everybody(role: str) -> None:
    class Forgetful(Loopback):
        def routers(self) -> Sequence[APIRouter]:
            router = APIRouter()

            @router.get("/forgotten")
            async def forgotten() -> str:
                return "a secret"

            return (router,)

    async def story(client: httpx2.AsyncClient, office: Office) -> None:
        told = await client.get("/forgotten")
        assert (told.status_code, told.json()["code"]) == (403, "route-undeclared")

    play(story, access=Forgetful(role))
