"""Every act of a person is proven where approvers are listed, or where people are told apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evac.engine.lead.signed_heads import key_named
from evac.engine.runs.proving import Act, Asked, Provers, RoomKey, prove, room_in, sign_act
from evac.engine.runs.requests import VERBS, Request, RequestTerms, decode, encode, event_of, key_of
from evac.engine.runs.signatures import new_key, public_text
from evac.model.access import Person, Proven
from evac.model.errors import NotAllowed
from evac.model.run_policy import Approver, RunPolicy
from evac.model.units import moment_words
from evac.net.secrets import ROOM_KEY
from evac.run.state import apply, replay
from evac.run.values import Event
from evac.run.view import RunView
from evac.store.port import MemoryStore
from tests.unit.engine.worlds import spec_of

NOW = 1_800_000_000_000
KEY = Ed25519PrivateKey.generate()
POLICY = RunPolicy(approvers=(Approver("kim", public_text(KEY.public_key())),))
ASKED = Asked("run-1", attempt=2, bound="sha256:b")
ATTEST = Request("1", "attest", "kim", "the rack is dark", "fence:chat", evidence={"fenced": "pangyo"})


def signed(request: Request, asked: Asked = ASKED, at_ms: int = NOW) -> Request:
    act = Act(asked.run, request, asked.attempt, asked.bound, at_ms)
    return replace(request, signature=sign_act(act, KEY))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "pause"])
@pytest.mark.parametrize("known", [Provers(), Provers(needed=True)])
def test_a_typed_name_is_taken_for_nothing(verb: str, known: Provers) -> None:
    policy = RunPolicy() if known.needed else POLICY
    request = Request("1", verb, "kim", "fire", "s0")  # type: ignore[arg-type]
    with pytest.raises(NotAllowed) as caught:
        prove(ASKED, request, policy, known, NOW)
    assert caught.value.code == "unproven"
    assert prove(ASKED, replace(request, verb="pause"), policy, known, NOW) == Proven()
    assert prove(ASKED, request, RunPolicy(), Provers(), NOW).words == "name not proven"


@pytest.mark.parametrize("verb", ["attest", "approve", "undo", "retry", "skip", "cancel", "resume"])
def test_a_signature_proves_every_act(verb: str) -> None:
    found = prove(ASKED, signed(replace(ATTEST, verb=verb)), POLICY, Provers(), NOW)  # type: ignore[arg-type]
    assert (found.kind, found.at_ms) == ("signature", NOW)


@pytest.mark.parametrize(
    ("other", "asked", "now_ms", "code"),
    [
        ({"step": "fence:mail"}, {}, NOW, "signature-invalid"),
        ({"verb": "skip"}, {}, NOW, "signature-invalid"),
        ({"reason": "drill"}, {}, NOW, "signature-invalid"),
        ({"evidence": {"fenced": "anyang"}}, {}, NOW, "signature-invalid"),
        ({"who": "lee"}, {}, NOW, "signer-unknown"),
        ({}, {"attempt": 3}, NOW, "signature-invalid"),
        ({}, {"bound": "sha256:c"}, NOW, "signature-invalid"),
        ({}, {"run": "run-2"}, NOW, "signature-invalid"),
        ({}, {}, NOW + 3_600_000, "signature-old"),
        ({}, {}, NOW - 300_001, "signature-old"),
    ],
)
def test_a_signature_is_good_for_this_act_only(other: dict, asked: dict, now_ms: int, code: str) -> None:
    request = replace(signed(ATTEST), **other)
    with pytest.raises(NotAllowed) as caught:
        prove(replace(ASKED, **asked), request, POLICY, Provers(), now_ms)
    assert caught.value.code == code
    if code == "signature-old":
        times = (moment_words(NOW // 1_000), moment_words(now_ms // 1_000))
        assert all(one in caught.value.message for one in times), "so that a wrong clock is seen"


def test_a_signature_counts_once() -> None:
    request = signed(ATTEST)
    with pytest.raises(NotAllowed) as caught:
        prove(replace(ASKED, marks={request.signature}), request, POLICY, Provers(), NOW)
    assert caught.value.code == "proof-used"


def test_a_key_of_the_access_file_signs_what_its_role_may() -> None:
    public = public_text(KEY.public_key())
    for role, fits in (("operator", True), ("viewer", False)):
        known = Provers(True, {"kim": Person("kim", role, key=public)})  # type: ignore[arg-type]
        if fits:
            assert prove(ASKED, signed(ATTEST), RunPolicy(), known, NOW).kind == "signature"
        else:
            with pytest.raises(NotAllowed):
                prove(ASKED, signed(ATTEST), RunPolicy(), known, NOW)


def seen(request: Request, proof: Proven, room: RoomKey, store: MemoryStore) -> Request:
    """As a war room writes it and a leader reads it."""
    made = asyncio.run(room.seen(store, "run-1", replace(request, proof=proof)))
    return decode(key_of("run-1", made.id), encode(made))


def test_a_login_that_a_known_room_saw_is_proof() -> None:
    room, store = RoomKey(), MemoryStore()
    asked = seen(ATTEST, Proven("oidc", "gold", NOW - 5), room, store)
    known = Provers(True, rooms={room.id: asyncio.run(room_in(store, room.id))})
    found = prove(ASKED, asked, RunPolicy(), known, NOW)
    assert (found.words, found.at_ms, found.room) == ("oidc (gold)", NOW - 5, room.id)
    for other in (
        replace(asked, id="2"),
        replace(asked, content="0" * 64),
        replace(asked, proof=replace(asked.proof, room="0" * 16)),
    ):
        with pytest.raises(NotAllowed):
            prove(ASKED, other, RunPolicy(), known, NOW)


def test_whoever_writes_an_open_store_names_no_room_where_approvers_are_listed() -> None:
    room, store = RoomKey(), MemoryStore()
    asked = seen(ATTEST, Proven("password", at_ms=NOW), room, store)
    rooms = {room.id: room.public}
    with pytest.raises(NotAllowed) as caught:
        prove(ASKED, asked, POLICY, Provers(rooms=rooms), NOW)
    assert caught.value.code == "room-unknown"
    assert prove(ASKED, asked, POLICY, Provers(rooms=rooms, sealed=True), NOW).kind == "password"
    listed = replace(POLICY, rooms={"pangyo": room.public})
    assert prove(ASKED, asked, listed, Provers(), NOW).kind == "password"


def test_a_room_with_a_key_of_its_own_is_the_same_room_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saw before is proof still, also where the policy lists its key."""
    public, store = new_key(tmp_path / "key"), MemoryStore()
    monkeypatch.setenv(ROOM_KEY, f"file:{tmp_path / 'key'}")
    before, after = (RoomKey(key_named(ROOM_KEY)) for _ in range(2))
    assert (before.id, before.public, after.public) == (after.id, public, public)
    asked = seen(ATTEST, Proven("password", at_ms=NOW), before, store)
    listed = replace(POLICY, rooms={"pangyo": public})
    assert prove(ASKED, asked, listed, Provers(), NOW).room == after.id
    monkeypatch.delenv(ROOM_KEY)
    assert RoomKey(key_named(ROOM_KEY)).id != before.id


