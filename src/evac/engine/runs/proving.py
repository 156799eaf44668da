"""How the person behind a request is proven: by their signature, or by a war room that saw their login.

A person signs the request (ed25519) and its time:

<milliseconds since 1970>.<base64 of the signature over `Act.message`>

A war room signs the request as it is stored with the key of its process, and names that key in the store:

room/<id> {"key", "at_ms"} id: the first letters of the SHA-256 of the public key

Keys named in the store count only if the store is sealed or policy lists no approvers, because anyone who can
write to an open store could name one. Otherwise those listed in policy under `rooms` count.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from evac.engine.runs.reading import decode_all
from evac.engine.runs.requests import Request, content_of
from evac.engine.runs.signatures import Approval, check, public_text
from evac.model.access import Person, Proven, least, role_for
from evac.model.digest import canonical_json
from evac.model.errors import NotAllowed
from evac.model.names import alike
from evac.model.records import dataclass
from evac.model.run_policy import Approver, RunPolicy
from evac.model.units import moment_words
from evac.run.state import glass_of
from evac.run.values import bound_in
from evac.run.view import RunView
from evac.store.journal import read
from evac.store.port import Put, Store

ROOMS: Final = "room/"
FREE: Final = frozenset({"pause"})
"""Anyone may stop a run; letting it continue needs a proven person."""
BY_PEOPLE: Final = frozenset({"approve", "attest"})
"""Verbs by which a person attests something; programs never do."""
GOOD_MS: Final = 3_600_000
"""How long a person's signature is valid."""
SKEW_MS: Final = 300_000
OF_HOLD: Final = "hold"
OF_MARK: Final = "mark"
OF_PROPOSAL: Final = "proposal"
"""Replaces the run in signatures that concern no run; no run has these names."""
_WHAT: Final[Mapping[str, str]] = {
    OF_HOLD: "the end of a hold",
    OF_MARK: "clearing a mark",
    OF_PROPOSAL: "a new run",
}
_NO_PROGRAM: Final[Mapping[str, str]] = {OF_HOLD: "end a hold", OF_MARK: "clear a mark"}
_ACT: Final = "evac act 1"
_SEEN: Final = "evac room 1"


@dataclass(frozen=True, slots=True)
class Act:
    """What a person signs: this act, for this run, step and attempt, for this reason, now."""

    run: str
    request: Request
    attempt: int = 0
    """The step's present attempt: a signature does not survive a retry."""
    bound: str = ""
    """Digest of what the run's steps do."""
    at_ms: int = 0

    def message(self) -> bytes:
        """Canonical bytes; the purpose keeps a signature from being used for anything else."""
        asked = self.request
        return canonical_json(
            {
                "purpose": _ACT,
                "run": self.run,
                "bound": self.bound,
                "verb": asked.verb,
                "step": asked.step,
                "attempt": self.attempt,
                "who": asked.who,
                "reason": asked.reason,
                "ticket": asked.ticket,
                "evidence": dict(asked.evidence),
                "for_ms": asked.for_ms,
                "then": asked.then,
                "limit": asked.limit,
                "value": asked.value,
                "at_ms": self.at_ms,
            }
        )


def sign_act(act: Act, key: Ed25519PrivateKey) -> str:
    return f"{act.at_ms}.{base64.b64encode(key.sign(act.message())).decode()}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is about, according to the run's journal."""

    run: str
    attempt: int = 0
    bound: str = ""
    made: str = ""
    """Of the run and its plan. Empty for an older or ended run."""
    marks: frozenset[str] | set[str] = frozenset()
    """Signatures and uses of break-glass credentials in this run, and ids of accepted or refused requests."""
    approval: Approval | None = None
    """For a request that approves the run: what its person signs."""


def asked_of(view: RunView, request: Request) -> Asked:
    run, i = view.spec.run, view.index.get(request.step, -1)
    approval = None
    if request.verb == "approve" and not request.step:
        given = request.envelope or view.spec.envelope
        approval = Approval(
            run, view.plans[-1], given, request.who, request.reason, request.ticket, view.bound
        )
    return Asked(run, view.attempts[i] if i >= 0 else 0, view.bound, view.made, view.marks, approval)


async def asked_of_ended(store: Store, run: str, request: Request) -> Asked:
    """The same for an ended run, without replaying it."""
    bound, attempt, marks = "", 0, set()
    async for segment in read(store, run):
        for event in decode_all(segment.records):
            if event.kind == "run_created":
                bound = bound_in(event.data)
            if event.step == request.step:
                attempt = max(attempt, event.attempt)
            marks.add(str(dict(event.data.get("proof") or {}).get("mark", "")))
            marks.add(str(event.data.get("request", "")))
            if used := glass_of(event):
                marks.add(used.mark)
    return Asked(run, attempt, bound, marks=marks - {""})


