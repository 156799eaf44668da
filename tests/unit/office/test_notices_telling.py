"""From what the store shows to what people receive: once made, at least once sent, whoever leads."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from evac.app.incidents import add_note
from evac.app.published import KEY as OBSERVED
from evac.app.side_process import led_by_parent
from evac.engine.clock import Clock, SystemClock
from evac.engine.lead.leadership import LEADER
from evac.engine.lead.watch_journal import STREAM as WATCH
from evac.engine.lead.watch_journal import Notice, encode
from evac.engine.plans import library
from evac.engine.stores.sightings import PREFIX as SIGHTING
from evac.engine.stores.sightings import CopySeen, Sighting
from evac.incident.records import Note
from evac.model.errors import LeaseLost, Unavailable
from evac.model.generation import token_in
from evac.model.observation import Observation
from evac.notices.rule import tell
from evac.notices.values import STREAM, Box, Channel, Delivery, Message, State, box_of, row_of, state_of
from evac.office.notices.looking import PLANS_MS, AlertFacts, Looker, NoticeReckoner
from evac.office.notices.overview import BOX, STATE, Ledger, new_messages
from evac.office.notices.process import Teller, changed
from evac.office.notices.sending import Outcome
from evac.store import generation as generations
from evac.store.journal import Journal, read, records_after
from evac.store.opening import open_store
from evac.store.port import Lease, MemoryStore, Put, Store
from tests.unit.app.receivers import KEY, Receiver

ESTATE = Path(__file__).parents[2] / "fixtures" / "estates" / "small"
NOW_MS = 1_792_000_000_000
CHANNELS = {
    "desk": Channel("desk", "webhook", "env:A", "env:B"),
    "plans": Channel("plans", "apprise", "env:A", kinds=frozenset({"plan"})),
}
RECKONED = AlertFacts(
    (("f1", "EV103", "dns is lost with what it recovers", "move it"),),
    {"dns": ("north", "south")},
    {"ledger": 60_000},
)


class Hand(Clock):
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms


class Told:
    """A reckoner that is told what it finds."""

    def __init__(self, found: AlertFacts = RECKONED) -> None:
        self.found = found

    async def reckon(self, observation: Observation, backups: object = None) -> AlertFacts:
        return self.found

    def close(self) -> None:
        pass


class Wire:
    """A channel that does as it is told, and remembers what went over it."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[Message] = []

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        return self.outcomes.pop(0) if self.outcomes else Outcome()

    async def close(self) -> None:
        pass


async def watched(store: Store, *rows: Notice) -> None:
    """Records of watching, as a leader writes them."""
    records = [encode(row) for row in rows]
    try:
        journal = await Journal.create(store, WATCH, None)
    except Exception:
        journal = await Journal.open(store, WATCH)
    await journal.append(records, None)


def verdict(site: str, state: str) -> Notice:
    return Notice(
        "verdict", NOW_MS, site, f"{site} is {state}: no votes", {"state": state, "reason": "no votes"}
    )


async def lease_of(store: Store, name: str = "notices") -> Lease:
    return await store.acquire(name, "tester", 60_000)


async def rows_of(store: Store) -> list[Message | Delivery]:
    return [row_of(record) async for _, record in records_after(store, STREAM, 0)]


async def looked(looker: Looker, state: State) -> tuple[State, dict[str, list[str]]]:
    state, known = await looker.look(state)
    return state, {kind: [one.key for one in rows] for kind, rows in known.holds.items()}


