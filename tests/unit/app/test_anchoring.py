"""Journals that are no run's: their heads stand with agents of other sites, and a person can prove them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evac.agent.memory import Anchors, Head
from evac.app.access_log import JOURNALS, READ_ON
from evac.app.anchoring import HeadChore, HeldJournals, Sink, heard
from evac.cli import console
from evac.cli.main import run
from evac.drivers.process.client import HERE
from evac.drivers.process.driver import AgentAnchors
from evac.engine.clock import SystemClock
from evac.engine.lead.watch_journal import Notice
from evac.engine.stores.guards import HOLD_KEY
from evac.model.errors import EvacError, OutcomeUnknown, Permanent, Unavailable
from evac.store.anchors import Anchor, key_of, verify_chain
from evac.store.journal import Journal, head_of
from evac.store.opening import open_store
from evac.store.port import Delete, MemoryStore, Put, Store
from tests.unit.bundle.test_bundle import estate
from tests.unit.engine import agents
from tests.web.rooms import play


async def written(store: Store, count: int, *streams: str) -> None:
    """So many more segments of one record."""
    for stream in streams:
        journal = await (
            Journal.open(store, stream)
            if await store.get(key_of(stream, 1))
            else Journal.create(store, stream, None)
        )
        for _ in range(count):
            await journal.append([b'[1,"a record"]'], None)


class Site:
    """What the agent of a site keeps, without the way to it. away: it does not answer."""

    def __init__(self, folder: Path) -> None:
        self.away, self.asked = False, 0
        self._kept = Anchors(folder)

    async def keep(self, head: Anchor) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("it does not answer")
        self._kept.add(head.stream, Head(head.segment, head.records, head.hash))

    def heads(self, stream: str) -> list[Anchor]:
        return [Anchor(stream, h["segment"], h["records"], h["hash"]) for h in self._kept.heads(stream)]

    async def newest(self, stream: str) -> Anchor | None:
        if self.away:
            raise Unavailable("it does not answer")
        return next(reversed(self.heads(stream)), None)


@pytest.mark.parametrize("kind", ["cut-off", "changed", "another agent agrees", "whole"])
def test_a_run_of_a_store_that_was_put_back_waits_for_a_person(tmp_path: Path, kind: str) -> None:
    """Everything is on hold if what agents keep contradicts the journal of a run that is taken over."""

    async def story() -> None:
        store, told = MemoryStore(), list[Notice]()
        sites = {name: Site(tmp_path / name) for name in ("near", "far", "burnt")}
        held = HeldJournals(
            store, {name: one.newest for name, one in sites.items()}, SystemClock(), "north", told.append
        )
        await written(store, 4, "fire-1")
        await held.compare("fire-1")
        assert (told, await store.get(HOLD_KEY)) == ([], None), "no agent has a head of it yet"
        heads = [await head_of(store, "fire-1")]
        await written(store, 2, "fire-1")
        heads.append(await head_of(store, "fire-1"))
        for site, head in zip(("near", "far"), reversed(heads), strict=True):
            assert head is not None
            await sites[site].keep(head)
        sites["burnt"].away = True
        sites["far"].away = kind != "another agent agrees"
        if kind in ("cut-off", "another agent agrees"):
            await store.transact((), (Delete(key_of("fire-1", 7)), Delete(key_of("fire-1", 6))))
        if kind == "changed":
            last = await store.get(key_of("fire-1", 7))
            assert last is not None
            await store.transact((), (Put(last.key, last.value.replace(b"a record", b"b record")),))
        for _ in range(2):
            await held.compare("fire-1")
        hold = await store.get(HOLD_KEY)
        if kind == "whole":
            assert (told, hold) == ([], None)
            return
        assert [one.data["agents"] for one in told] == [["near"]] * 2
        assert "evac run verify fire-1 --estate ESTATE" in told[0].words
        assert (hold is not None) == (kind != "another agent agrees")
        if hold is None:
            return
        assert "restored an older state of the store" in json.loads(hold.value)["reason"]
        await store.transact((), (Delete(HOLD_KEY),))
        for _ in range(2):  # the next leaders take it over
            await held.compare("fire-1")
            assert await store.get(HOLD_KEY) is None, "a person released it"
        assert "the hold for this was released, so the run continues" in told[-1].words
        other = Site(tmp_path / "other")
        await other.keep(Anchor("fire-1", 9, 9, "f" * 64))
        both = {"near": sites["near"].newest, "other": other.newest}
        held = HeldJournals(store, both, SystemClock(), "south", told.append)
        await held.compare("fire-1")
        assert await store.get(HOLD_KEY) is not None, "of the other head nobody was told"

    asyncio.run(story())


def chore_of(store: Store, sinks: Mapping[str, Sink], told: list[Notice]) -> HeadChore:
    async def pause(_: float) -> None:
        pass

    return HeadChore(store, sinks, SystemClock(), told.append, "north", pause)


def test_heads_follow_the_journals_and_no_silent_site_holds_another_up(tmp_path: Path) -> None:
    async def story() -> None:
        store, told = MemoryStore(), list[Notice]()
        near, far = Site(tmp_path / "near"), Site(tmp_path / "far")
        chore = chore_of(store, {"near": near.keep, "far": far.keep}, told)
        lease = await store.acquire("leader", "north/1", 60_000)
        await chore.chore(lease)
        assert near.asked == 0, "where no journal is there is no head"
        await written(store, 2, *READ_ON)
        far.away = True
        await chore.chore(lease)
        for stream in READ_ON:
            assert [head.segment for head in near.heads(stream)] == [3]
            assert far.heads(stream) == []
        before = near.asked
        far.away = False
        await chore.chore(lease)
        assert near.asked == before, "a head is left once"
        await written(store, 2, *READ_ON)
        await chore.chore(lease)
        for stream in READ_ON:
            assert [head.segment for head in near.heads(stream)] == [3, 5]
            assert [head.segment for head in far.heads(stream)] == [3, 5]
            assert await verify_chain(store, stream, near.heads(stream)) == []
        before = near.asked
        await chore.chore(replace(lease, token=lease.token + 1))
        assert near.asked == before + len(READ_ON), "the next one to lead leaves what is there"
        assert told == []

    asyncio.run(story())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_journal_that_was_cut_off_or_changed_gets_no_new_head_and_it_is_said_once(
    tmp_path: Path, restarted: bool
) -> None:
    """By whoever read it before, and by one that was started since: then an agent contradicts."""

    async def story() -> None:
        store, told, site = MemoryStore(), list[Notice](), Site(tmp_path)
        chore = chore_of(store, {"near": site.keep}, told)
        await written(store, 3, *READ_ON)
        await chore.look()
        kept = {stream: site.heads(stream) for stream in READ_ON}
        cut, changed, *_ = READ_ON
        await store.transact((), (Delete(key_of(cut, 4)),))
        last = await store.get(key_of(changed, 4))
        assert last is not None
        await store.transact((), (Put(last.key, last.value.replace(b"a record", b"b record")),))
        chore = chore_of(store, {"near": site.keep}, told) if restarted else chore
        await chore.look()
        await written(store, 1, changed)
        await chore.look()
        assert {stream: site.heads(stream) for stream in READ_ON}[cut] == kept[cut]
        problems = {stream: await verify_chain(store, stream, site.heads(stream)) for stream in READ_ON}
        assert [str(one).split(":")[0] for one in problems[cut]] == ["cut-off"]
        assert "changed" in {one.kind for one in problems[changed]}
        assert [one.data for one in told] == [{"code": "journal-broken"}] * 2
        assert all("evac run verify" in one.words for one in told)

    asyncio.run(story())


def test_what_an_agent_refuses_to_keep_is_said_once_until_it_keeps_it_again() -> None:
    told = list[tuple[str, object]]()
    refusal: list[EvacError] = [
        Permanent("anchor-full", "the agent keeps heads of 4,096 journals", "take some away"),
        Permanent("anchor-full", "the agent keeps heads of 4,096 journals", "take some away"),
        Unavailable("it does not answer"),
        Permanent("superseded", "the agent obeys generation 2"),
        OutcomeUnknown("agent-failed", "No space left on device", "observe it first"),
    ]

    async def keep(head: Anchor) -> None:
        if refusal:
            raise refusal.pop(0)

    async def story() -> None:
        sink = heard("near", keep, lambda words, data: told.append((words, data["code"])))
        while refusal:
            with pytest.raises(EvacError):
                await sink(Anchor("run-1", 1, 1, "a"))
        await sink(Anchor("run-1", 1, 1, "a"))
        refusal.append(OutcomeUnknown("agent-failed", "No space left on device"))
        with pytest.raises(EvacError):
            await sink(Anchor("run-1", 2, 2, "b"))

    asyncio.run(story())
    assert [code for _, code in told] == ["anchor-full", "agent-failed", "agent-failed"]
    assert told[0][0] == (
        "the agent of near did not store the head of journal run-1: the agent keeps heads of 4,096 journals; "
        "take some away"
    )


def proved(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code = run(["run", "verify", *words, "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.enable_socket
@pytest.mark.servers
def test_a_person_proves_them_with_what_a_real_agent_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = agents.config(tmp_path, site="north")
    path = str(estate(tmp_path, f"http://{made.host}:{made.port}"))
    url = f"sqlite:{tmp_path}/s.sqlite"
    at = ("--store", url, "--estate", path)

    async def left(store: Store) -> None:
        agent = AgentAnchors(agents.at(made), HERE)

        async def keep(head: Anchor) -> None:
            await agent.put(head.stream, head.segment, head.records, head.hash, 2.0)

        await chore_of(store, {"north": keep}, []).look()
        await agent.close()

    async def story() -> None:
        async with agents.running(made):
            store = open_store(url)
            await written(store, 2, *JOURNALS)
            await left(store)
            await store.close()
            code, found = await asyncio.to_thread(proved, capsys, *at)
            assert code == console.DONE
            rows = {row.pop("stream"): row for row in found["journals"]}
            whole = {"segments": 3, "records": 2, "signed": 0, "problems": [], "silent": []}
            assert rows == {"watch": {**whole, "anchors": 0}} | {
                stream: {**whole, "anchors": 1} for stream in READ_ON
            }
            assert await asyncio.to_thread(run, ["run", "verify", *at]) == console.DONE
            lines = capsys.readouterr().out.splitlines()
            assert lines == [
                "watch is whole: 2 events in 3 segments; no agent kept a head of it",
                "notices is whole: 2 events in 3 segments and agrees with 1 heads kept elsewhere",
                "plans is whole: 2 events in 3 segments and agrees with 1 heads kept elsewhere",
                "access is whole: 2 events in 3 segments and agrees with 1 heads kept elsewhere",
                "backups is whole: 2 events in 3 segments and agrees with 1 heads kept elsewhere",
            ]
            with sqlite3.connect(tmp_path / "s.sqlite") as file:
                file.execute("DELETE FROM entry WHERE key LIKE 'journal/notices/%3'")
            file.close()
            code, found = await asyncio.to_thread(proved, capsys, "--store", url)
            assert code == console.NOT_COMPARED, "without the agents nobody knows"
            code, found = await asyncio.to_thread(proved, capsys, *at)
            assert code == console.FAILED
            assert [len(row["problems"]) for row in found["journals"]] == [0, 1, 0, 0, 0]
            code, found = await asyncio.to_thread(proved, capsys, "notices", *at)
            assert (code, found["run"]) == (console.FAILED, "notices")
            assert found["problems"] == ["cut-off: segment 3 was anchored; the journal ends at 2"]
            assert found["silent"] == []
            ends = Path(path, "endpoints.yaml")
            first = ends.read_text().splitlines()[1]
            other = first.replace("  unit: {", "  other: {").replace("at: north", "at: south")
            other = other.replace(agents.REFERENCE, "env:EVAC_TEST_OTHER_KEY")
            ends.write_text(ends.read_text() + other.replace(str(made.port), "9") + "\n")
            code, found = await asyncio.to_thread(proved, capsys, "plans", *at)
            assert (code, found["silent"], found["anchors"]) == (console.DONE, ["south"], 1)
            assert await asyncio.to_thread(run, ["run", "verify", "plans", *at]) == console.DONE
            told = capsys.readouterr()
            assert "agrees with 1 heads kept elsewhere" in told.out
            assert "not compared with the agents of south: they do not answer" in told.err

    asyncio.run(story())


def test_a_war_room_proves_them_too() -> None:
    async def story(client: Any, office: Any) -> None:
        await written(office.store, 2, "plans")
        for path in ("plans", "watch"):
            answer = await client.post(f"/v1/journals/{path}/proof", json={})
            assert answer.status_code == 200
            assert answer.json() == {
                "stream": path,
                "segments": 3 if path == "plans" else 0,
                "anchors": 0,
                "records": 2 if path == "plans" else 0,
                "problems": [],
                "signed": [],
                "chapters": [],
            }
        heads = {"heads": [{"segment": 4, "records": 3, "hash": "0" * 64}]}
        answer = await client.post("/v1/journals/plans/proof", json=heads)
        assert answer.json()["problems"] == ["cut-off: segment 4 was anchored; the journal ends at 3"]
        assert (await client.post("/v1/journals/run-1/proof", json={})).status_code == 422

    play(story)
