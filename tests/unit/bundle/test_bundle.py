"""From a running store into one file, and from the file to a store of a newer generation."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from evac.agent.service import Agent
from evac.bundle import contents, sealing
from evac.bundle import making as bundling
from evac.bundle import opening as bundle_opening
from evac.bundle.plans import without_small_plans
from evac.cli import console
from evac.cli.main import run
from evac.engine.clock import SystemClock
from evac.engine.lead import watch_journal
from evac.engine.lead.leadership import LEADER, Leadership
from evac.engine.stores import datasets
from evac.estate.codecs.bundle import BundleDamaged, Source, open_bundle, write_bundle
from evac.model.errors import EvacError, InvalidInput, NotAllowed, StoreError, UnknownDomain
from evac.model.estate import Endpoint, Estate, Site
from evac.model.generation import generation_of
from evac.net import secrets
from evac.store.anchors import verify_chain
from evac.store.generation import read_generation
from evac.store.journal import Journal, read
from evac.store.opening import open_store
from evac.store.port import Put, Store
from tests.contract.store.members import Members, etcd_program
from tests.unit.engine import agents
from tests.unit.estate.test_bundle_format import damage

pytestmark = pytest.mark.enable_socket

NOW_MS = 1_790_000_000_000
ESTATE = """\
evac: 1
name: two
sites: {north: {people: a, b}, south: {}}
pools:
  north-pool: {site: north, cpu: 64 cores, memory: 64 GiB, disk: 1 TiB}
  south-pool: {site: south, cpu: 64 cores, memory: 64 GiB, disk: 1 TiB}
services:
  web: {tier: 0, people: 10, demand: {cpu: 1 core, memory: 1 GiB}, replicas: {north: 2, south: 2},
        share: 50 %, rto: 10 min, start: 10 s, traffic: {kind: none}}