def test_a_look_sees_what_the_leader_left() -> None:
    async def story() -> None:
        store, clock, told = MemoryStore(), Hand(), Told()
        looker = Looker(store, told, clock)
        await watched(store, verdict("north", "healthy"), Notice("trouble", 1, "", "an old trouble"))
        state, keys = await looked(looker, State())
        assert keys == {"site": [], "plan": [], "run": [], "status-page": []}, "the estate is not read yet"
        await looker.reckon()
        copies = (CopySeen("north", 5, 500_000, 400_000), CopySeen("south", 9, 500_000, 500_000))
        row = Sighting("ledger", "south", "h/1", 9, 500_000, copies)
        ready = {"plan": "", "estate": "sha256:old", "at_ms": 1, "took_ms": 1, "problem": "no room"}
        await store.transact(
            (),
            (
                Put(SIGHTING + "ledger", row.encode()),
                Put(library.PREFIX + "north", orjson.dumps(ready)),
                Put(OBSERVED, orjson.dumps({"at_ms": 1, "estate": "sha256:new", "members": []})),
                Put("status-export/south", orjson.dumps({"since_ms": 1, "problem": "disk full"})),
                Put("sites", orjson.dumps({"north": "lost", "south": "active"})),
            ),
        )
        await watched(store, verdict("north", "lost"), Notice("trouble", 2, "", "a new trouble"))
        clock.ms += PLANS_MS
        state, keys = await looked(looker, state)
        assert keys == {
            "site": ["site/north"],
            "finding": ["finding/f1"],
            "tool": ["tool/dns"],
            "lag": ["lag/ledger/north"],
            "plan": ["plan/none/north", "plan/stale"],
            "run": [],
            "status-page": ["status-page/south"],
        }
        confirms = [["ledger", "south", "primary"], ["ledger", "north", "sync"]]
        seen = {"at_ms": 1, "estate": "sha256:new", "members": confirms}
        await store.transact((), (Put(OBSERVED, orjson.dumps(seen)),))
        assert (await looked(looker, state))[1]["lag"] == [], "it confirms every commit"
        await watched(store, verdict("north", "unknown"), Notice("trouble", 3, "", "another trouble"))
        state, known = await looker.look(state)
        assert [one.words for one in known.news] == ["another trouble"]
        assert [one.key for one in known.holds["site"]] == ["site/north"], (
            "nobody can say, so it is as it was"
        )
        await looker.close()

    asyncio.run(story())


def test_a_plan_that_costs_a_fifth_more_is_seen_by_its_bytes() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        looker, state = Looker(store, Told(), clock), State()
        for objective, searched, expected in (
            (1_000, True, []),
            (1_199, True, []),
            (9_000, False, []),
            (1_200, True, ["plan/worse/north"]),
        ):
            digest = await library.put_plan(store, orjson.dumps({"objective": objective}))
            ready = {
                "plan": digest,
                "estate": "e",
                "at_ms": 1,
                "took_ms": 1,
                "problem": "",
                "searched": searched,
            }
            await store.transact((), (Put(library.PREFIX + "north", orjson.dumps(ready)),))
            clock.ms += PLANS_MS
            state, keys = await looked(looker, state)
            assert keys["plan"] == expected
        await looker.close()

    asyncio.run(story())


def test_the_estate_is_reckoned_as_the_audit_has_it() -> None:
    found = asyncio.run(NoticeReckoner(ESTATE, apart=False).reckon(Observation(0)))
    assert found.errors
    assert all(code.startswith("EV") for _, code, _, _ in found.errors)
    assert "dns-admin" in found.tools
    assert set(found.tools["dns-admin"]) <= {"north", "south"}
    assert found.rpos["ledger"] == 0


def lost(name: str = "north") -> Message:
    return Message("", "site", "begins", "critical", f"{name} is lost", "", NOW_MS, (f"site/{name}",))


def test_what_is_told_waits_for_every_channel_that_wants_it_and_nothing_is_half_done() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        lease = await lease_of(store)
        ledger = await Ledger.open(store, lease, clock, CHANNELS)
        await ledger.keep(
            State(watched=7), new_messages([lost(), lost("south")], iter(["m1", "m2"]).__next__)
        )
        assert [one.number for one in ledger.boxes["desk"].waiting] == [1, 2]
        assert ledger.boxes["plans"] == Box(after=2, about="apprise; plan; warning and above")
        one = ledger.boxes["desk"].waiting[0]
        await ledger.failed("desk", one, "no answer", 0, True)
        assert (await ledger.message(2)).id == "m2"
        await store.release(lease)
        with pytest.raises(LeaseLost):
            await ledger.delivered("desk", one)
        again = await Ledger.open(store, await lease_of(store), clock, CHANNELS)
        assert again.state.watched == 7
        waiting = again.boxes["desk"].waiting
        assert [(w.number, w.tries, w.problem) for w in waiting] == [(1, 1, "no answer"), (2, 0, "")]
        assert (await again.message(1)).id == "m1", "read again under the same id"
        await again.delivered("desk", waiting[0])
        await again.given_up("desk", again.boxes["desk"].waiting[0], "it returned status 410")
        found = await rows_of(store)
        assert [type(row).__name__ for row in found] == ["Message", "Message", "Delivery", "Delivery"]
        assert found[2] == Delivery(1, "desk", "delivered", 2, NOW_MS)
        assert found[3] == Delivery(2, "desk", "given up", 0, NOW_MS, "it returned status 410")
        box = again.boxes["desk"]
        assert (box.sent, box.given_up, box.waiting) == (1, 1, ())

    asyncio.run(story())


