"""Ends of holds and cleared marks where a person must be proven: asked in the store, done by the leader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from evac.app import runs
from evac.engine.clock import SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import Notice
from evac.engine.runs.effects import CLEARED, EffectsReader
from evac.engine.runs.proving import Asked, Provers, prove
from evac.engine.runs.releases import RELEASE, Releases, proof_needed
from evac.engine.runs.requests import Request
from evac.engine.runs.signatures import public_text
from evac.engine.stores.guards import HOLD_KEY, SITES_KEY
from evac.model.access import Proven
from evac.model.errors import NotAllowed
from evac.model.run_policy import Approver, RunPolicy
from evac.store.port import Change, Compare, Lease, MemoryStore, Put, Store

KIM, EVE = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
POLICY = RunPolicy(approvers=(Approver("kim", public_text(KIM.public_key())),))
HELD = orjson.dumps({"who": "lee", "reason": "look first", "at_ms": 1})


def file_of(folder: Path, key: Ed25519PrivateKey) -> Path:
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


class Listener(MemoryStore):
    """Keeps what the leader is asked, as someone who reads the store can."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Put] = []

    async def transact(
        self, compares: Sequence[Compare], changes: Sequence[Change], guard: Lease | None = None
    ) -> int:
        self.asked += [one for one in changes if isinstance(one, Put) and one.key.startswith(RELEASE)]
        return await super().transact(compares, changes, guard)


def played(story: Callable[[Listener, list[Notice]], Awaitable[None]]) -> None:
    """With a leader that takes nothing on a typed name, and a site that is marked as lost."""

    async def work() -> None:
        store, clock, told = Listener(), SystemClock(), list[Notice]()
        guard = await store.acquire(LEADER, "here", 600_000)

        async def proven(asked: Asked, request: Request) -> Proven:
            return prove(asked, request, POLICY, Provers(), clock.now_ms())

        await store.transact((), (Put(SITES_KEY, b'{"east":"lost"}'), Put(HOLD_KEY, HELD)))
        leading = asyncio.ensure_future(
            Releases(store, clock, told.append, lambda: True, proven).chore(guard)
        )
        while not await store.get("rules/proof"):
            await asyncio.sleep(0)
        try:
            await story(store, told)
        finally:
            leading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leading

    asyncio.run(work())


def now_ms() -> int:
    return SystemClock().now_ms()


async def lost(store: Store) -> list[str]:
    return [one.domain for one in (await EffectsReader(store).read(1)).lost]


def test_a_signature_clears_the_mark_and_the_record_says_how_the_person_was_proven(tmp_path: Path) -> None:
    async def story(store: Listener, told: list[Notice]) -> None:
        assert await proof_needed(store)
        await runs.clear_mark(store, "east", "kim", "a drill", now_ms(), file_of(tmp_path, KIM))
        assert await lost(store) == []
        entry = await store.get(CLEARED + "east")
        assert entry is not None
        said = orjson.loads(entry.value)
        assert (said["who"], said["mark"], said["proof"]["kind"]) == ("kim", "lost", "signature")
        assert await store.get(HOLD_KEY), "the hold is another matter"

    played(story)


@pytest.mark.parametrize(
    ("who", "key", "domain", "code"),
    [
        ("kim", EVE, "east", "signature-invalid"),
        ("eve", EVE, "east", "signer-unknown"),
        ("kim", KIM, "west", "site-active"),
    ],
)
def test_nobody_else_clears_it_and_no_mark_that_is_not_there(
    tmp_path: Path, who: str, key: Ed25519PrivateKey, domain: str, code: str
) -> None:
    async def story(store: Listener, told: list[Notice]) -> None:
        with pytest.raises(NotAllowed) as caught:
            await runs.clear_mark(store, domain, who, "a drill", now_ms(), file_of(tmp_path, key))
        assert caught.value.code == code
        assert await lost(store) == ["east"]

    played(story)


@pytest.mark.parametrize("about", ["mark", "hold"])
def test_a_request_that_is_put_back_ends_nothing_later(tmp_path: Path, about: str) -> None:
    """It was signed over the mark, or the hold, that was there then."""

    async def story(store: Listener, told: list[Notice]) -> None:
        key = file_of(tmp_path, KIM)
        if about == "mark":
            await runs.clear_mark(store, "east", "kim", "a drill", now_ms(), key)
        else:
            assert await runs.release(store, "kim", "looked", now_ms(), key)
            assert [one.words for one in told] == ["kim ended the hold (signature): looked"]
        (asked,) = store.asked
        later = orjson.dumps({"who": "lee", "reason": "fire again", "at_ms": 2})
        await store.transact((), (Put(SITES_KEY, b'{"east":"lost"}'), Put(HOLD_KEY, later), asked))
        while await store.get(asked.key):
            await asyncio.sleep(0)
        assert await lost(store) == ["east"]
        assert await store.get(HOLD_KEY)

    played(story)


def test_a_signed_end_of_a_hold_clears_no_mark(tmp_path: Path) -> None:
    async def story(store: Listener, told: list[Notice]) -> None:
        assert await runs.release(store, "kim", "looked", now_ms(), file_of(tmp_path, KIM))
        assert await store.get(HOLD_KEY) is None
        assert await lost(store) == ["east"]

    played(story)
