"""Sign-in at an OpenID Connect provider: authorization code flow with PKCE (OpenID Connect Core 1.0, 3.1;
RFC 7636; RFC 9207).

What a flow needs when it returns (state, nonce, verifier, where to go) is in a cookie of the browser that
started it, sealed by this process, for ten minutes. So the room stores nothing for flows that are only
started. joserfc checks signatures; only algorithms with a public key are accepted. This module also
decides who the person is here, and has the two routes of such a login.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeGuard
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from fastapi import APIRouter, Request, Response
from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from evac.engine.clock import Clock
from evac.estate.codecs.access import is_hidden
from evac.model.access import ROLES, AccessRules, Provider, Role
from evac.model.errors import EvacError, NotAllowed, Permanent
from evac.model.names import alike, is_plain
from evac.model.records import dataclass
from evac.net.http_calls import open_session
from evac.net.secrets import secret_of
from evac.web.access.guarding import going_on, path_within
from evac.web.access.keeping import ProofShown
from evac.web.access.people import LOG, People, address_of
from evac.web.access.port import SIGN_IN
from evac.web.access.sign_in import NO_STORE, Next, drop, page, set_cookie
from evac.web.pages.frame import fields_of

BACK: Final = f"{SIGN_IN}/oidc/back"
LOGOUT: Final = f"{SIGN_IN}/oidc/logout"
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_GOOD_S: Final = 300
LOGOUT_FIELDS: Final = 8
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
BASIC: Final = "client_secret_basic"
FLOW_MS: Final = 600_000
TIMEOUT_S: Final = 5.0
ANSWER_MOST: Final = 262_144
TOKEN_MOST: Final = 65_536
KEPT_MS: Final = 3_600_000
"""How long the provider's metadata is cached. Its keys are also fetched again when a key ID is unknown."""
KEYS_AGAIN_MS: Final = 60_000
DOWN_MS: Final = 5_000
"""How long a failure to read the keys is remembered."""
LEEWAY_S: Final = 60
KEYS_MOST: Final = 64
TIME_MOST_S: Final = 2**53
"""Larger whole numbers are no times: no float holds them exactly, and some overflow it."""


class ProviderDown(EvacError):
    """The identity provider does not answer, or its answer is not one of a provider."""

    def __init__(self, issuer: str, words: str) -> None:
        super().__init__(
            "oidc-down",
            f"cannot reach the identity provider {issuer}: {words}",
            "sign in with a password, or use break-glass: evac access break-glass --help",
        )


@dataclass(frozen=True, slots=True)
class Flow:
    """What the browser keeps while it is at the provider. where: a path of this room."""

    state: str
    nonce: str
    verifier: str
    where: str
    made_ms: int
    again: bool = False
    """The person must authenticate now, whatever the provider remembers."""


