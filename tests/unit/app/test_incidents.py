"""Incidents over a real store: a journal written as controllers write it, read back, noted on and shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from evac.app import incidents
from evac.cli.main import run as evac
from evac.engine.lead.watch_journal import Notice as Told
from evac.engine.lead.watch_journal import encode as encode_notice
from evac.engine.plans.library import put_plan
from evac.engine.runs.binding import Bound, put_bound
from evac.engine.runs.open_runs import OPEN
from evac.engine.runs.reading import encode_all
from evac.estate.codecs import plan as plan_codec
from evac.incident.incident import summary
from evac.incident.timeline import timeline
from evac.model.errors import Conflict, InvalidInput, RunError
from evac.model.plan import Certificate
from evac.store.journal import Journal
from evac.store.opening import open_store
from evac.store.port import Lease, Put, Store
from tests.unit.incident.stories import DIGEST, NOTICES, T0, carried_out, note, plan_of, spec_of

Answer = TypeVar("Answer")
ESTATE = """evac: 1
name: example
sites: {pangyo: {}, anyang: {}}
services:
  web: {people: 10, public_name: Web shop}
  ads: {people: 10}
"""


async def burnt(store: Store, until: int = 10_000) -> tuple[Journal, list[bytes], Lease]:
    """Everything that a controller leaves in a store after a fire, or in the middle of it: until, so many
    records. The journal of its run, the records that are still to come, and the leader's lease.
    """
    plan = replace(plan_of(), certificate=Certificate(), estate_digest="sha256:" + "0" * 64)
    digest = await put_plan(store, plan_codec.encode(plan))
    lease = await store.acquire("leader", "c1", 60_000)
    spec = replace(spec_of(plan), plan=digest)
    await put_bound(store, Bound(spec, {}), lease)
    events = carried_out(plan)
    first = {**events[0].data, "plan": digest, "incident": "fire-1", "scenario": "loss of pangyo"}
    records = encode_all([events[0]._replace(data=first), *events[1:]])
    journal = await Journal.create(store, "run-1", lease, records=records[:until])
    told = [encode_notice(Told(n.kind, n.at_ms, n.site, n.words, n.data)) for n in NOTICES]  # type: ignore[arg-type]
    await Journal.create(store, "watch", lease, records=told)
    value = orjson.dumps({"run": "run-1", "plan": digest})
    opened = [Put(OPEN + "run-1", b"{}")] if until < len(records) else []
    await store.transact((), (Put("incident/fire-1", value), *opened), lease)
    return journal, records[until:], lease


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:{tmp_path / 'runs.sqlite'}"
    ask(found, burnt)
    return found


def ask(url: str, question: Callable[[Store], Awaitable[Answer]]) -> Answer:
    async def asked() -> Answer:
        store = open_store(url)
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(asked())


def test_the_store_gives_what_the_journal_says(url: str) -> None:
    found = ask(url, lambda store: incidents.dossier(store, "fire-1", T0))
    assert ask(url, lambda store: incidents.dossier(store, "run-1", T0)) == found
    about = summary(found)
    assert about.still_down == ("ads", "gone")
    assert [entry.words for entry in timeline(found, about) if entry.kind == "promoted"] == [
        "db accepts writes in anyang"
    ]
    assert ask(url, incidents.names) == ["fire-1"]


def test_a_note_is_made_once(url: str) -> None:
    made = note("note", 1, "smoke in hall 2")
    key = ask(url, lambda store: incidents.add_note(store, made))
    assert key == f"note/fire-1/{made.id}"
    assert ask(url, lambda store: incidents.notes_of(store, "fire-1")) == (made,)
    with pytest.raises(Conflict):
        ask(url, lambda store: incidents.add_note(store, made))


def test_what_does_not_fit_is_not_written(url: str) -> None:
    with pytest.raises(RunError):
        ask(url, lambda store: incidents.add_note(store, replace(note("note", 1, "x"), incident="fire-2")))
    with pytest.raises(InvalidInput):
        ask(url, lambda store: incidents.add_note(store, note("fact", 1, name="weather", value="fine")))
    with pytest.raises(RunError):
        ask(url, lambda store: incidents.dossier(store, "fire-2", T0))
    assert ask(url, lambda store: incidents.notes_of(store, "fire-2")) == ()


def test_the_commands_show_it(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def out(*words: str) -> str:
        assert evac(["incident", *words, "--store", url]) == 0
        return capsys.readouterr().out

    out("note", "fire-1", "--kind", "command", "--value", "lee", "--who", "lee")
    said = ["--name", "Shop down", "--other-title", "장애 안내", "--other-text", "복구되었습니다."]
    out("note", "fire-1", "The shop is back.", "--kind", "update", *said, "--who", "lee")
    out("note", "fire-1", "--kind", "fact", "--name", "cause", "--value", "a battery", "--who", "kim")
    assert json.loads(out("show", "fire-1", "--output", "json"))["commander"] == "lee"
    assert "command" in out("timeline", "fire-1")
    entries = json.loads(out("timeline", "fire-1", "--all", "--output", "json"))["entries"]
    assert len(entries) > 20
    assert any("lee is in command" in one["words"] for one in entries)
    report = json.loads(out("report", "fire-1", "--output", "json"))
    assert report["basics"]["cause"]["value"] == "a battery"
    assert "not known" in out("report", "fire-1", "--output", "markdown")
    assert out("report", "fire-1", "--output", "html").startswith("<!doctype html>")
    assert "fire-1" in out("list")
    (tmp_path / "estate").mkdir()
    (tmp_path / "estate" / "estate.yaml").write_text(ESTATE)
    out("status-page", str(tmp_path / "estate"), "-o", str(tmp_path / "page"), "--languages", "en,ko")
    assert "복구되었습니다." in (tmp_path / "page" / "index.ko.html").read_text()
    assert "복구되었습니다." not in (tmp_path / "page" / "index.html").read_text()
    shown = json.loads((tmp_path / "page" / "status.json").read_text())
    assert [one["name"] for one in shown["components"]] == ["Web shop"]
    assert shown["incidents"][0]["updates"][0]["text"] == "The shop is back."
    assert evac(["incident", "note", "fire-1", "x", "--other-text", "y", "--store", url]) != 0
    assert "only a status update has a second language" in capsys.readouterr().err
    assert evac(["incident", "show", "nothing", "--store", url]) != 0
    assert "incident-unknown" in capsys.readouterr().err


def test_a_plan_becomes_a_runbook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(
        plan_codec.encode(replace(plan_of(), certificate=Certificate(), estate_digest="sha256:" + "0" * 64))
    )
    assert (
        evac(["incident", "runbook", str(path), "--output", "html", "-o", str(tmp_path / "book.html")]) == 0
    )
    text = (tmp_path / "book.html").read_text()
    assert "start:web:base" in text
    assert "size: A4" in text
    assert DIGEST not in text
    capsys.readouterr()