"""


def estate(folder: Path, agent: str = "") -> Path:
    path = folder / "two"
    path.mkdir()
    (path / "estate.yaml").write_text(ESTATE.replace("{people: a, b}", "{people: somebody}"))
    settings = f"{{agent: '{agent or 'http://127.0.0.1:9'}', secret: '{agents.REFERENCE}', unit: web}}"
    (path / "endpoints.yaml").write_text(
        f"endpoints:\n  unit: {{for: web, driver: process, at: north, settings: {settings}}}\n"
    )
    (path / "policy.yaml").write_text("mode: advise\n")
    (path / "private.key").write_text("never carried")
    os.environ["EVAC_TEST_AGENT_KEY"] = agents.KEY
    return path


def fill(url: str, *more: tuple[str, Any]) -> None:
    """A store as a controller leaves it: a journal, an epoch, a register, votes."""

    async def work() -> None:
        store = open_store(url)
        lease = await store.acquire(LEADER, "north/1", 60_000)
        journal = await Journal.create(store, watch_journal.STREAM, lease)
        for number in range(3):
            notice = watch_journal.Notice("leader", number, "north", f"notice {number}")
            await journal.append([watch_journal.encode(notice)], lease)
        epoch = datasets.encode(datasets.Epoch("chat", 7, "north"))
        keys = [
            ("epoch/chat", epoch),
            ("sites", b'{"north":"active"}'),
            ("votes/a/b", b"1"),
            ("standing/x", b"1"),
        ]
        for key, value in (*keys, *((key, orjson.dumps(value)) for key, value in more)):
            await store.transact((), (Put(key, value),), lease)
        await store.release(lease)
        await store.close()

    asyncio.run(work())


def with_store(url: str, ask: Callable[[Store], Awaitable[Any]]) -> Any:
    async def work() -> Any:
        store = open_store(url)
        try:
            return await ask(store)
        finally:
            await store.close()

    return asyncio.run(work())


def make(folder: Path, **changes: Any) -> Path:
    target = folder / "two.bundle"
    asked = {
        "estate": folder / "two",
        "target": target,
        "at_ms": NOW_MS,
        "store": f"sqlite:{folder}/old.sqlite",
    }
    return bundling.make_bundle(bundling.BundleRequest(**(asked | changes))).target


def opening(folder: Path, bundle: Path, **changes: Any) -> bundle_opening.Opened:
    asked = {
        "bundle": bundle,
        "into": folder / "laptop",
        "who": "kim",
        "reason": "fire",
        "confirm": ("north",),
        "digest": digest_of(bundle),
    }
    return bundle_opening.open_from(bundle_opening.OpeningRequest(**(asked | changes)), NOW_MS)


def digest_of(bundle: Path) -> str:
    with contextlib.suppress(EvacError), open_bundle(bundle) as found:
        return found.digest
    return ""


def test_a_bundle_is_stable_and_carries_what_it_says(tmp_path: Path) -> None:
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")
    one = make(tmp_path)
    assert one.read_bytes() == make(tmp_path).read_bytes()
    assert one.stat().st_mode & 0o777 == 0o600
    told = contents.look(one, NOW_MS + 60_000)
    assert (told["age_ms"], told["estate"]["name"]) == (60_000, "two")
    assert [row["lost"] for row in told["plans"]] == [["north"], ["south"]]
    assert told["epochs"] == [{"store": "chat", "epoch": 7, "holder": "north"}]
    assert [(row["stream"], row["records"]) for row in told["journals"]] == [("watch", 3)]
    names = {part["name"] for part in told["parts"]}
    assert {"estate/estate.yaml", "estate/policy.yaml", "plans/north.json", "runbooks/north.html"} <= names
    whole = one.read_bytes()
    assert b"never carried" not in whole
    assert agents.KEY.encode() not in whole
    assert told["references"] == [
        {"reference": agents.REFERENCE, "for": ["process of web at north"], "sealed": False}
    ]
    left = {row["what"] for row in told["left_out"]}
    assert {"estate/private.key", "evac itself", "values of 1 secrets"} <= left
    assert "north" in contents.contents_sheet(told).parts[1].rows[0]
    with open_bundle(one) as bundle:
        assert b"start:web" in bundle.read("runbooks/north.txt")


def test_a_new_store_goes_on_above_everything_that_the_old_one_reached(tmp_path: Path) -> None:
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite", ("open/run-1", {"incident": "i"}))
    opened = opening(tmp_path, make(tmp_path))
    assert (opened.generation, opened.again, opened.held, opened.silent) == (1, False, ("run-1",), ("north",))

    async def ask(store: Store) -> None:
        assert (await read_generation(store)).number == 1
        lease = await store.acquire(LEADER, "laptop", 1_000)
        assert generation_of(lease.token) == 1
        epoch = datasets.decode("chat", await store.get("epoch/chat"))
        assert (epoch.number, epoch.holder) == ((1 << 32) + 7, "north")
        assert await store.get("votes/a/b") is None
        assert await store.get("standing/x") is None
        hold = await store.get("hold")
        assert hold is not None
        assert orjson.loads(hold.value)["who"] == "kim"
        words = [watch_journal.decode(r).words async for s in read(store, "watch") for r in s.records]
        assert words == [
            "notice 0",
            "notice 1",
            "notice 2",
            "kim opened generation 1 from a bundle: fire; lost: north",
        ]
        journal = await Journal.open(store, "watch")
        await journal.append([b"more"], lease)

    with_store(opened.store, ask)
    again = opening(tmp_path, tmp_path / "two.bundle", confirm=())
    assert (again.generation, again.again) == (1, True)
    # What was opened can be carried on: the next generation follows.
    target = make(tmp_path, store=opened.store, target=tmp_path / "next.bundle")
    assert opening(tmp_path, target, into=tmp_path / "third").generation == 2


def test_a_silent_agent_must_be_of_a_site_that_a_person_names(tmp_path: Path) -> None:
    estate(tmp_path)
    bundle = make(tmp_path, store=None)
    with pytest.raises(NotAllowed, match="north") as refused:
        opening(tmp_path, bundle, confirm=())
    assert refused.value.code == "site-silent"
    assert not (tmp_path / "laptop").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with pytest.raises(UnknownDomain, match="no site nroth to confirm") as strange:
        opening(tmp_path, bundle, confirm=("nroth", "north"))
    assert "north" in strange.value.hint
    assert not (tmp_path / "laptop").exists()
    (tmp_path / "laptop").mkdir()
    with pytest.raises(InvalidInput, match="not from this bundle"):
        opening(tmp_path, bundle)


@pytest.mark.servers
def test_agents_are_told_and_two_laptops_never_share_a_generation(tmp_path: Path) -> None:
    made = agents.config(tmp_path, site="north")
    estate(tmp_path, f"http://{made.host}:{made.port}")
    bundle = make(tmp_path, store=None)

    async def story() -> None:
        async with agents.running(made) as agent:
            first = await asyncio.to_thread(opening, tmp_path, bundle, confirm=())
            assert (first.generation, first.told, agent._ledger.generation) == (1, ("north",), 1)
            with pytest.raises(NotAllowed) as taken:
                await asyncio.to_thread(opening, tmp_path, bundle, into=tmp_path / "other")
            assert taken.value.code == "generation-taken"
            assert "--generation 2 --into NEWDIR" in str(taken.value.hint)
            with pytest.raises(InvalidInput) as kept:
                await asyncio.to_thread(opening, tmp_path, bundle, generation=2)
            assert kept.value.code == "bundle-folder"
            assert _newest(agent) == 1
            over = await asyncio.to_thread(opening, tmp_path, bundle, into=tmp_path / "other", generation=2)
            assert _newest(agent) == over.generation == 2

    asyncio.run(story())


def _newest(agent: Agent) -> int:
    return agent._ledger.generation


def test_two_of_three_people_open_what_is_under_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate(tmp_path)
    (tmp_path / "shown.pem").write_bytes(b"the certificate that agents are shown")
    monkeypatch.setenv("EVAC_AGENT_CERT", str(tmp_path / "shown.pem"))
    (tmp_path / "grant").write_bytes(b"a grant")
    people = [tmp_path / name for name in "abc"]
    for folder in people:
        folder.mkdir()
    bundle = make(
        tmp_path, store=None, shares=(2, 3), shares_to=tuple(people), sealed=(str(tmp_path / "grant"),)
    )
    assert agents.KEY.encode() not in bundle.read_bytes()
    shares = [sealing.read_share_file(next(folder.iterdir())) for folder in people[:2]]
    with pytest.raises(InvalidInput):
        opening(tmp_path, bundle, shares=shares[:1])
    opened = opening(tmp_path, bundle, shares=shares)
    assert opened.secrets is not None
    assert (opened.secrets / "files" / "grant").read_bytes() == b"a grant"
    shown = bundle_opening.environment_of(opened.secrets)["EVAC_AGENT_CERT"]
    assert Path(shown).read_bytes() == b"the certificate that agents are shown"
    environ = {secrets.OPENED: str(opened.secrets)}
    assert secrets.resolve(agents.REFERENCE, environ).reveal() == agents.KEY
    assert secrets.OPENED not in os.environ


def test_two_files_of_one_name_are_not_locked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One would be lost without a word. Whether they hold the same does not matter, nor who named one."""
    estate(tmp_path)
    for name in ("one", "two-files"):
        (tmp_path / name).mkdir()
        for file in ("grant", bundling.CERT):
            (tmp_path / name / file).write_text("a grant")
    one, two = tmp_path / "one" / "grant", tmp_path / "two-files" / "grant"
    (tmp_path / "link").symlink_to(tmp_path / "one")
    people = {"shares": (2, 2), "shares_to": (tmp_path / "one",), "store": None}
    before = sorted(tmp_path.rglob("*"))

    def wrong(first: Path, second: Path, *sealed: Path) -> None:
        with pytest.raises(InvalidInput) as error:
            make(tmp_path, **people, sealed=tuple(map(str, sealed)))
        assert (error.value.code, sorted(tmp_path.rglob("*"))) == ("seal-name", before)
        assert str(first) in error.value.message
        assert str(second) in error.value.message

    wrong(one, two, one, two)
    monkeypatch.setenv(bundling.CERT, str(one))
    wrong(one, two.with_name(bundling.CERT), two.with_name(bundling.CERT))
    monkeypatch.setenv(bundling.CERT, str(two.with_name(bundling.CERT)))
    with open_bundle(make(tmp_path, **people, sealed=(str(one), str(tmp_path / "link" / "grant")))) as made:
        assert made.values["sealed"]["files"] == [bundling.CERT, "grant"]


