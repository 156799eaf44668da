"""Heads of journals, signed by the controller that wrote them, with a key that the store does not have.

signed/<stream>/<site> canonical JSON of `SignedHead`, the newest one of each controller

The policy lists the public keys of controllers. Someone who can write to the store, even with its seal key,
cannot sign the head of a changed journal. They can delete a head or put an older one back, but then the
journal ends before the heads that agents keep.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evac.engine.clock import Clock
from evac.engine.runs.signatures import parse_key, public_text
from evac.model.digest import canonical_json
from evac.model.errors import NotAllowed, Permanent
from evac.model.records import dataclass
from evac.net.secrets import secret_of
from evac.store.anchors import Anchor
from evac.store.port import Put, Store

SIGNED: Final = "signed/"
PURPOSE: Final = "evac head 1"
HEADS_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The head of a journal, as one controller wrote it."""

    stream: str
    segment: int
    records: int
    hash: str
    generation: int
    """Of the store: each has its own journals."""
    site: str
    at_ms: int
    signature: str = ""
    """ed25519, base64, over all other fields."""

    def message(self) -> bytes:
        values = {key: value for key, value in asdict(self).items() if key != "signature"}
        return canonical_json({"purpose": PURPOSE, **values})

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.stream, self.segment, self.records, self.hash)


def key_named(variable: str, environ: Mapping[str, str] | None = None) -> Ed25519PrivateKey | None:
    """The private key that an environment variable refers to; None if unset. Raises NotAllowed for a
    reference without such a key.
    """
    reference = (os.environ if environ is None else environ).get(variable, "")
    if not reference:
        return None
    try:
        data = secret_of(reference, whole=True)
    except Permanent as error:
        raise NotAllowed("key-missing", f"{variable}: {error.message}", error.hint) from error
    return parse_key(data.reveal_bytes(), reference)


class HeadSigner:
    """Of one controller: signs the heads that it leaves, newest last."""

    def __init__(self, store: Store, key: Ed25519PrivateKey, site: str, clock: Clock) -> None:
        self.public = public_text(key.public_key())
        self._store, self._key, self._site, self._clock = store, key, site, clock

    async def keep(self, head: Anchor, generation: int) -> None:
        """Raises Unavailable."""
        made = SignedHead(
            head.stream, head.segment, head.records, head.hash, generation, self._site, self._clock.now_ms()
        )
        values = asdict(made) | {"signature": base64.b64encode(self._key.sign(made.message())).decode()}
        await self._store.transact((), (Put(f"{SIGNED}{head.stream}/{self._site}", canonical_json(values)),))


async def signed_heads(store: Store, stream: str) -> tuple[Mapping[str, Any], ...]:
    """The stored heads of a journal, unverified. Anything but JSON is skipped."""
    found: list[Mapping[str, Any]] = []
    for entry in await store.list(f"{SIGNED}{stream}/", limit=HEADS_MOST):
        try:
            told = orjson.loads(entry.value)
        except orjson.JSONDecodeError:
            continue
        if isinstance(told, dict):
            found.append(told)
    return tuple(found)


def proven(
    told: Sequence[Mapping[str, Any]], stream: str, keys: Mapping[str, Sequence[str]], generation: int
) -> tuple[list[Anchor], list[str]]:
    """Heads of a journal that controllers signed, and what is wrong with the others, a sentence each.

    keys: site -> public keys, as the policy lists them; none: nothing is asked for. told: as `signed_heads`.
    """
    if not keys:
        return [], []
    anchors: list[Anchor] = []
    problems: list[str] = []
    for values in told:
        try:
            head = SignedHead(**{one.name: values[one.name] for one in fields(SignedHead)})
            if head.stream != stream:
                raise ValueError("of another journal")
            signature = base64.b64decode(head.signature, validate=True)
            if not any(_signed(head, signature, key) for key in keys[head.site]):
                raise ValueError("not signed with a key of that controller")
        except (KeyError, TypeError, ValueError):
            site = str(values.get("site", "?"))[:40]
            problems.append(f"signed-wrong: a head of {stream} is not signed by the controller of {site}")
            continue
        if head.generation == generation:
            anchors.append(head.anchor)
    return anchors, problems


def _signed(head: SignedHead, signature: bytes, key: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).verify(signature, head.message())
    except InvalidSignature:
        return False
    return True
