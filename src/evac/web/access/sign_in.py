"""The pages of logins: sign in with a name and a password, sign out, and see who is signed in, with which
role.

Every form carries a token: that of the login if there is one, or else one from a cookie of the form.
Neither the browser nor the room stores anything from here.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response

from evac.model.access import Grant
from evac.model.errors import EvacError, NotAllowed, Unavailable
from evac.web.access.guarding import NEXT_LONGEST, path_within
from evac.web.access.keeping import LoginRow, ProofShown
from evac.web.access.people import People, address_of
from evac.web.access.port import SIGN_IN, STATE, Actor, TooMany, Unauthenticated, need
from evac.web.pages import frame
from evac.web.pages.frame import fields_of, sentence
from evac.web.problems import status_of
from evac.web.room import room_of

PATH: Final = "/who"
router = APIRouter(include_in_schema=False)


@router.get(PATH, dependencies=[Depends(frame.look_around)])
async def who(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """The page about the caller's own login. It is made for one person and never cached."""
    room = room_of(request)
    mine: list[LoginRow] = []
    if isinstance(room.access, People) and actor.csrf:
        with contextlib.suppress(Unavailable):
            mine = [one for one in await room.access.logins() if one.name == actor.name]
    body = frame.render("who.html.j2", PATH, room.office.clock.now_ms(), actor=actor, logins=mine)
    return Response(body, 200, {"cache-control": "no-store"}, frame.HTML)


