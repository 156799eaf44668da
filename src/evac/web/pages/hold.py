"""Two forms. Hold stops everything before its next effect, and releases it again (linked from every
page). The other clears the mark of a site, or of a domain below one, that is lost or evacuated (linked
from Now).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Depends, Query, Request, Response
from pydantic import ValidationError

from evac.model.errors import EvacError, InvalidInput
from evac.web.access.port import Actor, need
from evac.web.api import requests
from evac.web.api.shapes import Hold
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/hold", "", "operator")
FIELDS_MOST: Final = 8
RUNS_MOST: Final = 20
SITE_PAGE: Final = frame.Page("/sites/clear", "", "operator")


@PAGE.router.get(PAGE.path)
async def hold(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """The form that holds everything, or the one that releases the hold."""
    return _form(request, actor, {})


@PAGE.router.post(PAGE.path)
async def begin(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Hold everything, through the API's code."""
    return await _done(request, actor, release=False)


@PAGE.router.post(PAGE.path + "/release")
async def end(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Release the hold, through the API's code."""
    return await _done(request, actor, release=True)


async def _done(request: Request, actor: Actor, release: bool) -> Response:
    fields = frame.fields_of(await request.body(), FIELDS_MOST)
    reason, who, key = (fields.get(name, "").strip() for name in ("reason", "who", "key"))
    key = key if key.isalnum() else ""
    try:
        body = Hold(reason=reason, who=who)
        if release:
            await requests.end(request, actor, body.reason, body.who, key)
        else:
            await requests.begin(request, body, actor, key)
    except ValidationError:
        wrong = InvalidInput("reason", "a hold and its release need a reason", "nothing was changed")
        return _form(request, actor, fields | {"problem": frame.sentence(wrong)}, 422)
    except EvacError as error:
        return _form(request, actor, fields | {"problem": frame.sentence(error)}, 422)
    return frame.back_to(PAGE.path if release else "/now", "released" if release else "held")


def _form(request: Request, actor: Actor, fields: Mapping[str, str], status: int = 200) -> Response:
    room = room_of(request)
    open_runs = room.office.situation.open_runs
    shown = {name: fields.get(name, "") for name in ("reason", "who", "problem")}
    body = frame.render(
        "hold.html.j2",
        PAGE.path,
        room.office.clock.now_ms(),
        actor=actor,
        fields=shown | {"key": secrets.token_hex(16)},
        runs=[run.run for run in open_runs[:RUNS_MOST]],
        rest=max(0, len(open_runs) - RUNS_MOST),
    )
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)


@SITE_PAGE.router.get(SITE_PAGE.path)
async def site_form(
    request: Request,
    actor: Annotated[Actor, Depends(need("operator"))],
    domain: Annotated[str, Query(min_length=1, max_length=256)],
) -> Response:
    """The form to clear a mark: the consequences, the reason, and the name to type."""
    return _site_form(request, actor, {"domain": domain})


@SITE_PAGE.router.post(SITE_PAGE.path)
async def clear(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Clear the mark, through the API's code. The form shows what is missing."""
    fields = frame.fields_of(await request.body(), FIELDS_MOST)
    domain, key = fields.get("domain", "").strip(), fields.get("key", "")
    try:
        frame.confirmed(fields, (domain,))
        who, reason = fields.get("who", "").strip(), fields["reason"].strip()
        body = requests.ClearSite(domain=domain, reason=reason, who=who)
        await requests.clear(request, body, actor, key if key.isalnum() else "")
    except ValidationError:
        wrong = InvalidInput("request-invalid", "the form does not say which site to clear", "go back")
        return _site_form(request, actor, fields | {"problem": frame.sentence(wrong)}, 422)
    except EvacError as error:
        return _site_form(request, actor, fields | {"problem": frame.sentence(error)}, 422)
    return frame.back_to("/now", "cleared")


def _site_form(request: Request, actor: Actor, fields: Mapping[str, str], status: int = 200) -> Response:
    names = ("domain", "reason", "who", "typed", "problem")
    shown = {name: fields.get(name, "") for name in names} | {"key": secrets.token_hex(16)}
    now_ms = room_of(request).office.clock.now_ms()
    body = frame.render("site_clear.html.j2", SITE_PAGE.path, now_ms, actor=actor, fields=shown)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)
