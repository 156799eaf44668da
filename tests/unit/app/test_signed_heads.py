"""Heads of journals that controllers sign, and what `evac run verify` says of a store that was changed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from evac.app import runs
from evac.cli import console
from evac.cli.main import run as command
from evac.engine.clock import SystemClock
from evac.engine.lead.signed_heads import SIGNED, HeadSigner, key_named, proven, signed_heads
from evac.engine.runs import requests
from evac.engine.runs.signatures import new_key, read_key
from evac.model.errors import NotAllowed
from evac.net.secrets import HEAD_KEY, ROOM_KEY
from evac.run.values import ENDED
from evac.store.anchors import Anchor, key_of, verify_chain
from evac.store.journal import Journal
from evac.store.opening import open_store
from evac.store.port import Delete, MemoryStore, Put, Store
from tests.unit.app.test_store_writer import PATIENCE_S, House, rewritten

pytestmark = [pytest.mark.enable_socket]
CLOCK = SystemClock()


async def journal_of(store: Store, *records: bytes) -> Anchor:
    journal = await Journal.create(store, "r", None)
    for record in records:
        await journal.append([record], None)
    return journal.head


def test_a_head_is_believed_only_as_its_controller_signed_it(tmp_path: Path) -> None:
    public, other = new_key(tmp_path / "key"), new_key(tmp_path / "other")
    store = MemoryStore()

    async def story() -> None:
        head = await journal_of(store, b"[1]", b"[2]")
        signer = HeadSigner(store, read_key(tmp_path / "key"), "west", CLOCK)
        assert signer.public == public
        await signer.keep(head, 3)
        (told,) = await signed_heads(store, "r")
        keys = {"west": [public]}
        assert proven([told], "r", keys, 3) == ([head], [])
        assert proven([told], "r", {}, 3) == ([], []), "where no keys are listed nothing is asked for"
        changes: Sequence[dict[str, object]] = (
            {"hash": "0" * 64},
            {"segment": 1},
            {"site": "east"},
            {"at_ms": 0},
            {"stream": "other"},
            {"signature": ""},
            {"signature": 7},
            {"generation": 0},
        )
        for change in changes:
            anchors, problems = proven([{**told, **change}], "r", keys | {"east": [other]}, 3)
            assert anchors == []
            assert problems[0].startswith("signed-wrong")
        assert proven([told], "r", {"west": [other]}, 3)[1]
        assert proven([told], "r", {"west": [other, public]}, 3) == ([head], []), "a key that was replaced"
        assert proven([{}], "r", keys, 3)[1]
        assert proven([told], "r", keys, 4) == ([], []), "one of an older store"

    asyncio.run(story())


def test_a_journal_that_was_rewritten_or_cut_off_contradicts_what_was_signed(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    store = MemoryStore()

    async def story() -> None:
        head = await journal_of(store, b'["uid-0"]', b"[2]")
        await HeadSigner(store, read_key(tmp_path / "key"), "west", CLOCK).keep(head, 0)
        assert await verify_chain(store, "r", [head]) == []
        await rewritten(store, "r", b"uid-0", b"the CISO")
        assert await verify_chain(store, "r") == [], "the chain alone is whole"
        assert [one.kind for one in await verify_chain(store, "r", [head])] == ["changed"]
        await store.transact((), (Delete(key_of("r", head.segment)),))
        assert [one.kind for one in await verify_chain(store, "r", [head])] == ["cut-off"]

    asyncio.run(story())


def test_junk_below_signed_heads_is_passed_over() -> None:
    store = MemoryStore()

    async def story() -> None:
        await store.transact((), (Put(f"{SIGNED}r/x", b"\xff"), Put(f"{SIGNED}r/y", b"[1]")))
        assert await signed_heads(store, "r") == ()

    asyncio.run(story())


def test_a_key_that_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(tmp_path / "key")
    monkeypatch.setenv(HEAD_KEY, f"file:{tmp_path / 'key'}")
    assert key_named(HEAD_KEY) is not None
    monkeypatch.delenv(HEAD_KEY)
    assert key_named(HEAD_KEY) is None
    for option in ("--head-key", "--room-key"):
        named = ["serve", str(tmp_path), "--site", "a", option, f"file:{tmp_path / 'none'}"]
        assert command(named) == console.NOT_ALLOWED
        assert "key-missing" in capsys.readouterr().err
        for variable in (HEAD_KEY, ROOM_KEY):
            os.environ.pop(variable, None)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(NotAllowed, match="read"):
        key_named(HEAD_KEY, {HEAD_KEY: f"file:{tmp_path / 'key'}"})


def test_a_controller_signs_and_verify_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    house, public = House(tmp_path), new_key(tmp_path / "key")
    monkeypatch.setenv(HEAD_KEY, f"file:{tmp_path / 'key'}")
    monkeypatch.setenv("EVAC_STORE", house.url)
    (tmp_path / "policy.yaml").write_text(f"mode: act\ncontrollers: {{east: {public}}}\n")

    async def story() -> str:
        async with house.leading() as store:
            run = await house.proposed(store)
            await house.ask(store, requests.Request("1", "cancel", "kim", "no"))
            async with asyncio.timeout(PATIENCE_S):
                while (await runs.view_of(store, run)).phase not in ENDED:
                    await asyncio.sleep(0.1)
                end = (await runs.verify(store, run, [])).segments
                while not any(one["segment"] == end for one in await signed_heads(store, run)):
                    await asyncio.sleep(0.1)
            return run

    run = asyncio.run(story())
    verify = ["run", "verify", run, "--estate", str(tmp_path)]
    capsys.readouterr()
    assert command(verify) == console.DONE
    assert "and with 1 that controllers signed" in capsys.readouterr().out
    assert command([*verify, "--output", "json"]) == console.DONE
    assert json.loads(capsys.readouterr().out)["signed"] == 1
    named = ["run", "verify", run, "--estate", str(house.estate)]
    assert command([*named, "--policy", str(tmp_path / "policy.yaml")]) == console.DONE
    assert "and with 1 that controllers signed" in capsys.readouterr().out

    async def change(name: str) -> None:
        store = open_store(house.url)
        key = f"{SIGNED}{run}/east"
        entry = await store.get(key)
        assert entry is not None
        told = {**orjson.loads(entry.value), "segment": 1}
        await store.transact((), (Put(key, orjson.dumps(told)) if name == "forge" else Delete(key),))
        await store.close()

    asyncio.run(change("forge"))
    assert command(verify) == console.FAILED
    assert "signed-wrong" in capsys.readouterr().out
    asyncio.run(change("delete"))
    assert command(verify) == console.NOT_COMPARED
    assert "someone deleted the signatures" in capsys.readouterr().err
