"""Who somebody is here whom an identity provider vouches for, and the two routes of such a login."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from evac.estate.codecs.access import alike
from evac.model.access import ROLES, AccessRules, Role
from evac.model.errors import EvacError, NotAllowed, Permanent
from evac.web.access.guarding import going_on, path_within
from evac.web.access.oidc import BACK, Oidc, ProviderDown
from evac.web.access.people import LOG, People, address_of
from evac.web.access.port import SIGN_IN
from evac.web.access.sign_in import NO_STORE, Next, drop, page, set_cookie

FLOW_COOKIE: Final = "evac_flow"
NAME_LONGEST: Final = 200


def router_of(people: People) -> APIRouter:
    """Routes of a login at the provider, for one access file."""
    router = APIRouter(include_in_schema=False)
    flow = f"__Host-{FLOW_COOKIE}" if people.secure else FLOW_COOKIE
    known: list[Oidc] = []

    def oidc() -> Oidc:
        """Of the provider as the file has it now. Raises NotAllowed where it has none."""
        provider = people.rules.provider
        if provider is None:
            raise NotAllowed("oidc-none", "there is no identity provider", "sign in otherwise")
        if not known or known[-1].provider != provider:
            known[:] = [Oidc(provider, people.rules.address, people.clock)]
        return known[-1]

    @router.get(f"{SIGN_IN}/oidc")
    async def begin(following: Next = "/now") -> Response:
        where = path_within(following)
        try:
            address, cookie = await oidc().begin(where)
        except (ProviderDown, NotAllowed) as error:
            LOG.warning("sign-in at the provider: %s [%s]", error.message, error.code)
            return page(people, where, error)
        found = Response(None, 303, {"location": address, **NO_STORE})
        set_cookie(people, found, flow, cookie, "lax")  # it must come back with a click at the provider
        return found

    @router.get(BACK)
    async def back(request: Request) -> Response:
        address = address_of(request)
        try:
            query = {name: value[:4_096] for name, value in request.query_params.items()}
            asked = oidc()
            claims, where = await asked.finish(query, request.cookies.get(flow, ""))
            if people.rules.provider != asked.provider:
                raise NotAllowed("oidc-refused", "the access file has changed meanwhile", "sign in again")
            name, role = person_of(people.rules, claims)
        except (ProviderDown, NotAllowed, Permanent) as error:
            LOG.warning("sign-in at the provider from %s: %s [%s]", address, error.message, error.code)
            refused = page(people, "/now", _told(error))
            drop(people, refused, flow)
            return refused
        await people.sign_out(request.cookies.get(people.cookie))
        found = going_on(path_within(where))
        set_cookie(people, found, people.cookie, await people.sign_in(name, role, "oidc", address))
        drop(people, found, flow)
        return found

    return router


def _told(error: EvacError) -> EvacError:
    """What cannot be read here (the client secret) is nothing that a browser needs to know."""
    if isinstance(error, Permanent):
        return NotAllowed("oidc-refused", "the client secret of this room cannot be read", "the log says why")
    return error


def person_of(rules: AccessRules, claims: Mapping[str, Any]) -> tuple[str, Role]:
    """Name and role. Raises NotAllowed for somebody with no role, or with the name of somebody else."""
    assert rules.provider is not None
    for person in rules.people.values():
        if person.subject and person.subject == claims["sub"]:
            return person.name, person.role
    name = claims.get(rules.provider.name_claim)
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LONGEST or not name.isprintable():
        raise NotAllowed("oidc-nameless", f"no name in {rules.provider.name_claim}", "ask an admin")
    name = name.strip()
    if alike(name) in {alike(one) for one in (*rules.people, *rules.tokens)}:
        raise NotAllowed(
            "oidc-name-taken", f"somebody else is called {name} here", "an admin says who is who: subject"
        )
    given = claims.get(rules.provider.role_claim)
    values = given if isinstance(given, list) else [given]
    roles = [
        rules.provider.roles[one] for one in values if isinstance(one, str) and one in rules.provider.roles
    ]
    if not roles:
        raise NotAllowed("oidc-no-role", f"{name} has no role here", "ask an admin")
    return name, max(roles, key=ROLES.index)
