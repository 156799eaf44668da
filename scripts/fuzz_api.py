"""Sends mutated requests to every route of the API and to every form of the pages, as nobody and with each
role, and counts answers. The status page has two languages.

    PYTHONPATH=. python scripts/fuzz_api.py [--cases 100000] [--seed 1] [--seconds 600]

Bodies begin as ones that fit the document or the form, and are changed by structure and by bytes, as are
paths and queries. A finding is an answer of 500, an exception, an answer after more than five seconds, or
one that nobody should get. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import sys
import time
from collections import Counter
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx2
import orjson

from evac.app.access import digest_of
from evac.engine.clock import SystemClock
from evac.model.access import ROLES, AccessLimits, AccessRules, Person, Token
from evac.model.estate import Rate
from evac.office.values import ExportSeen
from evac.web.access.people import People
from fuzz_hostile import mutated
from tests.web.rooms import BASE, office_of, primed, room_of
from tests.web.test_access_routes import routes

SLOW_S: Final = 5.0
MANY: Final = Rate(10**9, 1_000)
FINDINGS_MOST: Final = 20
TOKENS: Final = {role: f"evac_{role[0] * 43}" for role in ROLES}
WORDS: Final = ("", "x", "..", "%2e%2e", "sha256:" + "0" * 64, "\x00", "é" * 300, "9" * 400, "fire-1", "<b>")
FORM: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("note", "command", "update", "state", "fact", "resolved", "reopened", "new"),
    "as": ("preview", "draft", "publish"),
    "phase": ("investigating", "identified", "monitoring", "resolved"),
    "due": ("30", "15", ""),
    "component-0": ("Pay", "Chat"),
    "state-0": ("operational", "major_outage"),
    "verb": ("pause", "approve", "limit"),
}
"""Values of fields that are not free text."""
FREE: Final = (
    "text",
    "name",
    "value",
    "other_name",
    "other_text",
    "reason",
    "who",
    "key",
    "was-0",
    "minutes",
)


def form(dice: random.Random) -> bytes:
    """A form as a page sends it, with some of the fields of all forms."""
    told = {name: dice.choice(some) for name, some in FORM.items() if dice.random() < 0.7}
    told |= {name: dice.choice((*WORDS, "back soon")) for name in FREE if dice.random() < 0.7}
    return urlencode(told, errors="replace").encode()


def access() -> People:
    people = {role: Person(role, role) for role in ROLES}
    tokens = {f"t-{role}": Token(f"t-{role}", role, digest_of(text), role) for role, text in TOKENS.items()}
    limits = AccessLimits(MANY, MANY)
    return People(AccessRules(people=people, tokens=tokens, limits=limits), SystemClock(), secure=False)


def example(shape: dict[str, Any], shapes: dict[str, Any], dice: random.Random, depth: int = 0) -> Any:
    """A value that fits a JSON Schema of the document, or nearly does."""
    if "$ref" in shape:
        return example(shapes[shape["$ref"].rpartition("/")[2]], shapes, dice, depth)
    if "anyOf" in shape or "oneOf" in shape:
        return example(dice.choice(shape.get("anyOf") or shape["oneOf"]), shapes, dice, depth)
    if "const" in shape or "enum" in shape:
        return dice.choice(shape.get("enum") or [shape["const"]])
    kind = shape.get("type", "object")
    if kind == "object":
        needed = set(shape.get("required", ()))
        rows = shape.get("properties", {}).items()
        return {
            name: example(part, shapes, dice, depth + 1)
            for name, part in rows
            if depth < 6 and (name in needed or dice.random() < 0.5)
        }
    if kind == "array":
        part = shape.get("items", {"type": "string"})
        return [example(part, shapes, dice, depth + 1) for _ in range(dice.randint(0, 2))]
    plain = {"string": "pangyo", "integer": 1, "number": 1, "boolean": True, "null": None}
    return plain.get(kind)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any] | None]]:
    """(method, path, shape of the body) of every route."""
    found = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            if path.endswith("/stream"):
                continue
            content = told.get("requestBody", {}).get("content", {})
            shape = content.get("application/json", {}).get("schema") if content else None
            found.append((method.upper(), path, shape))
    return found


async def fuzz(cases: int, seed: int, seconds: float) -> tuple[Counter[str], list[str]]:
    dice, counts, findings = random.Random(seed), Counter[str](), []
    office = await primed(office_of())
    office.incidents.exports = (ExportSeen("north", 1, 0, "", ("en", "ko")),)
    app = room_of(office, access())
    document = app.openapi()
    shapes, rows = document["components"]["schemas"], operations(document)
    forms = [one.path for one in routes() if "POST" in one.methods and one.path not in document["paths"]]
    until_s = time.monotonic() + seconds
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url=BASE, timeout=60) as client:
        about, admin = {"incident": "fire-1", "text": "fire"}, {"authorization": f"Bearer {TOKENS['admin']}"}
        assert (await client.post("/v1/incidents", json=about, headers=admin)).status_code == 201
        for _ in range(cases):
            if time.monotonic() >= until_s or len(findings) >= FINDINGS_MOST:
                break
            is_form = dice.random() < 0.3
            method, path, shape = ("POST", dice.choice(forms), None) if is_form else dice.choice(rows)
            where = re.sub(r"\{[^}]*\}", lambda _: quote(dice.choice(WORDS), safe=""), path)
            if dice.random() < 0.3:
                where += f"?{quote(dice.choice(WORDS))}={quote(dice.choice(WORDS))}"
            body = b"" if shape is None else orjson.dumps(example(shape, shapes, dice))
            body = form(dice) if is_form else body
            body = mutated(dice, body or b"{}") if dice.random() < 0.8 - 0.5 * is_form else body
            role = dice.choice(("", *ROLES))
            kind = "application/x-www-form-urlencoded" if is_form else "application/json"
            headers = {"content-type": kind, "accept": "text/html" if is_form else "application/json"}
            if role:
                headers["authorization"] = f"Bearer {TOKENS[role]}"
            began = time.monotonic()
            try:
                told = await client.request(method, where, content=body, headers=headers)
                counts[str(told.status_code)] += 1
                words = f"{method} {where} as {role or 'nobody'}: {told.status_code} for {body[:300]!r}"
                if told.status_code == 500 or (
                    not role and told.status_code < 300 and path.startswith("/v1")
                ):
                    findings.append(words)
                if time.monotonic() - began > SLOW_S:
                    findings.append(f"{words} after {time.monotonic() - began:.1f} s")
            except Exception as error:
                if type(error).__module__.startswith("httpx2") and "URL" in str(error):
                    counts["not sent"] += 1
                    continue
                findings.append(f"{method} {where} as {role or 'nobody'}: {error!r} for {body[:300]!r}")
    await office.close()
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0)
    told = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts, findings = asyncio.run(fuzz(told.cases, told.seed, told.seconds))
    answers = ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.items()))
    print(f"{sum(counts.values()):,} requests; {answers}; {len(findings)} findings")
    for one in findings:
        print(f"- {one}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