def test_what_is_published_is_told_to_users_once_and_not_lost_with_a_lease() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        looker = Looker(store, Told(), clock)
        users = {"users": Channel("users", "webhook", "env:A", "env:B", kinds=frozenset({"update"}))}
        lease = await lease_of(store)
        ledger = await Ledger.open(store, lease, clock, users)
        state, _ = await looker.look(ledger.state)
        await ledger.keep(state)
        for id, words in (("1", "It is down."), ("2", "We are on it."), ("3", "Soon."), ("4", "It is back.")):
            note = Note(id, "fire-1", "update", "lee", NOW_MS + int(id), words, "Chat")
            await add_note(store, note, new=True)
        await add_note(store, Note("5", "fire-1", "note", "lee", NOW_MS, "for us alone"))
        await store.release(lease)
        state, known = await looker.look(ledger.state)
        with pytest.raises(LeaseLost):
            await ledger.keep(state, new_messages(tell(state.memory, known, NOW_MS)[1], lambda: "lost"))
        ledger = await Ledger.open(store, await lease_of(store), clock, users)
        state, known = await looker.look(ledger.state)
        assert [one.words for one in known.news] == ["It is down.", "We are on it.", "Soon.", "It is back."]
        memory, drafts = tell(state.memory, known, NOW_MS)
        assert [one.words for one in drafts] == ["It is down.", "We are on it.", "Soon.", "It is back."]
        await ledger.keep(replace(state, memory=memory), new_messages(drafts, iter("abcd").__next__))
        assert [one.number for one in ledger.boxes["users"].waiting] == [1, 2, 3, 4]
        assert (await ledger.message(1)).title == "Chat"
        assert (await looker.look(ledger.state))[1].news == ()
        kept = await store.get(STATE)
        assert kept is not None
        assert (await looker.look(state_of(kept.value)))[1].news == (), "nor is it told again after a restart"

    asyncio.run(story())


def test_a_state_that_cannot_be_read_is_found_out_again() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.transact((), (Put(STATE, b"{}"),))
        ledger = await Ledger.open(store, await lease_of(store), Hand(), CHANNELS)
        assert ledger.state == State()

    asyncio.run(story())


def test_a_channel_that_is_named_later_hears_what_comes_later_and_one_that_is_gone_lets_go() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        lease = await lease_of(store)
        ledger = await Ledger.open(store, lease, clock, {"desk": CHANNELS["desk"]})
        await ledger.keep(State(), new_messages([lost()], lambda: "m1"))
        other = Channel("pager", "apprise", "env:A")
        again = await Ledger.open(store, lease, clock, {"pager": other})
        assert again.boxes["pager"].waiting == ()
        assert await store.get(BOX + "desk") is None
        found = await rows_of(store)
        assert found[-1] == Delivery(1, "desk", "given up", 0, NOW_MS, "the channel no longer exists")
        await again.keep(State(), new_messages([lost("south")], lambda: "m2"))
        (one,) = again.boxes["pager"].waiting
        assert (await again.message(one.number)).words == "south is lost"

    asyncio.run(story())


def test_what_is_too_old_is_given_up_and_that_is_written_down() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        ledger = await Ledger.open(store, await lease_of(store), clock, CHANNELS)
        await ledger.keep(State(), new_messages([lost()], lambda: "m1"))
        await ledger.failed("desk", ledger.boxes["desk"].waiting[0], "no answer", 0, True)
        clock.ms += 86_400_001
        await ledger.tidy("desk")
        assert ledger.boxes["desk"].given_up == 1
        assert (await rows_of(store))[-1] == Delivery(1, "desk", "given up", 1, clock.ms, "no answer")

    asyncio.run(story())