@dataclass(frozen=True, slots=True)
class Provers:
    """Everyone who can prove a person, as the leader knows them."""

    needed: bool = False
    """An access file exists, so people are identified: a typed name proves nothing."""
    people: Mapping[str, Person] = field(default_factory=lambda: MappingProxyType({}))
    """People in the access file; those with a key may sign."""
    rooms: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """War room ids -> their public keys, as named in the store."""
    sealed: bool = False
    """Only holders of a key write the store."""


def prove(asked: Asked, request: Request, policy: RunPolicy, known: Provers, now_ms: int) -> Proven:
    """How the person behind a request was proven. Raises NotAllowed for a false proof, or if proof is
    required and missing.
    """
    if request.id in asked.marks:
        raise NotAllowed(
            "request-repeated", "this request was already answered and has been resubmitted", "ask again"
        )
    if request.glass is not None and request.glass.is_in(asked.marks):
        raise NotAllowed(
            "glass-spent",
            f"the journal of {asked.run} already records {request.glass.words}, "
            "but its record is missing from the store",
            "find out who changed the store, and sign a new one",
        )
    if (
        asked.made
        and request.made != asked.made
        and request.verb not in FREE
        and (request.made or known.sealed)
    ):
        raise NotAllowed(
            "request-elsewhere",
            "this request is for a different plan, or another run with this name",
            "ask again",
        )
    if asked.approval is not None and (policy.approvers or request.signature):
        found = _approval(asked.approval, request, policy, known, now_ms)
    elif request.signature:
        found = _signed(asked, request, policy, known, now_ms)
    elif request.proof.room:
        found = _seen(asked.run, request, policy, known)
    else:
        found = Proven()
    if found.kind == "trust" and request.verb not in FREE and (policy.approvers or known.needed):
        what = _WHAT.get(asked.run, request.verb)
        raise NotAllowed(
            "unproven",
            f"{request.who[:80]} is a typed name; {what} needs a verified identity",
            "sign with --key FILE, or go through the war room: --server URL",
        )
    if found.program and (request.verb in BY_PEOPLE or asked.run in _NO_PROGRAM):
        act = _NO_PROGRAM.get(asked.run, request.verb)
        raise NotAllowed("program", f"{request.who[:80]} is a program; only a person may {act}")
    if request.verb == "approve" and policy.approvers:
        _must_be_listed(request.who, policy)
    if found.mark and asked.approval is None and found.mark in asked.marks:
        raise NotAllowed("proof-used", "this request has already been processed", "ask again")
    return found


def outlived(view: RunView, policies: Sequence[RunPolicy], known: Provers) -> list[str]:
    """Approvers of a run who may no longer approve, whose key was replaced after they approved, or whose
    approval does not say which key signed it, as those of older versions. They approve again. People known
    only to an identity provider are on no list.
    """
    able = tuple(one for one in known.people.values() if one.role in ("approver", "admin"))
    listed: list[tuple[Approver | Person, ...]] = [one.approvers for one in policies if one.approvers]
    if not listed and not known.needed:
        return []
    names = set[str].intersection(*({alike(one.name) for one in some} for some in listed or [able]))
    keys = {key_id(one.key) for one in (listed or [able])[0] if one.key}
    return [
        who
        for who, one in view.approvals.proofs.items()
        if (alike(who) not in names and (listed or one.kind != "oidc" or who in known.people))
        or one.kind == "trust"
        or (one.kind == "signature" and one.key not in keys)
    ]


def _approval(approval: Approval, request: Request, policy: RunPolicy, known: Provers, now_ms: int) -> Proven:
    """Raises NotAllowed unless a person who may approve signed exactly this."""
    if not policy.approvers:
        able = (one for one in known.people.values() if one.key and one.role in ("approver", "admin"))
        policy = replace(policy, approvers=tuple(Approver(one.name, one.key) for one in able))
        if not policy.approvers:
            return Proven()
    check(approval, request.signature, policy)
    key = next(key_id(one.key) for one in policy.approvers if one.name == request.who)
    return Proven("signature", at_ms=request.at_ms or now_ms, mark=request.signature, key=key)


def _must_be_listed(who: str, policy: RunPolicy) -> None:
    if all(who != one.name for one in policy.approvers):
        names = ", ".join(one.name for one in policy.approvers)
        raise NotAllowed("approver-unknown", f"{who[:80]} may not approve", f"approvers: {names}")


