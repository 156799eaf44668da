"""The page that takes back that a site, or a domain below one, is lost or evacuated. Linked from Now."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import Depends, Query, Request, Response
from pydantic import ValidationError

from evac.model.errors import EvacError, InvalidInput
from evac.web.access.port import Actor, need
from evac.web.api import requests
from evac.web.pages import frame
from evac.web.room import room_of

PAGE: Final = frame.Page("/sites/clear", "", "operator")
FIELDS_MOST: Final = 8


@PAGE.router.get(PAGE.path)
async def form(
    request: Request,
    actor: Annotated[Actor, Depends(need("operator"))],
    domain: Annotated[str, Query(min_length=1, max_length=256)],
) -> Response:
    """The form: what follows, why, and the name that must be typed."""
    return _form(request, actor, {"domain": domain})


@PAGE.router.post(PAGE.path)
async def clear(request: Request, actor: Annotated[Actor, Depends(need("operator"))]) -> Response:
    """Clears the mark, by the code of the API. What is missing is said in the form."""
    fields = frame.fields_of(await request.body(), FIELDS_MOST)
    domain, key = fields.get("domain", "").strip(), fields.get("key", "")
    try:
        frame.confirmed(fields, (domain,))
        who, reason = fields.get("who", "").strip(), fields["reason"].strip()
        body = requests.ClearSite(domain=domain, reason=reason, who=who)
        await requests.clear(request, body, actor, key if key.isalnum() else "")
    except ValidationError:
        wrong = InvalidInput("request-invalid", "the form does not say which site to clear", "go back")
        return _form(request, actor, fields | {"problem": frame.sentence(wrong)}, 422)
    except EvacError as error:
        return _form(request, actor, fields | {"problem": frame.sentence(error)}, 422)
    return frame.back_to("/now", "cleared")


def _form(request: Request, actor: Actor, fields: Mapping[str, str], status: int = 200) -> Response:
    names = ("domain", "reason", "who", "typed", "problem")
    shown = {name: fields.get(name, "") for name in names} | {"key": secrets.token_hex(16)}
    now_ms = room_of(request).office.clock.now_ms()
    body = frame.render("site_clear.html.j2", PAGE.path, now_ms, actor=actor, fields=shown)
    return Response(body, status, {"cache-control": "no-store"}, frame.HTML)
