"""Approvals that can be proved without a network: ed25519 over what exactly is approved, and by whom.

The policy lists public keys; private keys stay with their owners, in files that only they can read. A policy
without approvers takes a name on trust, which is said in the evidence.
"""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evac.model.canonical import canonical_json
from evac.model.errors import NotAllowed
from evac.model.run_policy import Envelope, RunPolicy

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
                "key-exposed", f"others can read {path.name}", f"chmod 600 {path}, or make a new key"
            )
        data = file.read(_KEY_FILE_BYTES)
    return parse_key(data, path.name)


def parse_key(data: bytes, name: str) -> Ed25519PrivateKey:
    """A private key of PEM text; name: for messages. Raises NotAllowed, without a word of the text."""
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise NotAllowed("key-invalid", f"{name} holds no private key", "evac key FILE makes one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise NotAllowed("key-invalid", f"{name} is no ed25519 key", "evac key FILE makes one")
    return key


def sign(approval: Approval, key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.sign(approval.message())).decode()


def check(approval: Approval, signature: str, policy: RunPolicy) -> None:
    """Raises NotAllowed unless a listed approver signed just this. With nobody listed, names are trusted."""
    if not policy.approvers:
        return
    approver = next((a for a in policy.approvers if a.name == approval.who), None)
    if approver is None:
        names = ", ".join(a.name for a in policy.approvers)
        raise NotAllowed(
            "approver-unknown", f"{approval.who[:80]} may not approve", f"approvers are: {names}"
        )
    try:
        raw = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(approver.key)).verify(raw, approval.message())
    except (ValueError, InvalidSignature) as error:
        raise NotAllowed(
            "signature-invalid",
            f"the signature is not {approval.who}'s, or not of this plan and envelope",
            "sign again: evac approve RUN --key FILE",
        ) from error