class Oidc:
    """One provider. address: of this room, as browsers see it."""

    def __init__(self, provider: Provider, address: str, clock: Clock) -> None:
        self.provider = provider
        self._back, self._clock = address.rstrip("/") + BACK, clock
        self._seal = secrets.token_bytes(32)
        self._about: tuple[int, dict[str, Any]] | None = None
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._keys: tuple[int, list[jwk.Key]] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._down: tuple[int, ProviderDown] | None = None
        self._ended: OrderedDict[str, None] = OrderedDict()

    async def begin(self, where: str, again: bool = False) -> tuple[str, str]:
        """Return (address at the provider, value of the cookie). again: the provider must authenticate
        the person now. Raises ProviderDown.
        """
        about = await self._discovered()
        state, nonce, verifier = (secrets.token_urlsafe(size) for size in (32, 32, 48))
        flow = Flow(state, nonce, verifier, where, self._now(), again)
        challenge = _plain(hashlib.sha256(flow.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self.provider.client,
            "redirect_uri": self._back,
            "scope": " ".join(self.provider.scopes),
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if again:
            query |= {"prompt": "login", "max_age": "0"}
        if self.provider.acr:
            query["acr_values"] = self.provider.acr
        where_to = about["authorization_endpoint"]
        body = _plain(json.dumps(asdict(flow)).encode())
        cookie = f"{body}.{_plain(hmac.digest(self._seal, body.encode(), 'sha256'))}"
        return f"{where_to}{'&' if '?' in where_to else '?'}{urlencode(query)}", cookie

    async def finish(self, query: Mapping[str, str], cookie: str) -> tuple[dict[str, Any], str]:
        """Return (proven claims, where to go). Raises ProviderDown, Permanent if the client secret cannot
        be read, and NotAllowed for anything invalid.
        """
        flow = self._opened(cookie)
        if not hmac.compare_digest(query.get("state", "").encode(), flow.state.encode()):
            raise _refused("this response belongs to a different login")
        if query.get("error"):
            raise _refused(f"the identity provider says {query['error'][:80]!r}")
        promised = (await self._discovered()).get("authorization_response_iss_parameter_supported") is True
        issuer = query.get("iss", "" if promised else self.provider.issuer)
        if issuer != self.provider.issuer or not query.get("code"):
            raise _refused("this is not a response from the identity provider")
        token = await self._exchanged(query["code"], flow.verifier)
        claims = await self._proved(token, flow.nonce)
        check_strength(self.provider, claims, flow)
        return claims, flow.where

    async def _exchanged(self, code: str, verifier: str) -> str:
        """Exchange a code for the ID token."""
        about = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._back,
            "client_id": self.provider.client,
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json"}
        if self.provider.secret:
            secret = (await asyncio.to_thread(secret_of, self.provider.secret)).reveal()
            if BASIC in about.get("token_endpoint_auth_methods_supported", [BASIC]):
                pair = f"{quote(self.provider.client, safe='')}:{quote(secret, safe='')}"
                headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            else:
                form["client_secret"] = secret
        status, told = await self._asked(about["token_endpoint"], form, headers)
        if status != 200:
            said = str(told.get("error", status))[:80]
            raise _refused(f"the identity provider rejected the code: {said!r}")
        token = told.get("id_token")
        if not isinstance(token, str):
            raise _refused("the identity provider returned no ID token")
        return token

    async def _proved(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token. Raises NotAllowed unless it is for this client and this login."""
        claims = await self._signed_claims(token)
        _check(claims, self.provider, nonce, self._now() / 1_000)
        return claims

    async def _signed_claims(self, token: str) -> dict[str, Any]:
        """The claims of a signed token. Raises NotAllowed if the provider did not sign it."""
        if len(token) > TOKEN_MOST:
            raise _refused("the ID token is too long")
        try:
            header = json.loads(_bytes(token.partition(".")[0]))
            kid = header.get("kid")
        except (ValueError, AttributeError, RecursionError):
            raise _refused("the ID token cannot be read") from None
        keys = await self._known_keys(kid)
        claims = next((found for key in keys if (found := _claims(token, key)) is not None), None)
        if claims is None:
            raise _refused("the ID token was not signed by the identity provider")
        return claims

    async def ended(self, token: str) -> tuple[str, str]:
        """Return (subject, session) of the logins that the provider ended. Raises NotAllowed unless the
        provider sent this to this client, just now and for the first time (OpenID Connect Back-Channel
        Logout 1.0, 2.4 and 2.6).
        """
        claims = await self._signed_claims(token)
        audience, made, until = claims.get("aud"), claims.get("iat"), claims.get("exp")
        now_s = self._now() / 1_000
        whole = claims.get("iss") == self.provider.issuer and "nonce" not in claims
        whole = whole and self.provider.client in (audience if isinstance(audience, list) else [audience])
        events = claims.get("events")
        whole = whole and isinstance(events, dict) and isinstance(events.get(LOGOUT_EVENT), dict)
        fresh = _is_time(made) and abs(now_s - float(made)) <= LOGOUT_GOOD_S
        fresh = fresh and _is_time(until) and now_s < float(until) + LEEWAY_S
        number = claims.get("jti")
        if not whole or not fresh or not isinstance(number, str) or number in self._ended:
            raise _refused("this is not a logout request from the identity provider")
        subject, session = claims.get("sub", ""), claims.get("sid", "")
        if not isinstance(subject, str) or not isinstance(session, str) or not (subject or session):
            raise _refused("this logout request names no one")
        self._ended[number] = None
        while len(self._ended) > KEYS_MOST * KEYS_MOST:
            self._ended.popitem(last=False)
        return subject, session

    async def _known_keys(self, kid: object) -> list[jwk.Key]:
        """The keys with this ID, or all if the token names none; fetched again if the ID is new."""
        if self._keys is None or self._now() - self._keys[0] > KEPT_MS:
            await self._read_keys()
        assert self._keys is not None
        found = [key for key in self._keys[1] if kid is None or key.kid == kid]
        if not found and self._now() - self._keys[0] > KEYS_AGAIN_MS:
            await self._read_keys()
            found = [key for key in self._keys[1] if kid is None or key.kid == kid]
        return found

    async def _read_keys(self) -> None:
        """All waiting requests share one fetch, and a failure is not tried again at once, because anyone may
        send a logout token. Raises ProviderDown.
        """
        if self._down is not None and self._now() - self._down[0] < DOWN_MS:
            raise self._down[1].with_traceback(None)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._fetch_keys(), name="keys")
        try:
            await asyncio.shield(self._reading)
        except ProviderDown as error:
            self._down = self._now(), error
            raise

    async def _fetch_keys(self) -> None:
        about = await self._discovered()
        status, told = await self._asked(about["jwks_uri"])
        rows = told.get("keys")
        if status != 200 or not isinstance(rows, list):
            raise ProviderDown(self.provider.issuer, "it does not publish its keys")
        self._keys = (self._now(), [key for row in rows[:KEYS_MOST] if (key := _key(row)) is not None])

    async def _discovered(self) -> dict[str, Any]:
        """The provider's metadata (OpenID Connect Discovery 1.0). All waiting requests share one fetch,
        because anyone may start a login, as often as they like. Raises ProviderDown.
        """
        if self._about is not None and self._now() - self._about[0] < KEPT_MS:
            return self._about[1]
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._discover(), name="discovery")
        return await asyncio.shield(self._asking)

    async def _discover(self) -> dict[str, Any]:
        issuer = self.provider.issuer
        status, told = await self._asked(issuer.rstrip("/") + "/.well-known/openid-configuration")
        if status != 200 or told.get("issuer") != issuer:
            raise ProviderDown(issuer, "its metadata names a different issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_hidden(told.get(name)):
                raise ProviderDown(issuer, f"it has no {name} over TLS")
        self._about = (self._now(), told)
        return told

    async def _asked(
        self, url: str, form: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Return (status, document). Raises ProviderDown."""
        try:
            async with (
                open_session(total_s=TIMEOUT_S) as session,
                session.request(
                    "GET" if form is None else "POST", url, data=form, headers=headers, allow_redirects=False
                ) as answer,
            ):
                body = await answer.content.read(ANSWER_MOST + 1)
                while len(body) <= ANSWER_MOST and (more := await answer.content.read(ANSWER_MOST)):
                    body += more
        except TimeoutError as error:
            words = f"no answer in {TIMEOUT_S:g} s"
            raise ProviderDown(self.provider.issuer, words) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderDown(self.provider.issuer, type(error).__name__) from error
        try:
            told = json.loads(body[: ANSWER_MOST + 1]) if len(body) <= ANSWER_MOST else None
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise ProviderDown(self.provider.issuer, "it did not return JSON")
        return answer.status, told

    def _opened(self, cookie: str) -> Flow:
        """Open the flow's cookie. Raises NotAllowed if this process did not seal it or it is too old."""
        body, _, seal = cookie.partition(".")
        right = _plain(hmac.digest(self._seal, body.encode("utf-8", "surrogatepass"), "sha256"))
        if not hmac.compare_digest(seal.encode("utf-8", "surrogatepass"), right.encode()):
            raise _refused("this browser did not start this login")
        flow = Flow(**json.loads(_bytes(body)))
        if not 0 <= self._now() - flow.made_ms < FLOW_MS:
            raise _refused("this login took too long")
        return flow

    def _now(self) -> int:
        return self._clock.now_ms()


def _check(claims: Mapping[str, Any], provider: Provider, nonce: str, now_s: float) -> None:
    """Check what an ID token must contain (OpenID Connect Core 1.0, 3.1.3.7)."""
    audience = claims.get("aud")
    readers = audience if isinstance(audience, list) else [audience]
    if claims.get("iss") != provider.issuer:
        raise _refused("the ID token is from a different issuer")
    if provider.client not in readers:
        raise _refused("the ID token is for a different client")
    if (len(readers) > 1 or "azp" in claims) and claims.get("azp") != provider.client:
        raise _refused("the ID token was issued to a different client")
    for name in ("exp", "iat"):
        if not _is_time(claims.get(name)):
            raise _refused(f"the ID token has no {name}")
    if now_s >= claims["exp"] + LEEWAY_S:
        raise _refused("the ID token has expired")
    not_before = claims.get("nbf", claims["iat"])
    if not _is_time(not_before) or max(not_before, claims["iat"]) > now_s + LEEWAY_S:
        raise _refused("the ID token is not valid yet")
    given = str(claims.get("nonce")).encode("utf-8", "replace")
    if not hmac.compare_digest(given, nonce.encode()):
        raise _refused("the ID token belongs to a different login")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise _refused("the ID token names no one")


def check_strength(provider: Provider, claims: Mapping[str, Any], flow: Flow) -> None:
    """Raise NotAllowed if a login is weaker than the access file requires, or older than requested."""
    if provider.acr and claims.get("acr") != provider.acr:
        raise _refused(f"the login does not have the required strength {provider.acr}")
    shown = claims.get("auth_time")
    if flow.again and (not _is_time(shown) or shown * 1_000 < flow.made_ms - LEEWAY_S * 1_000):
        raise _refused("the identity provider does not confirm that you have just authenticated")


def shown_of(claims: Mapping[str, Any]) -> ProofShown:
    """What a login at the provider proves; its age is what the provider states."""
    shown = claims.get("auth_time")
    at_s = shown if _is_time(shown) else claims["iat"]
    texts = (claims.get(name) for name in ("acr", "sub", "sid"))
    acr, subject, session = (text[:NAME_LONGEST] if isinstance(text, str) else "" for text in texts)
    return ProofShown(acr, int(min(at_s, claims["iat"]) * 1_000), subject, session)


def _is_time(value: object) -> TypeGuard[float]:
    """Whether this is a number of seconds; other values that JSON readers accept as numbers are not."""
    if type(value) is int:
        return abs(value) < TIME_MOST_S
    return type(value) is float and math.isfinite(value)


def _claims(token: str, key: jwk.Key) -> dict[str, Any] | None:
    """The claims, if this key signed them with an accepted algorithm."""
    registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    try:
        return dict(jwt.decode(token, key, algorithms=list(ALGORITHMS), registry=registry).claims)
    except (JoseError, ValueError, TypeError, RecursionError):
        return None


def _key(row: object) -> jwk.Key | None:
    """A public key for signatures; None for anything else in a key set."""
    if (
        not isinstance(row, dict)
        or row.get("kty") not in ("RSA", "EC", "OKP")
        or row.get("use", "sig") != "sig"
    ):
        return None
    try:
        return jwk.import_key(row)
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _is_hidden(url: object) -> bool:
    if not isinstance(url, str):
        return False
    try:
        return is_hidden(urlsplit(url))
    except ValueError:
        return False


def _plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refused(words: str) -> NotAllowed:
    return NotAllowed("oidc-refused", words, "sign in again")


FLOW_COOKIE: Final = "evac_flow"
NAME_LONGEST: Final = 200


def router_of(people: People) -> APIRouter:
    """The routes of a login at the provider, for one access file."""
    router = APIRouter(include_in_schema=False)
    flow = f"__Host-{FLOW_COOKIE}" if people.secure else FLOW_COOKIE
    known: list[Oidc] = []

    def oidc() -> Oidc:
        """Of the provider as the file has it now. Raises NotAllowed if it has none."""
        provider = people.rules.provider
        if provider is None:
            raise NotAllowed("oidc-none", "no identity provider is configured", "sign in another way")
        if not known or known[-1].provider != provider:
            known[:] = [Oidc(provider, people.rules.address, people.clock)]
        return known[-1]

    @router.get(f"{SIGN_IN}/oidc")
    async def begin(following: Next = "/now", again: bool = False) -> Response:
        where = path_within(following)
        try:
            address, cookie = await oidc().begin(where, again)
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
                raise NotAllowed(
                    "oidc-refused", "the access file has changed in the meantime", "sign in again"
                )
            name, role = person_of(people.rules, claims)
        except (ProviderDown, NotAllowed, Permanent) as error:
            LOG.warning("sign-in at the provider from %s: %s [%s]", address, error.message, error.code)
            refused = page(people, "/now", _told(error))
            drop(people, refused, flow)
            return refused
        await people.sign_out(request.cookies.get(people.cookie))
        found = going_on(path_within(where))
        set_cookie(
            people,
            found,
            people.cookie,
            await people.sign_in(name, role, "oidc", address, shown=shown_of(claims)),
        )
        drop(people, found, flow)
        return found

    _add_logout(router, people, oidc)
    return router


def _add_logout(router: APIRouter, people: People, oidc: Callable[[], Oidc]) -> None:
    @router.post(LOGOUT)
    async def logout(request: Request) -> Response:
        """The provider says that a login there has ended (OpenID Connect Back-Channel Logout 1.0)."""
        fields = fields_of(await request.body(), LOGOUT_FIELDS)
        try:
            subject, session = await oidc().ended(fields.get("logout_token", ""))
        except (ProviderDown, NotAllowed) as error:
            LOG.warning("logout by the provider: %s [%s]", error.message, error.code)
            return Response(b'{"error":"invalid_request"}', 400, NO_STORE, "application/json")
        count = await people.end_logins(
            lambda row: (
                row.proof == "oidc"
                and (not subject or row.subject == subject)
                and (not session or row.session == session)
            )
        )
        LOG.info("the provider ended %d logins", count)
        return Response(None, 200, NO_STORE)


def _told(error: EvacError) -> EvacError:
    """Hide what the browser need not know: that the client secret cannot be read here."""
    if isinstance(error, Permanent):
        return NotAllowed(
            "oidc-refused", "cannot read the client secret of this war room", "see the log for the reason"
        )
    return error


def person_of(rules: AccessRules, claims: Mapping[str, Any]) -> tuple[str, Role]:
    """Return (name, role). Raises NotAllowed for someone who has no role, or has the name of another
    person.
    """
    assert rules.provider is not None
    for person in rules.people.values():
        if person.subject and person.subject == claims["sub"]:
            return person.name, person.role
    name = claims.get(rules.provider.name_claim)
    if rules.provider.name_claim == "email" and claims.get("email_verified") is not True:
        raise NotAllowed(
            "oidc-email-unverified",
            "the identity provider does not say that this address was verified",
            "an admin must choose a different name_claim, or have the provider verify addresses",
        )
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LONGEST or not is_plain(name):
        raise NotAllowed("oidc-nameless", f"no name in {rules.provider.name_claim}", "ask an admin")
    name = name.strip()
    if alike(name) in {alike(one) for one in (*rules.people, *rules.tokens)}:
        raise NotAllowed(
            "oidc-name-taken", f"someone else here is named {name}", "an admin must distinguish them: subject"
        )
    given = claims.get(rules.provider.role_claim)
    values = given if isinstance(given, list) else [given]
    roles = [
        rules.provider.roles[one] for one in values if isinstance(one, str) and one in rules.provider.roles
    ]
    if not roles:
        raise NotAllowed("oidc-no-role", f"{name} has no role here", "ask an admin")
    return name, max(roles, key=ROLES.index)