def test_a_bundle_is_replaced_only_when_everybody_has_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate(tmp_path)
    people = tuple(tmp_path / name for name in "abc")
    for folder in people[:2]:
        folder.mkdir()
    good = make(tmp_path, store=None, shares=(2, 2), shares_to=people[:2])
    before, given = good.read_bytes(), {path: path.read_bytes() for path in tmp_path.glob("[ab]/*")}
    full, real = [2], os.fsync

    def no_room(handle: int) -> None:
        """The disk is full when the second share is written."""
        full[0] -= Path(f"/proc/self/fd/{handle}").readlink().suffix == ".txt"
        if not full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    def wrong(code: str, **changes: Any) -> None:
        with pytest.raises(InvalidInput) as refused:
            make(tmp_path, store=None, **({"shares": (2, 2), "shares_to": people[:2]} | changes))
        assert refused.value.code == code
        assert good.read_bytes() == before
        assert {path: path.read_bytes() for path in tmp_path.glob("[abc]/*")} == given
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    wrong("share-folders", shares=(2, 3))
    wrong("share-folders", shares=(2, 3), shares_to=people)
    wrong("bundle-target", target=people[0])
    monkeypatch.setattr(os, "fsync", no_room)
    wrong("share-folders")
    assert full[0] == 0


