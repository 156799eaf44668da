"""People, tokens and a clock for tests of logins, and a client that signs in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2

from evac.app.access import digest_of
from evac.model.access import AccessRules, Person, Token
from evac.web.access.people import People

HTML = {"accept": "text/html", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
TOKEN = "evac_" + "t" * 43


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms - 1_700_000_000_000


def people(folder: Path, clock: HandClock | None = None, *, secure: bool = False, **more: Any) -> People:
    secret = folder / "kim"
    secret.write_text("open sesame now\n")
    secret.chmod(0o600)
    known = {
        "kim": Person("kim", "approver", f"file:{secret}"),
        "vi": Person("vi", "viewer", f"file:{secret}"),
        "gone": Person("gone", "admin", "file:/nowhere/at/all"),
        "keyless": Person("keyless", "admin"),
    }
    tokens = {
        "ci": Token("ci", "operator", digest_of(TOKEN)),
        "laptop": Token("laptop", "admin", digest_of(TOKEN + "2"), "vi"),
        "old": Token("old", "admin", digest_of(TOKEN + "3"), "kim", 1_000),
    }
    return People(AccessRules(people=known, tokens=tokens, **more), clock or HandClock(), secure=secure)


async def sign_in(client: httpx2.AsyncClient, name: str = "kim", password: str = "open sesame now") -> Any:
    page = await client.get("/sign-in?next=/runs", headers=HTML)
    form = re.search(r'name="form" value="([^"]+)"', page.text)
    assert form is not None
    fields = {"form": form[1], "next": "/runs", "name": name, "password": password}
    return await client.post("/sign-in", data=fields, headers=HTML)


async def sign_in_again(client: httpx2.AsyncClient) -> None:
    page = await client.get("/sign-in?again=1", headers=HTML)
    form = re.search(r'name="form" value="([^"]+)"', page.text)
    assert form is not None
    fields = {"form": form[1], "name": "kim", "password": "open sesame now"}
    assert (await client.post("/sign-in", data=fields, headers=HTML)).status_code == 303


async def token_of(client: httpx2.AsyncClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await client.get("/who", headers=HTML)).text)
    assert found is not None
    return found[1]