@router.post(f"{PATH}/end")
async def end(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
    """End every login of the caller, including this one."""
    access = room_of(request).access
    if isinstance(access, People):
        await access.end_logins(lambda row: row.name == actor.name)
    return Response(None, 303, {"location": SIGN_IN, **NO_STORE})


FORM_COOKIE: Final = "evac_form"
FIELDS_MOST: Final = 16
NAME_LONGEST: Final = 200
Next = Annotated[str, Query(alias="next", max_length=NEXT_LONGEST)]
OF_RUN: Final = ("approve", "pause", "resume", "undo", "cancel")
NO_STORE: Final = {"cache-control": "no-store"}


def routers(people: People) -> Sequence[APIRouter]:
    """The routes, for one access file."""
    router = APIRouter(include_in_schema=False)

    @router.get(SIGN_IN)
    async def form(request: Request, following: Next = "/now", again: bool = False) -> Response:
        """The form; whoever has signed in goes on, unless it is to be shown again who it is."""
        where, actor = path_within(following), request.scope.get(STATE)
        if actor is not None and not again:
            return _see(where)
        return page(people, where, name="" if actor is None else actor.name, again=again)

    @router.post(SIGN_IN)
    async def sign_in(request: Request) -> Response:
        fields = fields_of(await request.body(), FIELDS_MOST)
        where = path_within(fields.get("next", ""))
        name, address = fields.get("name", "").strip(), address_of(request)
        try:
            check_form(people, request, fields)
            person = await people.check_password(
                name[:NAME_LONGEST], fields.get("password", ""), address, fields.get("code", "")
            )
        except (Unauthenticated, TooMany, NotAllowed) as error:
            again = request.scope.get(STATE) is not None
            return page(people, where, error, name[:NAME_LONGEST], again=again)
        shown = ProofShown("totp" if person.totp else "", people.clock.now_ms())
        value = await people.sign_in(person.name, person.role, "password", address, shown=shown)
        return await signed_in(people, request, value, where)

    @router.post(f"{SIGN_IN}/break-glass")
    async def break_glass(request: Request) -> Response:
        fields = fields_of(await request.body(), FIELDS_MOST)
        text, address = "".join(fields.get("credential", "").split()), address_of(request)
        try:
            check_form(people, request, fields)
            actor = people.by_glass(text, address)
        except (Unauthenticated, TooMany, NotAllowed) as error:
            return page(people, path_within(fields.get("next", "")), error)
        grant = actor.grant
        assert grant is not None
        left_ms = grant.until_ms - people.clock.now_ms()
        value = await people.sign_in(actor.name, "viewer", "break-glass", address, most_ms=left_ms, text=text)
        return await signed_in(people, request, value, where_to(grant))

    @router.post(f"{SIGN_IN}/certificate")
    async def certificate(request: Request) -> Response:
        fields = fields_of(await request.body(), FIELDS_MOST)
        where, address = path_within(fields.get("next", "")), address_of(request)
        try:
            check_form(people, request, fields)
            person = people.by_certificate(request, address)
        except (Unauthenticated, NotAllowed) as error:
            return page(people, where, error)
        shown = ProofShown("", people.clock.now_ms())
        value = await people.sign_in(person.name, person.role, "certificate", address, shown=shown)
        return await signed_in(people, request, value, where)

    @router.post("/sign-out")
    async def sign_out(request: Request, actor: Annotated[Actor, Depends(need("viewer"))]) -> Response:
        await people.sign_out(request.cookies.get(people.cookie))
        found = _see(SIGN_IN)
        drop(people, found, people.cookie)
        return found

    from evac.web.access.oidc import router_of

    return (router, router_of(people))


def page(
    people: People, where: str, error: EvacError | None = None, name: str = "", *, again: bool = False
) -> Response:
    """The sign-in page, with what went wrong. again: the person must authenticate once more."""
    token = secrets.token_urlsafe(32)
    provider = people.rules.provider
    body = frame.render(
        "sign_in.html.j2",
        SIGN_IN,
        people.clock.now_ms(),
        where=where,
        token=token,
        name=name,
        again=again,
        problem="" if error is None else sentence(error),
        passwords=any(person.signs_in for person in people.rules.people.values()),
        codes=any(person.totp for person in people.rules.people.values()),
        certificates=any(person.certificate for person in people.rules.people.values()),
        keys=any(person.key for person in people.rules.people.values()),
        provider="" if provider is None else provider.issuer,
    )
    found = Response(body, 200 if error is None else status_of(error), NO_STORE, frame.HTML)
    if isinstance(error, TooMany):
        found.headers["retry-after"] = str(error.wait_s)
    set_cookie(people, found, _form_cookie(people), token)
    return found


async def signed_in(people: People, request: Request, value: str, where: str) -> Response:
    """Redirect to a page with a new cookie, and end the previous login if there was one."""
    await people.sign_out(request.cookies.get(people.cookie))
    found = _see(where)
    set_cookie(people, found, people.cookie, value)
    drop(people, found, _form_cookie(people))
    return found


def where_to(grant: Grant) -> str:
    """The form for what was granted, or the page on which its step is chosen."""
    where = f"/runs/{quote(grant.run or grant.incident, safe='')}"
    return f"{where}/ask?verb={grant.verb}" if grant.verb in OF_RUN else where


def set_cookie(people: People, response: Response, name: str, value: str, same_site: Any = "strict") -> None:
    """Set a cookie that scripts cannot read, that ends with the browser, and that is sent only to this
    room.
    """
    response.set_cookie(name, value, path="/", secure=people.secure, httponly=True, samesite=same_site)


def check_form(people: People, request: Request, fields: dict[str, str]) -> None:
    """Raise NotAllowed for a form that this browser did not get from here."""
    known = request.cookies.get(_form_cookie(people), "")
    given = fields.get("form", "")
    if not known or not hmac.compare_digest(known.encode(), given.encode("utf-8", "surrogatepass")):
        raise NotAllowed("form-stale", "this form has expired, or the browser blocks cookies", "try again")


def _form_cookie(people: People) -> str:
    return f"__Host-{FORM_COOKIE}" if people.secure else FORM_COOKIE


def _see(where: str) -> Response:
    return Response(None, 303, {"location": where, **NO_STORE})


def drop(people: People, response: Response, name: str) -> None:
    """Make the browser delete a cookie."""
    response.delete_cookie(name, path="/", secure=people.secure, httponly=True, samesite="strict")