def test_what_was_opened_goes_on_and_is_never_taken_for_something_else(tmp_path: Path) -> None:
    estate(tmp_path)
    bundle = make(tmp_path, store=None, shares=(2, 2), shares_to=(tmp_path,))
    shares = [sealing.read_share_file(path) for path in tmp_path.glob("evac-share-*")]
    first = opening(tmp_path, bundle)
    assert (first.generation, first.secrets) == (1, None)
    for other in ({"generation": 2}, {"store": f"sqlite:{tmp_path}/other.sqlite"}):
        with pytest.raises(InvalidInput) as refused:
            opening(tmp_path, bundle, **other)
        assert (refused.value.code, "--into" in str(refused.value.hint)) == ("bundle-folder", True)
    with pytest.raises(InvalidInput) as refused:
        opening(tmp_path, bundle, shares=shares[:1])
    assert refused.value.code == "share-missing"
    assert opening(tmp_path, bundle, generation=1).secrets is None
    again = opening(tmp_path, bundle, shares=shares)
    assert again.again
    assert again.secrets is not None
    told = {secrets.OPENED: str(again.secrets)}
    assert secrets.resolve(agents.REFERENCE, told).reveal() == agents.KEY
    assert opening(tmp_path, bundle, shares=shares).secrets == again.secrets
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_written_is_what_a_reader_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = estate(tmp_path)
    (path / "two\nlines\x1b[2J").write_text("not carried")
    bundle = make(tmp_path, store=None)
    left = {row["what"] for row in contents.look(bundle, NOW_MS)["left_out"]}
    assert "estate/two?lines?[2J" in left
    before = bundle.read_bytes()
    fill(f"sqlite:{tmp_path}/old.sqlite")
    monkeypatch.setattr(bundling, "MAX_READ_BYTES", 100)
    with pytest.raises(InvalidInput, match="store/") as refused:
        make(tmp_path)
    monkeypatch.undo()
    assert (refused.value.code, bundle.read_bytes()) == ("bundle-size", before)
    endpoints = path / "endpoints.yaml"
    endpoints.write_text(endpoints.read_text().replace(f"'{agents.REFERENCE}'", '"file:/a\\x7fb"'))
    with pytest.raises(InvalidInput, match="references") as refused:
        make(tmp_path, store=None)
    assert (refused.value.code, bundle.read_bytes()) == ("bundle-unreadable", before)


def test_a_journal_that_was_changed_opens_no_store(tmp_path: Path) -> None:
    """By somebody who mended the digests of the parts, too: the chain does not follow."""
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")

    real = bundling.copy_of

    async def changed(store: Store) -> Any:
        found = await real(store)
        return bundling.Copied(found.entries, {k: (v[1], *v[1:]) for k, v in found.journals.items()}, True)

    bundling.copy_of = changed
    try:
        bundle = make(tmp_path)
    finally:
        bundling.copy_of = real
    assert contents.problems_of(bundle)
    with pytest.raises(BundleDamaged, match="watch"):
        opening(tmp_path, bundle)
    assert not (tmp_path / "laptop").exists()


def test_a_manifest_of_another_shape_is_refused_in_words(tmp_path: Path) -> None:
    estate(tmp_path)
    with open_bundle(make(tmp_path, store=None)) as bundle:
        values, sources = bundle.values, [Source(name, bundle.read(name)) for name in bundle.parts]
    wrong = {
        "made_at_ms": -1,
        "evac": "\x1b[2J",
        "estate": [],
        "generation": {"number": 4_000, "opener": ""},
        "plans": [{"lost": "north"}],
        "journals": {"stream": 1},
        "policy": "../../etc/passwd",
        "estate_file": "../private.key",
        "left_out": [None],
        "open_runs": None,
        "wheels": [1],
        "sealed": {"name": "x"},
        "references": True,
        "epochs": [{"store": "a", "epoch": True, "holder": ""}],
    }
    for key, value in wrong.items():
        path = tmp_path / "wrong.bundle"
        write_bundle(path, values | {key: value}, sources)
        for ask in (lambda: contents.look(path, 1), lambda: opening(tmp_path, path)):  # noqa: B023
            with pytest.raises(BundleDamaged):
                ask()
        assert not (tmp_path / "laptop").exists()