class House:
    """A store, and tellers of controllers of which one leads."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.leader = ""
        self.tasks: list[asyncio.Task[None]] = []
        self.said: list[str] = []

    def teller(self, site: str, wire: Wire) -> asyncio.Task[None]:
        async def leads() -> bool:
            return self.leader == site

        clock = SystemClock()
        looker = Looker(self.store, Told(), clock)
        channels = {"desk": CHANNELS["desk"]}
        teller = Teller(
            self.store, channels, {"desk": wire}, looker, clock, f"{site}/1/x", leads, self.said.append
        )
        task = asyncio.create_task(teller.run())
        self.tasks.append(task)
        return task

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not what():
                await asyncio.sleep(0.02)

    async def state(self) -> State | None:
        entry = await self.store.get(STATE)
        return None if entry is None else state_of(entry.value)


def tell_story(story: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        house = House()
        try:
            await story(house)
        finally:
            for task in house.tasks:
                task.cancel()
            await asyncio.gather(*house.tasks, return_exceptions=True)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, so that stories are short."""
    from evac.office.notices import process as notices_process

    for name in ("LOOK_S", "AGAIN_S", "IDLE_S"):
        monkeypatch.setattr(notices_process, name, 0.02)


def test_the_teller_of_the_leader_tells_and_the_others_are_silent_until_they_lead() -> None:
    async def story(house: House) -> None:
        north, south = Wire(), Wire()
        house.teller("north", north)
        house.teller("south", south)
        await watched(house.store, verdict("mid", "lost"))
        house.leader = "north"
        await house.until(lambda: bool(north.sent))
        house.leader = "south"
        await watched(house.store, Notice("trouble", NOW_MS, "", "no plan at all"))
        await house.until(lambda: bool(south.sent))
        assert [one.words for one in north.sent] == ["mid is lost: no votes"]
        assert [one.words for one in south.sent] == ["no plan at all"], "nothing is told twice"

    tell_story(story)


def test_a_leader_that_ends_between_sending_and_writing_down_is_followed_by_the_same_id() -> None:
    async def story(house: House) -> None:
        class Dying(Wire):
            async def send(self, message: Message) -> Outcome:
                self.sent.append(message)
                house.leader = ""
                await asyncio.sleep(3_600)
                raise AssertionError

        first, second = Dying(), Wire()
        task = house.teller("north", first)
        await watched(house.store, verdict("mid", "lost"))
        house.leader = "north"
        await house.until(lambda: bool(first.sent))
        task.cancel()
        house.teller("south", second)
        house.leader = "south"
        await house.until(lambda: bool(second.sent))
        assert [one.id for one in first.sent] == [one.id for one in second.sent]

    tell_story(story)


def test_a_store_of_a_newer_generation_goes_on_with_the_journal_of_the_old_one() -> None:
    async def story(house: House) -> None:
        old = await lease_of(house.store)
        ledger = await Ledger.open(house.store, old, SystemClock(), {"desk": CHANNELS["desk"]})
        await ledger.keep(State(), new_messages([lost()], lambda: "m1"))
        await house.store.release(old)
        opened = generations.encode(generations.Generation(2, "x", NOW_MS))
        await house.store.transact((), (Put(generations.KEY, opened),))
        await watched(house.store, verdict("mid", "lost"))
        wire = Wire()
        house.teller("north", wire)
        house.leader = "north"
        await house.until(lambda: bool(wire.sent))
        tokens = [segment.token async for segment in read(house.store, STREAM)]
        assert tokens == sorted(tokens)
        assert tokens[0] < token_in(2, 0) < tokens[-1]

    tell_story(story)


def test_a_store_that_is_away_delays_what_is_told_and_loses_nothing() -> None:
    async def story(house: House) -> None:
        wire, refuse, real = Wire(), 8, house.store.transact
        await watched(house.store, verdict("mid", "lost"))

        async def transact(*arguments: object, **more: object) -> int:
            nonlocal refuse
            refuse -= 1
            if 0 <= refuse < 5:
                raise Unavailable("away")
            return await real(*arguments, **more)  # type: ignore[arg-type]

        house.store.transact = transact  # type: ignore[method-assign, assignment]
        house.teller("north", wire)
        house.leader = "north"
        await house.until(lambda: bool(wire.sent))
        assert len({one.id for one in wire.sent}) == 1

    tell_story(story)