def test_an_approval_of_the_run_is_signed_whatever_a_room_saw() -> None:
    from evac.engine.runs.proving import asked_of

    room, store = RoomKey(), MemoryStore()
    view = replay(spec_of(), [Event("run_created", 1)])
    approve = seen(Request("1", "approve", "kim", "fire"), Proven("password", at_ms=NOW), room, store)
    listed = replace(POLICY, rooms={"pangyo": room.public})
    with pytest.raises(NotAllowed) as caught:
        prove(asked_of(view, approve), approve, listed, Provers(sealed=True), NOW)
    assert caught.value.code == "signature-invalid"


def test_a_program_that_a_room_saw_neither_approves_nor_attests() -> None:
    room, store = RoomKey(), MemoryStore()
    asked = seen(ATTEST, Proven("token", program=True), room, store)
    with pytest.raises(NotAllowed) as caught:
        prove(ASKED, asked, RunPolicy(), Provers(rooms={room.id: room.public}), NOW)
    assert caught.value.code == "program"


def test_the_record_says_how_the_person_was_proven_and_older_ones_replay() -> None:
    view = RunView(spec_of())
    apply(view, Event("run_created", 1))
    proof = Proven("signature", at_ms=NOW, mark="m")
    terms = RequestTerms(check=lambda view, request, now_ms: proof)
    approved = event_of(view, Request("1", "approve", "kim", "fire"), NOW, terms)
    assert approved.data["proof"] == {"kind": "signature", "at_ms": NOW, "mark": "m"}
    apply(view, approved)
    assert view.approvals.proofs["kim"].words == "signature"
    assert view.marks == {"1", "m"}
    older = {key: value for key, value in approved.data.items() if key != "proof"}
    again = replay(spec_of(), [Event("run_created", 1), approved._replace(data=older)])
    assert again.approvals.proofs["kim"].words == "name not proven"
