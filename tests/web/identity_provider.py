"""A small real OpenID Connect provider on loopback: discovery, keys, authorization with PKCE, tokens."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from joserfc import jwk, jwt

CLIENT, SECRET = "evac", "s3 cr/et"


@lru_cache(maxsize=1)
def _rsa() -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


class IdentityProvider:
    """`change`: of the claims before they are signed; `key`, `header`: what signs them."""

    def __init__(self) -> None:
        self.issuer = ""
        self.keys = [_rsa()]
        self.key: Any = self.keys[0]
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "one"}
        self.person: dict[str, Any] = {
            "sub": "17",
            "email": "ann@example.com",
            "email_verified": True,
            "groups": ["sre", "other"],
        }
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.token: Callable[[str], str] = lambda token: token
        self.about: dict[str, Any] = {}
        self.asked: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> IdentityProvider:
        app = web.Application()
        app.router.add_get("/realm/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/realm/keys", self._jwks)
        app.router.add_get("/realm/authorize", self._authorize)
        app.router.add_post("/realm/token", self._token)
        app.router.add_get("/realm/nowhere", self._nowhere)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.issuer = f"http://127.0.0.1:{port}/realm"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        self.asked.append("discovery")
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return web.json_response(told | self.about)

    async def _jwks(self, request: web.Request) -> web.Response:
        self.asked.append("keys")
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.keys]})

    async def _nowhere(self, request: web.Request) -> web.Response:
        self.asked.append("nowhere")
        return web.Response(status=500)

    async def _authorize(self, request: web.Request) -> web.Response:
        """Whoever comes is logged in as the one person there is."""
        query = dict(request.query)
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        back = urlencode({"code": code, "state": query["state"], "iss": self.issuer})
        return web.Response(status=302, headers={"location": f"{query['redirect_uri']}?{back}"})

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        pair = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        asked = self._codes.pop(str(form["code"]), None)
        if pair != f"{CLIENT}:s3%20cr%2Fet" or asked is None:
            return web.json_response({"error": "invalid_grant"}, status=400)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        signed = jwt.encode(
            self.header, self.change(claims | self.person), self.key, algorithms=[self.header["alg"]]
        )
        return web.json_response(
            {"access_token": "x", "token_type": "Bearer", "id_token": self.token(signed)}
        )