def test_a_channel_that_fails_is_said_once_and_what_it_missed_comes_later() -> None:
    async def story(house: House) -> None:
        wire = Wire(Outcome("it returned status 503"))
        await watched(house.store, verdict("mid", "lost"))
        house.teller("north", wire)
        house.leader = "north"
        await house.until(lambda: bool(house.said))
        assert house.said == ["the channel desk does not work: it returned status 503; evac will retry"]
        entry = await house.store.get(BOX + "desk")
        assert entry is not None
        (one,) = box_of(entry.value).waiting
        assert (one.tries, one.problem) == (1, "it returned status 503")
        assert one.next_ms > 0

    tell_story(story)


def test_only_the_controller_that_started_it_counts() -> None:
    async def story() -> None:
        store = MemoryStore()
        leads = led_by_parent(store, "north", 17)
        assert not await leads()
        for owner, expected in (("north/17/ab", True), ("north/170/ab", False), ("south/17/ab", False)):
            lease = await store.acquire(LEADER, owner, 5_000)
            assert await leads() is expected
            await store.release(lease)

    asyncio.run(story())


def test_a_file_that_changes_is_read_again_and_a_wrong_one_is_not_taken(tmp_path: Path) -> None:
    file, said = tmp_path / "notices.yaml", list[str]()
    file.write_text("channels: {a: {apprise: env:A}}\n")

    async def story() -> None:
        watching = asyncio.create_task(changed(file, said.append, 0.01))
        await asyncio.sleep(0.05)
        file.write_text("channels: {a: {}}\n")
        while not said:
            await asyncio.sleep(0.01)
        assert said[0].startswith("notices.yaml was not accepted: 1 problem in the notices")
        file.unlink()
        await asyncio.sleep(0.05)
        file.write_text("channels: {b: {apprise: env:A}}\n")
        async with asyncio.timeout(30):
            await watching
        assert said[-1] == "notices.yaml changed and was reloaded"

    asyncio.run(story())


def start(store: str, notices: Path, receiver: Receiver) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "evac.office.notices.process",
        str(ESTATE),
        "--store",
        store,
        "--notices",
        str(notices),
        "--site",
        "north",
        "--lease-ms",
        "2000",
    ]
    secret = {"DESK_URL": receiver.url, "DESK_KEY": KEY}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **secret})


@pytest.mark.enable_socket
def test_a_process_that_is_killed_before_it_can_write_down_sends_again_under_the_same_id(
    tmp_path: Path,
) -> None:
    """The receiver kills the sender while it waits for the answer: sent, and not yet written down."""
    store_url = f"sqlite:{tmp_path / 'evac.sqlite'}"
    notices = tmp_path / "notices.yaml"
    notices.write_text("channels:\n  desk: {webhook: 'env:DESK_URL', secret: 'env:DESK_KEY'}\n")
    processes: list[subprocess.Popen[bytes]] = []

    async def lead(work: Callable[[], None]) -> None:
        """This process stands for the controller: it has the lease of the leader."""
        store = open_store(store_url)
        await store.acquire(LEADER, f"north/{os.getpid()}/x", 600_000)
        await watched(store, verdict("south", "lost"))
        try:
            await asyncio.to_thread(work)
        finally:
            await store.close()

    with Receiver() as receiver:

        def kill(name: str) -> None:
            if len(receiver.got) == 1:
                processes[0].send_signal(signal.SIGKILL)
                processes[0].wait(30)

        def work() -> None:
            processes.append(start(store_url, notices, receiver))
            until(lambda: processes[0].poll() is not None)
            processes.append(start(store_url, notices, receiver))
            until(lambda: len(receiver.got) >= 2)

        receiver.before = kill
        try:
            asyncio.run(lead(work))
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    ids = [name for name, _ in receiver.got]
    assert len(set(ids)) == 1, ids
    assert receiver.refused == 0


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not what():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def test_bounds_of_what_waits_hold_while_nobody_takes_it() -> None:
    async def story() -> None:
        store, clock = MemoryStore(), Hand()
        ledger = await Ledger.open(store, await lease_of(store), clock, CHANNELS)
        numbers: Sequence[int] = range(0, 250, 50)
        for start_at in numbers:
            drafts = [lost(f"site-{n}") for n in range(start_at, start_at + 50)]
            await ledger.keep(State(watched=start_at), new_messages(drafts, lambda: "m"))
        await ledger.tidy("desk")
        box = ledger.boxes["desk"]
        assert (len(box.waiting), box.given_up) == (200, 50)
        assert box.waiting[0].number == 51

    asyncio.run(story())
