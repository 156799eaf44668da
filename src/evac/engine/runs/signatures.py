"""What people sign with their keys (ed25519): approvals, and credentials for when no one can sign in.

The policy lists public keys; private keys stay with their owners, in files that only they can read. A policy
without approvers takes a name on trust, which is said in the evidence.

An approval signs exactly what is approved and by whom. A break-glass credential is signed offline, for one
purpose and a limited time:

evac-glass-1.<payload>.<signature> both base64url without padding

The payload is canonical JSON; the signature is ed25519 over it, by the key that the access file lists for the
person. A credential stands for a login and for nothing else: what its person may not do, and what the policy
does not allow, it does not allow either. Needs no network, no clock of others and no store.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evac.engine.runs.requests import TEXT_MOST, VERBS
from evac.model.access import GlassRules, Grant
from evac.model.digest import canonical_json
from evac.model.errors import InvalidInput, NotAllowed
from evac.model.names import is_plain
from evac.model.records import dataclass
from evac.model.run_policy import Envelope, RunPolicy

PREFIX: Final = "evac-glass-1."
PURPOSE: Final = "evac break-glass 1"
LONGEST: Final = 8_192
SKEW_MS: Final = 300_000
"""Allowed clock difference between signers and checkers."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_TEXTS: Final = ("id", "who", "verb", "run", "incident", "reason")
_NUMBERS: Final = ("from_ms", "until_ms", "uses")


def issue(grant: Grant, key: Ed25519PrivateKey) -> str:
    """The credential as text. Raises InvalidInput if fields are missing or excessive."""
    words = _wrong(grant)
    if words:
        raise InvalidInput("glass-invalid", words, "evac access break-glass --help")
    payload = _payload(grant)
    return PREFIX + _text(payload) + "." + _text(key.sign(payload))


def read(text: str, keys: Mapping[str, str]) -> Grant:
    """The verified contents of a credential. keys: person -> public key, base64.

    Raises NotAllowed for one that is malformed, signed by no known person, or changed.
    """
    payload, signature = _parts(text)
    grant = _grant(payload)
    public = keys.get(grant.who)
    if not public:
        raise NotAllowed(
            "glass-signer", f"{grant.who[:80]} may not sign credentials here", "the access file lists keys"
        )
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(signature, payload)
    except (ValueError, InvalidSignature):
        raise NotAllowed(
            "glass-signature", f"{grant.who[:80]} did not sign this credential", "sign a new one"
        ) from None
    return grant


def check_time(grant: Grant, now_ms: int, rules: GlassRules) -> None:
    """Raises NotAllowed for one that has expired, is not valid yet, or would last longer than allowed."""
    if now_ms >= grant.until_ms:
        raise NotAllowed("glass-expired", f"credential {grant.id[:8]} has expired", "sign a new one")
    if now_ms < grant.from_ms - SKEW_MS:
        raise NotAllowed("glass-early", f"credential {grant.id[:8]} is not valid yet", "compare the clocks")
    if grant.until_ms - grant.from_ms > rules.most_ms or grant.uses > rules.uses:
        raise NotAllowed(
            "glass-too-long",
            f"a credential lasts {rules.most_ms // 60_000} minutes and {rules.uses} uses at most here",
            "sign a shorter one",
        )


def _parts(credential: str) -> tuple[bytes, bytes]:
    pieces = credential.removeprefix(PREFIX).split(".")
    if len(credential) > LONGEST or not credential.startswith(PREFIX) or len(pieces) != 2:
        raise _unreadable()
    try:
        payload, signature = (_bytes(piece) for piece in pieces)
    except (ValueError, binascii.Error):
        raise _unreadable() from None
    if [
        _text(payload),
        _text(signature),
    ] != pieces:  # the last letter has room for more than one spelling
        raise _unreadable()
    return payload, signature