def _signed(asked: Asked, request: Request, policy: RunPolicy, known: Provers, now_ms: int) -> Proven:
    """By a key that policy lists, or that the access file lists for a person whose role allows it."""
    public = next((one.key for one in policy.approvers if one.name == request.who), "")
    person = known.people.get(request.who)
    if not public and person is not None and person.key:
        needed = role_for(request.verb)
        if least(person.role, needed) != needed:
            raise NotAllowed("role", f"{request.who} is {person.role}; {request.verb} needs {needed}")
        public = person.key
    if not public:
        raise NotAllowed(
            "signer-unknown",
            f"no key is known for {request.who[:80]}",
            "add it under approvers in the policy, or as the person's key in the access file",
        )
    stamp, _, text = request.signature.partition(".")
    at_ms = int(stamp) if stamp.isascii() and stamp.isdigit() and len(stamp) < 16 else 0
    act = Act(asked.run, request, asked.attempt, asked.bound, at_ms)
    try:
        raw = base64.b64decode(text, validate=True)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(raw, act.message())
    except (ValueError, InvalidSignature) as error:
        raise NotAllowed(
            "signature-invalid",
            f"the signature is not by {request.who}, or does not match this {request.verb} as things are now",
            f"sign again: evac run {request.verb} ... --key FILE",
        ) from error
    if not -SKEW_MS <= now_ms - at_ms < GOOD_MS:
        raise NotAllowed(
            "signature-old",
            f"signed at {moment_words(at_ms // 1_000)}, and the leader's clock says "
            f"{moment_words(now_ms // 1_000)}; a signature is valid for {GOOD_MS // 60_000} minutes",
            "sign again; if it was just signed, the clock of one of the two machines is wrong: set it first",
        )
    return Proven("signature", at_ms=at_ms, mark=request.signature, key=key_id(public))


def _seen(run: str, request: Request, policy: RunPolicy, known: Provers) -> Proven:
    """By a war room that saw the login."""
    proof = request.proof
    listed = {key_id(key): key for key in policy.rooms.values()}
    named = known.rooms if known.sealed or not policy.approvers else {}
    public = (listed or named).get(proof.room)
    if public is None:
        raise NotAllowed(
            "room-unknown",
            "logins of this war room are not trusted here",
            "seal the store, add the war room's key under rooms in the policy, or sign with --key FILE",
        )
    try:
        raw = base64.b64decode(proof.mark, validate=True)
        message = _message(run, request.id, proof.room, request.content)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(raw, message)
    except (ValueError, InvalidSignature) as error:
        raise NotAllowed(
            "proof-invalid", f"no war room recorded this request by {request.who[:80]}", "ask again"
        ) from error
    return proof


def vouched(run: str, request: Request, policy: RunPolicy, known: Provers) -> Request:
    """The request, without its use of a break-glass credential unless a war room signed that use: anyone who
    can write to the store could claim one.
    """
    if request.glass is None:
        return request
    with contextlib.suppress(NotAllowed):
        if _seen(run, request, policy, known).kind == "break-glass":
            return request
    return replace(request, glass=None)


def _message(run: str, request: str, room: str, content: str) -> bytes:
    return canonical_json(
        {"purpose": _SEEN, "run": run, "request": request, "room": room, "content": content}
    )


def key_id(public: str) -> str:
    return hashlib.sha256(base64.b64decode(public)).hexdigest()[:16]


class RoomKey:
    """The key of one war room. key: None creates one for this process alone."""

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self._key = key or Ed25519PrivateKey.generate()
        self.public = public_text(self._key.public_key())
        self.id = key_id(self.public)
        self._named = False

    async def seen(self, store: Store, run: str, request: Request) -> Request:
        """The request signed by this room, whose key the store names from now on."""
        if not self._named:
            value = orjson.dumps({"key": self.public, "at_ms": request.at_ms})
            await store.transact((), (Put(ROOMS + self.id, value),))
            self._named = True
        request = replace(request, proof=replace(request.proof, room=self.id, mark=""))
        message = _message(run, request.id, self.id, content_of(request))
        mark = base64.b64encode(self._key.sign(message)).decode()
        return replace(request, proof=replace(request.proof, mark=mark))


async def room_in(store: Store, name: str) -> str:
    """The public key that the store names for a room; empty if none."""
    entry = await store.get(ROOMS + name)
    try:
        told: Any = None if entry is None else orjson.loads(entry.value)["key"]
        return told if type(told) is str and key_id(told) == name else ""
    except (ValueError, KeyError, TypeError):
        return ""