def test_the_command_makes_shows_and_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    monkeypatch.delenv("EVAC_STORE", raising=False)
    path, target = estate(tmp_path), tmp_path / "b.zip"
    assert run(["bundle", str(path), "-o", str(target)]) == console.DONE
    digest = capsys.readouterr().out.split()[-1]
    assert run(["bundle", "verify", str(target), "--digest", digest]) == console.DONE
    assert run(["bundle", "verify", str(target), "--digest", "sha256:00"]) == console.FAILED
    assert run(["bundle", "show", str(target), "--output", "json"]) == console.DONE
    out = capsys.readouterr().out
    assert orjson.loads(out[out.index("{") :])["digest"] == digest
    data = target.read_bytes()
    damage(target, "estate/estate.yaml")
    assert run(["bundle", "verify", str(target)]) == console.FAILED
    assert capsys.readouterr().out.startswith("estate/estate.yaml: ")
    target.write_bytes(data[:-30])
    assert run(["bundle", "show", str(target)]) == console.USAGE
    assert "bundle-damaged" in capsys.readouterr().err
    assert run(["bundle", str(path), "-o", str(target), "--share", "two"]) == console.USAGE
    assert run(["bundle", str(path), "-o", str(target), "--share", "2/3"]) == console.USAGE


def test_plans_that_only_lie_ready_are_carried_once() -> None:
    def ready(digest: str) -> bytes:
        return orjson.dumps({"plan": digest, "estate": "e", "at_ms": 1, "took_ms": 1, "problem": ""})

    entries = {
        "drawer/north": ready("sha256:a"),
        "plan/sha256:a/000000": b"a",
        "drawer/north/hall-1": ready("sha256:b"),
        "plan/sha256:b/000000": b"b",
        "drawer/north/hall-2": ready("sha256:c"),
        "plan/sha256:c/000000": b"c",
        "drawer/north/hall-3": ready("sha256:a"),
        "open/run-1": b'{"plan":"sha256:c"}',
        "sites": b"{}",
    }
    gone = {"drawer/north/hall-1", "drawer/north/hall-2", "drawer/north/hall-3", "plan/sha256:b/000000"}
    assert without_small_plans(entries).keys() == entries.keys() - gone


@pytest.mark.servers
@pytest.mark.skipif(etcd_program() is None, reason="etcd is not installed")
def test_a_laptop_comes_home_into_a_store_of_several_sites(tmp_path: Path) -> None:
    """etcd counts its tokens from the start: the generation goes before them, in orders and in journals."""
    estate(tmp_path)
    fill(f"sqlite:{tmp_path}/old.sqlite")
    laptop = opening(tmp_path, make(tmp_path))
    members = Members(tmp_path, 1)
    try:
        members.start()
        url = f"etcd:{members.endpoints[0]}"
        home = opening(tmp_path, make(tmp_path, store=laptop.store), into=tmp_path / "home", store=url)
        assert (home.generation, home.store) == (2, url)

        async def ask(store: Store) -> None:
            assert (await read_generation(store)).number == 2
            lead = await Leadership.acquire(store, "north/1", 5_000, SystemClock(), generation=2)
            assert generation_of(lead.token) == 2
            journal = await Journal.open(store, "watch")
            await journal.append([b"more"], lead.lease)
            assert await verify_chain(store, "watch", [journal.head]) == []
            await lead.release()

        with_store(url, ask)
        with pytest.raises(StoreError) as full:
            opening(tmp_path, tmp_path / "two.bundle", into=tmp_path / "again", store=url)
        assert full.value.code == "store-not-empty"
    finally:
        members.stop()


def test_references_of_a_list_and_of_a_program_are_found() -> None:
    settings = {"argv": ("pdu", "off"), "env": ("LANG=C", "PDU=file:/etc/evac/pdu", "KEY=env:PDU_KEY")}
    ends = (
        Endpoint("pdu", "north", "north", "command", settings),
        Endpoint(
            "names", "web", "north", "dns", {"key_secret": "file:/etc/evac/pdu", "records": ("a=north:::1",)}
        ),
    )
    found = bundling._references(Estate("two", sites=(Site("north"),), endpoints=ends))
    assert found == {
        "file:/etc/evac/pdu": ["command of north at north", "dns of web at north"],
        "env:PDU_KEY": ["command of north at north"],
    }
