"""New tokens, and what an access file says. The token itself is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from evac.model.access import ROLES, Role, Token
from evac.model.errors import InvalidInput

TOKEN_PREFIX: Final = "evac_"
TOKEN_BYTES: Final = 32
TOKEN_LONGEST: Final = 200
ENDS_MOST_MS: Final = 253_402_300_799_000
"""The last second that has four digits for its year."""
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class NewToken:
    """text: shown once. line: for `tokens` of the access file."""

    text: str
    line: str


def new_token(name: str, role: Role, of: str = "", ends_ms: int = 0) -> NewToken:
    """A token of 256 random bits. Raises InvalidInput for a role that a program may not have, and for an end
    that nobody can write.
    """
    if role not in ROLES:
        raise InvalidInput("role-unknown", f"{role} is no role", f"one of: {', '.join(ROLES)}")
    if role in ("approver", "admin") and not of:
        raise InvalidInput(
            "program-approves", f"a token that may do what an {role} may acts for a person", "add --of PERSON"
        )
    if ends_ms > ENDS_MOST_MS:
        raise InvalidInput("ends-too-late", "a token ends before the year 10000", "say --for with less")
    text = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    made = Token(name, role, digest_of(text), of, ends_ms)
    return NewToken(text, _line(made))


def digest_of(token: str) -> str:
    """What is kept of a token. It has 256 random bits, so that a plain hash cannot be searched."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _line(token: Token) -> str:
    of = f", of: {_quoted(token.of)}" if token.of else ""
    ends = ""
    if token.ends_ms:
        moment = datetime.fromtimestamp(token.ends_ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ends = f', ends: "{moment}"'
    return f'{_quoted(token.name)}: {{role: {token.role}, hash: "sha256:{token.digest}"{of}{ends}}}'


def _quoted(name: str) -> str:
    """As YAML reads it back as the same text."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in ("true", "false", "yes", "no", "null", "unknown")
    return name if plain else "'" + name.replace("'", "''") + "'"