def _grant(payload: bytes) -> Grant:
    """Raises NotAllowed unless the bytes are the canonical form of the values."""
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
    """What is inconsistent, in words."""
    if not _ID.fullmatch(grant.id):
        return "a credential id must have 32 hexadecimal digits"
    if not grant.who.strip() or not grant.reason.strip():
        return "a credential must say who signs it and why"
    if not is_plain(grant.who):
        return "a credential names its person with invisible characters"
    if not all(getattr(grant, name).isprintable() for name in _TEXTS):
        return "a credential must be a single line of plain text"
    if grant.verb not in VERBS:
        return f"{grant.verb[:40]} is not a request a run accepts"
    if bool(grant.run) == bool(grant.incident):
        return "a credential must name either one run or one incident"
    if any(len(getattr(grant, name)) > TEXT_MOST for name in _TEXTS):
        return f"a text must have at most {TEXT_MOST} characters"
    if not 0 < grant.from_ms < grant.until_ms < 2**53 or not 1 <= grant.uses <= 100:
        return "a credential must end after it begins, and allow 1 to 100 uses"
    return ""


def _payload(grant: Grant) -> bytes:
    values = {name: getattr(grant, name) for name in (*_TEXTS, *_NUMBERS)}
    return canonical_json({"purpose": PURPOSE, **values})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _unreadable() -> NotAllowed:
    return NotAllowed("glass-unreadable", "this is not a break-glass credential", "evac access break-glass")


_PURPOSE: Final = "evac approval 2"
_KEY_FILE_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Approval:
    """What is signed: this plan, for this run, within this envelope, by this person, for this reason."""

    run: str
    plan: str
    envelope: Envelope
    who: str
    reason: str
    ticket: str = ""
    bound: str = ""
    """Digest of what the run's steps do (`RunHead.bound_digest`): drivers, settings, references, programs."""

    def message(self) -> bytes:
        """Canonical bytes; the purpose keeps a signature from being used for anything else."""
        return canonical_json(
            {
                "purpose": _PURPOSE,
                "run": self.run,
                "plan": self.plan,
                "bound": self.bound,
                "who": self.who,
                "reason": self.reason,
                "ticket": self.ticket,
                "sites": self.envelope.sites,
                "stores": self.envelope.stores,
                "most_lost_ms": self.envelope.most_lost_ms,
                "most_shed": self.envelope.most_shed,
            }
        )


def new_key(path: Path) -> str:
    """Writes a new private key that only its owner can read, and returns the public key for the policy.

    Raises FileExistsError rather than replace a key.
    """
    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return public_text(key.public_key())


def public_text(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode()


def read_key(path: Path) -> Ed25519PrivateKey:
    """A private key. Raises NotAllowed for a file that others can read, or that holds no such key."""
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise NotAllowed(
                "key-exposed", f"other users can read {path.name}", f"chmod 600 {path}, or create a new key"
            )
        data = file.read(_KEY_FILE_BYTES)
    return parse_key(data, path.name)


def parse_key(data: bytes, name: str) -> Ed25519PrivateKey:
    """A private key from PEM text; name: for messages. Raises NotAllowed, never quoting the text."""
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise NotAllowed(
            "key-invalid", f"{name} does not contain a private key", "create one: evac key FILE"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise NotAllowed("key-invalid", f"{name} is not an ed25519 key", "create one: evac key FILE")
    return key


class Signed(Protocol):
    """What a person signs: an approval of a run, or of the totals of a ledger."""

    @property
    def who(self) -> str: ...

    def message(self) -> bytes:
        """Canonical bytes, with a purpose of their own."""
        ...


def sign(approval: Signed, key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.sign(approval.message())).decode()


def check(approval: Signed, signature: str, policy: RunPolicy) -> None:
    """Raises NotAllowed unless a listed approver signed exactly this. If none are listed, names are
    trusted.
    """
    if not policy.approvers:
        return
    approver = next((a for a in policy.approvers if a.name == approval.who), None)
    if approver is None:
        names = ", ".join(a.name for a in policy.approvers)
        raise NotAllowed("approver-unknown", f"{approval.who[:80]} may not approve", f"approvers: {names}")
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(approver.key)).verify(raw, approval.message())
    except (ValueError, InvalidSignature) as error:
        raise NotAllowed(
            "signature-invalid",
            f"the signature is not by {approval.who}, or does not cover what is approved here",
            "sign again, with --key FILE",
        ) from error
