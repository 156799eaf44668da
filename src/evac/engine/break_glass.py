"""Credentials for the day when nobody can sign in: signed offline, for one thing, for a while.

    evac-glass-1.<payload>.<signature>      both base64url without padding

The payload is canonical JSON; the signature is ed25519 over it, by the key that the access file lists for the
person. A credential stands for a login and for nothing else: what its person may not do, and what the policy
does not allow, it does not allow either. Needs no network, no clock of others and no store.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evac.engine.runs.requests import TEXT_MOST, VERBS
from evac.model.access import GlassRules, Grant
from evac.model.canonical import canonical_json
from evac.model.errors import InvalidInput, NotAllowed

PREFIX: Final = "evac-glass-1."
PURPOSE: Final = "evac break-glass 1"
LONGEST: Final = 8_192
SKEW_MS: Final = 300_000
"""Clocks of those who sign and of those who check may be apart by so much."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_TEXTS: Final = ("id", "who", "verb", "run", "incident", "reason")
_NUMBERS: Final = ("from_ms", "until_ms", "uses")


def issue(grant: Grant, key: Ed25519PrivateKey) -> str:
    """The credential as text. Raises InvalidInput for one that says too little or too much."""
    words = _wrong(grant)
    if words:
        raise InvalidInput("glass-invalid", words, "evac access break-glass --help")
    payload = _payload(grant)
    return PREFIX + _text(payload) + "." + _text(key.sign(payload))


def read(text: str, keys: Mapping[str, str]) -> Grant:
    """What a credential says, after its signature was checked. keys: person -> public key, base64.

    Raises NotAllowed for one that is none, that nobody known signed, or that was changed.
    """
    payload, signature = _parts(text)
    grant = _grant(payload)
    public = keys.get(grant.who)
    if not public:
        raise NotAllowed(
            "glass-signer", f"{grant.who[:80]} may sign no credential here", "the access file lists keys"
        )
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(signature, payload)
    except (ValueError, InvalidSignature):
        raise NotAllowed(
            "glass-signature", f"{grant.who[:80]} did not sign this credential", "sign a new one"
        ) from None
    return grant


def check_time(grant: Grant, now_ms: int, rules: GlassRules) -> None:
    """Raises NotAllowed for one that is over, that is not yet, or that would last longer than it may."""
    if now_ms >= grant.until_ms:
        raise NotAllowed("glass-expired", f"the credential {grant.id[:8]} is over", "sign a new one")
    if now_ms < grant.from_ms - SKEW_MS:
        raise NotAllowed(
            "glass-early", f"the credential {grant.id[:8]} is not good yet", "compare the clocks"
        )
    if grant.until_ms - grant.from_ms > rules.most_ms or grant.uses > rules.uses:
        raise NotAllowed(
            "glass-too-long",
            f"a credential lasts {rules.most_ms // 60_000} minutes and {rules.uses} uses at most here",
            "sign one for less",
        )


def _parts(text: str) -> tuple[bytes, bytes]:
    pieces = text.removeprefix(PREFIX).split(".")
    if len(text) > LONGEST or not text.startswith(PREFIX) or len(pieces) != 2:
        raise _unreadable()
    try:
        payload, signature = (_bytes(piece) for piece in pieces)
    except (ValueError, binascii.Error):
        raise _unreadable() from None
    if [_text(payload), _text(signature)] != pieces:  # the last letter has room for more than one spelling
        raise _unreadable()
    return payload, signature


def _grant(payload: bytes) -> Grant:
    """Raises NotAllowed unless the bytes are exactly those that the values are written as."""
    try:
        told: Any = json.loads(payload)
        values = {name: told[name] for name in (*_TEXTS, *_NUMBERS)}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unreadable() from None
    fits = all(type(values[name]) is str for name in _TEXTS)
    fits = fits and all(type(values[name]) is int for name in _NUMBERS)
    if not fits or told.get("purpose") != PURPOSE:
        raise _unreadable()
    grant = Grant(**values)
    try:
        whole = not _wrong(grant) and _payload(grant) == payload
    except ValueError:  # half a letter
        whole = False
    if not whole:
        raise _unreadable()
    return grant


def _wrong(grant: Grant) -> str:
    """What does not hold together, in words."""
    if not _ID.fullmatch(grant.id):
        return "the id of a credential is 32 hexadecimal digits"
    if not grant.who.strip() or not grant.reason.strip():
        return "a credential says who signs it and why"
    if not all(getattr(grant, name).isprintable() for name in _TEXTS):
        return "a credential is made of plain text in one line"
    if grant.verb not in VERBS:
        return f"{grant.verb[:40]} is nothing that can be asked of a run"
    if bool(grant.run) == bool(grant.incident):
        return "a credential is for one run, or for one incident"
    if any(len(getattr(grant, name)) > TEXT_MOST for name in _TEXTS):
        return f"texts have {TEXT_MOST} characters at most"
    if not 0 < grant.from_ms < grant.until_ms < 2**53 or not 1 <= grant.uses <= 100:
        return "a credential ends after it begins, and is used 1 to 100 times"
    return ""


def _payload(grant: Grant) -> bytes:
    values = {name: getattr(grant, name) for name in (*_TEXTS, *_NUMBERS)}
    return canonical_json({"purpose": PURPOSE, **values})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _unreadable() -> NotAllowed:
    return NotAllowed("glass-unreadable", "this is no break-glass credential", "evac access break-glass")
