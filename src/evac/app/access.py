"""New tokens, and who may do what according to an access file and a policy.

A token is shown once and never stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from evac.estate.codecs.access import access_beside, load_access
from evac.estate.codecs.policy import load_policy, policy_beside
from evac.model.access import ROLES, AccessRules, Person, Role, Token
from evac.model.errors import InvalidInput
from evac.model.records import dataclass
from evac.model.run_policy import RunPolicy

TOKEN_PREFIX: Final = "evac_"
TOKEN_BYTES: Final = 32
TOKEN_LONGEST: Final = 200
ENDS_MOST_MS: Final = 253_402_300_799_000
"""The last second with a four-digit year."""
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class NewToken:
    """text: shown once. line: for `tokens` in the access file."""

    text: str
    line: str


def new_token(name: str, role: Role, of: str = "", ends_ms: int = 0) -> NewToken:
    """Make a token of 256 random bits. Raises InvalidInput for a role that programs may not have, and for an
    invalid expiry.
    """
    if role not in ROLES:
        raise InvalidInput("role-unknown", f"{role} is not a role", f"one of: {', '.join(ROLES)}")
    if role in ("approver", "admin") and not of:
        raise InvalidInput(
            "program-approves", f"a token with the role {role} must act for a person", "add --of PERSON"
        )
    if ends_ms > ENDS_MOST_MS:
        raise InvalidInput(
            "ends-too-late", "a token must expire before the year 10000", "use a smaller --for"
        )
    text = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    made = Token(name, role, digest_of(text), of, ends_ms)
    return NewToken(text, _line(made))


def digest_of(token: str) -> str:
    """The stored digest of a token. A token has 256 random bits, so a plain hash cannot be brute-forced."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _line(token: Token) -> str:
    of = f", of: {_quoted(token.of)}" if token.of else ""
    ends = ""
    if token.ends_ms:
        moment = datetime.fromtimestamp(token.ends_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ends = f', ends: "{moment}"'
    return f'{_quoted(token.name)}: {{role: {token.role}, hash: "sha256:{token.digest}"{of}{ends}}}'


def _quoted(name: str) -> str:
    """Quote a text for YAML."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in ("true", "false", "yes", "no", "null", "unknown")
    return name if plain else "'" + name.replace("'", "''") + "'"


_ASK: Final = "hold, pause, cancel, retry, skip, roll back, attest, change limits, write notes"
MAY: Final = MappingProxyType(
    {
        "viewer": "read",
        "operator": f"read, {_ASK}",
        "approver": f"read, {_ASK}, approve",
        "admin": f"read, {_ASK}, approve, read the access log, end logins",
    }
)
"""Role -> what people with that role may do."""
PROGRAM: Final = "; cannot attest or approve anything"


@dataclass(frozen=True, slots=True)
class MayDo:
    """One row of the list used for access reviews."""

    kind: str
    """`person`, `token`, `group` of the identity provider, `approver`, `war room` or `controller`."""
    name: str
    role: str
    may: str
    proof: str
    """How the identity is proven."""
    until_ms: int = 0
    """0: no expiry."""


def may_do(estate: Path, access: Path | None = None, policy: Path | None = None) -> list[MayDo]:
    """Everyone that the files name. Raises EstateError; InvalidInput if neither file exists."""
    access, policy = access or access_beside(estate), policy or policy_beside(estate)
    if access is None and policy is None:
        raise InvalidInput(
            "access-none",
            f"{estate} is not a folder with an access.yaml or a policy.yaml: anyone on this machine is admin",
            "give the folder, as for evac serve; see the page Control access",
        )
    rows = [] if access is None else _of_access(load_access(access))
    return rows + ([] if policy is None else _of_policy(load_policy(policy)))


def _of_access(rules: AccessRules) -> list[MayDo]:
    rows = [
        MayDo("person", one.name, one.role, MAY[one.role], ", ".join(_proofs(one)))
        for one in rules.people.values()
    ]
    for token in rules.tokens.values():
        least = token.of or "no person"
        may = MAY[token.role] if token.of else MAY[token.role].replace(", attest", "") + PROGRAM
        rows.append(MayDo("token", token.name, token.role, may, f"token, acts for {least}", token.ends_ms))
    provider = rules.provider
    for group, role in {} if provider is None else provider.roles.items():
        assert provider is not None
        acr = f", acr {provider.acr}" if provider.acr else ""
        rows.append(MayDo("group", group, role, MAY[role], f"login at {provider.issuer}{acr}"))
    return rows


def _proofs(one: Person) -> list[str]:
    """How a person can prove their identity."""
    found = []
    if one.signs_in:
        found.append("password and code" if one.totp else "password")
    if one.subject:
        found.append(f"subject {one.subject} at the identity provider")
    if one.certificate:
        found.append("client certificate")
    if one.key:
        found.append("signature, break-glass credential")
    return found or ["none: cannot sign in"]


def _of_policy(policy: RunPolicy) -> list[MayDo]:
    rows = [MayDo("approver", one.name, "", "approve runs", f"key {one.key}") for one in policy.approvers]
    rows += [MayDo("war room", name, "", "prove logins", f"key {key}") for name, key in policy.rooms.items()]
    return rows + [
        MayDo("controller", site, "", "sign journal heads", f"key {key}")
        for site, keys in policy.controllers.items()
        for key in keys
    ]
